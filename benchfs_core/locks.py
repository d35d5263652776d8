"""A lock that many may share or one may hold alone.

Imports trio only. Fair in arrival order: a waiting exclusive holder keeps later sharers out, so that it is not starved.
Taking it shared when nobody waits costs no trip through the event loop.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio


class SharedLock:
    """Guards one file's data: requests share it, a truncate has it alone."""

    __slots__ = ("_exclusive", "_shared", "_waiting")

    def __init__(self) -> None:
        self._shared = 0
        self._exclusive = False
        self._waiting: deque[tuple[trio.Event, bool]] = deque()

    @property
    def idle(self) -> bool:
        """Nobody holds it or waits for it."""
        return not self._shared and not self._exclusive and not self._waiting

    async def acquire_shared(self) -> None:
        """Hold it along with other sharers. A checkpoint only if it must wait; cancelled then, it is not held."""
        if self._exclusive or self._waiting:
            await self._wait(exclusive=False)
        else:
            self._shared += 1

    def release_shared(self) -> None:
        """Give up one shared hold."""
        assert self._shared > 0
        self._shared -= 1
        self._grant()

    @asynccontextmanager
    async def exclusive(self) -> AsyncIterator[None]:
        """Hold it alone for the length of the block. A checkpoint only if it must wait."""
        if self._exclusive or self._shared or self._waiting:
            await self._wait(exclusive=True)
        else:
            self._exclusive = True
        try:
            yield
        finally:
            self._exclusive = False
            self._grant()

    async def _wait(self, *, exclusive: bool) -> None:
        granted = trio.Event()
        place = (granted, exclusive)
        self._waiting.append(place)
        try:
            await granted.wait()
        except BaseException:
            if granted.is_set():  # granted and cancelled in the same turn: hand it on
                if exclusive:
                    self._exclusive = False
                else:
                    self._shared -= 1
            else:
                self._waiting.remove(place)
            self._grant()
            raise

    def _grant(self) -> None:
        while self._waiting and not self._exclusive:
            event, exclusive = self._waiting[0]
            if exclusive and self._shared:
                return
            self._waiting.popleft()
            if exclusive:
                self._exclusive = True
            else:
                self._shared += 1
            event.set()
