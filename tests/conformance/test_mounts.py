"""Where a mount ends and what a read-only one refuses; failures that move no times; addresses that are not ours."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from errno import EACCES, EBUSY, EEXIST, EFAULT, ENOENT, EPERM, EROFS, EXDEV
from pathlib import Path

import pytest

from tests.conformance.calls import EXCHANGE, PATH_CALLS, path_from_nowhere, renameat2
from tests.conformance.conftest import native_in, world_in
from tests.conformance.world import OTHER, Place, Rule, Rules, World, fails, opened, read, tick, write
from tests.support.mounting import run, volumes_in

pytestmark = pytest.mark.fuse
rules = Rules()


def test_rule(rule: Rule, world: World) -> None:
    rule.verify(world)


@contextlib.contextmanager
def mounted_on(directory: str) -> Iterator[None]:
    """A tmpfs on a directory."""
    run("mount", "-t", "tmpfs", "tmpfs", Path(directory).absolute())
    try:
        yield
    finally:
        run("umount", Path(directory).absolute())


@rules("link(2), rename(2): EXDEV")
def nothing_is_linked_or_renamed_to_another_filesystem(world: World) -> None:
    os.mkdir("other")
    write("file")
    os.mkdir("dir")
    with mounted_on("other"):
        write("other/file")
        fails(EXDEV, os.link, "file", "other/new")
        fails(EXDEV, os.link, "other/file", "new")
        for name in ("file", "dir"):
            fails(EXDEV, os.rename, name, "other/new")
        fails(EXDEV, os.rename, "other/file", "file")
        fails(EXDEV, renameat2, "other/file", "file", EXCHANGE)
        assert os.listdir("other") == ["file"]
    assert sorted(os.listdir()) == ["dir", "file", "other"]


@rules("rmdir(2), rename(2): EBUSY")
def a_mount_point_is_neither_removed_nor_renamed_nor_replaced(world: World) -> None:
    os.mkdir("point")
    os.mkdir("dir")
    with mounted_on("point"):
        fails(EBUSY, os.rmdir, "point")
        fails(EBUSY, os.rename, "point", "new")
        fails(EBUSY, os.rename, "dir", "point")
        fails(EBUSY, renameat2, "dir", "point", EXCHANGE)
    os.rename("dir", "point")
    os.rmdir("point")


@rules("POSIX 2024 §2.3 error numbers: EFAULT")
def a_path_at_an_address_that_is_not_ours(world: World) -> None:
    write("file")
    for name, after in (
        ("open", (0,)), ("mkdir", (0o755,)), ("mkfifo", (0o644,)), ("unlink", ()), ("rmdir", ()), ("chmod", (0o644,)),
        ("chown", (0, 0)), ("lchown", (0, 0)), ("truncate", (0,)), ("access", (0,)), ("chdir", ()),
    ):  # fmt: skip
        fails(EFAULT, path_from_nowhere, name, *after)
    for name in ("symlink", "link", "rename"):
        fails(EFAULT, path_from_nowhere, name, b"new")
        fails(EFAULT, path_from_nowhere, name, b"file", first=False)
    assert os.listdir() == ["file"]


@rules("POSIX 2024 §4.12: only what succeeds marks times")
def what_is_denied_moves_no_times(world: World) -> None:
    write("file")
    os.mkdir("d")
    write("d/file")
    names = ("file", "d", "d/file")
    before = [os.stat(name) for name in names]
    tick()
    attempts: tuple[tuple[int, Callable[[], object]], ...] = (
        (EPERM, lambda: os.chmod("file", 0o777)),
        (EPERM, lambda: os.chown("file", OTHER.uid, OTHER.gid)),
        (EPERM, lambda: os.utime("file", ns=(1, 1))),
        (EACCES, lambda: os.utime("file")),
        (EACCES, lambda: os.truncate("file", 1)),
        (EACCES, lambda: opened("file", os.O_WRONLY | os.O_TRUNC)),
        (EACCES, lambda: os.setxattr("file", "user.a", b"")),
        (EACCES, lambda: os.unlink("d/file")),
        (EACCES, lambda: os.mkdir("d/new")),
        (EACCES, lambda: os.mkfifo("d/new")),
        (EACCES, lambda: os.symlink("target", "d/new")),
        (EACCES, lambda: os.rename("d/file", "d/new")),
        (EACCES, lambda: opened("d/new", os.O_CREAT | os.O_WRONLY)),
    )
    for number, attempt in attempts:
        world.denied(OTHER, number, attempt)
    assert [os.stat(name) for name in names] == before


@contextlib.contextmanager
def read_only(kind: str, directory: Path) -> Iterator[World]:
    """A tree that was filled and is mounted read-only now; its top is the working directory."""
    with contextlib.ExitStack() as stack:
        if kind == "ext4":
            place = stack.enter_context(native_in(directory / "native", "rw"))
        else:
            volume = stack.enter_context(volumes_in(directory)).make(kind)
            place = Place(volume.directory, volume)
        with world_in(place) as world:
            write("existing")
            os.mkdir("dir")
            os.symlink("existing", "symlink")
            os.setxattr("existing", "user.name", b"")
        if place.volume is None:
            run("mount", "-o", "remount,bind,ro", place.directory)
        else:
            place.volume.remount("ro")
        with contextlib.chdir(world.top):
            yield world


@pytest.mark.parametrize("kind", ["ext4", "sync=write", "sync=fsync"])
def test_a_read_only_mount_refuses_every_change_and_only_changes(kind: str, tmp_path: Path) -> None:
    """EROFS in the pages of all these calls."""
    names = {
        "open O_CREAT": "new", "mkdir": "new", "mkfifo": "new", "mknod": "new", "symlink": "new", "link to": "new",
        "link from": "existing", "rename to": "new", "rename from": "existing", "unlink": "existing", "rmdir": "dir",
        "chmod": "existing", "chown": "existing", "lchown": "symlink", "truncate": "existing", "utimensat": "existing",
        "setxattr": "existing", "removexattr": "existing",
    }  # fmt: skip
    with read_only(kind, tmp_path) as world:
        for call, name in names.items():
            fails(EROFS, PATH_CALLS[call], name)
        for flags in (os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_TRUNC):
            fails(EROFS, os.open, "existing", flags)
        fails(EEXIST, os.mkdir, "dir")
        fails(ENOENT, os.open, "missing", os.O_RDONLY)
        assert read("existing") == b"content"
        assert not os.access("existing", os.W_OK)
        opened("existing", os.O_RDONLY | os.O_CREAT)
        assert sorted(os.listdir()) == ["dir", "existing", "symlink"]
        assert os.statvfs(world.top).f_flag & os.ST_RDONLY
