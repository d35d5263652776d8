"""Read, write, truncate and fsync of one regular file: cuts requests into spans, and keeps size and times.

Imports ``layout``, ``chunks.store``, ``data_durability`` and trio; knows no names or handles. Invariants: a read sees
what was written there or zeros, never bytes from before a truncate; size and times move only with what the store
accepted; reads and writes share a file's ``data_lock``, a truncate has it alone.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Awaitable, Callable, Iterable

import trio

from benchfs_core.chunks.store import ChunkStore
from benchfs_core.data_durability import PAGE_BYTES, DataDurability, failed_flush
from benchfs_core.errors import FileSystemError, FileTooLarge, NotBegun
from benchfs_core.file_allocation import FileAllocation
from benchfs_core.file_copies import FileCopies
from benchfs_core.file_holes import FileHoles
from benchfs_core.file_parts import MAX_UNFLUSHED_CHUNKS, FileParts
from benchfs_core.inline_data import InlineData
from benchfs_core.inodes import ActiveInode
from benchfs_core.layout import Span, spans
from benchfs_core.metadata.group_commit import GroupCommit
from benchfs_core.metadata.marks import Marks
from benchfs_core.types import BLOCK_BYTES, MAX_FILE_BYTES, Buffer, ChunkIndex

log = logging.getLogger(__name__)


class FileIO:
    """Data operations on active inodes."""

    def __init__(
        self,
        store: ChunkStore,
        marks: Marks,
        commit: GroupCommit,
        durability: DataDurability,
        inline: InlineData,
        chunk_size: int,
        now_ns: Callable[[], int],
        now_s: Callable[[], float],
    ) -> None:
        """Serve one volume.

        Args:
            store: where the chunks are.
            marks: what the metadata knows about them.
            commit: makes metadata durable.
            durability: orders chunks against metadata.
            inline: keeps what is small in the metadata.
            chunk_size: bytes in a chunk.
            now_ns: the wall clock, nanoseconds since 1970.
            now_s: a clock that never goes back, seconds.
        """
        self._store = store
        self._marks = marks
        self._commit = commit
        self._durability = durability
        self._inline = inline
        self._chunk_size = chunk_size
        self._now_ns = now_ns
        self._now_s = now_s
        parts = FileParts(store, marks, commit, durability, inline, chunk_size, now_ns, now_s, self._grow)
        self.allocation = FileAllocation(parts)
        """Space of a file, asked for and given back."""
        self.holes = FileHoles(parts)
        """Where a file has data."""
        self.copies = FileCopies(parts, self.read, self._write_small, self._trim)
        """From file to file."""

    async def read(self, node: ActiveInode, offset: int, length: int) -> Buffer:
        """Up to ``length`` bytes from ``offset``: fewer only at the end of the file, zeros in holes (read(2)).

        It waits for what is being written there by now, and so tells that.
        """
        if node.writing:
            with self._durability.waiting():
                await node.writing.passed(offset, offset + length)
        await node.data_lock.acquire_shared()
        try:
            length = min(length, node.size - offset)
            if length <= 0:
                return b""
            if self._inline.find(node) is not None:
                return self._inline.read(node, offset, length)
            live = length if node.cut.pending is None else max(0, min(length, node.cut.pending - offset))
            if live == length:
                return await self._read_spans(node, offset, length)
            return b"".join((await self._read_spans(node, offset, live), bytes(length - live)))
        finally:
            node.data_lock.release_shared()

    async def write(self, node: ActiveInode, offset: int, data: Buffer, *, keep_times: bool = False) -> int:
        """Store all of ``data`` at ``offset``, lengthening the file if need be; return the bytes written (pwrite(2)).

        ``keep_times``: mtime and ctime stay as they are.

        Durable on return: with ``sync=write`` the data, the file's size and its names; otherwise nothing.

        Raises:
            FileTooLarge: beyond the size limit.
            OSError: the filesystem below refused; the file's size is as before.
        """
        if not data:
            return 0
        end = offset + len(data)
        if end > MAX_FILE_BYTES:
            raise FileTooLarge(f"write up to offset {end}")
        with node.writing.of(offset, end):
            if len(node.unflushed) > MAX_UNFLUSHED_CHUNKS:
                await self._durability.flush(node)
            try:
                await self._write(node, offset, data, end, keep_times)
            except OSError:
                if end > node.size:
                    await self._trim(node)
                raise
        return len(data)

    async def truncate(self, node: ActiveInode, size: int) -> None:
        """Make the file ``size`` bytes long: what is cut off is gone, what is added is a hole (truncate(2)).

        Returns before the chunks are cut; nothing shows them from then on. Durable on return with ``sync=write``.

        Raises:
            FileTooLarge: beyond the size limit.
        """
        if size > MAX_FILE_BYTES:
            raise FileTooLarge(f"truncate to {size} bytes")
        async with node.data_lock.exclusive():
            await self._resize(node, size)
        if self._durability.durable_writes:
            await self._commit.make_durable(node.changed_sequence)

    async def fsync(self, node: ActiveInode, *, datasync: bool) -> None:
        """Make the file durable (fsync(2); ``datasync``: fdatasync(2)). FlushFailed, MetadataFailed."""
        if self._inline.find(node) is not None:  # dead chunks need not be cut for that
            await self._durability.fsync_rows(node, datasync=datasync)
        else:
            await self._durability.fsync(node, datasync=datasync)

    async def refresh_blocks(self, node: ActiveInode) -> None:
        """Bring ``node.blocks`` up to date."""
        if self._inline.find(node) is not None:
            self._inline.refresh_blocks(node)
        else:
            await self._durability.refresh_blocks(node)

    async def _write(self, node: ActiveInode, offset: int, data: Buffer, end: int, keep_times: bool) -> None:
        done = False
        while not done:
            if self._inline.find(node) is not None and not self._inline.fits(end):
                async with node.data_lock.exclusive():
                    await self._inline.move_to_chunk(node)
            await node.data_lock.acquire_shared()
            try:  # a truncate may have come first: what is inline is asked again under the lock
                if node.inline is None:
                    await self._write_chunks(node, offset, data, end, keep_times)
                    done = True
                elif self._inline.fits(end):
                    await self._commit.writable()
                    self._inline.write(node, offset, data, None if keep_times else self._now_ns())
                    done = True
                if done and self._durability.durable_writes:
                    await self._commit.make_durable(node.changed_sequence)
            finally:
                node.data_lock.release_shared()

    async def _write_chunks(self, node: ActiveInode, offset: int, data: Buffer, end: int, keep_times: bool) -> None:
        if not node.may_write(end):
            await self._durability.prepare_write(node, end)
        await self._write_spans(node, offset, data)
        node.size = max(node.size, end)
        node.modified(None if keep_times else self._now_ns(), self._now_s())

    async def _write_small(self, node: ActiveInode, offset: int, data: Buffer, keep_times: bool) -> int:
        return await self.write(node, offset, data, keep_times=keep_times)

    async def _grow(self, node: ActiveInode, size: int) -> None:
        async with node.data_lock.exclusive():
            if size > node.size:
                await self._resize(node, size)

    async def _resize(self, node: ActiveInode, size: int) -> None:
        if self._inline.find(node) is not None:
            await self._commit.writable(frees=size < node.size)
            self._inline.truncate(node, size, self._now_ns())
        else:
            await self._truncate_chunks(node, size)

    async def _truncate_chunks(self, node: ActiveInode, size: int) -> None:
        if node.spilled:  # what its row says is not what would be cut
            await self._durability.forget_cut(node)
        if size > node.size and node.cut.pending is not None:
            await self._durability.make_cut(node)
        await self._commit.writable(frees=size < node.size)
        now_ns = self._now_ns()
        if size < node.size:
            self._shorten(node, size, now_ns)
        elif size > node.size:
            node.lost.cut(node.size)  # nobody writes now, and nothing was there
            self._marks.record_growth(node.inode, size, now_ns)
            node.least_size = size
            node.changed_sequence = self._commit.sequence
        else:
            await self._drop_allocated(node)
        node.size = size
        node.modified(now_ns, self._now_s())

    async def _drop_allocated(self, node: ActiveInode) -> None:
        """Give back what is allocated beyond the end, as other filesystems do at a truncate to the same size."""
        await self._durability.refresh_blocks(node)
        if node.blocks * BLOCK_BYTES > -(-node.size // PAGE_BYTES) * PAGE_BYTES:
            await self._durability.prepare_write(node, node.size)
            node.cut.shorten(node.size)
            await self._durability.make_cut(node)

    async def _trim(self, node: ActiveInode) -> None:
        """Drop what a failed write left beyond the end of the file, lest it show when the file grows."""
        async with node.data_lock.exclusive():
            node.cut.shorten(node.size)
        try:
            await self._durability.make_cut(node)
        except (OSError, FileSystemError) as error:
            # the cut stays in force: nothing is read beyond it, and the next write there tries again
            log.warning("inode %d: cutting off a failed write: %s", node.inode, error)

    def _shorten(self, node: ActiveInode, size: int, now_ns: int) -> None:
        # A size must not be durable before its data: with sync=write that is, else as far as it was flushed, and beyond
        # that clearing the record makes both so. Chunk files alone would not tell a size that ends in a hole.
        node.flushed_size, node.flushing_size = min(node.flushed_size, size), min(node.flushing_size, size)
        safe = size if self._durability.durable_writes else max(node.least_size, node.flushed_size)
        node.least_size = min(safe, size)
        self._marks.record_cut(node.inode, size, node.least_size, now_ns)
        sequence = self._commit.sequence
        if not node.dirty:
            node.dirty = True
            node.mark_sequence = sequence
        node.cut.record(size, sequence)
        node.changed_sequence = sequence
        if not size:
            node.become_inline()

    async def _read_spans(self, node: ActiveInode, offset: int, length: int) -> Buffer:
        index, inside = divmod(offset, self._chunk_size)
        if inside + length <= self._chunk_size:
            return await self._store.read_chunk(node.inode, ChunkIndex(index), inside, length)
        whole = bytearray(length)

        async def read(span: Span) -> None:
            part = await self._store.read_chunk(node.inode, span.chunk_index, span.offset, span.length)
            whole[span.position : span.position + span.length] = part

        await self._each(read, spans(offset, length, self._chunk_size))
        return whole

    async def _write_spans(self, node: ActiveInode, offset: int, data: Buffer) -> None:
        index, inside = divmod(offset, self._chunk_size)
        if inside + len(data) <= self._chunk_size:
            await self._write_span(node, Span(ChunkIndex(index), inside, len(data), 0), data)
            return
        view = memoryview(data)

        async def write(span: Span) -> None:
            await self._write_span(node, span, view[span.position : span.position + span.length])

        await self._each(write, spans(offset, len(data), self._chunk_size))

    async def _write_span(self, node: ActiveInode, span: Span, data: Buffer) -> None:
        start = span.chunk_index * self._chunk_size + span.offset
        end, durable, confirmed = start + span.length, self._durability.durable_writes, False
        try:
            while not confirmed:
                failures = node.lost.failures
                await self._store.write_chunk(node.inode, span.chunk_index, span.offset, data)
                # a failure meanwhile may have been this one's: the kernel tells one writer of a descriptor, not each
                confirmed = not durable or failures == node.lost.failures
            node.lost.rewritten(start, end, failures)
        except OSError as error:
            if durable and not isinstance(error, NotBegun):
                self._note_failed_write(node, span.chunk_index, start, end, error)
            raise
        finally:  # after a failure as well: a part may be there
            node.written.add(span.chunk_index)
            node.writes += 1
            if not (durable and confirmed):
                node.unflushed.add(span.chunk_index)

    def _note_failed_write(
        self, node: ActiveInode, chunk_index: ChunkIndex, start: int, end: int, error: OSError
    ) -> None:
        """A durable write failed: its bytes may be cached and shown, while the kernel takes them for written.

        So may those of others that were written back with them; but where space was refused, these bytes alone.
        """
        if error.errno == errno.EFBIG:
            return
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            start, end = chunk_index * self._chunk_size, (chunk_index + 1) * self._chunk_size
        node.lost.note(start, end, failed_flush(f"inode {node.inode}: write failed", error))

    async def _each(self, work: Callable[[Span], Awaitable[None]], parts: Iterable[Span]) -> None:
        """Do all spans of a request at the same time; the first OSError is raised when all have ended."""
        errors: list[OSError] = []

        async def one(span: Span) -> None:
            try:
                await work(span)
            except OSError as error:
                errors.append(error)

        with self._durability.waiting():
            async with trio.open_nursery() as nursery:
                for span in parts:
                    nursery.start_soon(one, span)
        if errors:
            raise errors[0]
