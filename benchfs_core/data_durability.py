"""The order between a file's chunks and its metadata: dirty marks, cuts, flushes, and becoming clean again.

Imports ``chunks.store``, ``metadata``, ``layout`` and trio. Keeps the invariants of docs/durability.md:

- a dirty mark is durable before the first write to a clean inode, and a cut is durable before its chunks are touched;
- no byte is written beyond a cut until the cut has been made and, with ``sync=write``, made durable and its record
  removed;
- what a flush did not confirm is never called durable or clean.

Lock order: ``data_lock``, then ``mark_lock``. Rows are changed between ``writable()`` and the next checkpoint.
"""

from __future__ import annotations

import errno
import functools
from collections.abc import Mapping
from contextlib import AbstractContextManager

import trio

from benchfs_core.chunks.store import ChunkStore
from benchfs_core.errors import FlushFailed, FlushFoundNoSpace, FlushOverQuota, NotBegun
from benchfs_core.inodes import ActiveInode
from benchfs_core.layout import Cut, cut_at
from benchfs_core.metadata.group_commit import GroupCommit
from benchfs_core.metadata.marks import Marks
from benchfs_core.meter import Meter, Part
from benchfs_core.shared_flush import SharedFlush
from benchfs_core.types import BLOCK_BYTES, ChunkIndex, ChunkInfo, SyncMode

FLUSHES_AT_ONCE = 32
"""Most chunks of one file flushed at the same time."""

PAGE_BYTES = 4096
"""What filesystems commonly allocate at once."""


class DataDurability:
    """What happens to a file's chunks besides reading and writing them."""

    def __init__(
        self,
        store: ChunkStore,
        marks: Marks,
        commit: GroupCommit,
        chunk_size: int,
        sync: SyncMode,
        meter: Meter | None = None,
    ) -> None:
        self._meter = meter or Meter()
        self._store = store
        self._marks = marks
        self._commit = commit
        self._chunk_size = chunk_size
        self.durable_writes = sync is SyncMode.WRITE

    async def prepare_write(self, node: ActiveInode, end: int) -> None:
        """Return once data up to file offset ``end`` may be written. The caller holds ``data_lock`` shared."""
        async with node.mark_lock:
            if not node.cut.allows(end):
                await self._make_cut(node)
            if not node.dirty:  # what needs no space for data shall not fail for that of a mark
                await self._commit.writable(frees=end <= max(node.size, node.blocks * BLOCK_BYTES))
                self._marks.mark_dirty(node.inode)
                node.dirty = True
                node.changed_sequence = self._commit.sequence
                # a file that is not committed yet is there with its mark or not at all: its chunks are found by number
                node.mark_sequence = 0 if node.created_in == node.changed_sequence else node.changed_sequence
            if node.mark_sequence:
                await self._commit.make_durable(node.mark_sequence)
                node.mark_sequence = 0

    async def make_cut(self, node: ActiveInode) -> None:
        """Cut the chunks as recorded, if they are not yet. A checkpoint only if there is something to cut."""
        if node.cut.pending is not None:
            async with node.mark_lock:
                await self._make_cut(node)

    async def flush(self, node: ActiveInode) -> None:
        """Make durable every write and cut of the file that ended before the call; its rows are the caller's matter.

        Raises:
            FlushFailed: the filesystem below could not; what that may have lost is in ``node.lost``.
        """
        if node.needs_flush or (node.flush is not None and node.flush.is_running):
            if node.flush is None:
                node.flush = SharedFlush(functools.partial(self._flush, node))
            with self.waiting():
                await node.flush.flush()

    def waiting(self) -> AbstractContextManager[None]:
        """For a block that waits for chunk I/O that other tasks do: it counts as ``Part.DISK``."""
        return self._meter.part(Part.DISK)

    async def fsync(self, node: ActiveInode, *, datasync: bool) -> None:
        """Make the file durable: content, size and names, and unless ``datasync`` its times (fsync(2)).

        Raises:
            FlushFailed: the data could not be flushed, now or before and was not written again since.
            MetadataFailed: the metadata could not.
        """
        await self.forget_cut(node)
        await self.fsync_rows(node, datasync=datasync)

    async def fsync_rows(self, node: ActiveInode, *, datasync: bool) -> None:
        """Make durable what the metadata says of the file, and unless ``datasync`` its times. Raises as ``fsync``."""
        if node.times_moved and not datasync:
            await self._commit.writable(frees=True)
            self.store_times(node)
        await self._commit.make_durable(node.changed_sequence)
        if node.lost.remains(node.size):
            raise node.lost.failure

    async def forget_cut(self, node: ActiveInode) -> None:
        """Flush the file's chunks, and remove the record of a cut, which would undo that; not yet durably.

        Raises:
            FlushFailed: the filesystem below could not.
        """
        while True:
            await self.make_cut(node)
            failure: FlushFailed | None = None
            try:
                await self.flush(node)
            except FlushFailed as error:
                failure = error
            if node.cut.recorded and (node.cut.is_flushed or not node.lost.remains(node.size)):
                await self._commit.writable(frees=True)
                if node.cut.may_be_forgotten:  # it has been made for good, whatever else could not be flushed
                    self.clear_cut(node)
                elif failure is None:
                    continue  # shortened again meanwhile; a cut left in force would undo this flush
            break
        if failure is not None:
            raise failure

    async def clean(self, node: ActiveInode, *, flushed_at: int | None = None) -> bool:
        """Flush a file that nobody writes to and remove its dirty mark; whether that came about.

        Args:
            node: the file.
            flushed_at: ``node.writes`` before a flush of the whole filesystem below, made meanwhile; None: flush here.
        """
        if not node.dirty or node.lost.remains(node.size):
            return False
        if flushed_at is None:
            await self.make_cut(node)
            flushed_at = node.writes
            await self.flush(node)
        chunks = await self._store.stat_chunks(node.inode, sorted(node.written))
        await self._commit.writable(frees=True)
        if node.writes != flushed_at or not node.data_lock.idle or node.cut.pending is not None or not node.dirty:
            return False
        if node.lost.remains(node.size):
            return False
        node.blocks = node.clean_blocks = self._marks.mark_clean(
            node.inode, node.size, chunks, node.rows_void_from, drop_inline=node.spilled
        )
        node.least_size = node.size
        node.blocks_at_write = node.writes
        node.written.clear()
        node.unflushed.clear()
        node.entries_unflushed = False
        node.cut.flushed = node.cut.made
        node.cut.boundaries.clear()
        node.rows_void_from = None
        node.dirty = node.cut.recorded = node.spilled = False
        node.mark_sequence = 0
        node.changed_sequence = self._commit.sequence
        if node.times_moved:
            self.store_times(node)
        return True

    async def refresh_blocks(self, node: ActiveInode) -> None:
        """Bring ``node.blocks`` up to date, by asking about the chunks that changed since the file was clean.

        A cut that is still to be made counts as made: whoever asks may keep the answer.
        """
        writes, void_from = node.writes, node.rows_void_from
        cut = None if node.cut.pending is None else cut_at(node.cut.pending, self._chunk_size)
        changed = set(node.written)
        if cut is not None:
            void_from = cut.first_deleted if void_from is None else min(void_from, cut.first_deleted)
            changed = {index for index in changed if index < cut.first_deleted}
            if cut.boundary is not None:
                changed.add(cut.boundary)
        chunks = await self._store.stat_chunks(node.inode, sorted(changed))
        base = node.clean_blocks if void_from is None else self._marks.blocks_below(node.inode, void_from)
        rows = [index for index in sorted(changed) if void_from is None or index < void_from]
        found = sum(chunk.blocks if cut is None else _blocks_left(chunk, cut) for chunk in chunks)
        node.blocks = base - self._marks.blocks_of(node.inode, rows) + found
        node.blocks_at_write = writes

    def clear_cut(self, node: ActiveInode) -> None:
        """Remove the record of a cut that a crash need not repeat. Between ``writable()`` and the next checkpoint."""
        node.least_size = max(node.least_size, node.cut.size)
        self._marks.clear_cut(node.inode, node.least_size, drop_inline=node.spilled)
        node.cut.recorded = node.spilled = False
        node.changed_sequence = self._commit.sequence

    def store_times(self, node: ActiveInode) -> None:
        """Write the file's times into its row. Between ``writable()`` and the next checkpoint only."""
        self._marks.set_times(node.inode, node.atime_ns, node.mtime_ns, node.ctime_ns)
        node.times_moved = False
        node.changed_sequence = self._commit.sequence

    # Under mark_lock

    async def _make_cut(self, node: ActiveInode) -> None:
        while node.cut.pending is not None:
            size = node.cut.pending
            await self._commit.make_durable(node.cut.sequence)
            await self._cut_chunks(node, size)
            if node.cut.recorded and self.durable_writes:  # in force until its record is gone: it stops every writer
                await self.flush(node)
                await self._commit.writable(frees=True)
                if self._is_in_doubt(node, size):
                    raise node.lost.failure
                if node.cut.pending == size:
                    self.clear_cut(node)
                    await self._commit.make_durable(node.changed_sequence)
            if node.cut.pending == size:  # not shortened further meanwhile
                node.cut.pending = None

    async def _cut_chunks(self, node: ActiveInode, size: int) -> None:
        plan = cut_at(size, self._chunk_size)
        if plan.boundary is not None:
            await self._store.truncate_chunk(node.inode, plan.boundary, plan.boundary_length)
            node.written.add(plan.boundary)
            node.unflushed.add(plan.boundary)
            node.cut.boundaries.add(plan.boundary)
        known = {row.chunk_index for row in self._marks.chunk_rows(node.inode)} | node.written
        for chunk_index in sorted(index for index in known if index >= plan.first_deleted):
            await self._store.delete_chunk(node.inode, chunk_index)
            node.entries_unflushed = True
            node.unflushed.discard(chunk_index)
            node.written.discard(chunk_index)
        node.lost.cut(size)
        void_from = node.rows_void_from
        node.rows_void_from = plan.first_deleted if void_from is None else min(void_from, plan.first_deleted)
        node.writes += 1
        node.cut.made += 1

    # Without locks

    def _is_in_doubt(self, node: ActiveInode, cut: int) -> bool:
        """Whether a cut at this offset may be part of what a failed flush lost."""
        start = cut - cut % self._chunk_size
        return node.lost.doubts(start, start + self._chunk_size)

    def _are_made(self, node: ActiveInode, boundaries: set[ChunkIndex], failed: Mapping[ChunkIndex, OSError]) -> bool:
        """Whether cuts that shortened these chunks are on disk, after a flush that ``failed`` for some chunks.

        Forgetting a cut makes its size durable. Data below that is as well, or is lost: what is yet to be flushed
        would show as zeros after a crash.
        """
        starts = [index * self._chunk_size for index in boundaries if index not in failed]
        if len(starts) < len(boundaries) or node.lost.names_remain:
            return False
        if any(isinstance(error, NotBegun) for error in failed.values()):
            return False
        return not any(node.lost.doubts(start, min(start + self._chunk_size, node.size)) for start in starts)

    async def _flush(self, node: ActiveInode) -> None:
        chunks, node.unflushed = node.unflushed, set()
        entries, node.entries_unflushed = node.entries_unflushed, False
        cuts, node.flushing_size = node.cut.made, node.size
        boundaries, node.cut.boundaries = node.cut.boundaries, set()
        confirmed = False
        try:
            if entries:
                await self._flush_entries(node)  # first, so that what fails afterwards is about the chunks alone
                entries = False
            failed = await self._flush_chunks(node, chunks)
            if self._are_made(node, boundaries, failed):
                node.cut.flushed = cuts
            for chunk_index, error in failed.items():
                raise _failed_chunk(node, chunk_index, error)
            node.flushed_size = max(node.flushed_size, node.flushing_size)
            confirmed = True
        finally:
            if not confirmed:
                node.unflushed |= chunks
                node.entries_unflushed |= entries
            if node.cut.flushed < cuts:
                node.cut.boundaries |= boundaries

    async def _flush_chunks(self, node: ActiveInode, chunks: set[ChunkIndex]) -> dict[ChunkIndex, OSError]:
        """Flush them at the same time; those that could not be, of which is noted what may be lost."""
        todo = iter(sorted(chunks))
        failed: dict[ChunkIndex, OSError] = {}

        async def work() -> None:
            for chunk_index in todo:
                try:
                    await self._store.fsync_chunk(node.inode, chunk_index)
                except OSError as error:
                    start = chunk_index * self._chunk_size
                    if not isinstance(error, NotBegun):
                        node.lost.note(start, start + self._chunk_size, _failed_chunk(node, chunk_index, error))
                    failed[chunk_index] = error

        if len(chunks) == 1:
            await work()
        else:
            async with trio.open_nursery() as nursery:
                for _ in range(min(len(chunks), FLUSHES_AT_ONCE)):
                    nursery.start_soon(work)
        return failed

    async def _flush_entries(self, node: ActiveInode) -> None:
        try:
            await self._store.fsync_entries(node.inode)
        except OSError as error:
            failure = failed_flush(f"inode {node.inode}: flush of its chunk directory failed", error)
            if not isinstance(error, NotBegun):
                node.lost.note_names(failure)
            raise failure from error


def _failed_chunk(node: ActiveInode, chunk_index: ChunkIndex, error: OSError) -> FlushFailed:
    return failed_flush(f"inode {node.inode}: flush of chunk {chunk_index} failed", error)


def failed_flush(what: str, error: OSError) -> FlushFailed:
    """The failure to report: want of space, which users can end, is told apart."""
    kinds = {errno.ENOSPC: FlushFoundNoSpace, errno.EDQUOT: FlushOverQuota}
    return kinds.get(error.errno or 0, FlushFailed)(f"{what}: {error.strerror}")


def _blocks_left(chunk: ChunkInfo, cut: Cut) -> int:
    """Blocks that the chunk will have when ``cut`` has been made."""
    if chunk.chunk_index != cut.boundary:
        return chunk.blocks
    pages = -(-cut.boundary_length // PAGE_BYTES)
    return min(chunk.blocks, pages * (PAGE_BYTES // BLOCK_BYTES))
