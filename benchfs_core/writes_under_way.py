"""``WritesUnderWay``: what is being written of one file, for reads that must not overtake it.

Imports trio. Invariant: a read does not tell what was there before a write that was asked for earlier. Where the
kernel's cache is written through, it has put the new bytes into a page by then, and may lose that page before the write
is done: to a look at the file's times, to another open, for want of memory. What it is told meanwhile it keeps, zeros
beyond the end included, and shows it when the write has long been acknowledged.
"""

from __future__ import annotations

import trio


class Write:
    """One of them; a context manager for the length of it."""

    __slots__ = ("_all", "done", "end", "start")

    def __init__(self, others: list[Write], start: int, end: int) -> None:
        self._all = others
        self.start = start
        self.end = end
        self.done: trio.Event | None = None
        """Made by who waits for it."""

    def __enter__(self) -> None:
        self._all.append(self)

    def __exit__(self, *_: object) -> None:
        self._all.remove(self)
        if self.done is not None:
            self.done.set()


class WritesUnderWay:
    """Those of one file; false if there are none."""

    __slots__ = ("_writes",)

    def __init__(self) -> None:
        self._writes: list[Write] = []

    def __bool__(self) -> bool:
        return bool(self._writes)

    def of(self, start: int, end: int) -> Write:
        """A block during which the bytes from ``start`` to ``end`` come to be there, or fail to."""
        return Write(self._writes, start, end)

    async def passed(self, start: int, end: int) -> None:
        """Wait for those that are under way now somewhere from ``start`` to ``end``, not for later ones.

        The caller holds no lock that they may want. A checkpoint only if there are any.
        """
        ends = []
        for write in self._writes:
            if write.start < end and start < write.end:
                if write.done is None:
                    write.done = trio.Event()
                ends.append(write.done)
        for done in ends:
            await done.wait()
