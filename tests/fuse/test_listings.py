"""What the kernel keeps of directories costs no round trip, and shows every change all the same."""

from __future__ import annotations

import collections
import json
import os
import stat
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from benchfs_core.chunks.uring import io_uring_available
from tests.differential.calls import NODUMP, RENAME_EXCHANGE, entries, part, renameat2, set_flags
from tests.support.mounting import BENCHFS, MountedVolume, Volumes, run

pytestmark = [
    pytest.mark.fuse,
    pytest.mark.skipif(io_uring_available() is not None, reason=str(io_uring_available())),
]


_CLOCK_REALTIME_COARSE = 5
"""Of <linux/time.h>."""


def listed(top: Path) -> list[tuple[bytes, int, int]]:
    """Names, types and numbers, `.` and `..` as well, as getdents(2) tells them."""
    handle = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return entries(handle)
    finally:
        os.close(handle)


def true_of(top: Path) -> list[tuple[bytes, int, int]]:
    """The same by lstat(2)."""
    names = [b".", b"..", *map(os.fsencode, os.listdir(top))]
    found = [(name, os.lstat(os.fsencode(top) + b"/" + name)) for name in names]
    return sorted((name, stat.S_IFMT(status.st_mode) >> 12, status.st_ino) for name, status in found)


def counted(volume: MountedVolume) -> collections.Counter[str]:
    told = run(BENCHFS, "status", "--json", volume.directory)
    return collections.Counter(json.loads(told.stdout)["requests"])


@pytest.fixture
def volume(volumes: Volumes) -> MountedVolume:
    made = volumes.make("sync=fsync,noatime")
    for name in ("one", "two", "one/below", "two/below too"):
        (made.directory / name).mkdir()
    for index in range(40):
        (made.directory / "one" / f"file {index}").touch()
    (made.directory / "two" / "file").touch()
    return made


def test_listing_a_directory_again_costs_only_its_open_and_close(volume: MountedVolume) -> None:
    expected = listed(volume.directory / "one")
    before = counted(volume)
    for _ in range(10):
        assert listed(volume.directory / "one") == expected
    asked = counted(volume) - before
    assert (asked["opendir"], asked["releasedir"], asked["readdir"]) == (10, 10, 0)
    assert len(expected) == 43


def places_in(top: Path) -> list[Path]:
    """The directories below; of the mount's root, `..` is outside."""
    return [Path(place) for place, _, _ in os.walk(top) if place != str(top)]


def exchange(one: Path, other: Path) -> None:
    renameat2(os.fsencode(one), os.fsencode(other), RENAME_EXCHANGE)


CHANGES: dict[str, Callable[[Path], None]] = {
    "create": lambda top: (top / "one" / "new").touch(),
    "mkdir": lambda top: (top / "one" / "new").mkdir(),
    "mknod": lambda top: os.mkfifo(top / "one" / "new"),
    "symlink": lambda top: (top / "one" / "new").symlink_to("anywhere"),
    "link": lambda top: os.link(top / "two" / "file", top / "one" / "new"),
    "unlink": lambda top: (top / "one" / "file 3").unlink(),
    "rmdir": lambda top: (top / "one" / "below").rmdir(),
    "rename within": lambda top: os.rename(top / "one" / "file 1", top / "one" / "file x"),
    "rename over": lambda top: os.rename(top / "one" / "file 1", top / "one" / "file 2"),
    "rename in": lambda top: os.rename(top / "two" / "file", top / "one" / "file 2"),
    "directory out": lambda top: os.rename(top / "one" / "below", top / "two" / "below"),
    "exchange files": lambda top: exchange(top / "one" / "file 1", top / "two" / "file"),
    "exchange directories": lambda top: exchange(top / "one" / "below", top / "two" / "below too"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_listing_that_is_kept_shows_every_change(volume: MountedVolume, change: str) -> None:
    """`..` of a directory that was moved, too."""
    top = volume.directory
    for _ in range(2):
        before = [listed(place) for place in places_in(top)]
    CHANGES[change](top)
    places = places_in(top)
    after = [listed(place) for place in places]
    assert after != before
    assert after == [true_of(place) for place in places]


def test_entries_that_stay_are_listed_once_whatever_is_kept_meanwhile(volumes: Volumes) -> None:
    """Somebody reads a large directory in parts; others list it from the start, remove and add names meanwhile."""
    top = volumes.make("sync=fsync,noatime").directory
    names = {f"name {index:04}" for index in range(3000)}
    for name in names:
        (top / name).touch()
    gone = {f"name {index:04}" for index in range(0, 3000, 3)}
    for _ in range(2):
        assert set(os.listdir(top)) == names
    with os.scandir(top) as reading:
        first = [next(reading).name for _ in range(100)]
        for count, name in enumerate(sorted(gone)):
            (top / name).unlink()
            (top / f"new {count}").touch()
            if count % 250 == 0:
                os.listdir(top)
        found = [*first, *(entry.name for entry in reading)]
    assert len(found) == len(set(found))
    assert names - gone <= set(found)


def opened(top: Path) -> int:
    return os.open(top, os.O_RDONLY | os.O_DIRECTORY)


def opened_afterwards(top: Path, handle: int) -> tuple[int, list[bytes]]:
    os.close(handle)
    return (handle := opened(top)), names_in(part(handle, 1024))


def set_back(_: Path, handle: int) -> tuple[int, list[bytes]]:
    os.lseek(handle, 0, os.SEEK_SET)
    return handle, names_in(part(handle, 1024))


def set_to_a_position(top: Path, handle: int) -> tuple[int, list[bytes]]:
    """Of another handle, which programs that serve directories to others do, with a handle for each request."""
    os.lseek(handle, 0, os.SEEK_SET)
    told = part(handle, 1024)
    handle, _ = opened_afterwards(top, handle)
    os.lseek(handle, told[-1][3], os.SEEK_SET)
    return handle, names_in(told)


def names_in(told: Sequence[tuple[bytes, int, int, int]]) -> list[bytes]:
    return [name for name, *_ in told]


BEGINS = {begins.__name__: begins for begins in (opened_afterwards, set_back, set_to_a_position)}


@pytest.mark.parametrize("begins", BEGINS)
@pytest.mark.parametrize("mode", ["noatime", "relatime"])
def test_who_begins_after_a_change_is_not_shown_what_others_were_told_before(
    volumes: Volumes, mode: str, begins: str
) -> None:
    """Somebody fills the kernel's cache meanwhile: most of it before the change, the end when the other has begun."""
    (top := volumes.make(f"sync=fsync,{mode}").directory / "directory").mkdir()
    for index in range(1500):
        (top / f"{index:04}".ljust(100, "x")).touch()
    os.utime(top, (2**32, 0))  # an atime that no listing moves, whatever the mode
    filler, handle = opened(top), opened(top)
    try:
        for _ in range(10):  # of 16 KiB
            told = part(filler, 16 << 10)
        old, gone, *_ = names_in(told)
        os.rename(os.fsencode(top) + b"/" + old, top / "renamed")
        os.unlink(os.fsencode(top) + b"/" + gone)
        handle, found = BEGINS[begins](top, handle)
        assert entries(filler), "the cache was full before the change"
        found += [name for name, *_ in entries(handle)]
    finally:
        os.close(handle)
        os.close(filler)
    assert sorted(found) == sorted([b".", b"..", *map(os.fsencode, os.listdir(top))])


ASKS: dict[str, Callable[[Path], None]] = {
    "mode": lambda top: top.chmod(0o700),
    "times": lambda top: os.utime(top, ns=(10**18, 10**18)),
    "xattr": lambda top: os.setxattr(top, "user.name", b"value"),
    "entry": lambda top: (top / "new").touch(),
    "flags": lambda top: set_flags(os.fsencode(top), NODUMP),
}


@pytest.mark.parametrize("change", ASKS)
@pytest.mark.parametrize("seeks", [True, False])
def test_listing_through_an_old_handle_moves_atime_where_a_change_asks_for_it(
    volume: MountedVolume, change: str, *, seeks: bool
) -> None:
    """With relatime; from the start, or going on."""
    volume.remount("relatime")
    top = volume.directory / "one"
    after_the_clock_has_moved_on(top)
    listed(top)
    handle = opened(top)
    try:
        entries(handle)
        os.lseek(handle, 0, os.SEEK_SET)
        part(handle, 512)
        ASKS[change](top)
        before = top.stat().st_atime_ns
        after_the_clock_has_moved_on(top)
        if seeks:
            os.lseek(handle, 0, os.SEEK_SET)
        part(handle, 512)
    finally:
        os.close(handle)
    assert top.stat().st_atime_ns > before


def test_who_lists_with_o_noatime_leaves_it_to_the_next_to_move_atime(volume: MountedVolume) -> None:
    """Opened both before and after the change that asks for it, as the next one's handle is."""
    volume.remount("relatime")
    top = volume.directory / "one"
    after_the_clock_has_moved_on(top)
    listed(top)
    handles = [opened(top), os.open(top, os.O_RDONLY | os.O_NOATIME)]
    try:
        (top / "new").touch()
        handles.append(os.open(top, os.O_RDONLY | os.O_NOATIME))
        before = top.stat().st_atime_ns
        after_the_clock_has_moved_on(top)
        for handle in handles[1:]:
            entries(handle)
        assert top.stat().st_atime_ns == before
        entries(handles[0])
    finally:
        for handle in handles:
            os.close(handle)
    assert top.stat().st_atime_ns > before


@pytest.mark.parametrize(("mode", "moves"), [("strictatime", True), ("relatime", False)])
def test_listing_moves_atime_as_the_mount_says(volumes: Volumes, mode: str, *, moves: bool) -> None:
    """With relatime once after a change, which that one listing comes to the daemon for."""
    volume = volumes.make(f"sync=fsync,{mode}")
    (top := volume.directory / "directory").mkdir()
    (top / "file").touch()
    after_the_clock_has_moved_on(top)
    listed(top)
    assert top.stat().st_atime_ns > top.stat().st_mtime_ns
    listed(top)
    for _ in range(3):
        before = top.stat().st_atime_ns
        after_the_clock_has_moved_on(top)
        listed(top)
        volume.remount(mode)
        assert (top.stat().st_atime_ns > before) == moves


def after_the_clock_has_moved_on(top: Path) -> None:
    """Times are those of the kernel's clock tick."""
    status = top.stat()
    while time.clock_gettime_ns(_CLOCK_REALTIME_COARSE) <= max(status.st_atime_ns, status.st_ctime_ns):
        pass
