"""``ThreadIO``: ``ChunkIO`` with plain system calls in trio's worker threads, for where io_uring is not allowed.

Imports trio, ``gate`` and ``threads``. Invariant: no thread is abandoned: a call that was cancelled has either not
begun, or has ended when the caller resumes.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import trio

from benchfs_core.chunks.counts import IOCounts
from benchfs_core.chunks.gate import Gate
from benchfs_core.chunks.threads import run_in_thread
from benchfs_core.meter import Meter
from benchfs_core.types import Buffer

T = TypeVar("T")

DEFAULT_WORKERS = 8
"""Most threads at a time for slow calls (unlink, scandir), which may not take those that read and write."""


class ThreadIO:
    """See ``ChunkIO``. Every method is a checkpoint."""

    def __init__(self, queue_depth: int, workers: int = DEFAULT_WORKERS, meter: Meter | None = None) -> None:
        """``queue_depth``: most reads, writes, flushes and opens at a time, each in a thread."""
        self._meter = meter or Meter()
        self.counts = IOCounts()
        self._io_threads = trio.CapacityLimiter(queue_depth)
        self._slow_threads = trio.CapacityLimiter(workers)
        self._gate = Gate("I/O")

    @property
    def enter_count(self) -> int:
        """No ring, no io_uring_enter(2)."""
        return 0

    async def open(self, directory: int, path: str, flags: int) -> int:
        """Open a file below ``directory`` (mode 0600, O_CLOEXEC added)."""
        call = partial(os.open, path, flags | os.O_CLOEXEC, 0o600, dir_fd=directory)
        return await self._in_thread(call, self._io_threads)

    async def mkdir(self, directory: int, path: str) -> None:
        """Make a directory of mode 0700 below ``directory``."""
        await self._in_thread(partial(os.mkdir, path, 0o700, dir_fd=directory), self._io_threads)

    async def read(self, descriptor: int, offset: int, length: int) -> Buffer:
        """Read up to ``length`` bytes; fewer only at the end of the file."""
        self.counts.reads += 1
        return await self._in_thread(partial(_read, descriptor, offset, length), self._io_threads)

    async def write(self, descriptor: int, offset: int, data: Buffer, *, durable: bool) -> None:
        """Write all of ``data``; with ``durable`` it is on disk on return (RWF_DSYNC)."""
        rw_flags = os.RWF_DSYNC if durable else 0
        self.counts.writes += 1
        self.counts.durable_writes += durable
        await self._in_thread(partial(_write, descriptor, offset, data, rw_flags), self._io_threads)

    async def fsync(self, descriptor: int, *, datasync: bool) -> None:
        """Flush a file or directory."""
        self.counts.flushes += 1
        await self._in_thread(partial(os.fdatasync if datasync else os.fsync, descriptor), self._io_threads)

    async def run(self, call: Callable[[], T]) -> T:
        """Run a blocking call in a worker thread. Cancelled before it began, or not at all."""
        return await self._in_thread(call, self._slow_threads)

    async def aclose(self) -> None:
        """Let every thread end. Cannot be cancelled; may be repeated."""
        await self._gate.close()

    async def _in_thread(self, call: Callable[[], T], threads: trio.CapacityLimiter) -> T:
        self._gate.enter()
        try:
            return await run_in_thread(call, threads, self._meter)
        finally:
            self._gate.leave()


def _read(descriptor: int, offset: int, length: int) -> bytearray:
    """preadv(2) until ``length`` bytes or the end of the file."""
    buffer = bytearray(length)
    done = 0
    with memoryview(buffer) as view:
        while done < length:
            with view[done:] as rest:
                more = os.preadv(descriptor, [rest], offset + done)
            if not more:
                break
            done += more
    del buffer[done:]
    return buffer


def _write(descriptor: int, offset: int, data: Buffer, rw_flags: int) -> None:
    """pwritev2(2) until all is written."""
    done = 0
    with memoryview(data) as view:
        while done < len(view):
            more = os.pwritev(descriptor, [view[done:]], offset + done, rw_flags)
            if not more:
                raise OSError(errno.EIO, "a write stored nothing and named no error")
            done += more
