"""``PageCache``: reads and writes that the page cache of the filesystem below takes at once, without the ring.

Imports os, time, ``buffers``, ``meter``, ``types``; never awaits. A system call for a cached page takes 1 µs, by the
ring several times that, and a buffered write on ext4 always goes to a worker of the kernel's there. Invariants: a
read never waits for a disk (``RWF_NOWAIT``); a write may, where the filesystem below holds writers up, and then there
is none for ``_PAUSES`` times as long, so that the event loop is held up by such writes for a small part of its time.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from benchfs_core.chunks.buffers import BufferPool
from benchfs_core.meter import Meter, Part
from benchfs_core.types import Buffer

WRITE_BYTES = 64 << 10
"""Longer writes go through the ring: copying them is work that another core may do."""

_SLOW_S = 0.001
_PAUSES = 10
_MOST_SKIPPED = 32
"""Most reads that are not even tried after one that was not cached."""


class PageCache:
    """What one ``ChunkIO`` knows of what is cached below it."""

    def __init__(
        self, buffers: BufferPool, now_s: Callable[[], float] = time.perf_counter, meter: Meter | None = None
    ) -> None:
        self._meter = meter or Meter()
        self._buffers = buffers
        self._now_s = now_s
        self._misses = 0
        """Reads in a row that were not cached."""
        self._skip = 0
        """How many reads are not tried."""
        self._no_write_before_s = 0.0

    def read(self, descriptor: int, offset: int, length: int) -> bytearray | None:
        """All ``length`` bytes, if they are cached."""
        if self._skip:
            self._skip -= 1
            return None
        buffer = self._buffers.take(length)
        timing = self._meter.current
        was = None if timing is None else timing.enter(Part.DISK)
        try:
            if os.preadv(descriptor, [buffer], offset, os.RWF_NOWAIT) == length:
                self._misses = 0
                return buffer
        except OSError:
            pass  # not cached, or this cannot be asked here: whoever reads it in earnest is told
        finally:
            if timing is not None and was is not None:
                timing.enter(was)
        self._buffers.give(buffer)
        self._misses += 1
        self._skip = min(self._misses, _MOST_SKIPPED)
        return None

    def write(self, descriptor: int, offset: int, data: Buffer) -> int:
        """Write to the page cache; how many bytes it took, none if that might take long.

        Raises:
            OSError: the filesystem below refused.
        """
        if len(data) > WRITE_BYTES:
            return 0
        begun_s = self._now_s()
        if begun_s < self._no_write_before_s:
            return 0
        timing = self._meter.current
        if timing is None:
            done = os.pwritev(descriptor, [data], offset, 0)
        else:
            with self._meter.part(Part.DISK):
                done = os.pwritev(descriptor, [data], offset, 0)
        ended_s = self._now_s()
        if (took_s := ended_s - begun_s) > _SLOW_S:
            self._no_write_before_s = ended_s + _PAUSES * took_s
        return done
