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
from benchfs_core.types import BLOCK_BYTES, Buffer, ChunkIndex, ChunkInfo, ChunkRange, InodeId

_SLICE = 256
"""Chunks freed between two checkpoints."""

_PAGE_BYTES = 4096
"""Pages that hold nothing but zeros count as holes."""


class InMemoryChunkStore:
    """See ``ChunkStore``. A chunk holds its bytes up to the last one written."""

    def __init__(self, *, chunk_size: int, durable_writes: bool = False, max_bytes: int | None = None) -> None:
        """``max_bytes``: most bytes of all chunks together, then writes fail with ENOSPC; None for no limit."""
        self._chunk_size = chunk_size
        self._durable = durable_writes
        self._max_bytes = max_bytes
        self._files: dict[InodeId, dict[ChunkIndex, bytearray]] = {}
        self._allocated: dict[tuple[InodeId, ChunkIndex], int] = {}
        """Up to where there is space for chunks that may be shorter."""
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
        self._take_space(inode, chunk_index, end)
        chunk = self._chunk(inode, chunk_index)
        chunk.extend(bytes(max(0, end - len(chunk))))
        chunk[offset:end] = data
        assert len(chunk) <= self._chunk_size
        return len(data)

    async def read_chunk(self, inode: InodeId, chunk_index: ChunkIndex, offset: int, length: int) -> Buffer:
        """Return exactly ``length`` bytes, a copy."""
        end = self._check_span(offset, length)
        await self._enter()
        return bytes(self._files.get(inode, {}).get(chunk_index, b"")[offset:end]).ljust(length, b"\0")

    async def allocate_chunk(self, part: ChunkRange) -> None:
        """Count the space as taken.

        Raises:
            OSError: ENOSPC, past ``max_bytes``.
        """
        end = self._check_span(part.offset, part.length)
        await self._enter()
        self._take_space(part.inode, part.chunk_index, end)
        key = part.inode, part.chunk_index
        self._allocated[key] = max(end, self._allocated.get(key, 0))
        self._chunk(part.inode, part.chunk_index)

    async def zero_chunk(self, part: ChunkRange) -> None:
        """Overwrite with zeros what is there."""
        end = self._check_span(part.offset, part.length)
        await self._enter()
        chunk = self._files.get(part.inode, {}).get(part.chunk_index, bytearray())
        end = min(end, len(chunk))
        if end > part.offset:
            chunk[part.offset : end] = bytes(end - part.offset)

    async def copy_chunk(self, source: ChunkRange, target: ChunkRange) -> int:
        """Copy what is there up to its last byte that is not zero; the rest is a hole."""
        self._check_span(source.offset, source.length)
        end = self._check_span(target.offset, target.length)
        await self._enter()
        held = self._files.get(source.inode, {}).get(source.chunk_index, bytearray())
        data = bytes(held[source.offset : source.offset + source.length]).rstrip(b"\0")
        if data:
            data_end = target.offset + len(data)
            self._take_space(target.inode, target.chunk_index, data_end)
            chunk = self._chunk(target.inode, target.chunk_index)
            chunk.extend(bytes(max(0, data_end - len(chunk))))
        chunk = self._files.get(target.inode, {}).get(target.chunk_index, bytearray())
        end = min(end, len(chunk))
        if end > target.offset:
            chunk[target.offset : end] = data.ljust(end - target.offset, b"\0")
        return len(data)

    async def find_data(
        self, inode: InodeId, chunk_indices: Sequence[ChunkIndex], offset: int
    ) -> tuple[ChunkIndex, int] | None:
        """The first page from there on that is not all zeros."""
        await self._enter()
        return self._find(inode, chunk_indices, offset, holes=False)

    async def find_hole(
        self, inode: InodeId, chunk_indices: Sequence[ChunkIndex], offset: int
    ) -> tuple[ChunkIndex, int] | None:
        """The first page from there on that is all zeros, or the end of a chunk."""
        await self._enter()
        return self._find(inode, chunk_indices, offset, holes=True)

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
        if chunk is not None:
            before = self._space(inode, chunk_index)
            del chunk[length:]
            if self._allocated.get((inode, chunk_index), 0) > length:
                self._allocated[inode, chunk_index] = length
            self._held_bytes -= before - self._space(inode, chunk_index)

    async def delete_chunk(self, inode: InodeId, chunk_index: ChunkIndex) -> None:
        """Remove the chunk."""
        await self._enter()
        self._held_bytes -= self._space(inode, chunk_index)
        self._files.get(inode, {}).pop(chunk_index, None)
        self._allocated.pop((inode, chunk_index), None)

    async def delete_file_chunks(self, inode: InodeId) -> int:
        """Remove every chunk of the inode."""
        await self._enter()
        chunks = self._files.get(inode, {})
        count = 0
        while chunks:
            chunk_index = next(iter(chunks))
            self._held_bytes -= self._space(inode, chunk_index)
            del chunks[chunk_index]
            self._allocated.pop((inode, chunk_index), None)
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
        return [self._describe(inode, index) for index in chunk_indices if index in chunks]

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
        return [self._describe(inode, index) for index in sorted(self._files.get(inode, {}))]

    def _describe(self, inode: InodeId, chunk_index: ChunkIndex) -> ChunkInfo:
        length, space = len(self._files[inode][chunk_index]), self._space(inode, chunk_index)
        return ChunkInfo(chunk_index, length, -(-space // BLOCK_BYTES))

    def _space(self, inode: InodeId, chunk_index: ChunkIndex) -> int:
        length = len(self._files.get(inode, {}).get(chunk_index, b""))
        return max(length, self._allocated.get((inode, chunk_index), 0))

    def _take_space(self, inode: InodeId, chunk_index: ChunkIndex, end: int) -> None:
        growth = max(0, end - self._space(inode, chunk_index))
        if self._max_bytes is not None and self._held_bytes + growth > self._max_bytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._held_bytes += growth

    def _chunk(self, inode: InodeId, chunk_index: ChunkIndex) -> bytearray:
        return self._files.setdefault(inode, {}).setdefault(chunk_index, bytearray())

    def _find(
        self, inode: InodeId, chunk_indices: Sequence[ChunkIndex], offset: int, *, holes: bool
    ) -> tuple[ChunkIndex, int] | None:
        for chunk_index in chunk_indices:
            chunk = self._files.get(inode, {}).get(chunk_index, bytearray())
            at = offset
            while at < len(chunk):
                page = at // _PAGE_BYTES * _PAGE_BYTES
                if any(chunk[page : page + _PAGE_BYTES]) is not holes:
                    return chunk_index, at
                at = page + _PAGE_BYTES
            if holes and (end := max(offset, len(chunk))) < self._chunk_size:
                return chunk_index, end
            offset = 0
        return None

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
