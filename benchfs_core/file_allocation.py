"""``FileAllocation``: space of one file, asked for beforehand or given back (fallocate(2)).

Imports ``file_parts``. What is allocated is no data: it reads as zeros, does not lengthen chunk files, and the size
that grows with it is a matter of metadata. What is zeroed is data, durable as a write of zeros is.
"""

from __future__ import annotations

from contextlib import suppress

from benchfs_core.errors import FileTooLarge, InvalidArgument, NoSpace, NotSupported
from benchfs_core.file_parts import FileParts
from benchfs_core.inodes import ActiveInode
from benchfs_core.types import BLOCK_BYTES, MAX_FILE_BYTES


class FileAllocation:
    """Allocation of active inodes. With ``keep_times`` their mtime and ctime stay."""

    def __init__(self, parts: FileParts) -> None:
        self._parts = parts

    async def allocate(
        self, node: ActiveInode, offset: int, length: int, *, free_bytes: int, keep_size: bool, keep_times: bool
    ) -> None:
        """Have space for a part of the file: writing there fails for want of space no more (fallocate(2)).

        Unless ``keep_size`` the file is then at least as long. Small content moves into a chunk, where there is space.
        Durable on return, with ``sync=write``: the size; what is allocated, and otherwise both, with the next fsync.

        Args:
            node: the file.
            offset: bytes from its start.
            length: positive, bytes.
            free_bytes: what there is; what asks for more is refused before anything is allocated.
            keep_size: whether the size stays.
            keep_times: whether mtime and ctime stay.

        Raises:
            NoSpace, OSError: there is no space; a part may be allocated, and the size is as before.
            NotSupported: the filesystem below cannot do it.
        """
        end = _end_of(offset, length)
        await self._refuse_hopeless(node, length, free_bytes)
        async with self._parts.in_chunks(node):
            await self._parts.prepare(node, end)
            await self._allocate_chunks(node, offset, end)
            self._modified(node, keep_times)
        await self._grown(node, node.size if keep_size else end)

    async def punch(self, node: ActiveInode, offset: int, length: int, *, keep_times: bool) -> None:
        """Have a part of the file read as zeros, without space where that can be (FALLOC_FL_PUNCH_HOLE).

        Durable on return with ``sync=write``.

        Raises:
            OSError: as ``FileIO.write``.
            FlushFailed: it was done, and is not durable.
        """
        end = _end_of(offset, length)
        await node.data_lock.acquire_shared()
        try:
            if self._parts.inline.find(node) is not None:
                await self._parts.commit.writable()
                self._parts.inline.zero(node, offset, end, None if keep_times else self._parts.now_ns())
            else:
                await self._zero_chunks(node, offset, end)
                self._modified(node, keep_times)
                await self._flush(node)
        finally:
            node.data_lock.release_shared()
        if self._parts.durability.durable_writes:
            await self._parts.commit.make_durable(node.changed_sequence)

    async def zero(
        self, node: ActiveInode, offset: int, length: int, *, free_bytes: int, keep_size: bool, keep_times: bool
    ) -> None:
        """Have a part of the file read as zeros, with space if the filesystem below can (FALLOC_FL_ZERO_RANGE).

        As ``punch`` and ``allocate`` in one.
        """
        end = _end_of(offset, length)
        await self._refuse_hopeless(node, length, free_bytes)
        async with self._parts.in_chunks(node):
            await self._zero_chunks(node, offset, end)
            await self._parts.prepare(node, end)
            with suppress(NotSupported):
                await self._allocate_chunks(node, offset, end)
            self._modified(node, keep_times)
            await self._flush(node)
        await self._grown(node, node.size if keep_size else end)

    async def _allocate_chunks(self, node: ActiveInode, offset: int, end: int) -> None:
        spans, allocate = self._parts.all_spans(offset, end), self._parts.store.allocate_chunk
        await self._parts.each(node, spans, allocate, rewrites=False)

    async def _zero_chunks(self, node: ActiveInode, offset: int, end: int) -> None:
        end = min(end, node.size)  # beyond it nothing is but space, as on other filesystems
        if end <= offset:
            return
        await self._parts.prepare(node, end)
        await self._parts.each(node, self._parts.known_spans(node, offset, end), self._parts.store.zero_chunk)

    async def _refuse_hopeless(self, node: ActiveInode, length: int, free_bytes: int) -> None:
        """A thousand chunk files would be made before the filesystem below says so."""
        if length <= free_bytes:
            return
        if self._parts.inline.find(node) is None:
            await self._parts.durability.refresh_blocks(node)
        if length - node.blocks * BLOCK_BYTES > free_bytes:
            raise NoSpace(f"{length} bytes to allocate, {free_bytes} free")

    async def _grown(self, node: ActiveInode, size: int) -> None:
        if size > node.size:
            await self._parts.grow(node, size)
        if self._parts.durability.durable_writes:
            await self._parts.commit.make_durable(node.changed_sequence)

    async def _flush(self, node: ActiveInode) -> None:
        if self._parts.durability.durable_writes:
            await self._parts.durability.flush(node)

    def _modified(self, node: ActiveInode, keep_times: bool) -> None:
        node.modified(None if keep_times else self._parts.now_ns(), self._parts.now_s())


def _end_of(offset: int, length: int) -> int:
    if offset < 0 or length <= 0:
        raise InvalidArgument(f"a range of {length} bytes from {offset}")
    if offset + length > MAX_FILE_BYTES:
        raise FileTooLarge(f"a range up to offset {offset + length}")
    return offset + length
