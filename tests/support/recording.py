"""The layers of ``FileIO`` over memory, with every effect on chunks and WAL written down in order.

Imports the core and trio. ``events`` of a ``Rig`` holds lines such as ``wal``, ``write 0+10``, ``fsync 0``,
``cut 0@5``, ``delete 1``, ``entries``: each is noted when the effect has been had. ``wal`` says that all changes so
far are durable.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AsyncExitStack
from types import TracebackType

import trio

from benchfs_core.chunks.memory import InMemoryChunkStore
from benchfs_core.data_durability import DataDurability
from benchfs_core.file_io import FileIO
from benchfs_core.inline_data import InlineData
from benchfs_core.inodes import ActiveInode, InodeTable
from benchfs_core.maintenance import MAX_ACTIVE, Maintenance
from benchfs_core.metadata.checks import check_rules
from benchfs_core.metadata.database import IN_MEMORY
from benchfs_core.metadata.group_commit import GroupCommit
from benchfs_core.metadata.manager import MetadataManager
from benchfs_core.metadata.numbers import Numbers
from benchfs_core.superblock import create_database
from benchfs_core.types import ROOT_INODE, Buffer, ChunkIndex, ChunkInfo, ChunkRange, InodeId, SyncMode
from tests.support.volumes import CHUNK_SIZE, NEVER_S, OWNER, Ticks


class RecordingStore(InMemoryChunkStore):
    """A store in memory that notes what is done to it, and can hold calls back or fail the next one."""

    def __init__(self, events: list[str], *, durable_writes: bool) -> None:
        super().__init__(chunk_size=CHUNK_SIZE, durable_writes=durable_writes)
        self._events = events
        self._held: dict[str, tuple[trio.Event, bool]] = {}
        self._left: dict[str, int] = {}
        self._errors: dict[str, tuple[Exception, bool]] = {}

    def hold(self, operation: str, calls: int = 1 << 30, *, after: bool = False) -> None:
        """Hold back the next ``calls`` of an operation, before or after they did their work."""
        self._held[operation] = trio.Event(), after
        self._left[operation] = calls

    def release(self, operation: str) -> None:
        """Let go what is held back."""
        self._held.pop(operation)[0].set()

    def fail(self, operation: str, error: int | Exception, *, after: bool = False) -> None:
        """Let the next call of an operation fail, with an errno or anything, before or after it did its work."""
        self._errors[operation] = OSError(error, os.strerror(error)) if isinstance(error, int) else error, after

    async def write_chunk(self, inode: InodeId, chunk_index: ChunkIndex, offset: int, data: Buffer) -> int:
        await self._before("write_chunk")
        written = await super().write_chunk(inode, chunk_index, offset, data)
        await self._after("write_chunk", f"write {chunk_index}+{offset}")
        return written

    async def allocate_chunk(self, part: ChunkRange) -> None:
        await self._before("allocate_chunk")
        await super().allocate_chunk(part)
        await self._after("allocate_chunk", f"allocate {part.chunk_index}+{part.offset}")

    async def zero_chunk(self, part: ChunkRange) -> None:
        await self._before("zero_chunk")
        await super().zero_chunk(part)
        await self._after("zero_chunk", f"zero {part.chunk_index}+{part.offset}")

    async def copy_chunk(self, source: ChunkRange, target: ChunkRange) -> int:
        await self._before("copy_chunk")
        copied = await super().copy_chunk(source, target)
        await self._after("copy_chunk", f"copy {target.chunk_index}+{target.offset}")
        return copied

    async def fsync_chunk(self, inode: InodeId, chunk_index: ChunkIndex) -> None:
        await self._before("fsync_chunk")
        await super().fsync_chunk(inode, chunk_index)
        await self._after("fsync_chunk", f"fsync {chunk_index}")

    async def fsync_entries(self, inode: InodeId) -> None:
        await self._before("fsync_entries")
        await self._after("fsync_entries", "entries")

    async def truncate_chunk(self, inode: InodeId, chunk_index: ChunkIndex, length: int) -> None:
        await self._before("truncate_chunk")
        await super().truncate_chunk(inode, chunk_index, length)
        await self._after("truncate_chunk", f"cut {chunk_index}@{length}")

    async def delete_chunk(self, inode: InodeId, chunk_index: ChunkIndex) -> None:
        await self._before("delete_chunk")
        await super().delete_chunk(inode, chunk_index)
        await self._after("delete_chunk", f"delete {chunk_index}")

    async def delete_file_chunks(self, inode: InodeId) -> int:
        await self._before("delete_file_chunks")
        count = await super().delete_file_chunks(inode)
        await self._after("delete_file_chunks", "delete all")
        return count

    async def fsync_deletions(self) -> None:
        await self._before("fsync_deletions")
        await self._after("fsync_deletions", "deletions")

    async def fsync_all(self) -> None:
        await self._before("fsync_all")
        await self._after("fsync_all", "fsync all")

    async def stat_chunks(self, inode: InodeId, chunk_indices: Sequence[ChunkIndex]) -> list[ChunkInfo]:
        await self._before("stat_chunks")
        found = await super().stat_chunks(inode, chunk_indices)
        await self._after("stat_chunks", None)
        return found

    async def _before(self, operation: str) -> None:
        await self._wait(operation, after=False)
        self._raise(operation, after=False)
        await trio.lowlevel.checkpoint()

    async def _after(self, operation: str, event: str | None) -> None:
        if event is not None:
            self._events.append(event)
        await self._wait(operation, after=True)
        self._raise(operation, after=True)

    async def _wait(self, operation: str, *, after: bool) -> None:
        event, held_after = self._held.get(operation, (None, False))
        if event is not None and held_after is after and self._left[operation] > 0:
            self._left[operation] -= 1
            await event.wait()

    def _raise(self, operation: str, *, after: bool) -> None:
        if operation in self._errors and self._errors[operation][1] is after:
            raise self._errors.pop(operation)[0]


class Rig:
    """Everything from ``FileIO`` down. Use it as ``async with Rig(mode) as rig``."""

    def __init__(self, sync: SyncMode, max_active: int = MAX_ACTIVE, *, inline_bytes: int = 0) -> None:
        self.events: list[str] = []
        self.wal_error: int | None = None
        self.wal_gate: trio.Event | None = None
        ticks = Ticks()
        self.database = create_database(IN_MEMORY, (0, 0), 1)
        self.numbers = Numbers(self.database)
        self.commit = GroupCommit(self.database, self.numbers, self._flush_wal, None)
        self.metadata = MetadataManager(self.database, self.numbers)
        self.store = RecordingStore(self.events, durable_writes=sync is SyncMode.WRITE)
        self.inodes = InodeTable()
        marks = self.metadata.marks
        self.durability = DataDurability(self.store, marks, self.commit, CHUNK_SIZE, sync)
        self.maintenance = Maintenance(
            self.store, marks, self.commit, self.inodes, self.durability, NEVER_S, ticks.now_s, max_active
        )
        inline = InlineData(self.metadata.contents, marks, self.store, self.commit, self.durability, inline_bytes)
        self.io = FileIO(self.store, marks, self.commit, self.durability, inline, CHUNK_SIZE, ticks.now_ns, ticks.now_s)
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Rig:
        self._stack.callback(self.database.close)
        self._stack.enter_context(trio.fail_after(60))
        await self.commit.writable()
        self.events.clear()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self._stack.__aexit__(kind, error, at)

    async def file(self, name: bytes = b"f", *, clean: bool = False) -> ActiveInode:
        """Make an empty file, not yet committed unless it is to be ``clean``."""
        await self.commit.writable()
        attributes = self.metadata.create(ROOT_INODE, name, 0o100644, OWNER, 1)
        node = self.inodes.add(ActiveInode.fresh(attributes, self.commit.sequence))
        if clean:
            await self.commit.commit()
            self.events.clear()
        return node

    def recorded_cut(self, node: ActiveInode) -> int | None:
        """The cut that the database has on record."""
        return {mark.inode: mark.cut for mark in self.metadata.marks.dirty()}.get(node.inode)

    def rule_breaches(self) -> list[str]:
        """What fsck would say of the database, were it committed now."""
        self.database.write_kept_back()
        return [f"{code}: inode {inode}: {text}" for code, inode, text in check_rules(self.database, CHUNK_SIZE)]

    async def _flush_wal(self) -> None:
        if self.wal_gate is not None:
            await self.wal_gate.wait()
        await trio.lowlevel.checkpoint()
        if self.wal_error is not None:
            raise OSError(self.wal_error, os.strerror(self.wal_error))
        self.events.append("wal")
