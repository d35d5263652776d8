"""Blocking work on one inode's directory of chunk files, for worker threads.

Imports os, ``errors`` and ``types``. A directory is named by its parent's descriptor and its name there: whoever
renames what is above changes nothing. Invariant: a name that is not a chunk index in canonical decimal is never touched
or counted; fsck reports such names.
"""

from __future__ import annotations

import enum
import errno
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from itertools import islice

from benchfs_core.errors import CorruptChunk, Vanished
from benchfs_core.types import ChunkIndex, ChunkInfo, InodeId

SLICE = 256
"""Chunk files looked at in one go, between two checkpoints."""


class Listing:
    """The names in a directory, each once; to be closed."""

    def __init__(self, descriptor: int) -> None:
        """Take over the directory's descriptor."""
        self.descriptor = descriptor
        try:
            self._entries = os.scandir(descriptor)
        except BaseException:
            os.close(descriptor)
            raise

    def __iter__(self) -> Iterator[os.DirEntry[str]]:
        """The names that are left."""
        return self._entries

    def close(self) -> None:
        """Free the descriptor."""
        self._entries.close()
        os.close(self.descriptor)


def parse_chunk_index(name: str) -> ChunkIndex | None:
    """The chunk index that a file name stands for; None for any other name (``007``, ``+7``, ``7~``)."""
    if not (name.isascii() and name.isdigit()) or (name[0] == "0" and name != "0"):
        return None
    return ChunkIndex(int(name))


def describe(chunk_index: ChunkIndex, status: os.stat_result, chunk_size: int) -> ChunkInfo:
    """What stat(2) says of a chunk file.

    Raises:
        CorruptChunk: not a regular file, or longer than a chunk.
    """
    if not stat.S_ISREG(status.st_mode) or status.st_size > chunk_size:
        raise CorruptChunk(f"chunk {chunk_index}: {status.st_size} bytes, mode {status.st_mode:o}")
    return ChunkInfo(chunk_index, status.st_size, status.st_blocks)


def stat_files(
    base: int, directory: str, chunk_indices: Sequence[ChunkIndex], chunk_size: int
) -> dict[ChunkIndex, ChunkInfo]:
    """Those of the chunks that exist."""
    found = {}
    for chunk_index in chunk_indices:
        with suppress(FileNotFoundError):
            status = os.stat(f"{directory}/{chunk_index}", dir_fd=base)
            found[chunk_index] = describe(chunk_index, status, chunk_size)
    return found


def scan(base: int, directory: str) -> Listing | None:
    """Begin to list a directory; None where there is none. The caller closes the listing."""
    try:
        return Listing(os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=base))
    except FileNotFoundError:
        return None


def next_chunks(entries: Listing, chunk_size: int) -> tuple[list[ChunkInfo], bool]:
    """Describe the chunks among the next ``SLICE`` names; and whether the listing goes on."""
    names = list(islice(entries, SLICE))
    chunks = []
    for entry in names:
        chunk_index = parse_chunk_index(entry.name)
        if chunk_index is not None:
            with suppress(FileNotFoundError):  # deleted while we look
                chunks.append(describe(chunk_index, entry.stat(follow_symlinks=False), chunk_size))
    return chunks, len(names) == SLICE


def list_files(base: int, inodes: Sequence[InodeId], chunk_size: int) -> list[list[ChunkInfo] | CorruptChunk]:
    """Every chunk of each of the inodes, by rising index; of an inode without directory none."""
    return [_list_file(base, str(inode), chunk_size) for inode in inodes]


def _list_file(base: int, directory: str, chunk_size: int) -> list[ChunkInfo] | CorruptChunk:
    entries = scan(base, directory)
    if entries is None:
        check_exists(base)
        return []
    chunks: list[ChunkInfo] = []
    with closing(entries):
        more = True
        while more:
            try:
                part, more = next_chunks(entries, chunk_size)
            except CorruptChunk as error:
                return error
            chunks += part
    return sorted(chunks, key=lambda info: info.chunk_index)


class Left(enum.Enum):
    """What a directory still holds after ``remove_slice``."""

    NOTHING = enum.auto()
    """It is gone."""
    SOMETHING = enum.auto()
    """More chunks, or foreign names."""


def remove_slice(base: int, directory: str) -> tuple[int, Left]:
    """Unlink up to ``SLICE`` chunks, and the directory once it is empty: how many, and what is left.

    Nothing removed and something left: only foreign names are.
    """
    entries = scan(base, directory)
    if entries is None:
        return 0, Left.NOTHING
    with closing(entries):
        chunks = islice((entry for entry in entries if parse_chunk_index(entry.name) is not None), SLICE)
        removed = sum(remove_file(entries.descriptor, entry.name) for entry in chunks)
    try:
        os.rmdir(directory, dir_fd=base)
    except FileNotFoundError:
        pass  # a try before this one got as far
    except OSError as error:
        if error.errno != errno.ENOTEMPTY:
            raise
        return removed, Left.SOMETHING
    return removed, Left.NOTHING


def remove_file(directory: int, path: str) -> bool:
    """Unlink; False where there was nothing."""
    try:
        os.unlink(path, dir_fd=directory)
    except FileNotFoundError:
        return False
    return True


def existing(base: int, numbers: Sequence[int]) -> list[InodeId]:
    """Those of the numbers that are names in ``base``."""
    found = []
    for number in numbers:
        with suppress(FileNotFoundError):
            os.stat(str(number), dir_fd=base, follow_symlinks=False)
            found.append(InodeId(number))
    if len(found) < len(numbers):
        check_exists(base)
    return found


def check_exists(base: int) -> None:
    """Tell that nothing is in a directory because nothing ever was from a directory that was removed while open.

    Raises:
        Vanished: it was removed.
    """
    if os.fstat(base).st_nlink == 0:
        raise Vanished(errno.ENOENT, "the directory of the chunks was removed below the mount")
