"""Chunk files compared with their rows: part of fsck. Reads only.

Imports ``metadata.checks``, ``chunks.directories``, ``findings``. Invariant: on a volume that somebody has mounted,
only what did not change while the database was asked is judged, so that nothing in motion is a finding: a clean file's
chunk files change only once its dirty mark is durable. Memory is bounded by one inode's chunks.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from benchfs_core.chunks.directories import parse_chunk_index
from benchfs_core.findings import Finding
from benchfs_core.metadata.expected_chunks import ChunkExpectation, Expected
from benchfs_core.types import MAX_FILE_BYTES, ChunkIndex, ChunkInfo, InodeId

_TRIES = 5
"""How often to look at a chunk directory that changes meanwhile before it is taken for one in use."""

_READ_BYTES = 1 << 20

Pread = Callable[[int, int, int], bytes]
"""os.pread, or what stands for it."""

Progress = Callable[[int, int], None]
"""Hears of each chunk directory looked at: files one more, and so many bytes read."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a chunk directory holds."""

    chunks: dict[ChunkIndex, ChunkInfo] = field(default_factory=dict)
    foreign: tuple[str, ...] = ()
    exists: bool = True
    changes: tuple[object, ...] = ()
    """Differs from that of another look if anything changed in between."""


@dataclass(frozen=True, slots=True)
class ChunkChecks:
    """Checks the directory ``chunks`` of one volume."""

    expectation: ChunkExpectation
    directory: Path
    chunk_size: int
    live: bool
    """Whether somebody has the volume mounted."""
    data: bool = False
    """Whether to read every chunk file through."""
    pread: Pread = os.pread
    progress: Progress = lambda _files, _bytes: None

    def run(self) -> Iterator[Finding]:
        """Every finding."""
        try:
            for name, is_directory in _entries(self.directory):
                number = chunk_directory_number(name)
                if number is None or not is_directory:
                    yield Finding("foreign", None, None, f"chunks/{name} does not belong here")
                else:
                    yield from self._check(number)
        except OSError as error:
            yield Finding("chunk-unreadable", None, None, f"chunks: {error.strerror}")
        for inode in self.expectation.inodes_with_chunks():
            yield from self._check_missing(inode)

    def look(self, inode: InodeId) -> Found:
        """What is there of one inode."""
        path = self.directory / str(inode)
        chunks, foreign, changes = {}, [], []
        try:
            with os.scandir(path) as entries:
                for entry in entries:
                    with contextlib.suppress(FileNotFoundError):  # deleted while we look
                        status = entry.stat(follow_symlinks=False)
                        index = chunk_file_index(entry.name, self.chunk_size)
                        if index is None or not stat.S_ISREG(status.st_mode):
                            foreign.append(entry.name)
                        else:
                            chunks[index] = ChunkInfo(index, status.st_size, status.st_blocks)
                        changes.append((entry.name, status.st_ino, status.st_size, status.st_ctime_ns))
        except (FileNotFoundError, NotADirectoryError):
            return Found(exists=False)
        return Found(chunks, tuple(sorted(foreign)), True, tuple(sorted(changes)))

    def _judged(self, inode: InodeId) -> tuple[Found, Expected] | None:
        """What is there and what should be at the same instant; None for a file in use."""
        for _ in range(_TRIES if self.live else 1):
            before = self.look(inode)
            expected = self.expectation.of(inode)
            if not self.live or before == self.look(inode):
                return before, expected
        return None

    def _check(self, inode: InodeId) -> Iterator[Finding]:
        try:
            judged = self._judged(inode)
        except OSError as error:
            yield self._finding("chunk-unreadable", inode, f"chunks/{inode}: {error.strerror}")
            return
        read = 0
        if judged is not None and judged[0].exists:
            found, expected = judged
            for name in found.foreign:
                yield self._finding("foreign", inode, f"chunks/{inode}/{name} does not belong here")
            if expected.is_settled and not expected.exists:
                yield Finding(
                    "chunk-unowned", inode, self.expectation.path(inode), f"chunks/{inode} belongs to no inode"
                )
            else:
                yield from self._compare(inode, found, expected)
            if self.data:
                for index in sorted(found.chunks):
                    yield from self._read(inode, index)
                read = sum(chunk.length for chunk in found.chunks.values())
        self.progress(1, read)

    def _compare(self, inode: InodeId, found: Found, expected: Expected) -> Iterator[Finding]:
        rows = dict(expected.rows)
        for index, chunk in sorted(found.chunks.items()):
            row = rows.pop(index, None)
            if chunk.length > self.chunk_size:
                text = f"chunk {index} has {chunk.length} bytes, more than a chunk can"
                yield self._finding("chunk-length", inode, text)
            elif expected.is_settled and row is None:
                text = f"chunk {index} of {chunk.length} bytes is not in the database"
                yield self._finding("chunk-unknown", inode, text)
            elif expected.is_settled and row is not None and row.length != chunk.length:
                text = f"chunk {index} has {chunk.length} bytes, the database says {row.length}"
                yield self._finding("chunk-length", inode, text)
        if expected.is_settled:
            for missing in sorted(rows):
                yield self._finding("chunk-missing", inode, f"chunk {missing} is missing")

    def _check_missing(self, inode: InodeId) -> Iterator[Finding]:
        judged = None if (self.directory / str(inode)).is_dir() else self._judged(inode)
        if judged is not None and not judged[0].exists and judged[1].is_settled and judged[1].rows:
            yield self._finding("chunk-missing", inode, f"chunks/{inode} is missing")

    def _read(self, inode: InodeId, index: ChunkIndex) -> Iterator[Finding]:
        try:
            descriptor = os.open(self.directory / str(inode) / str(index), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return  # deleted since we looked: a live volume
        except OSError as error:
            yield self._finding("chunk-unreadable", inode, f"chunk {index}: {error.strerror}")
            return
        offset = 0
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)  # ask the disk, not the page cache
            while data := self.pread(descriptor, _READ_BYTES, offset):
                offset += len(data)
        except OSError as error:
            yield self._finding("chunk-unreadable", inode, f"chunk {index} from byte {offset}: {error.strerror}")
        finally:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)

    def _finding(self, code: str, inode: InodeId, text: str) -> Finding:
        return Finding(code, inode, self.expectation.path(inode), text)


def chunk_directory_number(name: str) -> InodeId | None:
    """The inode number that a name in ``chunks`` stands for; None if it stands for none."""
    number = parse_chunk_index(name) if len(name) < 19 else None
    return None if number is None else InodeId(number)


def chunk_file_index(name: str, chunk_size: int) -> ChunkIndex | None:
    """The chunk index that a name stands for; None for any other name, and beyond the largest file."""
    index = parse_chunk_index(name) if len(name) < 19 else None
    return index if index is not None and index < MAX_FILE_BYTES // chunk_size else None


def _entries(directory: Path) -> Iterator[tuple[str, bool]]:
    """Names in a directory, which is closed however far they were looked at, and which of them are directories."""
    with os.scandir(directory) as entries:
        for entry in entries:
            yield entry.name, entry.is_dir(follow_symlinks=False)
