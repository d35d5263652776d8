"""``EntryLedger``: which directory entries of the chunk store are known to be on disk, and how to get them there.

A chunk is durable only with its entry in ``<base>/<inode>`` and that directory's entry in ``<base>``. Imports trio,
``io`` and ``shared_flush``; knows directories, not chunks.

Invariants: what is not known is not durable: a directory first seen, or forgotten and seen again, gets a flush before
anything in it counts as durable; only a flush that ended well, and began after a change, makes that change durable, so
a failure or cancellation anywhere leaves it marked as it was; at most ``MAX_RECORDS`` directories are remembered.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial

import trio

from benchfs_core.chunks.directories import check_exists
from benchfs_core.chunks.io import ChunkIO
from benchfs_core.shared_flush import SharedFlush
from benchfs_core.types import InodeId

MAX_RECORDS = 16384
"""Directories remembered; forgetting one costs a flush later."""

MAX_DIRECTORY_DESCRIPTORS = 16
"""Directories open for a flush or a scan at a time; not counted among the handles."""


class _Record:
    """What is known of one inode's directory. Changes are numbered; those up to ``flushed`` are durable."""

    __slots__ = ("base_change", "changed", "flush", "flushed", "making")

    def __init__(self, base_change: int) -> None:
        self.changed = 1  # one change that is not flushed: whatever was there before
        self.flushed = 0
        self.base_change = base_change
        """The change of ``<base>`` that brought this directory."""
        self.making = 0
        """Calls of mkdir under way: whether the directory exists, and since when, is open."""
        self.flush: SharedFlush


class EntryLedger:
    """Notes changes of directories and flushes them; callers who wait at the same time share a flush."""

    def __init__(self, base: int, io: ChunkIO, open_directory: Callable[[str], Awaitable[int]]) -> None:
        """Take over ``base``, the directory that holds the inodes' directories.

        Args:
            base: its descriptor; it stays the caller's.
            io: makes the system calls.
            open_directory: opens a directory below it for reading, and knows what to do when descriptors run out.
        """
        self._base = base
        self._io = io
        self._open_directory = open_directory
        self._records: OrderedDict[InodeId, _Record] = OrderedDict()
        self._base_changed = 1
        self._base_flushed = 0
        self._base_flush = SharedFlush(self._flush_base)
        self.places = trio.Semaphore(MAX_DIRECTORY_DESCRIPTORS)
        """Take one for the time a directory is open."""

    def is_clean(self, inode: InodeId) -> bool:
        """Whether every entry that leads to the inode's existing chunks is known to be durable. Not a checkpoint."""
        record = self._record(inode)
        return record.flushed >= record.changed and self._base_flushed >= record.base_change and not record.making

    def changed(self, inode: InodeId) -> None:
        """Note that a chunk was made or removed, *after* it was. Not a checkpoint."""
        self._record(inode).changed += 1

    def base_changed(self) -> None:
        """Note that an inode's directory was removed, after it was. Not a checkpoint."""
        self._base_changed += 1

    def forget(self, inode: InodeId) -> None:
        """The directory is gone. Not a checkpoint."""
        self._records.pop(inode, None)

    async def make_directory(self, inode: InodeId) -> None:
        """Make the inode's directory, unless somebody else just did.

        Raises:
            OSError: mkdir(2) failed.
        """
        record = self._record(inode)
        record.making += 1
        try:
            with suppress(FileExistsError):
                await self._io.mkdir(self._base, str(inode))
        finally:
            # Noted whoever made it, and however the call ended: it is new, or may be.
            record.making -= 1
            self._base_changed += 1
            record.base_change = self._base_changed

    async def flush(self, inode: InodeId) -> None:
        """Make durable every change of the inode's entries before the call; no call is made where all are.

        A checkpoint only where it flushes.

        Raises:
            OSError: a flush failed; nothing more counts as durable.
        """
        record = self._record(inode)
        if record.flushed < record.changed:
            await record.flush.flush()
        if self._base_flushed < record.base_change or record.making:
            await self._base_flush.flush()

    async def flush_base(self) -> None:
        """Make durable which inodes have directories. A checkpoint only where it flushes.

        Raises:
            OSError: the flush failed.
        """
        if self._base_flushed < self._base_changed:
            await self._base_flush.flush()

    def _record(self, inode: InodeId) -> _Record:
        record = self._records.get(inode)
        if record is not None:
            self._records.move_to_end(inode)
            return record
        record = _Record(self._base_changed)
        record.flush = SharedFlush(partial(self._flush_record, inode, record))
        self._records[inode] = record
        if len(self._records) > MAX_RECORDS:
            oldest = next(iter(self._records))
            if self._records[oldest].making:
                self._records.move_to_end(oldest)  # one over, until the next comes
            else:
                del self._records[oldest]
        return record

    async def _flush_record(self, inode: InodeId, record: _Record) -> None:
        covered = record.changed
        try:
            await self._flush_directory(str(inode))
        except FileNotFoundError:  # no directory, no entries; that it is gone is for flush_base
            check_exists(self._base)
        record.flushed = max(record.flushed, covered)

    async def _flush_base(self) -> None:
        covered = self._base_changed
        await self._flush_directory(".")
        self._base_flushed = max(self._base_flushed, covered)

    async def _flush_directory(self, path: str) -> None:
        async with self.places:
            descriptor = await self._open_directory(path)
            try:
                await self._io.fsync(descriptor, datasync=False)
            finally:
                os.close(descriptor)
