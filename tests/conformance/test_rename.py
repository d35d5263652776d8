"""rename(2) and renameat2(2): each type onto each type, itself, relatives; flags; what an observer sees."""

from __future__ import annotations

import os
from errno import EEXIST, EINVAL, EISDIR, ENOENT, ENOTDIR, ENOTEMPTY
from functools import partial

import pytest

from tests.conformance.calls import EXCHANGE, NOREPLACE, WHITEOUT, renameat2
from tests.conformance.world import KINDS, Rule, Rules, World, fails, inode, links, make, read, write

pytestmark = pytest.mark.fuse
rules = Rules()

TARGETS = ("absent", "full dir", "same inode", *KINDS)


def test_rule(rule: Rule, world: World) -> None:
    rule.verify(world)


def _make_target(name: str, target: str, source: str) -> None:
    if target == "full dir":
        os.makedirs(f"{name}/inside")
    elif target == "same inode":
        os.link(source, name, follow_symlinks=False)
    elif target != "absent":
        make(name, target)


def refusal(source: str, target: str) -> int | None:
    """The errno of renaming one type over another; None: it is done."""
    if target in ("absent", "same inode"):
        return None
    if source == "dir":
        return {"dir": None, "full dir": ENOTEMPTY}.get(target, ENOTDIR)
    return EISDIR if target in ("dir", "full dir") else None


def _replace(source: str, target: str, other: bool, world: World) -> None:
    make("source", source)
    number = inode("source")
    os.mkdir("other")
    name = "other/target" if other else "target"
    _make_target(name, target, "source")
    descriptor = os.open(name, os.O_PATH | os.O_NOFOLLOW) if os.path.lexists(name) else None
    if (refused := refusal(source, target)) is not None:
        before = inode(name)
        fails(refused, os.rename, "source", name)
        assert (inode("source"), inode(name)) == (number, before)
    else:
        os.rename("source", name)
        assert inode(name) == number
        assert os.path.lexists("source") == (target == "same inode")
        assert links(name) == (2 if source == "dir" or target == "same inode" else 1)
        if descriptor is not None and target != "same inode":
            assert os.fstat(descriptor).st_nlink == 0
    if descriptor is not None:
        os.close(descriptor)


def _noreplace(source: str, target: str, world: World) -> None:
    make("source", source)
    _make_target("target", target, "source")
    if target == "absent":
        renameat2("source", "target", NOREPLACE)
        assert os.listdir() == ["target"]
    else:
        fails(EEXIST, renameat2, "source", "target", NOREPLACE)
        assert sorted(os.listdir()) == ["source", "target"]


def _exchange(source: str, target: str, other: bool, world: World) -> None:
    make("source", source)
    os.mkdir("other")
    name = "other/target" if other else "target"
    _make_target(name, target, "source")
    if target == "absent":
        fails(ENOENT, renameat2, "source", name, EXCHANGE)
        return
    before = inode("source"), inode(name)
    renameat2("source", name, EXCHANGE)
    assert (inode(name), inode("source")) == before
    directories = [source == "dir", target in ("dir", "full dir")]
    here, there = (directories[1], directories[0]) if other else (sum(directories), 0)
    assert (links("."), links("other")) == (3 + here, 2 + there)
    for path, parent, is_directory in (
        (name, "other" if other else ".", directories[0]),
        ("source", ".", directories[1]),
    ):
        if is_directory:
            assert inode(f"{path}/..") == inode(parent)


SOURCES = ("file", "dir", "symlink", "fifo")

for _source in SOURCES:
    for _target in TARGETS:
        if (_source, _target) == ("dir", "same inode"):
            continue
        rules.add(f"a {_source} over {_target}", "rename(2)", partial(_replace, _source, _target, False))
        rules.add(f"a {_source} over {_target} elsewhere", "rename(2)", partial(_replace, _source, _target, True))
        rules.add(f"NOREPLACE a {_source} over {_target}", "rename(2)", partial(_noreplace, _source, _target))
        rules.add(f"EXCHANGE a {_source} and {_target}", "rename(2)", partial(_exchange, _source, _target, False))
        rules.add(
            f"EXCHANGE a {_source} and {_target} elsewhere", "rename(2)", partial(_exchange, _source, _target, True)
        )


@rules("rename(2)")
def onto_itself_is_done_and_changes_nothing(world: World) -> None:
    for kind in KINDS:
        make(kind, kind)
        before = os.lstat(kind)
        os.rename(kind, kind)
        os.rename(kind, f"./{kind}")
        assert os.lstat(kind) == before
        fails(EEXIST, renameat2, kind, kind, NOREPLACE)
        renameat2(kind, kind, EXCHANGE)


@rules("rename(2): EINVAL, ENOTEMPTY")
def a_directory_goes_neither_below_itself_nor_over_its_ancestor(world: World) -> None:
    os.makedirs("a/b/c")
    for below in ("a/new", "a/b/new", "a/b/c", "a/b/c/new"):
        fails(EINVAL, os.rename, "a", below)
        fails(EINVAL if os.path.lexists(below) else ENOENT, renameat2, "a", below, EXCHANGE)
    fails(ENOTEMPTY, os.rename, "a/b/c", "a")
    fails(ENOTEMPTY, os.rename, "a/b/c", "a/b")
    fails(EINVAL, renameat2, "a/b/c", "a", EXCHANGE)
    write("a/file")
    fails(ENOTEMPTY, os.rename, "a/file", "a")
    os.rename("a/b/c", "a/c")
    assert sorted(os.listdir("a")) == ["b", "c", "file"]


@rules("rename(2)")
def flags_that_exclude_each_other_or_are_unknown(world: World) -> None:
    write("file")
    for flags in (NOREPLACE | EXCHANGE, EXCHANGE | WHITEOUT, 8, 1 << 31):
        fails(EINVAL, renameat2, "file", "new", flags - (1 << 32) if flags >> 31 else flags)
    assert os.listdir() == ["file"]


def _whiteout(world: World) -> None:
    write("file")
    renameat2("file", "new", WHITEOUT)
    assert os.lstat("file").st_rdev == 0
    assert read("new") == b"content"


def _no_whiteout(world: World) -> None:
    write("file")
    fails(EINVAL, renameat2, "file", "new", WHITEOUT)
    assert os.listdir() == ["file"]


rules.add(
    "WHITEOUT leaves a device node 0 0",
    "rename(2)",
    _whiteout,
    differs="it is for layers below overlayfs, which do not take FUSE",
    benchfs=_no_whiteout,
)


@rules("rename(2)")
def a_moved_directory_keeps_its_content_and_gets_the_new_parent(world: World) -> None:
    os.makedirs("from/moved/below")
    os.mkdir("to")
    write("from/moved/below/file")
    here = os.open("from/moved/below", os.O_RDONLY)
    os.rename("from/moved", "to/moved")
    assert inode("to/moved/..") == inode("to")
    assert (links("from"), links("to")) == (2, 3)
    assert os.stat("file", dir_fd=here).st_size == 7
    assert os.stat("../..", dir_fd=here).st_ino == inode("to")
    os.rename("../../moved", "../../../back", src_dir_fd=here, dst_dir_fd=here)
    assert read("back/below/file") == b"content"
    os.close(here)


@rules("rename(2): there is no point at which another process finds it missing")
def an_observer_always_finds_the_replaced_name(world: World) -> None:
    write("name", b"0")
    reader, writer = os.pipe()

    def observe() -> int:
        os.close(writer)
        os.set_blocking(reader, False)
        seen = 0
        while True:
            assert read("name").isdigit()
            assert "name" in os.listdir()
            seen += 1
            try:
                if os.read(reader, 1) == b"" and seen > 3:
                    return seen
            except BlockingIOError:
                continue

    child = world.start(observe)
    os.close(reader)
    for number in range(60):
        write("new", str(number).encode())
        os.rename("new", "name")
    os.close(writer)
    assert child.result() > 3


@rules("rename(2): EXCHANGE is atomic")
def an_observer_always_finds_both_exchanged_names(world: World) -> None:
    write("one", b"1")
    write("two", b"2")
    reader, writer = os.pipe()

    def observe() -> None:
        os.close(writer)
        with open(reader, "rb", buffering=0) as stream:
            os.set_blocking(reader, False)
            while stream.read(1) != b"":
                assert {os.stat("one").st_size, os.stat("two").st_size} == {1}

    child = world.start(observe)
    os.close(reader)
    for _ in range(60):
        renameat2("one", "two", EXCHANGE)
    os.close(writer)
    child.result()
    assert (read("one"), read("two")) == (b"1", b"2")
