"""``Gate``: counts the operations under way, so that closing can wait for them and refuse new ones.

Imports trio. Invariant: ``close`` returns only when every ``enter`` has had its ``leave``.
"""

from __future__ import annotations

import trio


class Gate:
    """What a resource that must drain before it is freed lets its operations through."""

    __slots__ = ("_closed", "_inside", "_leaving", "_name")

    def __init__(self, name: str) -> None:
        """``name``: of the resource, for the error of who comes late."""
        self._name = name
        self._inside = 0
        self._closed = False
        self._leaving = trio.lowlevel.ParkingLot()

    @property
    def closed(self) -> bool:
        """Whether closing has begun."""
        return self._closed

    def enter(self) -> None:
        """Begin an operation; pair it with ``leave`` in a ``finally``.

        Raises:
            trio.ClosedResourceError: closing has begun.
        """
        if self._closed:
            raise trio.ClosedResourceError(f"the {self._name} is closed")
        self._inside += 1

    def leave(self) -> None:
        """End an operation."""
        self._inside -= 1
        assert self._inside >= 0
        if self._closed and not self._inside:
            self._leaving.unpark_all()

    async def close(self) -> None:
        """Refuse new operations and wait for those under way. A checkpoint; cannot be cancelled; may be repeated.

        Shielded because freeing what an operation still uses is worse than a late cancellation.
        """
        self._closed = True
        with trio.CancelScope(shield=True):
            await trio.lowlevel.checkpoint()
            while self._inside:
                await self._leaving.park()
