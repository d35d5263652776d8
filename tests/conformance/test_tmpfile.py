"""Files that are made without a name: open(2) with O_TMPFILE, and linkat(2), which may give them one."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.conformance.calls import AT_EMPTY_PATH, EXCHANGE, link_open, renameat2
from tests.conformance.world import (
    MEMBER,
    OTHER,
    OWNER,
    ROOT,
    Rule,
    Rules,
    World,
    fails,
    links,
    make,
    read,
    tick,
    write,
)

pytestmark = pytest.mark.fuse
rules = Rules()


def test_rule(rule: Rule, world: World) -> None:
    rule.verify(world)


@contextmanager
def nameless(flags: int = os.O_RDWR, mode: int = 0o600, directory: str = ".") -> Iterator[int]:
    """An open file without a name."""
    descriptor = os.open(directory, os.O_TMPFILE | flags, mode)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@rules("open(2): O_TMPFILE")
def it_has_no_name_and_no_link(world: World) -> None:
    tick()
    before = os.stat(".")
    tick()
    with nameless() as file:
        found = os.fstat(file)
        assert (found.st_nlink, found.st_size, stat.S_IFMT(found.st_mode)) == (0, 0, stat.S_IFREG)
        assert os.listdir(".") == []
        assert found.st_mtime_ns == found.st_ctime_ns > before.st_mtime_ns
    after = os.stat(".")
    assert (after.st_mtime_ns, after.st_ctime_ns, after.st_nlink) == (
        before.st_mtime_ns,
        before.st_ctime_ns,
        before.st_nlink,
    )


@rules("open(2): O_TMPFILE")
def it_can_be_used_as_any_file(world: World) -> None:
    with nameless() as file:
        for length in (10, 5000, 70_000, 300_000):
            content = os.urandom(length)
            os.ftruncate(file, 0)
            assert os.pwrite(file, content, 0) == length
            os.fsync(file)
            assert os.pread(file, length + 1, 0) == content
            assert os.fstat(file).st_size == length
        with mmap.mmap(file, 0) as mapped:
            assert mapped[:] == content
        os.fchmod(file, 0o640)
        os.fchown(file, OWNER.uid, OTHER.gid)
        os.utime(file, ns=(1, 2))
        os.setxattr(file, "user.a", b"1")
        found = os.fstat(file)
        assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (0o640, OWNER.uid, OTHER.gid)
        assert (found.st_atime_ns, found.st_mtime_ns, os.getxattr(file, "user.a")) == (1, 2, b"1")
        fcntl.flock(file, fcntl.LOCK_EX)


@rules("open(2): O_TMPFILE, the umask applies")
def mode_and_owner_are_those_of_a_file_that_is_made(world: World) -> None:
    os.chown(".", ROOT.uid, MEMBER.groups[0])
    os.chmod(".", 0o2777)

    def found() -> tuple[int, int, int]:
        os.umask(0o027)
        with nameless(mode=0o777) as file:
            status = os.fstat(file)
            return stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid

    assert world.run(OTHER, found) == (0o750, OTHER.uid, MEMBER.groups[0])
    os.chmod(".", 0o777)
    assert world.run(OTHER, found) == (0o750, OTHER.uid, OTHER.gid)


@rules("open(2): EACCES, EISDIR, EINVAL, ENOTDIR, ENOENT")
def what_is_refused(world: World) -> None:
    make("dir", "dir")
    os.chmod("dir", 0o755)
    world.denied(OTHER, errno.EACCES, os.open, "dir", os.O_TMPFILE | os.O_RDWR, 0o600)
    fails(errno.EINVAL, os.open, "dir", os.O_TMPFILE | os.O_RDONLY, 0o600)
    fails(errno.EINVAL, os.open, "dir", os.O_TMPFILE | os.O_RDWR | os.O_CREAT, 0o600)
    fails(errno.ENOTDIR, os.open, write("file"), os.O_TMPFILE | os.O_RDWR, 0o600)
    fails(errno.ENOENT, os.open, "missing", os.O_TMPFILE | os.O_RDWR, 0o600)


@rules("unlink(2): ext4 makes nothing in a removed directory")
def nothing_is_made_in_a_directory_that_was_removed(world: World) -> None:
    make("dir", "dir")
    directory = os.open("dir", os.O_RDONLY)
    os.rmdir("dir")
    fails(errno.EPERM, os.open, f"/proc/self/fd/{directory}", os.O_TMPFILE | os.O_RDWR, 0o600)
    os.close(directory)


@rules("open(2), linkat(2): by /proc/self/fd, and by AT_EMPTY_PATH")
def linkat_gives_it_a_name(world: World) -> None:
    for flags, name in ((0x400, "one"), (AT_EMPTY_PATH, "other")):
        with nameless() as file:
            os.write(file, name.encode())
            tick()
            before = os.fstat(file)
            directory = os.stat(".")
            link_open(file, name, flags)
            found = os.fstat(file)
            assert (found.st_nlink, os.stat(name).st_ino) == (1, found.st_ino)
            assert found.st_ctime_ns > before.st_ctime_ns
            assert found.st_mtime_ns == before.st_mtime_ns
            assert os.stat(".").st_mtime_ns > directory.st_mtime_ns
            os.write(file, b" and more")
        assert read(name) == name.encode() + b" and more"
    assert sorted(os.listdir(".")) == ["one", "other"]


@rules("linkat(2)")
def then_it_is_a_file_like_any_other(world: World) -> None:
    with nameless() as file:
        os.write(file, bytes(100_000))
        link_open(file, "file")
        link_open(file, "again")
        assert links("file") == 2
    os.rename("file", "renamed")
    renameat2("renamed", "again", EXCHANGE)
    os.link("again", "third")
    assert links("third") == 3
    for name in ("renamed", "again", "third"):
        os.unlink(name)
    assert os.listdir(".") == []


@rules("linkat(2): EEXIST; the name is that of another file")
def it_does_not_take_the_place_of_a_name(world: World) -> None:
    write("file", b"old")
    with nameless() as file:
        os.write(file, b"new")
        fails(errno.EEXIST, link_open, file, "file")
        link_open(file, "temporary")
    os.rename("temporary", "file")
    assert (read("file"), os.listdir(".")) == (b"new", ["file"])


@rules("open(2): O_EXCL in conjunction with O_TMPFILE; linkat(2): ENOENT")
def with_o_excl_it_never_gets_a_name(world: World) -> None:
    with nameless(os.O_RDWR | os.O_EXCL) as file:
        os.write(file, b"content")
        for flags in (0x400, AT_EMPTY_PATH):
            fails(errno.ENOENT, link_open, file, "file", flags)
        assert os.fstat(file).st_nlink == 0


@rules("linkat(2): ENOENT")
def once_unlinked_it_gets_no_name_any_more(world: World) -> None:
    with nameless() as file:
        link_open(file, "file")
        os.unlink("file")
        fails(errno.ENOENT, link_open, file, "again")
        os.write(file, b"content")
        assert os.pread(file, 9, 0) == b"content"


@rules("linkat(2)")
def it_can_be_linked_elsewhere_and_by_who_holds_only_its_path(world: World) -> None:
    make("dir", "dir")
    file = os.open(".", os.O_TMPFILE | os.O_WRONLY, 0o600)
    os.write(file, b"content")
    path = os.open(f"/proc/self/fd/{file}", os.O_PATH)
    os.close(file)
    link_open(path, "dir/file")
    os.close(path)
    assert (read("dir/file"), links("dir/file")) == (b"content", 1)


@rules("proc(5): /proc/PID/fd")
def it_can_be_opened_again(world: World) -> None:
    with nameless(mode=0o600) as file:
        os.write(file, b"content")
        again = os.open(f"/proc/self/fd/{file}", os.O_RDWR | os.O_TRUNC)
        assert os.fstat(file).st_size == 0
        os.write(again, b"new")
        os.close(again)
        assert os.pread(file, 9, 0) == b"new"


@rules("open(2): as any unlinked file it goes with the last descriptor")
def many_are_made_and_gone(world: World) -> None:
    for number in range(200):
        with nameless() as file:
            os.write(file, bytes(number * 100))
    assert os.listdir(".") == []


@rules("tempfile.TemporaryFile, which uses O_TMPFILE where there is one")
def pythons_temporary_files_have_no_name(world: World) -> None:
    with tempfile.TemporaryFile(dir=".") as stream:
        stream.write(b"content")
        stream.flush()
        assert (os.fstat(stream.fileno()).st_nlink, os.listdir(".")) == (0, [])
        stream.seek(0)
        assert stream.read() == b"content"
