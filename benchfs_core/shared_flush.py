"""``SharedFlush``: callers who need the same flush at the same time share one (group commit).

Imports trio; knows nothing of what is flushed. Invariants: ``flush`` returns only after a flush that *began* after the
call ended well, since one that began earlier may have missed the caller's data; at most one flush runs at a time, so
any number of callers cost at most two; a flush that was cancelled half-way counts for nobody.
"""

from __future__ import annotations

import copy
from collections.abc import Awaitable, Callable

import trio


class SharedFlush:
    """Wraps a flush so that concurrent callers share it.

    The first caller runs it in its own task; those who come while it runs wait for it to end, then one of them runs
    the next for all of them. There is no background task and nothing to close.
    """

    __slots__ = ("_begun", "_ended_well", "_error", "_failed", "_flush", "_running", "_waiting")

    def __init__(self, flush: Callable[[], Awaitable[None]]) -> None:
        """Args: ``flush`` makes durable all that was written before it was called; it is a checkpoint."""
        self._flush = flush
        self._waiting = trio.lowlevel.ParkingLot()
        self._running = False
        self._begun = 0
        """Number of the flush that began last; flushes count from 1."""
        self._ended_well = 0
        self._failed = 0
        self._error: Exception | None = None

    @property
    def begun(self) -> int:
        """How many flushes were begun, for metrics."""
        return self._begun

    @property
    def is_running(self) -> bool:
        """Whether a flush is under way. If not, the last one has ended for good or ill, and what it was for knows."""
        return self._running

    async def flush(self) -> None:
        """Return when a flush that began after this call has succeeded. A checkpoint.

        Cancelled, the caller leaves; a flush it was running for others is begun again by one of them.

        Raises:
            Exception: what the flush raised; a copy of it reaches every caller that this flush was for. A failure
                counts even where a later flush succeeded: after a failed fsync(2) the next says nothing about the
                pages that were lost.
        """
        arrived = self._begun
        while True:
            if self._failed > arrived:
                assert self._error is not None
                raise copy.copy(self._error) from self._error
            if self._ended_well > arrived:
                return
            if not self._running:
                break
            await self._waiting.park()
        await self._lead()

    async def _lead(self) -> None:
        """Run one flush in this task and tell those who wait."""
        self._running = True
        self._begun += 1
        number = self._begun
        try:
            await self._flush()
        except Exception as error:
            self._failed = number
            self._error = error
            raise
        else:
            self._ended_well = number
        finally:
            self._running = False
            self._waiting.unpark_all()
