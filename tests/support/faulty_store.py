"""``FaultyStore``: any ``ChunkStore`` with faults by plan: layer ``store``.

Imports the protocol and ``faults``. Operations are the protocol's methods, under their own names.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from benchfs_core.chunks.store import ChunkStore, Listed
from benchfs_core.types import Buffer, ChunkIndex, ChunkInfo, ChunkRange, InodeId
from tests.support.faults import FaultPlan, Rule

T = TypeVar("T")


class FaultyStore:
    """Passes everything on to a store, but for what the plan says."""

    def __init__(self, inner: ChunkStore, plan: FaultPlan) -> None:
        self._inner = inner
        self.plan = plan

    async def write_chunk(self, inode: InodeId, chunk_index: ChunkIndex, offset: int, data: Buffer) -> int:
        rule = await self._before("write_chunk", inode)
        if rule is not None and rule.torn is not None:
            await self._inner.write_chunk(inode, chunk_index, offset, memoryview(data)[: rule.torn])
            rule.raise_error()
        written = await self._inner.write_chunk(inode, chunk_index, offset, _corrupted(rule, data))
        _raise(rule)
        return written

    async def read_chunk(self, inode: InodeId, chunk_index: ChunkIndex, offset: int, length: int) -> Buffer:
        rule = await self._before("read_chunk", inode)
        data = await self._inner.read_chunk(inode, chunk_index, offset, length)
        _raise(rule)
        return _corrupted(rule, data)

    async def allocate_chunk(self, part: ChunkRange) -> None:
        await self._do("allocate_chunk", part.inode, lambda: self._inner.allocate_chunk(part))

    async def zero_chunk(self, part: ChunkRange) -> None:
        await self._do("zero_chunk", part.inode, lambda: self._inner.zero_chunk(part))

    async def copy_chunk(self, source: ChunkRange, target: ChunkRange) -> int:
        return await self._do("copy_chunk", target.inode, lambda: self._inner.copy_chunk(source, target))

    async def find_data(
        self, inode: InodeId, chunk_indices: Sequence[ChunkIndex], offset: int
    ) -> tuple[ChunkIndex, int] | None:
        return await self._do("find_data", inode, lambda: self._inner.find_data(inode, chunk_indices, offset))

    async def find_hole(
        self, inode: InodeId, chunk_indices: Sequence[ChunkIndex], offset: int
    ) -> tuple[ChunkIndex, int] | None:
        return await self._do("find_hole", inode, lambda: self._inner.find_hole(inode, chunk_indices, offset))

    async def fsync_chunk(self, inode: InodeId, chunk_index: ChunkIndex) -> None:
        await self._flush("fsync_chunk", inode, lambda: self._inner.fsync_chunk(inode, chunk_index))

    async def fsync_entries(self, inode: InodeId) -> None:
        await self._flush("fsync_entries", inode, lambda: self._inner.fsync_entries(inode))

    async def truncate_chunk(self, inode: InodeId, chunk_index: ChunkIndex, length: int) -> None:
        await self._do("truncate_chunk", inode, lambda: self._inner.truncate_chunk(inode, chunk_index, length))

    async def delete_chunk(self, inode: InodeId, chunk_index: ChunkIndex) -> None:
        await self._do("delete_chunk", inode, lambda: self._inner.delete_chunk(inode, chunk_index))

    async def delete_file_chunks(self, inode: InodeId) -> int:
        return await self._do("delete_file_chunks", inode, lambda: self._inner.delete_file_chunks(inode))

    async def fsync_deletions(self) -> None:
        await self._flush("fsync_deletions", None, self._inner.fsync_deletions)

    async def fsync_all(self) -> None:
        await self._flush("fsync_all", None, self._inner.fsync_all)

    def holds(self, inode: InodeId) -> bool:
        return self._inner.holds(inode)

    async def find_inodes(self, numbers: range) -> list[InodeId]:
        return await self._do("find_inodes", None, lambda: self._inner.find_inodes(numbers))

    async def stat_chunks(self, inode: InodeId, chunk_indices: Sequence[ChunkIndex]) -> list[ChunkInfo]:
        return await self._do("stat_chunks", inode, lambda: self._inner.stat_chunks(inode, chunk_indices))

    async def list_chunks(self, inode: InodeId) -> list[ChunkInfo]:
        return await self._do("list_chunks", inode, lambda: self._inner.list_chunks(inode))

    async def list_files(self, inodes: Sequence[InodeId]) -> list[Listed]:
        return await self._do("list_files", None, lambda: self._inner.list_files(inodes))

    async def close_all(self) -> None:
        await self._inner.close_all()

    async def _do(self, operation: str, inode: InodeId | None, call: Callable[[], Awaitable[T]]) -> T:
        rule = await self._before(operation, inode)
        result = await call()
        _raise(rule)
        return result

    async def _flush(self, operation: str, inode: InodeId | None, call: Callable[[], Awaitable[None]]) -> None:
        rule = await self._before(operation, inode)
        if rule is None or not rule.lost:
            await call()
        _raise(rule)

    async def _before(self, operation: str, inode: InodeId | None) -> Rule | None:
        rule = self.plan.decide(operation, "store", inode)
        if rule is not None and rule.delay is not None:
            await rule.delay.wait()
        if rule is not None and not rule.after and rule.torn is None:
            rule.raise_error()
        return rule


def _raise(rule: Rule | None) -> None:
    if rule is not None:
        rule.raise_error()


def _corrupted(rule: Rule | None, data: Buffer) -> Buffer:
    return data if rule is None else rule.corrupted(data)
