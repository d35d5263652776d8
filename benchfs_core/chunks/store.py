"""The ``ChunkStore`` protocol: what file I/O may ask of whatever keeps the chunks.

Imports only ``types`` and ``errors``. Every implementation passes ``tests/contract``.

Invariants that callers keep: a span stays inside its chunk; a chunk is not deleted, and not cut below the end of a
request, while that request on it is under way. Invariants that stores keep: a chunk, or part of one, that was never
written reads as zeros; ``length`` of a chunk is the end of its last written byte, at most the chunk size. A chunk may
have space allocated beyond that, and one of length 0 nothing else: it says nothing about the size of its file.

A store is made with ``durable_writes``: where true (``sync=write``), a write that returned survives power loss,
with the directory entries that lead to it; where false, ``fsync_chunk`` and ``fsync_entries`` do that on request.
Every method is a trio checkpoint, but ``read_chunk`` and ``write_chunk`` only where they wait. A method that raised
OSError may have done a part of its work; repeating it is safe.
``NotBegun``, an OSError, says of a write or flush that it failed before any data could be lost: a file would not open.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeAlias

from benchfs_core.errors import CorruptChunk
from benchfs_core.types import Buffer, ChunkIndex, ChunkInfo, ChunkRange, InodeId

Listed: TypeAlias = list[ChunkInfo] | CorruptChunk
"""The chunks of an inode, by rising index, or why they cannot be told."""


class ChunkStore(Protocol):
    """Keeps the bytes of files, chunk by chunk."""

    async def write_chunk(self, inode: InodeId, chunk_index: ChunkIndex, offset: int, data: Buffer) -> int:
        """Store all of ``data`` at ``offset`` of the chunk; return its length.

        Durable on return: with ``durable_writes``, the data and the chunk's existence; otherwise nothing.

        Raises:
            OSError: the filesystem below refused (ENOSPC, EIO, …); any part of the data may be stored.
        """
        ...

    async def read_chunk(self, inode: InodeId, chunk_index: ChunkIndex, offset: int, length: int) -> Buffer:
        """Return exactly ``length`` bytes from ``offset``; zeros where nothing was written."""
        ...

    async def fsync_chunk(self, inode: InodeId, chunk_index: ChunkIndex) -> None:
        """Make durable what was written to the chunk before the call, its length and its existence.

        A chunk that does not exist is durable already.

        Raises:
            OSError: the flush failed; the chunk's content on disk is unknown from now on.
        """
        ...

    async def fsync_entries(self, inode: InodeId) -> None:
        """Make durable which chunks of the inode exist: creations and deletions before the call."""
        ...

    async def allocate_chunk(self, part: ChunkRange) -> None:
        """Have space for a part of a chunk, which is made if need be: writing there will need none. Not durable.

        The chunk's length and bytes stay (fallocate(2), FALLOC_FL_KEEP_SIZE).

        Raises:
            NotSupported: the filesystem below cannot do that.
            OSError: it refused (ENOSPC, …); a part of the space may be there.
        """
        ...

    async def zero_chunk(self, part: ChunkRange) -> None:
        """Have a part of a chunk read as zeros, and give its space back where that can be. Never durable on return.

        An absent chunk stays absent (fallocate(2), FALLOC_FL_PUNCH_HOLE). Where space was allocated beyond the chunk's
        length, the chunk may become as long as the part reaches.

        Raises:
            OSError: as ``write_chunk``.
        """
        ...

    async def copy_chunk(self, source: ChunkRange, target: ChunkRange) -> int:
        """Copy a part of a chunk to a part of another, or of the same, as long; never durable on return.

        Holes become holes, and space is shared where the filesystem below can (ioctl_ficlonerange(2)).

        Returns:
            How many bytes were really copied: a measure of the work.

        Raises:
            OSError: as ``read_chunk`` and ``write_chunk``; any part may be copied.
        """
        ...

    async def find_data(
        self, inode: InodeId, chunk_indices: Sequence[ChunkIndex], offset: int
    ) -> tuple[ChunkIndex, int] | None:
        """Where in these chunks, from ``offset`` in the first of them, data begins or goes on (lseek(2), SEEK_DATA).

        Chunk and offset in it; None: nowhere. What is allocated and not written is a hole.
        """
        ...

    async def find_hole(
        self, inode: InodeId, chunk_indices: Sequence[ChunkIndex], offset: int
    ) -> tuple[ChunkIndex, int] | None:
        """Where a hole begins or goes on, as ``find_data``: absent chunks are, and what follows a chunk's length."""
        ...

    async def truncate_chunk(self, inode: InodeId, chunk_index: ChunkIndex, length: int) -> None:
        """Drop the chunk's bytes from ``length`` on, and space there; a shorter or absent chunk stays. Not durable.

        Where space was allocated beyond ``length``, a shorter chunk may become as long.
        """
        ...

    async def delete_chunk(self, inode: InodeId, chunk_index: ChunkIndex) -> None:
        """Remove the chunk; absent is fine. Not durable before ``fsync_entries``."""
        ...

    async def delete_file_chunks(self, inode: InodeId) -> int:
        """Remove every chunk of the inode, and its directory; return how many chunks there were. Not durable.

        Gives way to other tasks at least every few hundred chunks; cancelled, it has removed some of them.
        """
        ...

    async def fsync_deletions(self) -> None:
        """Make every ``delete_file_chunks`` that returned before the call durable."""
        ...

    async def fsync_all(self) -> None:
        """Make everything durable that was written, created or deleted before the call, whatever it belongs to.

        Cheaper than ``fsync_chunk`` for many files; it may flush what others wrote to the filesystem below as well.
        """
        ...

    def holds(self, inode: InodeId) -> bool:
        """Whether there is anything of the inode, chunks or at least a place for them. Not a checkpoint."""
        ...

    async def find_inodes(self, numbers: range) -> list[InodeId]:
        """Those of the given inode numbers that have chunks, or at least a place for them; rising."""
        ...

    async def stat_chunks(self, inode: InodeId, chunk_indices: Sequence[ChunkIndex]) -> list[ChunkInfo]:
        """Describe those of the given chunks that exist, in the order given."""
        ...

    async def list_chunks(self, inode: InodeId) -> list[ChunkInfo]:
        """Describe every chunk of the inode, by rising index."""
        ...

    async def list_files(self, inodes: Sequence[InodeId]) -> list[Listed]:
        """``list_chunks`` of many inodes, in the order given; what it would raise for one stands in its place."""
        ...

    async def close_all(self) -> None:
        """Let every operation under way end, then close every handle. The store is of no use afterwards."""
        ...
