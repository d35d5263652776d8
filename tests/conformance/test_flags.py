"""Immutable and append-only files and directories, and the other flags of chattr(1): ioctl_iflags(2)."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import pytest

from tests.conformance.calls import (
    APPEND,
    EXCHANGE,
    IMMUTABLE,
    NOATIME,
    NODUMP,
    UTIME_NOW,
    UTIME_OMIT,
    access,
    fallocate,
    get_flags,
    get_fsxattr,
    ioctl,
    link_open,
    renameat2,
    set_flags,
    set_fsxattr,
    utimensat,
)
from tests.conformance.world import OTHER, OWNER, Rule, Rules, World, fails, make, mode_of, opened, read, tick, write
from tests.support.mounting import run

pytestmark = pytest.mark.fuse
rules = Rules()
EPERM = errno.EPERM


def test_rule(rule: Rule, world: World) -> None:
    rule.verify(world)


@contextmanager
def flagged(name: str, flags: int) -> Iterator[str]:
    """Somebody's flags for a while; nothing else could be removed."""
    set_flags(name, flags)
    try:
        yield name
    finally:
        set_flags(name, 0)


NOW, OMIT, GIVEN = (0, UTIME_NOW), (0, UTIME_OMIT), (5, 6)
CHANGES: dict[str, Callable[[], object]] = {
    "open for writing": lambda: opened("file", os.O_WRONLY),
    "open for both": lambda: opened("file", os.O_RDWR),
    "open to truncate": lambda: opened("file", os.O_WRONLY | os.O_TRUNC),
    "open to append and truncate": lambda: opened("file", os.O_WRONLY | os.O_APPEND | os.O_TRUNC),
    "open for reading, to truncate": lambda: opened("file", os.O_RDONLY | os.O_TRUNC),
    "truncate": lambda: os.truncate("file", 3),
    "truncate to its size": lambda: os.truncate("file", 7),
    "chmod": lambda: os.chmod("file", 0o600),
    "chmod to its mode": lambda: os.chmod("file", 0o644),
    "chown": lambda: os.chown("file", 1, 1),
    "utimensat of given times": lambda: utimensat("file", GIVEN, GIVEN),
    "utimensat of atime to now": lambda: utimensat("file", NOW, OMIT),
    "utimensat of mtime to now": lambda: utimensat("file", OMIT, NOW),
    "utimensat of atime": lambda: utimensat("file", GIVEN, OMIT),
    "utimensat of mtime": lambda: utimensat("file", OMIT, GIVEN),
    "link": lambda: os.link("file", "new"),
    "unlink": lambda: os.unlink("file"),
    "rename": lambda: os.rename("file", "new"),
    "rename over it": lambda: os.rename("other", "file"),
    "exchange": lambda: renameat2("other", "file", EXCHANGE),
    "setxattr": lambda: os.setxattr("file", "user.b", b"1"),
    "setxattr to its value": lambda: os.setxattr("file", "user.a", b"1"),
    "removexattr": lambda: os.removexattr("file", "user.a"),
    "removexattr of none": lambda: os.removexattr("file", "user.none"),
}
"""What neither an immutable nor an append-only file takes. A file, `file`, of 7 bytes, beside another, `other`."""

IMMUTABLE_ONLY: dict[str, Callable[[], object]] = {
    "open to append": lambda: opened("file", os.O_WRONLY | os.O_APPEND),
    "chown of nothing": lambda: os.chown("file", -1, -1),
    "touch": lambda: os.utime("file"),
    "utimensat of both to now": lambda: utimensat("file", NOW, NOW),
}
"""What an append-only file takes."""


def _stays(flags: int, change: Callable[[], object], world: World) -> None:
    os.setxattr(write("file"), "user.a", b"1")
    write("other", b"other")
    with flagged("file", flags):
        before = os.stat("file")
        tick()
        fails(EPERM, change)
        assert os.stat("file") == before
        assert (read("file"), os.listxattr("file"), sorted(os.listdir("."))) == (
            b"content",
            ["user.a"],
            ["file", "other"],
        )


def _succeeds(change: Callable[[], object], world: World) -> None:
    write("file")
    with flagged("file", APPEND):
        change()


for what, change in CHANGES.items():
    rules.add(f"{what}, immutable", "ioctl_iflags(2): FS_IMMUTABLE_FL", partial(_stays, IMMUTABLE, change))
    rules.add(f"{what}, append-only", "ioctl_iflags(2): FS_APPEND_FL", partial(_stays, APPEND, change))
for what, change in IMMUTABLE_ONLY.items():
    rules.add(f"{what}, immutable", "ioctl_iflags(2): FS_IMMUTABLE_FL", partial(_stays, IMMUTABLE, change))
    rules.add(f"{what}, append-only", "ioctl_iflags(2): FS_APPEND_FL", partial(_succeeds, change))


@rules("ioctl_iflags(2)")
def a_protected_file_can_be_read(world: World) -> None:
    write("file")
    for flags in (IMMUTABLE, APPEND, IMMUTABLE | APPEND):
        with flagged("file", flags):
            assert read("file") == b"content"
            opened("file", os.O_RDONLY | os.O_CREAT)
            fails(errno.EEXIST, opened, "file", os.O_RDONLY | os.O_CREAT | os.O_EXCL)
            utimensat("file", OMIT, OMIT)
            assert get_flags("file") == flags


@rules("ioctl_iflags(2): FS_APPEND_FL")
def an_append_only_file_grows(world: World) -> None:
    write("file")
    with flagged("file", APPEND), open("file", "ab") as stream:
        for _ in range(300):
            stream.write(b"x" * 1000)
        stream.flush()
        os.fsync(stream.fileno())
    assert read("file") == b"content" + b"x" * 300_000


DIRECTORY_REFUSES: dict[str, Callable[[], object]] = {
    "unlink in it": lambda: os.unlink("dir/file"),
    "rmdir in it": lambda: os.rmdir("dir/sub"),
    "rename within it": lambda: os.rename("dir/file", "dir/new"),
    "rename out of it": lambda: os.rename("dir/file", "new"),
    "rename over an entry of it": lambda: os.rename("out", "dir/file"),
    "exchange": lambda: renameat2("out", "dir/file", EXCHANGE),
    "rename it": lambda: os.rename("dir", "new"),
    "rmdir it": lambda: os.rmdir("dir"),
    "chmod it": lambda: os.chmod("dir", 0o700),
    "setxattr of it": lambda: os.setxattr("dir", "user.a", b""),
}
IMMUTABLE_DIRECTORY_REFUSES: dict[str, Callable[[], object]] = {
    "create in it": lambda: opened("dir/new", os.O_CREAT | os.O_WRONLY),
    "mkdir in it": lambda: os.mkdir("dir/new"),
    "symlink in it": lambda: os.symlink("target", "dir/new"),
    "mkfifo in it": lambda: os.mkfifo("dir/new"),
    "link into it": lambda: os.link("out", "dir/new"),
    "rename into it": lambda: os.rename("out", "dir/new"),
    "O_TMPFILE in it": lambda: opened("dir", os.O_TMPFILE | os.O_RDWR, 0o600),
    "touch it": lambda: os.utime("dir"),
}


def _in_directory(flags: int, change: Callable[[], object], succeeds: bool, world: World) -> None:
    make("dir", "dir")
    write("dir/file")
    make("dir/sub", "dir")
    write("out")
    with flagged("dir", flags):
        if succeeds:
            change()
        else:
            fails(EPERM, change)
            assert (sorted(os.listdir(".")), sorted(os.listdir("dir"))) == (["dir", "out"], ["file", "sub"])


for what, change in DIRECTORY_REFUSES.items():
    for name, flag in (("immutable", IMMUTABLE), ("append-only", APPEND)):
        rules.add(f"{what}, {name} directory", "ioctl_iflags(2)", partial(_in_directory, flag, change, False))
for what, change in IMMUTABLE_DIRECTORY_REFUSES.items():
    rules.add(f"{what}, immutable directory", "ioctl_iflags(2)", partial(_in_directory, IMMUTABLE, change, False))
    rules.add(f"{what}, append-only directory", "ioctl_iflags(2)", partial(_in_directory, APPEND, change, True))


@rules("ioctl_iflags(2): the entries of a directory, not what they lead to")
def what_lies_in_a_protected_directory_can_be_changed(world: World) -> None:
    make("dir", "dir")
    write("dir/file")
    make("dir/sub", "dir")
    for flags in (IMMUTABLE, APPEND):
        with flagged("dir", flags):
            write("dir/file", b"new")
            os.chmod("dir/file", 0o600)
            write("dir/sub/file")
            os.unlink("dir/sub/file")
            fails(errno.EEXIST, os.mkdir, "dir/sub")
            fails(errno.ENOENT, os.unlink, "dir/missing")


@rules("ioctl_iflags(2): CAP_LINUX_IMMUTABLE; the owner or CAP_FOWNER")
def who_may_set_them(world: World) -> None:
    world.own("file")
    for flag in (IMMUTABLE, APPEND):
        world.denied(OWNER, EPERM, set_flags, "file", flag)
    world.run(OWNER, set_flags, "file", NODUMP)
    world.run(OWNER, set_flags, "file", NOATIME)
    for flag in (0, NODUMP, NOATIME, IMMUTABLE):
        world.denied(OTHER, EPERM, set_flags, "file", flag)
    assert world.run(OTHER, get_flags, "file") == NOATIME
    with flagged("file", IMMUTABLE):
        world.denied(OWNER, EPERM, set_flags, "file", 0)
        world.run(OWNER, set_flags, "file", IMMUTABLE)
        world.denied(OWNER, EPERM, opened, "file", os.O_WRONLY)
    world.run(OWNER, opened, "file", os.O_WRONLY)


@rules("ioctl_iflags(2), ext4: as long as it is immutable nothing else changes")
def an_immutable_file_keeps_its_other_flags(world: World) -> None:
    write("file")
    with flagged("file", IMMUTABLE):
        for flags in (IMMUTABLE | NODUMP, IMMUTABLE | NOATIME, IMMUTABLE | APPEND):
            fails(EPERM, set_flags, "file", flags)
        set_flags("file", IMMUTABLE)
        set_flags("file", APPEND | NODUMP)
        set_flags("file", APPEND | NODUMP | NOATIME)
        assert get_flags("file") == APPEND | NODUMP | NOATIME


@rules("ioctl_iflags(2); FS_IOC_SETFLAGS of a descriptor")
def of_an_open_file_that_has_no_name_left(world: World) -> None:
    file = os.open("file", os.O_RDWR | os.O_CREAT, 0o600)
    os.unlink("file")
    set_flags(file, NODUMP)
    assert get_flags(file) == NODUMP
    nameless = os.open(".", os.O_TMPFILE | os.O_RDWR, 0o600)
    set_flags(nameless, IMMUTABLE)
    fails(EPERM, link_open, nameless, "name")
    set_flags(nameless, 0)
    link_open(nameless, "name")


@rules("ioctl_iflags(2): ENOTTY")
def of_files_that_are_neither_regular_nor_directories(world: World) -> None:
    fails(errno.ENOTTY, get_flags, make("fifo", "fifo"))
    fails(errno.ENOTTY, ioctl, write("file"), 0x5401, bytes(64))  # TCGETS


@rules("ext4: EXT4_FL_INHERITED")
def some_are_handed_on_to_what_is_made_in_a_directory(world: World) -> None:
    make("dir", "dir")
    with flagged("dir", NODUMP | NOATIME | APPEND):
        write("dir/file")
        make("dir/sub", "dir")
        nameless = os.open("dir", os.O_TMPFILE | os.O_RDWR, 0o600)
        assert get_flags("dir/file") == get_flags("dir/sub") == get_flags(nameless) == NODUMP | NOATIME


@rules("ioctl_iflags(2): FS_NOATIME_FL; of the first read after an open")
def noatime_keeps_atime(world: World) -> None:
    write("file")
    make("dir", "dir")
    for name in ("file", "dir"):
        for flags in (0, NOATIME):
            with flagged(name, flags):
                os.utime(name, (1, 1))
                os.listdir(name) if name == "dir" else read(name)
                assert (os.stat(name).st_atime == 1) is bool(flags), (name, flags)


@rules("proc(5), ioctl_iflags(2): reading moves atime of an immutable file, too")
def atime_of_an_immutable_file_moves(world: World) -> None:
    write("file")
    os.utime("file", (1, 1))
    with flagged("file", IMMUTABLE):
        read("file")
        assert os.stat("file").st_atime > 1


def _ctime_moves(name: str) -> list[bool]:
    moved = []
    for flags in (NODUMP, NODUMP, 0):
        before = os.stat(name)
        tick()
        set_flags(name, flags)
        after = os.stat(name)
        moved.append(after.st_ctime_ns > before.st_ctime_ns)
        assert (after.st_mtime_ns, after.st_atime_ns) == (before.st_mtime_ns, before.st_atime_ns)
    return moved


def _ctime_of_files(world: World) -> None:
    hidden = world.place.writeback
    assert _ctime_moves(write("file")) == [not hidden] * 3
    make("dir", "dir")
    assert _ctime_moves("dir") == [True] * 3


@rules(
    "ext4: ctime moves with flags",
    differs="sync=fsync: the kernel keeps the ctime of regular files, and does not know that this moves it",
    benchfs=_ctime_of_files,
)
def ctime_moves_and_nothing_else(world: World) -> None:
    make("dir", "dir")
    for name in (write("file"), "dir"):
        assert _ctime_moves(name) == [True] * 3


def _access_is_granted(world: World) -> None:
    world.own("file")
    with flagged("file", IMMUTABLE):
        access("file", os.W_OK)
        fails(EPERM, opened, "file", os.O_WRONLY)
        world.denied(OTHER, errno.EACCES, opened, "file", os.O_WRONLY)


@rules(
    "access(2), open(2): EPERM, before permission is asked for",
    differs="the kernel answers access(2), and who lacks permission, before we are asked, and does not know the flag",
    benchfs=_access_is_granted,
)
def nobody_may_write_an_immutable_file(world: World) -> None:
    world.own("file")
    with flagged("file", IMMUTABLE):
        fails(EPERM, access, "file", os.W_OK)
        world.denied(OTHER, EPERM, opened, "file", os.O_WRONLY)


def _older_descriptors(world: World) -> None:
    file = os.open(write("file"), os.O_RDWR)
    with flagged("file", IMMUTABLE):
        if world.place.writeback:
            os.pwrite(file, b"X", 0)
            os.fsync(file)
            assert read("file") == b"Xontent"
        else:
            fails(EPERM, os.pwrite, file, b"X", 0)
        fails(EPERM, os.ftruncate, file, 3)
        fails(EPERM, os.fchmod, file, 0o600)


@rules(
    "ext4: EPERM for descriptors that were open before, too",
    differs="sync=fsync: the kernel has acknowledged the write before we hear of it",
    benchfs=_older_descriptors,
)
def older_descriptors_of_an_immutable_file(world: World) -> None:
    file = os.open(write("file"), os.O_RDWR)
    with flagged("file", IMMUTABLE):
        fails(EPERM, os.pwrite, file, b"X", 0)
        fails(EPERM, os.ftruncate, file, 3)
        fails(EPERM, os.fchmod, file, 0o600)
    assert read("file") == b"content"


@rules("ext4: a descriptor that was open before may write anywhere")
def older_descriptors_of_an_append_only_file(world: World) -> None:
    file = os.open(write("file"), os.O_RDWR)
    with flagged("file", APPEND):
        os.pwrite(file, b"X", 0)
        fails(EPERM, os.ftruncate, file, 3)
        fails(EPERM, os.fchmod, file, 0o600)
        os.fsync(file)
    os.close(file)
    assert read("file") == b"Xontent"


@rules("fallocate(2): EPERM; copy_file_range(2): EPERM")
def ranges_of_older_descriptors(world: World) -> None:
    file, source = os.open(write("file", bytes(8192)), os.O_RDWR), os.open(write("source"), os.O_RDONLY)
    keep, punch, zero = 0x01, 0x02, 0x10
    with flagged("file", IMMUTABLE):
        for mode in (0, keep, punch | keep, zero):
            fails(EPERM, fallocate, file, mode, 0, 4096)
        fails(EPERM, os.copy_file_range, source, file, 7, 0, 0)
    with flagged("file", APPEND):
        for mode in (punch | keep, zero):
            fails(EPERM, fallocate, file, mode, 0, 4096)
        fallocate(file, keep, 8192, 4096)
        fallocate(file, 0, 8192, 4096)
        assert os.copy_file_range(source, file, 7, 0, 0) == 7
    assert read("file") == b"content" + bytes(3 * 4096 - 7)


def _append_is_kept(world: World) -> None:
    write("file")
    with flagged("file", APPEND):
        file = os.open("file", os.O_WRONLY | os.O_APPEND)
        os.write(file, b"!")
        fcntl.fcntl(file, fcntl.F_SETFL, 0)
        fails(EPERM, os.pwrite, file, b"X", 0)
        os.close(file)
    assert read("file") == b"content!"


@rules(
    "fcntl(2): EPERM, F_SETFL of O_APPEND on a file that is append-only",
    differs="the kernel allows it, not knowing the flag; what is then written is refused",
    benchfs=_append_is_kept,
)
def append_cannot_be_taken_from_its_descriptors(world: World) -> None:
    write("file")
    with flagged("file", APPEND):
        file = os.open("file", os.O_WRONLY | os.O_APPEND)
        fails(EPERM, fcntl.fcntl, file, fcntl.F_SETFL, 0)
        os.close(file)


def _mapping_refused(number: int, world: World) -> None:
    write("file")
    with flagged("file", APPEND):
        file = os.open("file", os.O_RDWR | os.O_APPEND)
        fails(number, mmap.mmap, file, 7)
        assert mmap.mmap(file, 7, mmap.MAP_PRIVATE)[:] == b"content"
        os.close(file)


rules.add(
    "an append-only file that may be written is not mapped shared",
    "mmap(2): EACCES",
    partial(_mapping_refused, errno.EACCES),
    differs="ENODEV: the file is opened for direct I/O, so that the kernel maps none of it",
    benchfs=partial(_mapping_refused, errno.ENODEV),
)


def _others_are_refused(world: World) -> None:
    make("dir", "dir")
    for name in (write("file"), "dir"):
        for flags in (0x1, 0x2, 0x4, 0x8, 0x4000):
            fails(errno.EOPNOTSUPP, set_flags, name, flags)
        assert get_flags(name) == 0


@rules(
    "ext4: what it does not know is EOPNOTSUPP; some it takes and ignores (chattr(1), BUGS AND LIMITATIONS)",
    differs="what would mean nothing is refused",
    benchfs=_others_are_refused,
)
def other_flags(world: World) -> None:
    set_flags(write("file"), 0x1)
    fails(errno.EOPNOTSUPP, ioctl, "file", 0x40086602, (1 << 21).to_bytes(8, "little"))


@rules("FS_IOC_FSGETXATTR, FS_IOC_FSSETXATTR (xfs: ioctl_xfs_fsgetxattr(2))")
def the_same_flags_as_xfs_calls_them(world: World) -> None:
    write("file")
    for flag, xflag in ((IMMUTABLE, 0x8), (APPEND, 0x10), (NOATIME, 0x40), (NODUMP, 0x80)):
        with flagged("file", flag):
            assert get_fsxattr("file") == (xflag, 0, 0, 0, 0)
            set_fsxattr("file", 0, 0, 0, 0, 0)
            assert get_flags("file") == 0
        set_fsxattr("file", xflag, 0, 0, 0, 0)
        assert get_flags("file") == flag
        set_flags("file", 0)
    fails(errno.EOPNOTSUPP, set_fsxattr, "file", 0, 0, 0, 5, 0)
    fails(errno.EOPNOTSUPP, set_fsxattr, "file", 0x200, 0, 0, 0, 0)


@rules("ext4: file_remove_privs")
def privileges_of_an_append_only_file(world: World) -> None:
    """Set-user-ID keeps others from writing, for chmod is refused; capabilities go."""
    world.own("file", mode=0o4777)
    world.own("other", mode=0o777)
    os.setxattr("other", "security.capability", b"\x01\0\0\x02\x00\x20\0\0" + bytes(12))

    def append(name: str) -> None:
        with open(name, "ab", buffering=0) as stream:
            stream.write(b"more")

    with flagged("file", APPEND), flagged("other", APPEND):
        world.denied(OTHER, EPERM, append, "file")
        append("file")
        world.run(OTHER, append, "other")
        assert "security.capability" not in os.listxattr("other")
    assert (mode_of("file"), read("file"), read("other")) == (0o4777, b"more", b"more")


@rules("rm(1), cp(1), mv(1)")
def programs_say_what_they_cannot_do(world: World) -> None:
    make("dir", "dir")
    write("dir/kept")
    write("dir/gone")
    with flagged("dir/kept", IMMUTABLE):
        done = run("rm", "-rf", "dir", check=False)
        assert (done.returncode, os.listdir("dir")) == (1, ["kept"])
        assert "Operation not permitted" in done.stderr
        assert run("cp", "/etc/hostname", "dir/kept", check=False).returncode == 1
        assert run("mv", "dir/kept", "moved", check=False).returncode == 1
        run("cp", "-a", "dir/kept", "copy")
        assert (read("copy"), get_flags("copy"), read("dir/kept")) == (b"content", 0, b"content")


@rules("chattr(1), lsattr(1)")
def chattr_and_lsattr(world: World) -> None:
    write("file")
    make("dir", "dir")
    for letter, flag in (("i", IMMUTABLE), ("a", APPEND), ("d", NODUMP), ("A", NOATIME)):
        for name in ("file", "dir"):
            run("chattr", f"+{letter}", name)
            assert get_flags(name) == flag
            assert letter in run("lsattr", "-d", name).stdout.split()[0]
            run("chattr", f"-{letter}", name)
            assert get_flags(name) == 0
