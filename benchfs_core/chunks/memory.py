"""``InMemoryChunkStore``: chunks in a dict, for tests and for measuring everything above the store.

Imports trio, ``gate`` and ``types``. Invariants: those of ``store``; nothing is durable, whatever ``durable_writes``
says; the bytes held never exceed ``max_bytes``.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence

import trio

from benchfs_core.chunks.gate import Gate
from benchfs_core.chunks.store import Listed
from benchfs_core.types import BLOCK_BYTES, Buffer, ChunkIndex, ChunkInfo, InodeId

_SLICE = 256
"""Chunks freed between two checkpoints."""


class InMemoryChunkStore:
    """See ``ChunkStore``. A chunk holds its bytes up to the last one written."""

    def __init__(self, *, chunk_size: int, durable_writes: bool = False, max_bytes: int | None = None) -> None:
        """``max_bytes``: most bytes of all chunks together, then writes fail with ENOSPC; None for no limit."""
        self._chunk_size = chunk_size
        self._durable = durable_writes
        self._max_bytes = max_bytes
        self._files: dict[InodeId, dict[ChunkIndex, bytearray]] = {}
        self._held_bytes = 0
        self._gate = Gate("chunk store")

    async def write_chunk(self, inode: InodeId, chunk_index: ChunkIndex, offset: int, data: Buffer) -> int:
        """Store ``data``, or nothing.

        Raises:
            OSError: ENOSPC, past ``max_bytes``.
        """
        end = self._check_span(offset, len(data))
        await self._enter()
        if not data:
            return 0
        chunk = self._files.get(inode, {}).get(chunk_index)
        growth = max(0, end - (len(chunk) if chunk is not None else 0))
        if self._max_bytes is not None and self._held_bytes + growth > self._max_bytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if chunk is None:
            chunk = self._files.setdefault(inode, {}).setdefault(chunk_index, bytearray())
        chunk.extend(bytes(growth))
        self._held_bytes += growth
        chunk[offset:end] = data
        assert len(chunk) <= self._chunk_size
        return len(data)

    async def read_chunk(self, inode: InodeId, chunk_index: ChunkIndex, offset: int, length: int) -> Buffer:
        """Return exactly ``length`` bytes, a copy."""
        end = self._check_span(offset, length)
        await self._enter()
        return bytes(self._files.get(inode, {}).get(chunk_index, b"")[offset:end]).ljust(length, b"\0")

    async def fsync_chunk(self, inode: InodeId, chunk_index: ChunkIndex) -> None:
        """Nothing to do."""
        await self._enter()

    async def fsync_entries(self, inode: InodeId) -> None:
        """Nothing to do."""
        await self._enter()

    async def truncate_chunk(self, inode: InodeId, chunk_index: ChunkIndex, length: int) -> None:
        """Drop the bytes from ``length`` on."""
        self._check_span(0, length)
        await self._enter()
        chunk = self._files.get(inode, {}).get(chunk_index)
        if chunk is not None and len(chunk) > length:
            self._held_bytes -= len(chunk) - length
            del chunk[length:]

    async def delete_chunk(self, inode: InodeId, chunk_index: ChunkIndex) -> None:
        """Remove the chunk."""
        await self._enter()
        self._held_bytes -= len(self._files.get(inode, {}).pop(chunk_index, b""))

    async def delete_file_chunks(self, inode: InodeId) -> int:
        """Remove every chunk of the inode."""
        await self._enter()
        chunks = self._files.get(inode, {})
        count = 0
        while chunks:
            self._held_bytes -= len(chunks.popitem()[1])
            count += 1
            if count % _SLICE == 0:
                await trio.lowlevel.checkpoint()
        self._files.pop(inode, None)
        return count

    async def fsync_deletions(self) -> None:
        """Nothing to do."""
        await self._enter()

    async def fsync_all(self) -> None:
        """Nothing to do."""
        await self._enter()

    def holds(self, inode: InodeId) -> bool:
        """Whether it has chunks."""
        return inode in self._files

    async def find_inodes(self, numbers: range) -> list[InodeId]:
        """Those of the numbers that have chunks."""
        await self._enter()
        return sorted(inode for inode in self._files if inode in numbers)

    async def stat_chunks(self, inode: InodeId, chunk_indices: Sequence[ChunkIndex]) -> list[ChunkInfo]:
        """Describe those of the chunks that exist."""
        await self._enter()
        chunks = self._files.get(inode, {})
        return [_describe(index, chunks[index]) for index in chunk_indices if index in chunks]

    async def list_chunks(self, inode: InodeId) -> list[ChunkInfo]:
        """Describe every chunk of the inode."""
        await self._enter()
        return self._list(inode)

    async def list_files(self, inodes: Sequence[InodeId]) -> list[Listed]:
        """Describe every chunk of each of the inodes."""
        await self._enter()
        return [self._list(inode) for inode in inodes]

    async def close_all(self) -> None:
        """Forget everything."""
        await self._gate.close()
        self._files.clear()

    def _list(self, inode: InodeId) -> list[ChunkInfo]:
        return [_describe(index, chunk) for index, chunk in sorted(self._files.get(inode, {}).items())]

    def _check_span(self, offset: int, length: int) -> int:
        """The end of a span, which lies in its chunk."""
        assert min(offset, length) >= 0
        assert offset + length <= self._chunk_size, "a span leaves its chunk"
        return offset + length

    async def _enter(self) -> None:
        """The checkpoint of every operation; what follows it is atomic, so closing needs to wait for no more."""
        self._gate.enter()
        try:
            await trio.lowlevel.checkpoint()
        finally:
            self._gate.leave()


def _describe(chunk_index: ChunkIndex, chunk: bytearray) -> ChunkInfo:
    return ChunkInfo(chunk_index, len(chunk), -(-len(chunk) // BLOCK_BYTES))
