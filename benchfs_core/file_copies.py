"""``FileCopies``: bytes from file to file below the caller (copy_file_range(2)), chunk by chunk, shared if that can be.

Imports ``file_parts``. A copy is to the target what writes of the same bytes are: the same order against metadata, and
the same promises. It holds the ``data_lock`` of both files, shared, that of the lower number first.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

from benchfs_core.errors import FileSystemError, FileTooLarge, InvalidArgument
from benchfs_core.file_parts import FileParts
from benchfs_core.inodes import ActiveInode
from benchfs_core.layout import file_end
from benchfs_core.types import MAX_FILE_BYTES, Buffer, ChunkIndex, ChunkRange

MAX_BYTES = 1 << 30
"""Most that one call does: a caller can be stopped between two."""

MAX_COPIED_BYTES = 32 << 20
"""Most that one call really copies, give or take a chunk."""

_SMALL_BYTES = 64 << 10


class FileCopies:
    """Copies between active inodes."""

    def __init__(
        self,
        parts: FileParts,
        read: Callable[[ActiveInode, int, int], Awaitable[Buffer]],
        write: Callable[[ActiveInode, int, Buffer, bool], Awaitable[int]],
        trim: Callable[[ActiveInode], Awaitable[None]],
    ) -> None:
        """Copy what is small by ``read`` and ``write``; ``trim`` drops what a failure left beyond the end."""
        self._parts = parts
        self._read = read
        self._write = write
        self._trim = trim

    async def copy(
        self,
        source: ActiveInode,
        source_offset: int,
        target: ActiveInode,
        target_offset: int,
        length: int,
        *,
        keep_times: bool,
        beyond_is_hole: bool,
    ) -> int:
        """Copy up to ``length`` bytes; how many: fewer where the source ends, and as far as one call goes.

        Durable on return as after ``FileIO.write`` of the same.

        Args:
            source: where the bytes are.
            source_offset: bytes from its start.
            target: another file, or the same where the ranges do not overlap.
            target_offset: bytes from its start.
            length: bytes.
            keep_times: whether mtime and ctime of the target stay.
            beyond_is_hole: whether the source has all those bytes, those beyond the size known here being a hole.

        Raises:
            InvalidArgument: a negative number, or overlapping ranges of one file.
            FileTooLarge: the target would pass the size limit.
            OSError: as ``FileIO.read`` and ``FileIO.write``; the size of the target is as before.
            FlushFailed: it was copied within the size of the target, and is not durable.
        """
        if min(source_offset, target_offset, length) < 0:
            raise InvalidArgument("a copy from or to before the start of a file")
        if source is target and abs(source_offset - target_offset) < length:
            raise InvalidArgument("a copy of a range to itself")
        if target_offset >= MAX_FILE_BYTES and length:
            raise FileTooLarge(f"copy to offset {target_offset}")
        length = min(length, MAX_FILE_BYTES - target_offset, MAX_BYTES)
        if not beyond_is_hole:
            length = min(length, source.size - source_offset)
        if length <= 0:
            return 0
        small = self._small_part(source, source_offset, target, target_offset, length)
        if small:
            data = await self._read(source, source_offset, small)
            return await self._write(target, target_offset, bytes(data).ljust(small, b"\0"), keep_times)
        try:
            done, end = await self._copy_chunks(source, source_offset, target, target_offset, length, keep_times)
        except (OSError, FileSystemError):
            if target_offset + length > target.size:
                await self._trim(target)
            raise
        if end > target.size:  # it ends in a hole, of which chunks say nothing
            await self._parts.grow(target, end)
        if self._parts.durability.durable_writes:
            await self._parts.commit.make_durable(target.changed_sequence)
        return done

    def _small_part(
        self, source: ActiveInode, source_offset: int, target: ActiveInode, target_offset: int, length: int
    ) -> int:
        """How much to copy by reading and writing it: what lies in the metadata, or will."""
        content = self._parts.inline.find(source)
        if content is not None and source_offset < len(content):
            return min(length, len(content) - source_offset)
        if self._parts.inline.find(target) is not None and self._parts.inline.fits(target_offset + length):
            return min(length, _SMALL_BYTES)
        return 0

    async def _copy_chunks(
        self,
        source: ActiveInode,
        source_offset: int,
        target: ActiveInode,
        target_offset: int,
        length: int,
        keep_times: bool,
    ) -> tuple[int, int]:
        """How much was copied, and up to where the target should reach now."""
        shift = target_offset - source_offset
        async with self._both(source, target):
            await self._parts.prepare(target, target_offset + length)
            at, copied, end = source_offset, 0, source_offset + length
            while at < end and copied < MAX_COPIED_BYTES:
                piece = self._piece(at, at + shift, end)
                copied += await self._copy_piece(source, at, target, at + shift, piece)
                at += piece
            if self._parts.durability.durable_writes:
                await self._parts.durability.flush(target)
            written = await self._written_end(target, target_offset, at + shift)
            target.size = max(target.size, min(written, at + shift))  # a chunk may be longer: it may be yet to be cut
            target.modified(None if keep_times else self._parts.now_ns(), self._parts.now_s())
        return at - source_offset, at + shift

    @asynccontextmanager
    async def _both(self, source: ActiveInode, target: ActiveInode) -> AsyncIterator[None]:
        """Hold both files still: in order of their numbers, lest two copies wait for each other."""
        async with AsyncExitStack() as stack:
            for node in sorted({source, target}, key=lambda node: node.inode):
                if node is target:
                    await stack.enter_async_context(self._parts.in_chunks(node))
                else:
                    await node.data_lock.acquire_shared()
                    stack.callback(node.data_lock.release_shared)
            yield

    def _piece(self, at: int, to: int, end: int) -> int:
        """Up to the next boundary of a chunk, of either file."""
        size = self._parts.chunk_size
        return min(end - at, size - at % size, size - to % size)

    async def _copy_piece(self, source: ActiveInode, at: int, target: ActiveInode, to: int, length: int) -> int:
        """Copy within one chunk of each; how many bytes were really copied."""
        size, copied = self._parts.chunk_size, 0
        live = 0 if source.inline is not None else max(0, min(length, self._parts.live_end(source) - at))
        index, inside = divmod(to, size)

        async def copy(part: ChunkRange, length: int) -> None:
            nonlocal copied
            held = ChunkRange(source.inode, ChunkIndex(at // size), at % size, length)
            copied = await self._parts.store.copy_chunk(held, part)

        if live:
            part = ChunkRange(target.inode, ChunkIndex(index), inside, live)
            await self._parts.change(target, part, partial(copy, length=live))
        if live < length:
            rest = ChunkRange(target.inode, ChunkIndex(index), inside + live, length - live)
            await self._parts.change(target, rest, self._parts.store.zero_chunk)
        return copied

    async def _written_end(self, node: ActiveInode, start: int, end: int) -> int:
        """Up to where the chunks of a range say that the file reaches."""
        size = self._parts.chunk_size
        indices = [ChunkIndex(index) for index in range(start // size, -(-end // size))]
        chunks = await self._parts.store.stat_chunks(node.inode, indices)
        return max((file_end(chunk.chunk_index, chunk.length, size) for chunk in chunks if chunk.length), default=0)
