"""``ChunkFiles``: the chunk store that keeps each chunk in a file ``<base>/<inode>/<chunk_index>``, over a ``ChunkIO``.

Everything that the file-backed stores share, which is everything but their ``ChunkIO``. Imports trio, ``io``,
``handles``, ``entries`` and ``directories``.

Invariants: those of ``store``; one handle per chunk, pinned for the time of an operation, never two by one caller;
a write or flush that promises durability returns only after the data, the chunk's entry and its directory's entry are
each flushed or known to be; what a failed or cancelled operation leaves unflushed is never counted as durable
(``entries``).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import TypeVar

import trio

from benchfs_core.chunks import directories, range_calls
from benchfs_core.chunks.chunk_ranges import ChunkRanges, find_data, find_hole
from benchfs_core.chunks.entries import EntryLedger
from benchfs_core.chunks.gate import Gate
from benchfs_core.chunks.handles import ChunkHandle, HandleCache
from benchfs_core.chunks.io import ChunkIO
from benchfs_core.chunks.store import Listed
from benchfs_core.errors import CorruptChunk, NotBegun
from benchfs_core.host import flush_filesystem
from benchfs_core.types import Buffer, ChunkIndex, ChunkInfo, ChunkRange, InodeId

T = TypeVar("T")
K = TypeVar("K")

_INLINE_STATS = 16
"""Chunks without an open handle that are looked up on the event loop, as an open is; more go to a thread."""


_NAMES_AT_ONCE, _FILES_AT_ONCE, _THREADS = 512, 32, 8
"""How much a worker thread looks at in one go when much is asked at a time, and how many threads do."""


class ChunkFiles:
    """See ``ChunkStore``."""

    def __init__(self, base: str, *, chunk_size: int, durable_writes: bool, max_handles: int, io: ChunkIO) -> None:
        """Make the store, and open ``base``: only errors since then are told by a flush of the whole filesystem.

        Args:
            base: the directory of the chunks; it exists, and is durable.
            chunk_size: bytes in a chunk.
            durable_writes: whether ``write_chunk`` makes its data durable.
            max_handles: most chunk files open at a time; at most 16 directories come on top.
            io: makes the system calls; not closed by the store, and closed by its owner only after ``close_all``.
        """
        self._base = os.open(base, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._chunk_size = chunk_size
        self._durable = durable_writes
        self._io = io
        self._entries = EntryLedger(self._base, io, self._open_directory)
        self._handles = HandleCache(max_handles, self._open_chunk)
        self._gate = Gate("chunk store")
        self._ranges = ChunkRanges(self._base, io, self._handles, self._pin_part)

    @property
    def handles(self) -> HandleCache:
        """The open chunk files, for metrics."""
        return self._handles

    async def write_chunk(self, inode: InodeId, chunk_index: ChunkIndex, offset: int, data: Buffer) -> int:
        """Store ``data``; see ``ChunkStore``. Cancelled, any part of it may be stored."""
        length = len(data)
        self._check_span(offset, length)
        if not length:
            await trio.lowlevel.checkpoint()
            return 0
        handle = self._handles.pin_cached(inode, chunk_index)
        if handle is None:
            handle = await self._pin(inode, chunk_index, create=True)
            assert handle is not None
        try:
            await self._io.write(handle.descriptor, offset, data, durable=self._durable)
            if self._durable and not handle.entry_durable:
                await self._flush_entries_of(handle)
        finally:
            self._handles.unpin(handle)
        return length

    async def read_chunk(self, inode: InodeId, chunk_index: ChunkIndex, offset: int, length: int) -> Buffer:
        """Return exactly ``length`` bytes; see ``ChunkStore``."""
        self._check_span(offset, length)
        handle = self._handles.pin_cached(inode, chunk_index)
        if handle is None:
            handle = await self._handles.pin(inode, chunk_index, create=False)
            if handle is None:
                await trio.lowlevel.checkpoint()
                return bytes(length)
        try:
            data = await self._io.read(handle.descriptor, offset, length)
        finally:
            self._handles.unpin(handle)
        missing = length - len(data)
        assert missing >= 0
        return data if not missing else bytes(data) + bytes(missing)

    async def allocate_chunk(self, part: ChunkRange) -> None:
        """Have space for a part of the chunk; see ``ChunkStore``."""
        self._check_span(part.offset, part.length)
        await self._inside(partial(self._ranges.allocate, part))

    async def zero_chunk(self, part: ChunkRange) -> None:
        """Punch a hole into the chunk, or write zeros; see ``ChunkStore``."""
        self._check_span(part.offset, part.length)
        await self._inside(partial(self._ranges.zero, part))

    async def copy_chunk(self, source: ChunkRange, target: ChunkRange) -> int:
        """Share or copy a part of the chunk; see ``ChunkStore``."""
        for part in (source, target):
            self._check_span(part.offset, part.length)
        return await self._inside(partial(self._ranges.copy, source, target))

    async def find_data(
        self, inode: InodeId, chunk_indices: Sequence[ChunkIndex], offset: int
    ) -> tuple[ChunkIndex, int] | None:
        """The first data, in a worker thread; see ``ChunkStore``."""
        return await self._inside(partial(self._ranges.find, find_data, inode, chunk_indices, offset))

    async def find_hole(
        self, inode: InodeId, chunk_indices: Sequence[ChunkIndex], offset: int
    ) -> tuple[ChunkIndex, int] | None:
        """The first hole, in a worker thread; see ``ChunkStore``."""
        look = partial(find_hole, chunk_size=self._chunk_size)
        return await self._inside(partial(self._ranges.find, look, inode, chunk_indices, offset))

    async def fsync_chunk(self, inode: InodeId, chunk_index: ChunkIndex) -> None:
        """Flush the chunk, and its entries where they are not known to be durable; see ``ChunkStore``."""
        await self._with_chunk(inode, chunk_index, self._fsync_handle)

    async def fsync_entries(self, inode: InodeId) -> None:
        """Flush the inode's directory, and ``<base>`` where that is due; see ``ChunkStore``."""
        await self._inside(partial(self._entries.flush, inode))

    async def truncate_chunk(self, inode: InodeId, chunk_index: ChunkIndex, length: int) -> None:
        """Cut the chunk; see ``ChunkStore``."""
        self._check_span(0, length)
        await self._with_chunk(inode, chunk_index, partial(self._cut_handle, length))

    async def delete_chunk(self, inode: InodeId, chunk_index: ChunkIndex) -> None:
        """Remove the chunk file; see ``ChunkStore``. Its handle is closed first: unlink then frees the space."""
        await self._inside(partial(self._delete_chunk, inode, chunk_index))

    async def delete_file_chunks(self, inode: InodeId) -> int:
        """Remove the inode's directory, ``directories.SLICE`` chunks at a time; see ``ChunkStore``."""
        return await self._inside(partial(self._delete_file_chunks, inode))

    async def fsync_deletions(self) -> None:
        """Flush ``<base>``; see ``ChunkStore``."""
        await self._inside(self._entries.flush_base)

    async def fsync_all(self) -> None:
        """Flush the whole filesystem below (syncfs(2)); see ``ChunkStore``."""
        await self._inside(partial(self._io.run, partial(flush_filesystem, self._base)))

    def holds(self, inode: InodeId) -> bool:
        """Whether it has a directory, asked on the event loop; see ``ChunkStore``."""
        return bool(directories.existing(self._base, [inode]))

    async def find_inodes(self, numbers: range) -> list[InodeId]:
        """Those of the numbers that have a directory; see ``ChunkStore``."""
        look = partial(directories.existing, self._base)
        return await self._inside(partial(self._in_threads, look, numbers, _NAMES_AT_ONCE))

    async def stat_chunks(self, inode: InodeId, chunk_indices: Sequence[ChunkIndex]) -> list[ChunkInfo]:
        """Describe chunks; see ``ChunkStore``. An open one is asked on the event loop: it is in memory.

        Raises:
            CorruptChunk: a chunk file is longer than a chunk, or not a regular file.
        """
        return await self._inside(partial(self._stat_chunks, inode, chunk_indices))

    async def list_chunks(self, inode: InodeId) -> list[ChunkInfo]:
        """Describe every chunk, in a worker thread; see ``ChunkStore``. Foreign names are passed over.

        Raises:
            CorruptChunk: a chunk file is longer than a chunk, or not a regular file.
        """
        [chunks] = await self.list_files([inode])
        if isinstance(chunks, CorruptChunk):
            raise chunks
        return chunks

    async def list_files(self, inodes: Sequence[InodeId]) -> list[Listed]:
        """Describe every chunk of each of the inodes, many in one go of a worker thread; see ``ChunkStore``."""
        look = partial(directories.list_files, self._base, chunk_size=self._chunk_size)
        return await self._inside(partial(self._in_threads, look, inodes, _FILES_AT_ONCE))

    async def close_all(self) -> None:
        """Wait for every operation, then close every handle. Cannot be cancelled; may be repeated."""
        await self._gate.close()
        await self._handles.aclose()
        if self._base >= 0:
            os.close(self._base)
            self._base = -1

    # Opening

    async def _open_chunk(self, inode: InodeId, chunk_index: ChunkIndex, create: bool) -> tuple[int, bool] | None:
        """The cache's opener: an existing file, or a new one where ``create`` says so."""
        path = f"{inode}/{chunk_index}"
        while True:
            with suppress(FileNotFoundError):
                return await self._open_existing(path), self._entries.is_clean(inode)
            directories.check_exists(self._base)  # else it is a hole
            if not create:
                return None
            try:
                return await self._create(path, inode), False
            except FileExistsError:
                continue  # not by us (opens of one chunk are shared), but an open will tell
            except FileNotFoundError:
                await self._entries.make_directory(inode)

    async def _open_existing(self, path: str) -> int:
        try:
            return await self._io.open(self._base, path, os.O_RDWR)
        except OSError as error:
            if error.errno != errno.EROFS:
                raise
        return await self._io.open(self._base, path, os.O_RDONLY)  # a write to it will fail as it should

    async def _create(self, path: str, inode: InodeId) -> int:
        try:
            return await self._io.open(self._base, path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        finally:
            self._entries.changed(inode)

    async def _open_directory(self, path: str) -> int:
        with _before_it_began():
            open_it = partial(self._io.open, self._base, path, os.O_RDONLY | os.O_DIRECTORY)
            return await self._handles.relieved(open_it)

    async def _pin(self, inode: InodeId, chunk_index: ChunkIndex, *, create: bool) -> ChunkHandle | None:
        """Pin a chunk that is to be written or flushed."""
        with _before_it_began():
            return await self._handles.pin(inode, chunk_index, create=create)

    async def _pin_part(self, part: ChunkRange, create: bool) -> ChunkHandle | None:
        return await self._pin(part.inode, part.chunk_index, create=create)

    # Flushing

    async def _fsync_handle(self, handle: ChunkHandle) -> None:
        await self._io.fsync(handle.descriptor, datasync=True)
        if not handle.entry_durable:
            await self._flush_entries_of(handle)

    async def _flush_entries_of(self, handle: ChunkHandle) -> None:
        """Flush what leads to an open chunk. The mark is set last: a failure or cancellation leaves it unset."""
        await self._entries.flush(handle.inode)
        handle.entry_durable = True

    # Cutting and deleting

    async def _cut_handle(self, length: int, handle: ChunkHandle) -> None:
        status = os.fstat(handle.descriptor)
        if status.st_size > length or range_calls.has_space_beyond(status, length):
            await self._io.run(partial(range_calls.cut, handle.descriptor, length))
        else:
            await trio.lowlevel.checkpoint()

    async def _delete_chunk(self, inode: InodeId, chunk_index: ChunkIndex) -> None:
        self._handles.drop(inode, chunk_index)
        try:
            await self._io.run(partial(directories.remove_file, self._base, f"{inode}/{chunk_index}"))
        finally:
            # Noted even when cancelled or failed: too many flushes are harmless. Dropped again: who opened it
            # meanwhile, against the rules, may hold a file without a name.
            self._entries.changed(inode)
            self._handles.drop(inode, chunk_index)

    async def _delete_file_chunks(self, inode: InodeId) -> int:
        self._handles.drop_inode(inode)
        total = 0
        remove = partial(self._io.run, partial(directories.remove_slice, self._base, str(inode)))
        try:
            while True:
                async with self._entries.places:
                    removed, left = await self._handles.relieved(remove)
                total += removed
                if left is directories.Left.NOTHING or not removed:
                    break
        finally:
            self._entries.changed(inode)
            self._entries.base_changed()
            self._handles.drop_inode(inode)
        if left is not directories.Left.NOTHING:
            # Foreign names hold it: the deletions in it are not covered by a flush of <base>, so they get theirs now.
            await self._entries.flush(inode)
        self._entries.forget(inode)
        return total

    async def _stat_chunks(self, inode: InodeId, chunk_indices: Sequence[ChunkIndex]) -> list[ChunkInfo]:
        known: dict[ChunkIndex, ChunkInfo] = {}
        others = []
        for chunk_index in chunk_indices:
            handle = self._handles.pin_cached(inode, chunk_index)
            if handle is None:
                others.append(chunk_index)
                continue
            try:
                known[chunk_index] = directories.describe(chunk_index, os.fstat(handle.descriptor), self._chunk_size)
            finally:
                self._handles.unpin(handle)
        look = partial(directories.stat_files, self._base, str(inode), chunk_size=self._chunk_size)
        if len(others) <= _INLINE_STATS:
            known.update(look(others))
        else:
            for start in range(0, len(others), directories.SLICE):
                known.update(await self._io.run(partial(look, others[start : start + directories.SLICE])))
        if len(known) < len(chunk_indices):
            directories.check_exists(self._base)
        return [known[chunk_index] for chunk_index in chunk_indices if chunk_index in known]

    # Helpers

    async def _in_threads(self, call: Callable[[Sequence[K]], list[T]], asked: Sequence[K], at_once: int) -> list[T]:
        """Have several worker threads answer parts of what is asked, so that they wait for the disk together.

        Raises:
            OSError: what the first call that failed raised; no further one is begun.
        """
        parts = [asked[start : start + at_once] for start in range(0, len(asked), at_once)]
        answers: list[list[T]] = [[] for _ in parts]
        failures: list[OSError] = []
        todo = iter(range(len(parts)))

        async def work() -> None:
            for number in todo:
                try:
                    async with self._entries.places:
                        ask = partial(self._io.run, partial(call, parts[number]))
                        answers[number] = await self._handles.relieved(ask)
                except OSError as error:  # kept out of the nursery, which would wrap it in a group
                    failures.append(error)
                if failures:
                    return

        async with trio.open_nursery() as nursery:
            for _ in range(min(_THREADS, len(parts))):
                nursery.start_soon(work)
        if failures:
            raise failures[0]
        return [answer for part in answers for answer in part]

    def _check_span(self, offset: int, length: int) -> None:
        assert min(offset, length) >= 0
        assert offset + length <= self._chunk_size, "a span leaves its chunk"

    async def _with_chunk(
        self, inode: InodeId, chunk_index: ChunkIndex, act: Callable[[ChunkHandle], Awaitable[None]]
    ) -> None:
        """Do something with an existing chunk; nothing where it is absent."""
        handle = await self._pin(inode, chunk_index, create=False)
        if handle is None:
            await trio.lowlevel.checkpoint()
            return
        try:
            await act(handle)
        finally:
            self._handles.unpin(handle)

    async def _inside(self, operation: Callable[[], Awaitable[T]]) -> T:
        """Run an operation that begins without a pin, so that closing waits for it too. A checkpoint."""
        self._gate.enter()
        try:
            await trio.lowlevel.checkpoint()
            return await operation()
        finally:
            self._gate.leave()


@contextmanager
def _before_it_began() -> Iterator[None]:
    """What fails in the block failed before anything was written or flushed; what is missing is no failure."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise NotBegun(error.errno, error.strerror) from error
