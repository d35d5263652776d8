"""Puts a new superblock or a new database in the place of one that is missing or damaged: for fsck and restore.

Imports ``superblock``, ``metadata``, ``chunk_repairs``. The caller holds the volume's lock. Invariants: what was there
is moved to SOURCE/lost+found, never deleted; at every instant there is the old or the new, or a whole new one under
another name that ``finish_exchange`` puts in place; a database never meets the WAL of another.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from benchfs_core.chunk_checks import chunk_directory_number, chunk_file_index
from benchfs_core.chunk_repairs import unused_name
from benchfs_core.errors import DamagedVolume, NotAVolume, UnknownFormat
from benchfs_core.layout import DEFAULT_CHUNK_BYTES, MAX_CHUNK_BYTES, MIN_CHUNK_BYTES, is_valid_chunk_size
from benchfs_core.metadata.database import Database
from benchfs_core.metadata.expected_chunks import ChunkExpectation
from benchfs_core.metadata.rows import RowWriter, salvage
from benchfs_core.superblock import CHUNKS, DATABASE, SUPERBLOCK, Superblock, read_superblock
from benchfs_core.types import ChunkIndex

_BUILDING, _NEW = "meta.building", "meta.new"
"""Where a new directory ``meta`` is made, and what it is called once it is whole."""


# Database


@contextlib.contextmanager
def new_database(source: Path) -> Iterator[RowWriter]:
    """Fill a new database in the block; on leaving it without an error it takes the place of the one there is."""
    building = source / _BUILDING
    for leftover in (building, source / _NEW):
        if leftover.exists():
            shutil.rmtree(leftover)
    building.mkdir(mode=0o700)
    writer = RowWriter(building / Path(DATABASE).name)
    try:
        yield writer
    except BaseException:
        writer.abandon()
        shutil.rmtree(building)
        raise
    writer.close()
    fsync(building)
    building.rename(source / _NEW)
    fsync(source)
    meta = source / Path(DATABASE).parent
    if meta.exists():
        meta.rename(unused_name(source, meta.name))
        fsync(source / "lost+found")
        fsync(source)
    finish_exchange(source)


def finish_exchange(source: Path) -> bool:
    """Put a whole new database in place if one waits and none is there; whether it did."""
    meta = source / Path(DATABASE).parent
    if meta.exists() or not (source / _NEW).exists():
        return False
    (source / _NEW).rename(meta)
    fsync(source)
    return True


def waits_for_exchange(source: Path) -> bool:
    """Whether a repair or restore was interrupted between the old database and the new one."""
    return not (source / DATABASE).parent.exists() and (source / _NEW).exists()


def salvage_database(source: Path, tell: Callable[[str], None]) -> None:
    """Replace a malformed database by a new one with every row that can still be read."""
    with new_database(source) as writer:
        salvage(source / DATABASE, writer, tell)
    tell("the malformed database is in SOURCE/lost+found")


# Superblock


def guess_superblock(source: Path, database: Database, created: str, uuid_text: str) -> Superblock:
    """The superblock of a volume that has none that can be read: from what is left of it, the rows and chunk files.

    Args:
        source: the volume.
        database: its database.
        created: what to say if it does not tell.
        uuid_text: its new identity if it does not tell.

    Raises:
        DamagedVolume: the chunk size cannot be told.
        UnknownFormat: what is left of it says that it is of a later release.
    """
    try:
        text = (source / SUPERBLOCK).read_text(errors="replace")
    except OSError:  # missing
        text = ""
    version = re.search(r"^format_version *= *(\d+)\s*$", text, re.MULTILINE)
    if version and version[1] != "1":
        raise UnknownFormat(f"{source}: format version {version[1]}: use a newer BenchFS")
    size = re.search(r"^chunk_size *= *(\d+)\s*$", text, re.MULTILINE)
    found_uuid = re.search(r'^uuid *= *"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})"\s*$', text, re.MULTILINE)
    found_created = re.search(r'^created *= *"([0-9T:+.-]{19,40})"\s*$', text, re.MULTILINE)
    told = int(size[1]) if size else 0
    expectation = ChunkExpectation(database)
    bounds = _Bounds(*expectation.chunk_size_bounds())
    bounds.look_at_files(source / CHUNKS, expectation)
    sizes = fitting_chunk_sizes(bounds.least, bounds.largest)
    if is_valid_chunk_size(told) and (bounds.largest is None or told <= bounds.largest):
        sizes = [told]  # a chunk file that is too long says less
    if len(sizes) != 1 and (bounds.matters or not sizes):
        may_be = " or ".join(map(str, sizes)) or "anything"
        raise DamagedVolume(f"{source / SUPERBLOCK}: the chunk size may be {may_be}: restore it from a backup")
    chunk_size = DEFAULT_CHUNK_BYTES if DEFAULT_CHUNK_BYTES in sizes else sizes[0]
    return Superblock(
        found_uuid[1] if found_uuid else uuid_text, chunk_size, found_created[1] if found_created else created
    )


def fitting_chunk_sizes(least: int, largest: int | None) -> list[int]:
    """The chunk sizes from ``least`` bytes to ``largest``.

    Pure. If every file has only its first chunk (``largest`` is None), each of them reads the same.
    """
    sizes = [1 << power for power in range(MIN_CHUNK_BYTES.bit_length() - 1, MAX_CHUNK_BYTES.bit_length())]
    assert all(map(is_valid_chunk_size, sizes))
    return [size for size in sizes if size >= least and (largest is None or size <= largest)]


def write_superblock(source: Path, superblock: Superblock) -> None:
    """Put a superblock in place, durably; one that is there goes to SOURCE/lost+found."""
    new = source / (SUPERBLOCK + ".new")
    new.write_text(superblock.to_toml())
    fsync(new)
    if (source / SUPERBLOCK).exists():
        os.link(source / SUPERBLOCK, unused_name(source, SUPERBLOCK))
        fsync(source / "lost+found")
    new.rename(source / SUPERBLOCK)
    fsync(source)


def superblock_or_none(source: Path) -> Superblock | None:
    """The superblock; None if it is missing or damaged, and there are other parts of a volume.

    Raises:
        NotAVolume: there is no volume.
        UnknownFormat: made by a later release.
    """
    try:
        found = read_superblock(source)
    except DamagedVolume:
        return None
    except NotAVolume:
        if (source / DATABASE).is_file() and (source / CHUNKS).is_dir():
            return None
        raise
    if found is None:
        raise NotAVolume(f"{source}: empty: there is no volume to check")
    return found


def fsync(path: Path) -> None:
    """Flush a file or directory."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class _Bounds:
    """Between which limits, in bytes, the chunk size must be."""

    def __init__(self, least: int, largest: int | None) -> None:
        self.least = least
        self.largest = largest
        self.matters = largest is not None
        """Whether any file has more than its first chunk: if none has, each reads the same with any size."""

    def look_at_files(self, chunks: Path, expectation: ChunkExpectation) -> None:
        """Tighten the limits by what chunk files there are."""
        for name in os.listdir(chunks):
            inode = chunk_directory_number(name)
            if inode is None or not (chunks / name).is_dir():
                continue
            lengths = {}
            with os.scandir(chunks / name) as files:
                for file in files:
                    index = chunk_file_index(file.name, MIN_CHUNK_BYTES)
                    length = file.stat(follow_symlinks=False).st_size
                    if index is not None and length:  # what has none holds allocated space, anywhere
                        lengths[index] = length
            self.least = max([self.least, *(length for length in lengths.values() if length <= MAX_CHUNK_BYTES)])
            last = max(lengths, default=ChunkIndex(0))
            self.matters = self.matters or last > 0
            size = expectation.clean_size(inode) if last else None
            if size is not None and (largest := (size - lengths[last]) // last) >= self.least:
                self.largest = largest if self.largest is None else min(self.largest, largest)
