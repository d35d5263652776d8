"""Repairs of chunk files: part of fsck. Nothing is deleted but empty directories; what cannot stay moves to lost+found.

Imports ``chunk_checks``, ``metadata``. The volume is not mounted. Invariants: each effect is durable before the next
that relies on it, and leaves a state that another run puts right; a row says only what is flushed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from benchfs_core.chunk_checks import ChunkChecks, Found, chunk_directory_number
from benchfs_core.metadata.database import Database
from benchfs_core.metadata.expected_chunks import Expected
from benchfs_core.metadata.repairs import replace_chunk_rows
from benchfs_core.types import ChunkIndex, ChunkInfo, InodeId

LOST_AND_FOUND = "lost+found"
"""Directory beside ``chunks`` for files that belong to nothing in the volume."""

_ROWS_AT_ONCE = 256
_COPY_BYTES = 1 << 20


class ChunkRepairs:
    """Puts the directory ``chunks`` of one volume right."""

    def __init__(self, checks: ChunkChecks, tell: Callable[[str], None]) -> None:
        self._checks = checks
        self._chunks = checks.directory
        self._source = checks.directory.parent
        self._tell = tell

    def clear_foreign(self) -> None:
        """Move away whatever can be no chunk file, and the part of a chunk file that is beyond a chunk."""
        for name in _names(self._chunks):
            number = chunk_directory_number(name)
            path = self._chunks / name
            if number is None or not path.is_dir() or path.is_symlink():
                self.move_away(path, name)
                continue
            found = self._checks.look(number)
            for foreign in found.foreign:
                self.move_away(path / foreign, f"{name}.{foreign}")
            for chunk in found.chunks.values():
                if chunk.length > self._checks.chunk_size:
                    self._cut(path / str(chunk.chunk_index), f"{name}.{chunk.chunk_index}.excess")

    def numbers_without_inode(self) -> list[InodeId]:
        """Numbers that have chunk files, no inode, and are not to be deleted; empty directories of such are removed.

        Those that a crash left uncommitted, and that the next mount would delete, are among them: in a damaged volume
        nothing tells them from what somebody has lost.
        """
        unowned = []
        for name in _names(self._chunks):
            inode = InodeId(int(name))
            expected = self._checks.expectation.of(inode)
            if expected.exists or (expected.is_orphan and self._checks.expectation.path(inode) is None):
                continue
            if self._checks.look(inode).chunks:
                unowned.append(inode)
            else:
                (self._chunks / name).rmdir()
                self._tell(f"removed the empty chunks/{name}")
        _fsync(self._chunks)
        return unowned

    def clear_unowned(self) -> None:
        """Move away the chunk files of what, after all repairs of rows, is still no regular file."""
        for name in _names(self._chunks):
            expected = self._checks.expectation.of(InodeId(int(name)))
            if expected.is_settled and not expected.is_regular:
                path = self._chunks / name
                if any(path.iterdir()):
                    self.move_away(path, name)
                else:
                    path.rmdir()
                    _fsync(self._chunks)

    def follow_files(self, database: Database) -> None:
        """Have the rows of clean files say what their chunk files are."""
        batch: list[tuple[InodeId, list[ChunkInfo]]] = []
        for inode, found, expected in self._differing():
            batch.append((inode, self._flushed(inode, found)))
            self._tell_difference(inode, found, expected)
            if len(batch) == _ROWS_AT_ONCE:
                replace_chunk_rows(database, batch, self._checks.chunk_size)
                batch.clear()
        replace_chunk_rows(database, batch, self._checks.chunk_size)

    def move_away(self, path: Path, name: str) -> None:
        """Move a file or directory to SOURCE/lost+found, under a name that is not taken."""
        target = unused_name(self._source, name)
        path.rename(target)
        _fsync(target.parent)
        _fsync(path.parent)
        self._tell(f"moved {path.relative_to(self._source)} to SOURCE/{LOST_AND_FOUND}/{target.name}")

    def _differing(self) -> Iterator[tuple[InodeId, Found, Expected]]:
        expectation = self._checks.expectation
        for name in _names(self._chunks):
            inode = InodeId(int(name))
            expected, found = expectation.of(inode), self._checks.look(inode)
            if expected.is_settled and expected.is_regular and _lengths(found.chunks) != _lengths(expected.rows):
                yield inode, found, expected
        for inode in expectation.inodes_with_chunks():
            if not (self._chunks / str(inode)).is_dir() and (expected := expectation.of(inode)).is_settled:
                yield inode, Found(exists=False), expected

    def _flushed(self, inode: InodeId, found: Found) -> list[ChunkInfo]:
        directory = self._chunks / str(inode)
        for index in found.chunks:
            _fsync(directory / str(index))
        if found.exists:
            _fsync(directory)
            _fsync(self._chunks)
        return [chunk for _, chunk in sorted(found.chunks.items())]

    def _tell_difference(self, inode: InodeId, found: Found, expected: Expected) -> None:
        path = self._checks.expectation.path(inode)
        size = self._checks.chunk_size
        for index in sorted(expected.rows.keys() - found.chunks.keys()):
            self._tell(f"inode {inode} ({path}): bytes {index * size} to {(index + 1) * size - 1} are a hole now")
        kept = [index for index, chunk in found.chunks.items() if expected.rows.get(index) != chunk]
        if kept:
            self._tell(f"inode {inode} ({path}): rows follow {len(kept)} chunk files")

    def _cut(self, path: Path, name: str) -> None:
        """Copy what is beyond a chunk away, durably, then cut it off."""
        target = unused_name(self._source, name)
        with path.open("r+b") as chunk:
            chunk.seek(self._checks.chunk_size)
            with target.open("xb") as copy:
                while data := chunk.read(_COPY_BYTES):
                    copy.write(data)
                copy.flush()
                os.fsync(copy.fileno())
            _fsync(target.parent)
            chunk.truncate(self._checks.chunk_size)
            os.fsync(chunk.fileno())
        self._tell(
            f"moved what is beyond a chunk in {path.relative_to(self._source)} to SOURCE/lost+found/{target.name}"
        )


def unused_name(source: Path, name: str) -> Path:
    """A path in the volume's own lost+found, which is made if need be, that is not taken."""
    directory = source / LOST_AND_FOUND
    if not directory.is_dir():
        directory.mkdir(mode=0o700)
        _fsync(source)
    target, tries = directory / name, 0
    while os.path.lexists(target):
        tries += 1
        target = directory / f"{name}.{tries}"
    return target


def _lengths(chunks: dict[ChunkIndex, ChunkInfo]) -> dict[ChunkIndex, int]:
    return {index: chunk.length for index, chunk in chunks.items()}


def _names(directory: Path) -> list[str]:
    """All names, taken before anything is moved."""
    return os.listdir(directory)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
