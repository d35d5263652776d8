"""``LoneCalls``: whether a call that waits for the disk may be made on the event loop, as nobody else waits meanwhile.

Imports ``ring``. Through the ring a flush, and a durable write to the page cache, goes to a worker of the kernel's: two
more threads are woken for it, one of them the caller's, which on a fast disk takes as much CPU time as the flush.
Invariants: such a call is made only in a turn of who drives the ring, with nothing else in it and nobody else waiting
(``Ring.is_lone``), the last one done in ``QUICK_NS``, and little written to that file since it was flushed; if a
request came meanwhile, none is made for ``RESPITE_NS``. So whoever else asks is held up by one such call in that time,
and by a disk that becomes slow once.
"""

from __future__ import annotations

from collections.abc import Callable

from benchfs_core.chunks.ring import Ring

QUICK_NS = 1_000_000
"""A call that took longer is followed by one through the ring."""

LITTLE_BYTES = 256 << 10
"""More than that written to a file takes long to flush, and that goes through the ring."""

RESPITE_NS = 50_000_000
"""For so long after somebody had to wait for one there is no other."""


class LoneCalls:
    """What one ``RingIO`` knows of how its flushes and durable writes went."""

    def __init__(self, ring: Ring, now_ns: Callable[[], int]) -> None:
        self._ring = ring
        self.now_ns = now_ns
        """The clock by which calls are timed."""
        self._unflushed: dict[int, int] = {}
        """Bytes written by each descriptor since it was flushed. One that is closed may hold back who has it next."""
        self._is_quick = False
        self._not_before_ns = 0

    def may_begin(self, begun_ns: int) -> bool:
        """Whether the call that begins now may be made on the event loop. Not a checkpoint."""
        return self._is_quick and begun_ns >= self._not_before_ns and self._ring.is_lone()

    def wrote(self, descriptor: int, length: int) -> None:
        """So many bytes are being written, not durably. Not a checkpoint."""
        self._unflushed[descriptor] = self.unflushed_bytes(descriptor) + length

    def unflushed_bytes(self, descriptor: int) -> int:
        """Written by the descriptor since a flush of it began that ended well."""
        return self._unflushed.get(descriptor, 0)

    def flushed(self, descriptor: int, length: int) -> None:
        """A flush has ended well that began when so many bytes were unflushed. Not a checkpoint."""
        if left := self.unflushed_bytes(descriptor) - length:
            self._unflushed[descriptor] = left
        else:
            self._unflushed.pop(descriptor, None)

    def ended(self, begun_ns: int, *, is_lone: bool) -> None:
        """A call, made so (``is_lone``) or through the ring, has ended, for good or ill. Not a checkpoint."""
        ended_ns = self.now_ns()
        self._is_quick = ended_ns - begun_ns < QUICK_NS
        if is_lone and not self._ring.is_lone():
            self._not_before_ns = ended_ns + RESPITE_NS
