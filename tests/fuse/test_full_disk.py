"""Volumes on disks that are really full: who writes is told, what was acknowledged is intact, deleting always works."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from benchfs_core.fsck import check_volume
from benchfs_core.metadata.space import DatabaseSpace
from benchfs_core.types import SyncMode
from tests.support.disks import small_disk
from tests.support.mounting import MountedVolume, run, volumes_in, wait_until

pytestmark = pytest.mark.fuse

MIB = 1 << 20
FULL = (errno.ENOSPC, errno.EDQUOT)


NAMES_ON = ("ext4", "xfs", *(["btrfs"] if os.environ.get("BENCHFS_LONG") else []))
"""Where names are what fills the disk. On a full btrfs that takes minutes: it looks for space at every write."""


@pytest.fixture(params=["ext4", "xfs", "btrfs"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path, request.param) as directory:
        yield directory


@pytest.fixture(params=SyncMode)
def volume(request: pytest.FixtureRequest, disk: Path, tmp_path: Path) -> Iterator[MountedVolume]:
    """A volume on the small disk; its log and mount point are elsewhere."""
    with volumes_in(tmp_path / "volumes") as volumes:
        volume = volumes.make(f"sync={request.param.value},commit=1", mount=False)
        volume.source = disk / "source"
        volume.source.mkdir()
        volume.expected_errors = ("No space left on device", "no space")
        volume.mount()
        yield volume


def content(seed: int, length: int) -> bytes:
    row = bytes((seed * 37 + place) % 251 for place in range(4099))
    return (row * (length // len(row) + 1))[:length]


def write(path: Path, data: bytes) -> None:
    """Write and flush a file, as a program does that wants to know."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        done = 0
        while done < len(data):
            done += os.write(descriptor, data[done : done + MIB])
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def refused(path: Path, data: bytes) -> bool:
    """Whether the disk is too full for one more file; any other failure is raised."""
    try:
        write(path, data)
    except OSError as error:
        if error.errno not in FULL:
            raise
        return True
    return False


class Filler:
    """Fills a volume, and knows every file that was acknowledged."""

    def __init__(self, volume: MountedVolume) -> None:
        self._volume = volume
        self.acknowledged: dict[str, int] = {}
        self._made = 0

    def path(self, name: str) -> Path:
        return self._volume.directory / name

    def fill(self) -> None:
        """Large files, then ever smaller ones, until not even one of a page fits."""
        for length in (8 * MIB, MIB, 128 << 10, 4096):
            while self.add(length):
                pass

    def add(self, length: int) -> bool:
        """One more file; whether there was room for it."""
        self._made += 1
        name = f"f{self._made}"
        if refused(self.path(name), content(self._made, length)):
            return False
        self.acknowledged[name] = length
        return True

    def remove(self, name: str) -> None:
        self.path(name).unlink()
        del self.acknowledged[name]

    def check(self) -> None:
        for name, length in self.acknowledged.items():
            found = self.path(name).read_bytes()
            assert found == content(int(name[1:]), length), f"{name}: {len(found)} of {length} bytes"


def free_bytes(directory: Path) -> int:
    status = os.statvfs(directory)
    return status.f_bavail * status.f_frsize


def test_a_disk_filled_with_data(volume: MountedVolume, disk: Path) -> None:
    filler = Filler(volume)
    names = ["a directory", "another"]
    for name in names:
        filler.path(name).mkdir()
    assert filler.add(3 * MIB)
    filler.fill()
    filler.check()
    largest = [name for name, length in filler.acknowledged.items() if length == 8 * MIB]
    assert len(largest) >= 2

    # what frees space works on the full disk, and the space comes back
    free = free_bytes(disk)
    filler.path(names[0]).rmdir()
    os.truncate(filler.path("f1"), MIB)
    filler.acknowledged["f1"] = MIB
    filler.remove(largest[0])
    wait_until(lambda: free_bytes(disk) > free + 7 * MIB, "space comes back")
    assert filler.add(4 * MIB)

    # ending, recovering and starting on the full disk
    filler.fill()
    filler.check()
    volume.remount()
    filler.check()
    volume.kill()
    volume.mount()
    filler.check()
    filler.remove(largest[1])
    filler.path(names[1]).rmdir()
    wait_until(lambda: not refused(filler.path("again"), b"x" * MIB), "writing works again")
    filler.check()
    volume.remount()
    filler.check()


@pytest.mark.parametrize("disk", NAMES_ON, indirect=True)
def test_a_disk_filled_with_names(volume: MountedVolume, disk: Path) -> None:
    """Names, xattrs and nothing else: ENOSPC in time, and removing them works."""
    filler = Filler(volume)
    filler.fill()
    made: list[Path] = []
    error = 0
    while not error:
        path = volume.directory / f"{len(made):0250}"
        try:
            path.mkdir()
            made.append(path)
            os.setxattr(path, "user.large", b"x" * 60_000)
        except OSError as failure:
            error = failure.errno or -1
        assert len(made) < 20_000
    assert error == errno.ENOSPC
    filler.check()
    assert sorted(path.name for path in volume.directory.iterdir() if path.is_dir()) == [path.name for path in made]
    volume.remount()
    assert sorted(path.name for path in volume.directory.iterdir() if path.is_dir()) == [path.name for path in made]
    for path in made[::2]:
        path.rmdir()
    for name in [name for name, length in filler.acknowledged.items() if length == 8 * MIB]:
        filler.remove(name)  # the database has yet to grow by what the WAL holds
    wait_until(lambda: not refused(filler.path("again"), b"x" * MIB), "writing works again")
    (volume.directory / "a new directory").mkdir()
    filler.check()


@pytest.mark.parametrize("volume", [SyncMode.FSYNC], indirect=True)
@pytest.mark.parametrize("disk", ["btrfs"], indirect=True)
def test_all_metadata_is_overwritten_in_place(volume: MountedVolume, disk: Path) -> None:
    """fsck left a WAL that SQLite had made by itself, for which a full btrfs had no space: the mount was read-only."""
    volume.unmount()
    assert not list(check_volume(volume.source))
    volume.mount()
    files = sorted((volume.source / "meta").iterdir())
    assert [file.name for file in files] == ["benchfs.db", "benchfs.db-shm", "benchfs.db-wal"]
    assert all("C" in run("lsattr", file).stdout.split()[0] for file in files)


@pytest.mark.parametrize("volume", [SyncMode.FSYNC], indirect=True)
@pytest.mark.parametrize("disk", ["btrfs"], indirect=True)
def test_many_small_files_are_deleted_on_a_full_disk(volume: MountedVolume, disk: Path) -> None:
    """btrfs had no space to overwrite the database: the WAL grew by each, until the mount was read-only for good."""
    small = [volume.directory / f"small-{number}" for number in range(2500)]
    for number, path in enumerate(small):
        path.write_bytes(content(number, 12_000))
    filler = Filler(volume)
    filler.fill()
    Random(1).shuffle(small)
    root = os.open(volume.directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for number, path in enumerate(small):
            path.unlink()
            if not number % 40:
                os.fsync(root)
        os.fsync(root)
    finally:
        os.close(root)
    filler.check()
    filler.remove(next(iter(filler.acknowledged)))
    wait_until(lambda: not refused(filler.path("again"), b"x" * MIB), "writing works again")


def test_a_database_grows_that_is_larger_than_what_is_free(disk: Path) -> None:
    """xfs refuses to allocate a range longer than what is free, whatever of it is allocated already."""
    descriptor = os.open(disk / "database", os.O_RDWR | os.O_CREAT)
    try:
        length = free_bytes(disk) * 6 // 10 // MIB
        for number in range(length):
            os.pwrite(descriptor, content(number, MIB), number * MIB)
        os.fsync(descriptor)
        assert free_bytes(disk) < length * MIB
        DatabaseSpace(descriptor).ensure(MIB)
        assert os.fstat(descriptor).st_blocks * 512 > (length + 1) * MIB
    finally:
        os.close(descriptor)
