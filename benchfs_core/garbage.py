"""``gc``: chunk files and rows that nothing leads to any more, told or removed.

Imports ``metadata.garbage_rows``, ``chunk_checks``. Invariants: only what is provably nobody's is removed, and nothing
younger than the given age; a database that was restored or rebuilt is trusted once fsck has repaired it; on a live
volume garbage is chunk directories of settled numbers of which no row is left: the mount itself deletes its orphans.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from benchfs_core.chunk_checks import chunk_directory_number
from benchfs_core.errors import DamagedVolume, NotAVolume, VolumeBusy
from benchfs_core.metadata.checks import check_rules
from benchfs_core.metadata.database import Database
from benchfs_core.metadata.garbage_rows import Claim, GarbageRows
from benchfs_core.superblock import CHUNKS, DATABASE, LOCK, read_superblock
from benchfs_core.types import InodeId
from benchfs_core.volume_lock import VolumeLock

SAFETY_AGE_S = 3600
"""What is younger is left alone, unless told otherwise."""


@dataclass(frozen=True, slots=True)
class Garbage:
    """One thing that nothing leads to."""

    kind: str
    """`unowned` (chunk files without any row), `orphan` (unlinked, to be deleted), `rows` (rows of no inode)."""
    inode: InodeId
    files: int
    size: int
    """Bytes that its chunk files occupy."""
    removed: bool
    note: str = ""
    """Why it was left."""


def collect(source: Path, *, older_than_s: float, now_s: float, dry_run: bool) -> Iterator[Garbage]:
    """Look for garbage in the volume in ``source``, mounted or not, and remove what may be. Blocking.

    Args:
        source: the volume.
        older_than_s: what changed less than so many seconds ago is left.
        now_s: the time, seconds since 1970.
        dry_run: remove nothing.

    Raises:
        VolumeError: no volume, or one that is damaged.
        OSError: the filesystem below refused.
    """
    superblock = read_superblock(source)
    if superblock is None:
        raise NotAVolume(f"{source}: empty: there is no volume")
    lock: VolumeLock | None = None
    try:
        lock = VolumeLock.try_acquire(source / LOCK)
    except VolumeBusy:
        pass  # live: its own reaper owns the orphans
    try:
        with closing(Database.open(source / DATABASE, read_only=dry_run or lock is None)) as database:
            if lock is not None and not dry_run:
                database.execute("PRAGMA synchronous = FULL")
            if finding := next(check_rules(database, superblock.chunk_size), None):
                raise DamagedVolume(f"{source}: {finding[2]}: repair it with benchfs fsck first")
            rows, live = GarbageRows(database), lock is None
            if rows.may_be_incomplete:  # what it does not know may be files that are younger than a dump
                raise DamagedVolume(
                    f"{source}: was restored or rebuilt, and not repaired since: run benchfs fsck --repair first"
                )
            yield from _Collection(source, rows, live, dry_run, now_s - older_than_s).run()
    finally:
        if lock is not None:
            lock.release()


@dataclass(frozen=True, slots=True)
class _Collection:
    source: Path
    rows: GarbageRows
    live: bool
    dry_run: bool
    before_s: float

    def run(self) -> Iterator[Garbage]:
        yield from self._orphans()
        yield from self._directories()
        yield from self._rows()
        if not self.dry_run:
            _fsync(self.source / CHUNKS)

    def _orphans(self) -> Iterator[Garbage]:
        for inode, changed_s in self.rows.orphans():
            path = self.source / CHUNKS / str(inode)
            files, size, newest_s = _measure(path)
            note = "the mount deletes it" if self.live else self._young(max(newest_s, changed_s))
            if not note and not self.dry_run:
                if path.exists():
                    shutil.rmtree(path)
                    _fsync(path.parent)
                self.rows.forget(inode)  # write-ahead: that it is an orphan stays on record until its chunks are gone
            yield Garbage("orphan", inode, files, size, not note and not self.dry_run, note)

    def _directories(self) -> Iterator[Garbage]:
        with os.scandir(self.source / CHUNKS) as entries:
            for entry in entries:
                inode = chunk_directory_number(entry.name)
                if inode is None or not entry.is_dir(follow_symlinks=False):
                    continue  # fsck's matter
                if self.rows.claim(inode) is not Claim.NOBODYS:
                    continue
                files, size, newest_s = _measure(Path(entry.path))
                note = self._young(newest_s)
                if not note and not self.dry_run:
                    shutil.rmtree(entry.path)
                yield Garbage("unowned", inode, files, size, not note and not self.dry_run, note)

    def _rows(self) -> Iterator[Garbage]:
        for inode, count in self.rows.pointless():
            if (self.source / CHUNKS / str(inode)).exists():
                continue  # fsck makes the file again
            note = "only while it is not mounted" if self.live else ""
            if not note and not self.dry_run:
                self.rows.forget(inode)
            yield Garbage("rows", inode, count, 0, not note and not self.dry_run, note)

    def _young(self, newest_s: float) -> str:
        return "too young" if newest_s > self.before_s else ""


def _measure(directory: Path) -> tuple[int, int, float]:
    """Files in a directory, the bytes they occupy, and when the newest of all changed, seconds since 1970."""
    files, size, newest_s = 0, 0, 0.0
    try:
        newest_s = directory.stat().st_mtime
        with os.scandir(directory) as entries:
            for entry in entries:
                status = entry.stat(follow_symlinks=False)
                files += 1
                size += status.st_blocks * 512
                newest_s = max(newest_s, status.st_mtime)
    except FileNotFoundError:
        pass  # deleted meanwhile, or never made
    return files, size, newest_s


def _fsync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
