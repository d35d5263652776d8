"""``check_volume``: every documented invariant of a volume's database and chunk files, checked; nothing is changed.

Imports ``metadata.checks``, ``superblock``, ``volume_lock``. The volume must not be mounted. What recovery will still
put in order (dirty files, orphans, numbers of an unclean end) is no finding. Memory is bounded by one inode's chunks.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchfs_core.chunks.directories import parse_chunk_index
from benchfs_core.errors import NotAVolume
from benchfs_core.metadata.checks import ChunkExpectation, check_rules
from benchfs_core.metadata.database import Database, DatabaseError
from benchfs_core.superblock import CHUNKS, DATABASE, LOCK, read_superblock
from benchfs_core.types import InodeId
from benchfs_core.volume_lock import VolumeLock


@dataclass(frozen=True, slots=True)
class Finding:
    """One breach of an invariant. ``code`` is stable, for scripts."""

    code: str
    inode: InodeId | None
    path: str | None
    text: str

    def __str__(self) -> str:
        where = "" if self.inode is None else f" inode {self.inode}"
        named = f" ({self.path})" if self.path else ""
        return f"{self.code}:{where}{named}{':' if where else ''} {self.text}"


def check_volume(source: Path) -> Iterator[Finding]:
    """Check the volume in ``source``, which is not mounted. Blocking.

    Raises:
        VolumeError: no volume, damaged beyond checking, or mounted.
        OSError: it cannot be read.
    """
    superblock = read_superblock(source)
    if superblock is None:
        raise NotAVolume(f"{source}: empty: there is no volume to check")
    lock = VolumeLock.try_acquire(source / LOCK)
    try:
        database = Database.open(source / DATABASE, read_only=True)
        try:
            yield from _check(database, source / CHUNKS, superblock.chunk_size)
        except DatabaseError as error:
            yield Finding("database", None, None, f"SQLite: {error}: the rest cannot be checked")
        finally:
            database.close()
    finally:
        lock.release()


def _check(database: Database, chunks: Path, chunk_size: int) -> Iterator[Finding]:
    expected = ChunkExpectation(database)
    for code, inode, text in check_rules(database, chunk_size):
        yield Finding(code, inode or None, expected.path(inode) if inode else None, text)
    for entry in _entries(chunks):
        number = parse_chunk_index(entry.name)
        if number is None or not entry.is_dir(follow_symlinks=False):
            yield Finding("foreign", None, None, f"{CHUNKS}/{entry.name} does not belong here")
        else:
            yield from _check_chunk_files(expected, InodeId(number), Path(entry.path), chunk_size)
    for inode in expected.inodes_with_chunks():
        if not (chunks / str(inode)).is_dir() and expected.is_settled(inode):
            yield Finding("chunk-missing", inode, expected.path(inode), f"{CHUNKS}/{inode} is missing")


def _check_chunk_files(
    expected: ChunkExpectation, inode: InodeId, directory: Path, chunk_size: int
) -> Iterator[Finding]:
    settled = expected.is_settled(inode)
    if settled and not expected.exists(inode):
        yield Finding("chunk-unowned", inode, None, f"{CHUNKS}/{inode} belongs to no inode")
        return
    rows = expected.chunks(inode)

    def finding(code: str, text: str) -> Finding:
        return Finding(code, inode, expected.path(inode), text)

    for entry in _entries(directory):
        index = parse_chunk_index(entry.name)
        if index is None or not entry.is_file(follow_symlinks=False):
            yield finding("foreign", f"{CHUNKS}/{inode}/{entry.name} does not belong here")
            continue
        length = entry.stat(follow_symlinks=False).st_size
        row = rows.pop(index, None)
        if length > chunk_size:
            yield finding("chunk-length", f"chunk {index} has {length} bytes, more than a chunk can")
        elif settled and row is None:
            yield finding("chunk-unknown", f"chunk {index} of {length} bytes is not in the database")
        elif settled and row is not None and row.length != length:
            yield finding("chunk-length", f"chunk {index} has {length} bytes, the database says {row.length}")
    if settled:
        for missing in sorted(rows):
            yield finding("chunk-missing", f"chunk {missing} is missing")


def _entries(directory: Path) -> Iterator[os.DirEntry[str]]:
    """The entries of a directory, which is closed however far they were looked at."""
    with os.scandir(directory) as entries:
        yield from entries
