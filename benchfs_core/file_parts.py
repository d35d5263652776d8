"""``FileParts``: what operations on a part of a file share, besides reading and writing: which chunks, what to note.

Imports the layers below ``file_io``, and trio. Invariant: a chunk that an operation touched counts as written and
unflushed however the operation ended.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio

from benchfs_core.chunks.store import ChunkStore
from benchfs_core.data_durability import DataDurability
from benchfs_core.inline_data import InlineData
from benchfs_core.inodes import ActiveInode
from benchfs_core.layout import Span, spans
from benchfs_core.metadata.group_commit import GroupCommit
from benchfs_core.metadata.marks import Marks
from benchfs_core.types import ChunkIndex, ChunkRange

MAX_UNFLUSHED_CHUNKS = 4096
"""A file with more chunks than this written and not flushed has them flushed by its next writer: a bound on memory."""

CHUNKS_AT_ONCE = 8
"""Most chunks of one request that are worked on at the same time."""

_PAGE = 1024
"""Chunks asked about in one go."""


@dataclass(frozen=True, slots=True)
class FileParts:
    """The parts of one volume's files."""

    store: ChunkStore
    marks: Marks
    commit: GroupCommit
    durability: DataDurability
    inline: InlineData
    chunk_size: int
    now_ns: Callable[[], int]
    now_s: Callable[[], float]
    grow: Callable[[ActiveInode, int], Awaitable[None]]
    """Makes a file at least so long, by a hole; the caller holds no lock."""

    @asynccontextmanager
    async def in_chunks(self, node: ActiveInode) -> AsyncIterator[None]:
        """Share the file's ``data_lock`` while its content is in chunks, where it moves if need be.

        Raises:
            OSError: it could not be moved.
        """
        while True:
            if self.inline.find(node) is not None:
                async with node.data_lock.exclusive():
                    await self.inline.move_to_chunk(node)
            await node.data_lock.acquire_shared()
            if node.inline is None:
                break
            node.data_lock.release_shared()  # emptied meanwhile
        try:
            yield
        finally:
            node.data_lock.release_shared()

    async def prepare(self, node: ActiveInode, end: int) -> None:
        """Return once chunks up to file offset ``end`` may be changed. The caller holds ``data_lock`` shared."""
        if len(node.unflushed) > MAX_UNFLUSHED_CHUNKS:
            await self.durability.flush(node)
        if not node.may_write(end):
            await self.durability.prepare_write(node, end)

    def live_end(self, node: ActiveInode) -> int:
        """Up to which file offset chunk bytes count: to the size, or to a cut that is still to be made."""
        return node.size if node.cut.pending is None else min(node.size, node.cut.pending)

    def known_chunks(self, node: ActiveInode, start: int, end: int) -> list[ChunkIndex]:
        """Chunks that may exist in a range of file offsets, rising: if there are many, only the lowest of them."""
        first, below = start // self.chunk_size, -(-end // self.chunk_size)
        void_from = below if node.rows_void_from is None else min(below, node.rows_void_from)
        rows = self.marks.chunk_indices(node.inode, first, void_from, _PAGE)
        written = sorted(index for index in node.written if first <= index < below)[:_PAGE]
        return sorted({*rows, *written})[:_PAGE]

    def known_spans(self, node: ActiveInode, start: int, end: int) -> Iterable[Span]:
        """The spans of a range of file offsets whose chunks may exist, asked for bit by bit."""
        at = start
        while at < end and (known := self.known_chunks(node, at, end)):
            for index in known:
                begins = max(at, index * self.chunk_size)
                ends = min(end, (index + 1) * self.chunk_size)
                yield Span(index, begins % self.chunk_size, ends - begins, begins - start)
            at = (known[-1] + 1) * self.chunk_size

    def all_spans(self, start: int, end: int) -> Iterable[Span]:
        """The spans of a range of file offsets."""
        return spans(start, end - start, self.chunk_size)

    async def each(
        self,
        node: ActiveInode,
        parts: Iterable[Span],
        act: Callable[[ChunkRange], Awaitable[None]],
        *,
        rewrites: bool = True,
    ) -> None:
        """Do something to parts of chunks, several at the same time, and note it.

        ``rewrites``: what was there, and may have been lost, matters no more.

        Raises:
            OSError, FileSystemError: what the first failure was; no part is begun after it.
        """
        failures: list[Exception] = []
        todo = iter(parts)

        async def work() -> None:
            for span in todo:
                try:
                    part = ChunkRange(node.inode, span.chunk_index, span.offset, span.length)
                    await self.change(node, part, act, rewrites=rewrites)
                except Exception as error:  # kept out of the nursery, which would wrap it in a group
                    failures.append(error)
                if failures:
                    return

        async with trio.open_nursery() as nursery:
            for _ in range(CHUNKS_AT_ONCE):
                nursery.start_soon(work)
        if failures:
            raise failures[0]

    async def change(
        self,
        node: ActiveInode,
        part: ChunkRange,
        act: Callable[[ChunkRange], Awaitable[None]],
        *,
        rewrites: bool = True,
    ) -> None:
        """Do something to a part of a chunk, and note that it may have been done."""
        failures = node.lost.failures
        start = part.chunk_index * self.chunk_size + part.offset
        try:
            await act(part)
            if rewrites:
                node.lost.rewritten(start, start + part.length, failures)
        finally:  # after a failure as well: a part may be done
            node.written.add(part.chunk_index)
            node.unflushed.add(part.chunk_index)
            node.writes += 1
