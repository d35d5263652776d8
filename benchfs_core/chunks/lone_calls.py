"""``LoneCalls``: whether a call that waits for the disk may be made on the event loop, as nobody else waits meanwhile.

Imports ``ring``. Through the ring a flush, and a durable write to the page cache, goes to a worker of the kernel's: two
more threads are woken for it, one of them the caller's, which on a fast disk takes as much CPU time as the flush.
Invariants: such a call is made only in a turn of who drives the ring, with nothing else in it, no request waiting
(``Ring.is_lone``), the last one done in ``QUICK_NS``, and little written since; if a request came meanwhile, none is
made for ``RESPITE_NS``. So whoever else asks is held up by one such call in that time, and by a disk that becomes slow
once.
"""

from __future__ import annotations

from collections.abc import Callable

from benchfs_core.chunks.ring import Ring

QUICK_NS = 1_000_000
"""A call that took longer is followed by one through the ring."""

LITTLE_BYTES = 256 << 10
"""More than that written since the last flush takes long to flush, and goes through the ring."""

RESPITE_NS = 50_000_000


class LoneCalls:
    """What one ``RingIO`` knows of how its flushes and durable writes went."""

    def __init__(self, ring: Ring, now_ns: Callable[[], int]) -> None:
        self._ring = ring
        self.now_ns = now_ns
        """The clock by which calls are timed."""
        self.unflushed_bytes = 0
        """Written since a flush of anything ended, not durably."""
        self._is_quick = False
        self._not_before_ns = 0

    def may_begin(self, begun_ns: int) -> bool:
        """Whether the call that begins now may be made on the event loop. Not a checkpoint."""
        little = self.unflushed_bytes <= LITTLE_BYTES
        return self._is_quick and little and begun_ns >= self._not_before_ns and self._ring.is_lone()

    def ended(self, begun_ns: int, *, is_lone: bool) -> None:
        """A call, made so (``is_lone``) or through the ring, has ended, for good or ill. Not a checkpoint."""
        ended_ns = self.now_ns()
        self._is_quick = ended_ns - begun_ns < QUICK_NS
        if is_lone and not self._ring.is_lone():
            self._not_before_ns = ended_ns + RESPITE_NS
