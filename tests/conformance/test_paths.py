"""Names and paths: what every call says of missing, long, looping and malformed ones; limits; names of any bytes."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from errno import EEXIST, EINVAL, EISDIR, ELOOP, ENAMETOOLONG, ENOENT, ENOTDIR, ENOTEMPTY, ENXIO
from functools import partial

import pytest

from tests.conformance.calls import MAKERS, PATH_CALLS, link_followed
from tests.conformance.world import (
    KINDS,
    Rule,
    Rules,
    World,
    fails,
    inode,
    links,
    make,
    mode_of,
    opened,
    read,
    write,
)

pytestmark = pytest.mark.fuse
rules = Rules()


def test_rule(rule: Rule, world: World) -> None:
    rule.verify(world)


# Errors that every call has in common


def _common_errors(call: Callable[[str], object], world: World) -> None:
    write("existing")
    os.symlink("loop", "loop")
    os.symlink("loop two", "loop one")
    os.symlink("loop one", "loop two")
    long = "x" * 256
    for path, number in (
        ("missing/name", ENOENT),
        ("", ENOENT),
        ("existing/name", ENOTDIR),
        ("existing/.", ENOTDIR),
        ("existing/..", ENOTDIR),
        ("loop/name", ELOOP),
        ("loop one/name", ELOOP),
        (long, ENAMETOOLONG),
        (f"{long}/name", ENAMETOOLONG),
        (f"./{long}", ENAMETOOLONG),
        ("./" * 2047 + "xx", ENAMETOOLONG),
        ("x" * 5000, ENAMETOOLONG),
    ):
        fails(number, call, path)
    assert sorted(os.listdir()) == ["existing", "loop", "loop one", "loop two"]


LOOK_AT_LINKS = ("link from", "rename from", "rename to", "unlink", "rmdir", "lchown", "lstat", "readlink", "link to")
"""Calls that do not follow a symlink in the last place, besides those that make."""


def _missing_or_there(name: str, call: Callable[[str], object], world: World) -> None:
    write("existing")
    if name not in MAKERS:
        fails(ENOENT, call, "missing")
        os.symlink("nowhere", "dangling")
        if name not in LOOK_AT_LINKS:
            fails(ENOENT, call, "dangling")
    elif name not in ("open O_CREAT", "rename to"):
        for kind in KINDS:
            fails(EEXIST, call, make(kind, kind))
        os.symlink("nowhere", "dangling")
        fails(EEXIST, call, "dangling")
        os.symlink("dir", "to directory")
        fails(EEXIST, call, "to directory")


def _of_a_loop(call: Callable[[str], object], world: World) -> None:
    os.symlink("loop", "loop")
    fails(ELOOP, call, "loop")


for _name, _call in PATH_CALLS.items():
    rules.add(f"{_name} of a bad path", "POSIX 2024 §4.16 pathname resolution", partial(_common_errors, _call))
    rules.add(
        f"{_name} of what is missing or there", f"{_name.split()[0]}(2)", partial(_missing_or_there, _name, _call)
    )
    if _name not in (*LOOK_AT_LINKS, *MAKERS) or _name == "open O_CREAT":
        rules.add(f"{_name} of a loop", "path_resolution(7)", partial(_of_a_loop, _call))


# Limits


@rules("path_resolution(7), NAME_MAX")
def a_name_of_255_bytes_is_taken_by_every_call_that_makes_one(world: World) -> None:
    for name in MAKERS:
        write("existing")
        PATH_CALLS[name](long := "ü" * 127 + "x")
        assert os.listdir().count(long) == 1, name
        (os.rmdir if name == "mkdir" else os.unlink)(long)


@rules("path_resolution(7), PATH_MAX")
def a_path_of_4095_bytes_is_taken_and_one_of_4096_not(world: World) -> None:
    component = "d" * 255 + "/"
    for _ in range(15):
        os.mkdir("d" * 255)
        os.chdir("d" * 255)
    os.mkdir("d" * 253)
    os.chdir(world.top)
    path = component * 15 + "d" * 253 + "/"
    assert len(path + "f") == 4095
    opened(path + "f", os.O_CREAT | os.O_WRONLY)
    assert os.stat(path + "f").st_size == 0
    fails(ENAMETOOLONG, os.stat, path + "ff")
    fails(ENAMETOOLONG, os.stat, "/" + path + "f")
    os.unlink(path + "f")


@rules("symlink(2), PATH_MAX")
def a_symlink_s_target_has_1_to_4095_bytes(world: World) -> None:
    fails(ENOENT, os.symlink, "", "empty")
    for length in (1, 59, 60, 61, 255, 256, 4095):
        target = "t" * length
        os.symlink(target, f"link {length}")
        assert os.readlink(f"link {length}") == target
        status = os.lstat(f"link {length}")
        assert (status.st_size, status.st_nlink, stat.S_IMODE(status.st_mode)) == (length, 1, 0o777)
    fails(ENAMETOOLONG, os.symlink, "t" * 4096, "too long")
    os.symlink(b"\xff\n \\%s\x01", b"bytes")
    assert os.readlink(b"bytes") == b"\xff\n \\%s\x01"
    assert not os.path.lexists("too long")


@rules("path_resolution(7): 40 symlinks")
def forty_symlinks_are_followed_and_not_one_more(world: World) -> None:
    write("0", b"end")
    for number in range(1, 42):
        os.symlink(str(number - 1), str(number))
    assert read("40") == b"end"
    fails(ELOOP, os.stat, "41")
    os.mkdir("dir")
    os.symlink("dir", "way")
    write("dir/file", b"end")
    os.symlink("/".join(["."] * 3) + "/way/file", "both")
    assert read("both") == b"end"


@rules("readlink(2)")
def readlink_is_for_symlinks_only(world: World) -> None:
    for kind in KINDS:
        if kind != "symlink":
            fails(EINVAL, os.readlink, make(kind, kind))


@rules("mkdir(2), ext4: dir_nlink")
def link_counts_of_directories_are_their_subdirectories_and_two(world: World) -> None:
    before = links(".")
    os.makedirs("a/b")
    os.mkdir("a/c")
    assert (links("."), links("a"), links("a/b")) == (before + 1, 4, 2)
    write("a/file")
    os.symlink(".", "a/link")
    assert links("a") == 4
    os.rename("a/b", "b")
    assert (links("."), links("a"), links("b")) == (before + 2, 3, 2)
    os.rename("a/c", "b")
    assert (links("."), links("a"), links("b")) == (before + 2, 2, 2)
    os.rmdir("b")
    assert links(".") == before + 1


# Names of any bytes


@rules("POSIX 2024 §3.146 filename")
def every_byte_but_slash_and_nul_is_a_name(world: World) -> None:
    names = sorted(bytes([value]) for value in set(range(1, 256)) - {ord("/"), ord(".")})
    for name in names:
        os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    assert sorted(os.listdir(b".")) == names
    for name in names[::10]:
        os.rename(name, name + b"!")
        os.link(name + b"!", name)
        os.unlink(name + b"!")
        assert os.lstat(name).st_nlink == 1


@rules("POSIX 2024 §3.146 filename")
def names_are_bytes_and_neither_folded_nor_normalised(world: World) -> None:
    names = ["a", "A", "é", "e\u0301", "K", "\u212a", "...", "..a", ".a", " ", "a ", "-rf", "con", "a:b", "a\\b", "~"]
    for name in names:
        write(name, name.encode())
    assert sorted(os.listdir()) == sorted(names)
    assert all(read(name) == name.encode() for name in names)


# Slashes and dots


@rules("POSIX 2024 §4.16: a trailing slash means a directory")
def a_trailing_slash_on_what_is_no_directory(world: World) -> None:
    write("file")
    os.mkdir("dir")
    os.symlink("file", "to file")
    os.symlink("dir", "to dir")
    for name in ("stat", "lstat", "open", "truncate", "chmod", "chown", "unlink", "link from", "rename from", "execve"):
        fails(ENOTDIR, PATH_CALLS[name], "file/")
    fails(ENOTDIR, os.stat, "to file/")
    fails(ENOTDIR, os.rmdir, "file/")
    fails(EISDIR, os.open, "new/", os.O_CREAT | os.O_WRONLY)
    fails(ENOENT, os.mknod, "new/")
    fails(ENOENT, os.symlink, "target", "new/")
    fails(ENOENT, os.link, "file", "new/")
    fails(ENOTDIR, os.rename, "file", "new/")
    fails(ENOTDIR, os.unlink, "to dir/")
    fails(ENOTDIR, os.rmdir, "to dir/")
    assert inode("to dir/") == inode("dir") != inode("to dir")
    os.mkdir("made/")
    os.rename("made/", "moved/")
    os.rmdir("moved///")


@rules("rmdir(2), unlink(2), rename(2), mkdir(2)")
def dot_and_dot_dot_are_neither_made_nor_removed_nor_renamed(world: World) -> None:
    os.makedirs("a/b")
    fails(EINVAL, os.rmdir, "a/.")
    fails(ENOTEMPTY, os.rmdir, "a/b/..")
    fails(EISDIR, os.unlink, "a/.")
    fails(EISDIR, os.unlink, "a/..")
    for name in (".", "..", "a/.", "a/b/.."):
        fails(16, os.rename, name, "new")
        fails(16, os.rename, "a/b", name)
        fails(EEXIST, os.mkdir, name)
        fails(EEXIST, os.link, "a", name)
        fails(EEXIST, os.symlink, "target", name)
    assert (inode("a/b/.."), inode("a/b/../.")) == (inode("a"), inode("a"))


# What each call says of each type


@rules("unlink(2), rmdir(2)")
def unlink_takes_everything_but_directories_and_rmdir_only_them(world: World) -> None:
    for kind in KINDS:
        make(kind, kind)
        if kind == "dir":
            fails(EISDIR, os.unlink, kind)
            os.rmdir(kind)
        else:
            fails(ENOTDIR, os.rmdir, kind)
            os.unlink(kind)
        fails(ENOENT, os.lstat, kind)


@rules("rmdir(2)")
def only_empty_directories_are_removed(world: World) -> None:
    os.mkdir("d")
    for kind in KINDS:
        make(f"d/{kind}", kind)
        fails(ENOTEMPTY, os.rmdir, "d")
        (os.rmdir if kind == "dir" else os.unlink)(f"d/{kind}")
    os.rmdir("d")


@rules("rmdir(2): POSIX §XSH rmdir")
def a_removed_directory_that_is_still_open_takes_nothing(world: World) -> None:
    os.mkdir("d")
    directory = os.open("d", os.O_RDONLY)
    write("file")
    os.chdir("d")
    os.rmdir("../d")
    for attempt in (
        lambda: os.open("new", os.O_CREAT | os.O_WRONLY),
        lambda: os.mkdir("new"),
        lambda: os.symlink("target", "new"),
        lambda: os.mkfifo("new"),
        lambda: os.link("../file", "new"),
        lambda: os.rename("../file", "new"),
        lambda: os.open("missing", os.O_RDONLY),
        lambda: os.getcwd(),
    ):
        fails(ENOENT, attempt)
    os.chdir("..")
    assert os.fstat(directory).st_nlink == 0
    assert os.listdir(directory) == []
    os.close(directory)


@rules("truncate(2), open(2)")
def types_that_cannot_be_cut_or_opened_for_writing(world: World) -> None:
    for kind, cut, opening in (("dir", EISDIR, EISDIR), ("fifo", EINVAL, ENXIO), ("socket", EINVAL, ENXIO)):
        make(kind, kind)
        fails(cut, os.truncate, kind, 0)
        fails(opening, os.open, kind, os.O_WRONLY | os.O_NONBLOCK)
    fails(EISDIR, os.open, "dir", os.O_RDWR)
    fails(EISDIR, os.open, "dir", os.O_RDONLY | os.O_CREAT)
    fails(EINVAL, os.truncate, write("file"), -1)
    fails(ENXIO, os.open, "socket", os.O_RDONLY)


@rules("link(2)")
def every_type_but_directories_has_several_names(world: World) -> None:
    for kind in KINDS:
        make(kind, kind)
        if kind == "dir":
            fails(1, os.link, kind, "new")
            continue
        os.link(kind, f"{kind} 2", follow_symlinks=False)
        os.link(f"{kind} 2", f"{kind} 3", follow_symlinks=False)
        assert {inode(kind)} == {inode(f"{kind} 2"), inode(f"{kind} 3")}
        os.chown(f"{kind} 2", 5, 6, follow_symlinks=False)
        assert [os.lstat(name).st_uid for name in (kind, f"{kind} 3")] == [5, 5]
        assert (links(kind), mode_of(kind)) == (3, mode_of(f"{kind} 3"))
        os.unlink(kind)
        assert links(f"{kind} 3") == 2
        os.unlink(f"{kind} 3")
        assert links(f"{kind} 2") == 1


@rules("link(2), linkat(2)")
def linking_a_symlink_follows_it_only_if_asked(world: World) -> None:
    write("file")
    os.symlink("file", "symlink")
    os.link("symlink", "second symlink", follow_symlinks=False)
    assert inode("second symlink") == inode("symlink")
    link_followed("symlink", "second file")
    assert inode("second file") == inode("file")


@rules("open(2): O_EXCL")
def o_creat_follows_a_dangling_symlink_and_o_excl_does_not(world: World) -> None:
    os.symlink("target", "link")
    fails(EEXIST, os.open, "link", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    assert not os.path.exists("target")
    opened("link", os.O_CREAT | os.O_WRONLY)
    assert os.path.exists("target")
