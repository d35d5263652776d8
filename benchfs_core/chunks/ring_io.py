"""``RingIO``: ``ChunkIO`` over the io_uring reactor.

Imports trio, ``ring``, ``direct``, ``page_cache``, ``lone_calls``, ``threads`` and ``gate``. Invariant: closing waits
for worker threads as well as for the ring.

``open`` and ``mkdir`` are plain calls on the event loop, **not checkpoints**. Measured on ext4 (Linux 6.18): creating a
file takes 22 µs so, 96 µs through the ring, where openat(2) with O_CREAT always goes to a worker of the kernel's, and
147 µs through a trio worker thread; opening an existing file takes 4.5 µs. The price is that a directory that is not in
the kernel's cache is read while the loop waits.
"""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import TypeVar

import trio

from benchfs_core.chunks.counts import IOCounts
from benchfs_core.chunks.direct import DIRECT_BYTES, DirectIO
from benchfs_core.chunks.gate import Gate
from benchfs_core.chunks.lone_calls import LITTLE_BYTES, LoneCalls
from benchfs_core.chunks.page_cache import WRITE_BYTES, PageCache
from benchfs_core.chunks.ring import Ring
from benchfs_core.chunks.threads import run_in_thread
from benchfs_core.meter import Meter, Part
from benchfs_core.types import Buffer

T = TypeVar("T")

LARGE_BYTES = 128 * 1024
"""Writes this long leave nothing in the page cache below where that can be had: the mount has its own. What need not
be durable is not written directly: it is back sooner, and costs no more CPU."""

RWF_DONTCACHE = 0x80
"""From linux/fs.h (6.14): write to the disk soon, and drop the pages then. EOPNOTSUPP where it is not known."""

DEFAULT_WORKERS = 8
"""Most threads at a time for the calls that have no method: unlink, ftruncate, scandir."""


class RingIO:
    """See ``ChunkIO``."""

    def __init__(
        self, ring: Ring, workers: int = DEFAULT_WORKERS, *, page_cache: bool = True, meter: Meter | None = None
    ) -> None:
        """Use ``ring``; ``aclose`` closes it. Without ``page_cache`` every read and write goes through the ring."""
        self.counts = IOCounts()
        self._meter = meter or Meter()
        self._ring = ring
        self._uncached = True
        self._durable_writes = 0
        """How many are under way. More than one at a time go past the page cache below, where they can."""
        self.direct = DirectIO(ring)
        """Large requests go this way first."""
        self._lone = LoneCalls(ring, self._meter.now_ns)
        """Flushes and short durable writes that nobody else has to wait for."""
        self._cache = PageCache(ring.buffers, meter=self._meter) if page_cache else None
        self._threads = trio.CapacityLimiter(workers)
        self._gate = Gate("I/O")

    @classmethod
    @asynccontextmanager
    async def open_ring(
        cls, queue_depth: int, workers: int = DEFAULT_WORKERS, meter: Meter | None = None
    ) -> AsyncIterator[RingIO]:
        """A ``RingIO`` with a ring of its own, closed when the ``async with`` ends.

        Raises:
            OSError: io_uring is not to be had here.
        """
        async with Ring.open(queue_depth, meter=meter) as ring:
            io = cls(ring, workers, meter=meter)
            try:
                yield io
            finally:
                await io.aclose()

    @property
    def ring(self) -> Ring:
        """The ring in use."""
        return self._ring

    @property
    def enter_count(self) -> int:
        """How often io_uring_enter(2) was called to submit."""
        return self._ring.enter_count

    async def open(self, directory: int, path: str, flags: int) -> int:
        """Open a file below ``directory`` (mode 0600, O_CLOEXEC added). Not a checkpoint."""
        with self._meter.part(Part.DISK):
            return os.open(path, flags | os.O_CLOEXEC, 0o600, dir_fd=directory)

    async def mkdir(self, directory: int, path: str) -> None:
        """Make a directory of mode 0700 below ``directory``. Not a checkpoint."""
        with self._meter.part(Part.DISK):
            os.mkdir(path, 0o700, dir_fd=directory)

    async def read(self, descriptor: int, offset: int, length: int) -> Buffer:
        """Read up to ``length`` bytes; fewer only at the end of the file."""
        self.counts.reads += 1
        if self._cache is not None and (cached := self._cache.read(descriptor, offset, length)) is not None:
            return cached
        if length < DIRECT_BYTES or (found := await self.direct.read(descriptor, offset, length)) is None:
            return await self._ring.read(descriptor, offset, length)
        buffer, done = found
        if done == length:
            return buffer
        rest = await self._ring.read(descriptor, offset + done, length - done)
        return b"".join((memoryview(buffer)[:done], rest))

    async def write(self, descriptor: int, offset: int, data: Buffer, *, durable: bool) -> None:
        """Write all of ``data``; with ``durable`` it is on disk on return (RWF_DSYNC)."""
        self.counts.writes += 1
        self.counts.durable_writes += durable
        flags = os.RWF_DSYNC if durable else 0
        if not durable:
            self._lone.wrote(descriptor, len(data))
            await self._write(descriptor, offset, data, flags)
            return
        begun_ns, done = self._lone.now_ns(), 0
        is_lone = len(data) <= WRITE_BYTES and self._lone.may_begin(begun_ns)
        self._durable_writes += 1
        try:
            if is_lone:
                done = self._at_once(partial(os.pwritev, descriptor, [data], offset, flags)) or 0
            else:
                done = await self.direct.write(descriptor, offset, data, flags, any_length=self._durable_writes > 1)
            if done < len(data):
                await self._write(descriptor, offset + done, data[done:] if done else data, flags)
        finally:
            self._durable_writes -= 1
            if len(data) <= WRITE_BYTES:
                self._lone.ended(begun_ns, is_lone=is_lone)

    def _at_once(self, call: Callable[[], T]) -> T | None:
        """Make a call on the event loop; None where it failed in passing, for which the ring tries more than once."""
        try:
            with self._meter.part(Part.DISK):
                return call()
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.ENOMEM):
                return None
            raise

    async def _write(self, descriptor: int, offset: int, data: Buffer, flags: int) -> None:
        if len(data) >= LARGE_BYTES and self._uncached:
            try:
                await self._ring.write(descriptor, offset, data, flags | RWF_DONTCACHE)
                return
            except OSError as error:
                if error.errno != errno.EOPNOTSUPP:
                    raise
                self._uncached = False
        done = self._cache.write(descriptor, offset, data) if self._cache is not None and not flags else 0
        if done < len(data):
            await self._ring.write(descriptor, offset + done, data[done:] if done else data, flags)

    async def fsync(self, descriptor: int, *, datasync: bool) -> None:
        """Flush a file or directory."""
        self.counts.flushes += 1
        begun_ns, unflushed = self._lone.now_ns(), self._lone.unflushed_bytes(descriptor)
        is_lone = unflushed <= LITTLE_BYTES and self._lone.may_begin(begun_ns)
        try:
            if not (is_lone and self._at_once(partial(_flush, descriptor, datasync))):
                await self._ring.fsync(descriptor, datasync)
            self._lone.flushed(descriptor, unflushed)
        finally:
            self._lone.ended(begun_ns, is_lone=is_lone)

    async def run(self, call: Callable[[], T]) -> T:
        """Run a blocking call in a worker thread. Cancelled before it began, or not at all."""
        self._gate.enter()
        try:
            return await run_in_thread(call, self._threads, self._meter)
        finally:
            self._gate.leave()

    async def aclose(self) -> None:
        """Let threads and requests end, then free the ring. Cannot be cancelled; may be repeated."""
        await self._gate.close()
        await self._ring.aclose()


def _flush(descriptor: int, datasync: bool) -> bool:
    (os.fdatasync if datasync else os.fsync)(descriptor)
    return True
