"""Which of atime, mtime and ctime move, of which inodes, at every operation; and what times can be kept."""

from __future__ import annotations

import contextlib
import mmap
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from errno import EINVAL
from functools import partial
from pathlib import Path

import pytest

from tests.conformance.calls import EXCHANGE, UTIME_NOW, UTIME_OMIT, renameat2, utimensat
from tests.conformance.conftest import native_in, world_in
from tests.conformance.world import KINDS, Place, Rule, Rules, World, fails, make, opened, read, tick, write
from tests.support.mounting import volumes_in

pytestmark = pytest.mark.fuse
rules = Rules()

PAST_NS = 10**18
"""2001."""


def test_rule(rule: Rule, world: World) -> None:
    rule.verify(world)


def moved(names: str, action: Callable[[], object]) -> dict[str, str]:
    """Which times of the inodes that have these names before ``action`` it moves: letters of a, m, c."""
    descriptors = {name: os.open(name, os.O_PATH | os.O_NOFOLLOW) for name in names.split()}
    for name in descriptors:
        os.utime(name, ns=(PAST_NS, PAST_NS), follow_symlinks=False)
    before = {name: os.stat(descriptor) for name, descriptor in descriptors.items()}
    tick()
    action()
    found = {}
    for name, descriptor in descriptors.items():
        after = os.stat(descriptor)
        os.close(descriptor)
        pairs = ((letter, f"st_{letter}time_ns") for letter in "amc")
        found[name] = "".join(
            letter for letter, field in pairs if getattr(after, field) != getattr(before[name], field)
        )
    return found


@dataclass(frozen=True, slots=True)
class Case:
    """An operation, and the times it moves of each inode, as in ``d:mc d/file:c``."""

    expected: str
    action: Callable[[], object]


def descriptor_of(flags: int, use: Callable[[int], object]) -> Callable[[], None]:
    """Open ``d/file``, which holds 10,000 bytes, use it, close it."""

    def action() -> None:
        descriptor = os.open("d/file", flags)
        use(descriptor)
        os.close(descriptor)

    return action


def _read_uncached(descriptor: int) -> None:
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.read(descriptor, 10)


def _list_without_atime(name: str) -> None:
    descriptor = os.open(name, RDONLY | os.O_NOATIME)
    assert os.listdir(descriptor)
    os.close(descriptor)


def _attempt(number: int, action: Callable[[], object]) -> Callable[[], None]:
    return lambda: fails(number, action)


RDONLY, WRONLY, RDWR = os.O_RDONLY, os.O_WRONLY, os.O_RDWR
CASES = {
    "creating a file": Case("d:mc", lambda: opened("d/new", os.O_CREAT | WRONLY)),
    "opening with O_CREAT what exists": Case("d: d/file:", lambda: opened("d/file", os.O_CREAT | WRONLY)),
    "mkdir": Case("d:mc", lambda: os.mkdir("d/new")),
    "mkfifo": Case("d:mc", lambda: os.mkfifo("d/new")),
    "mknod": Case("d:mc", lambda: os.mknod("d/new")),
    "bind": Case("d:mc", lambda: make("d/new", "socket")),
    "symlink": Case("d:mc", lambda: os.symlink("target", "d/new")),
    "link": Case("d: e:mc d/file:c", lambda: os.link("d/file", "e/new")),
    "link of a symlink": Case("d: e:mc d/symlink:c", lambda: os.link("d/symlink", "e/new", follow_symlinks=False)),
    "unlink": Case("d:mc d/file:c", lambda: os.unlink("d/file")),
    "unlink of one of two names": Case("d:mc e: d/two:c", lambda: os.unlink("d/two")),
    "unlink of a symlink": Case("d:mc d/symlink:c", lambda: os.unlink("d/symlink")),
    "rmdir": Case("d:mc", lambda: os.rmdir("d/dir")),
    "rename in place": Case("d:mc d/file:c", lambda: os.rename("d/file", "d/new")),
    "rename elsewhere": Case("d:mc e:mc d/file:c", lambda: os.rename("d/file", "e/new")),
    "rename of a directory in place": Case("d:mc d/dir:c", lambda: os.rename("d/dir", "d/new")),
    "rename of a directory elsewhere": Case("d:mc e:mc", lambda: os.rename("d/dir", "e/new")),
    "rename over": Case("d:mc d/file:c d/two:c", lambda: os.rename("d/file", "d/two")),
    "rename over, elsewhere": Case("d:mc e:mc d/file:c e/two:c", lambda: os.rename("d/file", "e/two")),
    "rename over itself": Case("d: d/file:", lambda: os.rename("d/file", "d/file")),
    "rename over another name of it": Case("d: e: d/two:", lambda: os.rename("d/two", "e/two")),
    "exchange": Case("d:mc e:mc d/file:c e/two:c", lambda: renameat2("d/file", "e/two", EXCHANGE)),
    "chmod": Case("d: d/file:c", lambda: os.chmod("d/file", 0o600)),
    "chmod to the same": Case("d/file:c", lambda: os.chmod("d/file", 0o644)),
    "chown": Case("d/file:c", lambda: os.chown("d/file", 5, 5)),
    "chown to the same": Case("d/file:c", lambda: os.chown("d/file", 0, 0)),
    "chown to -1": Case("d/file:c", lambda: os.chown("d/file", -1, -1)),
    "lchown": Case("d/symlink:c", lambda: os.lchown("d/symlink", 5, 5)),
    "setxattr": Case("d: d/file:c", lambda: os.setxattr("d/file", "user.new", b"")),
    "setxattr of a directory": Case("d:c", lambda: os.setxattr("d", "user.new", b"")),
    "removexattr": Case("d/file:c", lambda: os.removexattr("d/file", "user.name")),
    "getxattr": Case("d/file:", lambda: os.getxattr("d/file", "user.name")),
    "write": Case("d: d/file:mc", descriptor_of(WRONLY, lambda fd: os.write(fd, b"x"))),
    "write beyond the end": Case("d/file:mc", descriptor_of(WRONLY, lambda fd: os.pwrite(fd, b"x", 20_000))),
    "write of no bytes": Case("d/file:", descriptor_of(WRONLY, lambda fd: os.write(fd, b""))),
    "truncate to less": Case("d/file:mc", lambda: os.truncate("d/file", 5)),
    "truncate to more": Case("d/file:mc", lambda: os.truncate("d/file", 20_000)),
    "ftruncate to less": Case("d/file:mc", descriptor_of(WRONLY, lambda fd: os.ftruncate(fd, 5))),
    "ftruncate to the same size": Case("d/file:mc", descriptor_of(WRONLY, lambda fd: os.ftruncate(fd, 10_000))),
    "O_TRUNC": Case("d: d/file:mc", lambda: opened("d/file", WRONLY | os.O_TRUNC)),
    "O_TRUNC of an empty file": Case("d/empty:mc", lambda: opened("d/empty", WRONLY | os.O_TRUNC)),
    "open and close": Case("d: d/file:", lambda: opened("d/file", RDWR)),
    "fsync": Case("d/file:", descriptor_of(RDWR, os.fsync)),
    "stat and access": Case("d: d/file:", lambda: (os.stat("d/file"), os.access("d/file", os.R_OK))),
    "utime of atime": Case("d/file:ac", lambda: utimensat("d/file", (5, 5), (0, UTIME_OMIT))),
    "utime of mtime": Case("d/file:mc", lambda: utimensat("d/file", (0, UTIME_OMIT), (0, UTIME_NOW))),
    "utime of a symlink": Case(
        "d/file: d/symlink:amc", lambda: utimensat("d/symlink", (0, UTIME_NOW), (0, UTIME_NOW), follow=False)
    ),
    "reading what is not cached": Case("d: d/file:a", descriptor_of(RDONLY, _read_uncached)),
    "reading with O_NOATIME": Case("d/file:", descriptor_of(RDONLY | os.O_NOATIME, lambda fd: os.read(fd, 10))),
    "listing": Case("d:a", lambda: os.listdir("d")),
    "listing with O_NOATIME": Case("d:", lambda: _list_without_atime("d")),
    "readlink": Case("d: d/symlink:a", lambda: os.readlink("d/symlink")),
    "following a symlink": Case("d/symlink:a d/file:", lambda: os.stat("d/symlink")),
    "a failing mkdir": Case("d: d/dir:", _attempt(17, lambda: os.mkdir("d/dir"))),
    "a failing unlink": Case("d: d/dir:", _attempt(21, lambda: os.unlink("d/dir"))),
    "a failing rmdir": Case("d: e:", _attempt(39, lambda: os.rmdir("e"))),
    "a failing link": Case("d: e: d/file: e/two:", _attempt(17, lambda: os.link("d/file", "e/two"))),
    "a failing rename": Case("d: d/file: d/dir:", _attempt(21, lambda: os.rename("d/file", "d/dir"))),
    "a failing symlink": Case("d: d/file:", _attempt(17, lambda: os.symlink("target", "d/file"))),
    "a failing open": Case("d: d/file:", _attempt(17, lambda: opened("d/file", os.O_CREAT | os.O_EXCL))),
    "a failing truncate": Case("d/file:", _attempt(EINVAL, lambda: os.truncate("d/file", -1))),
    "a failing setxattr": Case(
        "d/file:", _attempt(17, lambda: os.setxattr("d/file", "user.name", b"", os.XATTR_CREATE))
    ),
}  # fmt: skip


def _prepare() -> None:
    for name in ("d", "e", "d/dir"):
        os.mkdir(name)
    write("d/file", bytes(10_000))
    write("d/empty", b"")
    os.setxattr("d/file", "user.name", b"")
    os.symlink("file", "d/symlink")
    write("d/two", b"")
    os.link("d/two", "e/two")
    for name in ("d/file", "d/two"):  # what a write-back cache holds must not count as the operation
        descriptor = os.open(name, RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


def _times(case: Case, world: World) -> None:
    _prepare()
    expected = dict(pair.split(":") for pair in case.expected.split())
    assert moved(" ".join(expected), case.action) == expected


for _name, _case in CASES.items():
    rules.add(_name, "POSIX 2024 §4.12 file times update; inode(7)", partial(_times, _case))


NOT_SEEN = "what the kernel has cached costs no request; BenchFS has it read anew at an open, not at each read"
OWN_TIMES = "with a write-back cache the kernel keeps mtime and ctime, and moves them with the size only"


@rules("POSIX 2024 §4.12")
def reading_what_is_cached(world: World) -> None:
    _prepare()
    read("d/file")
    assert moved("d/file", lambda: read("d/file")) == {"d/file": "a"}


def _read_again(expected: str, world: World) -> None:
    _prepare()
    descriptor = os.open("d/file", RDONLY)
    os.pread(descriptor, 100, 0)
    assert moved("d/file", lambda: os.pread(descriptor, 100, 0)) == {"d/file": expected}
    os.close(descriptor)


def _truncate_to_the_same_size(world: World) -> None:
    _prepare()
    expected = "" if world.place.writeback else "mc"
    assert moved("d/file", lambda: os.truncate("d/file", 10_000)) == {"d/file": expected}


@rules("POSIX 2024 §4.12; Linux counts the mapping itself as reading")
def writing_through_a_mapping(world: World) -> None:
    _prepare()

    def change(descriptor: int) -> None:
        with mmap.mmap(descriptor, 10_000) as mapping:
            mapping[5000] = 1
            mapping.flush()

    assert moved("d/file", descriptor_of(RDWR, change)) == {"d/file": "amc"}


rules.add(
    "reading what is cached through a handle that has read it before",
    "POSIX 2024 §4.12",
    partial(_read_again, "a"),
    differs=NOT_SEEN,
    benchfs=partial(_read_again, ""),
)
rules.add(
    "truncate to the same size",
    "POSIX 2024 §XSH truncate",
    _truncate_to_the_same_size,
    differs=OWN_TIMES,
    benchfs=_truncate_to_the_same_size,
)


@rules("inode(7)")
def a_new_inode_has_one_time_which_is_now_and_its_directory_the_same_mtime(world: World) -> None:
    for kind in KINDS:
        write("before")
        tick()
        make(kind, kind)
        status, parent = os.lstat(kind), os.stat(".")
        assert os.stat("before").st_mtime_ns < status.st_ctime_ns
        assert status.st_atime_ns == status.st_mtime_ns == status.st_ctime_ns
        assert parent.st_mtime_ns == parent.st_ctime_ns >= status.st_ctime_ns


@rules("POSIX 2024 §4.12; Linux: no date is before the finest one that was given to any file")
def what_is_dated_later_is_not_dated_before(world: World) -> None:
    for attempt in range(50):
        with tempfile.TemporaryFile() as other:  # looked at, it is dated finely, and so is the next file
            os.utime(other.fileno())
            os.fstat(other.fileno())
            os.utime(other.fileno())
            os.fstat(other.fileno())
        written = f"written-{attempt}"
        write(written, b"x" * 10_000)
        os.mkdir(f"made-{attempt}")
        with open(written, "r+b") as stream:
            stream.write(b"y")
        dates = [os.stat(name).st_mtime_ns for name in (f"made-{attempt}", written)]
        assert dates == sorted(dates)
        os.symlink("target", f"link-{attempt}")
        assert dates[-1] <= os.lstat(f"link-{attempt}").st_mtime_ns


# What can be kept


def _kept(seconds: int, nanoseconds: int, world: World) -> None:
    for kind in KINDS:
        make(kind, kind)
        utimensat(kind, (seconds, nanoseconds), (seconds, 999_999_999 - nanoseconds), follow=False)
        status = os.lstat(kind)
        base = seconds * 10**9
        assert (status.st_atime_ns, status.st_mtime_ns) == (base + nanoseconds, base + 999_999_999 - nanoseconds)


LAST_NS = (1 << 63) - 1


def _beyond_2262(world: World) -> None:
    os.mkdir("d")
    utimensat("d", ((1 << 34) - (1 << 31) - 2, 5), (LAST_NS // 10**9 + 1, 0))
    assert (os.stat("d").st_atime_ns, os.stat("d").st_mtime_ns) == (LAST_NS, LAST_NS)


for _seconds in (0, 1, -1, -1_000_000_000, 1 - (1 << 31), (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, 1 << 33):
    rules.add(f"a time of {_seconds} s is kept", "utimensat(2); ext4: to 2446", partial(_kept, _seconds, 123_456_789))
rules.add(
    "the last time of ext4, in 2446, is kept",
    "utimensat(2); ext4",
    partial(_kept, (1 << 34) - (1 << 31) - 2, 5),
    differs="times are stored as nanoseconds in 64 bits, and later ones become the last of them, in 2262",
    benchfs=_beyond_2262,
)


@rules("utimensat(2)")
def nanoseconds_out_of_range_are_refused(world: World) -> None:
    write("file")
    for nanoseconds in (-1, 10**9, UTIME_NOW + 1):
        fails(EINVAL, utimensat, "file", (0, nanoseconds), (0, 0))
        fails(EINVAL, utimensat, "file", (0, 0), (0, nanoseconds))


@rules("utimensat(2)")
def times_of_an_open_file_are_set_by_descriptor(world: World) -> None:
    write("file")
    descriptor = os.open("file", os.O_RDONLY)
    os.unlink("file")
    utimensat(descriptor, (5, 6), (7, 8))
    assert (os.fstat(descriptor).st_atime_ns, os.fstat(descriptor).st_mtime_ns) == (5 * 10**9 + 6, 7 * 10**9 + 8)
    os.close(descriptor)


@rules("utimensat(2)")
def times_set_stay_after_the_writer_has_closed(world: World) -> None:
    """As ``cp -p`` and ``tar`` set them, with the data still on its way in a write-back cache."""
    descriptor = os.open("file", os.O_CREAT | os.O_WRONLY)
    os.write(descriptor, bytes(300_000))
    utimensat(descriptor, (5, 6), (7, 8))
    os.fsync(descriptor)
    os.close(descriptor)
    assert os.stat("file").st_mtime_ns == 7 * 10**9 + 8


# atime by mount option

ATIME = {"noatime": ("", "", ""), "relatime": ("a", "", "a"), "strictatime": ("a", "a", "a")}
"""Moved by a first read; by a second; by one after a change."""


@pytest.mark.parametrize("option", ATIME)
@pytest.mark.parametrize("kind", ["ext4", "sync=write", "sync=fsync"])
def test_reading_moves_atime_as_the_mount_says(kind: str, option: str, tmp_path: Path) -> None:
    """mount(8)."""
    with contextlib.ExitStack() as stack:
        if kind == "ext4":
            place = stack.enter_context(native_in(tmp_path / "native", option))
        else:
            volume = stack.enter_context(volumes_in(tmp_path)).make(kind, options=option)
            place = Place(volume.directory, volume)
        stack.enter_context(world_in(place))
        os.mkdir("d")
        os.symlink("target", "link")
        write("file", b"content")
        reads: dict[str, Callable[[], object]] = {
            "d": lambda: os.listdir("d"),
            "link": lambda: os.readlink("link"),
            "file": lambda: Path("file").read_bytes(),
        }
        for name, look in reads.items():
            found = []
            for changed in (False, False, True):
                if changed:
                    os.lchown(name, 5, 5)
                before = os.lstat(name).st_atime_ns
                tick()
                look()
                found.append("a" if os.lstat(name).st_atime_ns > before else "")
            assert tuple(found) == ATIME[option], name
