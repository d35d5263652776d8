"""Which bytes of a file may be lost, because a flush or a durable write of them failed.

Pure: imports ``errors``. After a failed fsync(2) the kernel takes the pages for clean, and the next fsync(2)
says nothing about them (fsync(2), ERRORS, EIO). So the failure is remembered here until the bytes are written again or
cut off. Invariant: never a byte too few: what is in doubt counts as lost.
"""

from __future__ import annotations

import copy

from benchfs_core.errors import FlushFailed

MAX_RANGES = 1024
"""A bound on memory: beyond it what lies between lost ranges, or is rewritten inside of one, counts as lost as well."""


class LostData:
    """The lost ranges of one file, as file offsets, and how often something was lost."""

    __slots__ = ("_failure", "_names", "_ranges", "failures")

    def __init__(self) -> None:
        self.failures = 0
        """How many failures there were; a handle that has seen fewer has not been told of the last."""
        self._failure = FlushFailed("nothing was lost")
        self._ranges: list[tuple[int, int]] = []
        self._names = False

    @property
    def failure(self) -> FlushFailed:
        """What the last failure was, to be raised; each time another object, for each raising adds a traceback."""
        return copy.copy(self._failure)

    @property
    def reason(self) -> str:
        """What the last failure was, in a line."""
        return str(self._failure)

    def note(self, start: int, end: int, failure: FlushFailed) -> None:
        """Bytes from ``start`` to ``end`` were written, and may not be on disk."""
        self._failed(failure)
        apart = [pair for pair in self._ranges if pair[1] < start or pair[0] > end]
        touching = [pair for pair in self._ranges if not (pair[1] < start or pair[0] > end)]
        whole = (min([start, *(pair[0] for pair in touching)]), max([end, *(pair[1] for pair in touching)]))
        self._ranges = sorted([*apart, whole])
        if len(self._ranges) > MAX_RANGES:
            self._ranges = [(self._ranges[0][0], max(high for _, high in self._ranges))]

    def note_names(self, failure: FlushFailed) -> None:
        """Chunk files were made or deleted, and that may not be on disk: nothing that is written makes it good."""
        self._failed(failure)
        self._names = True

    def rewritten(self, start: int, end: int, failures: int) -> None:
        """Bytes from ``start`` to ``end`` were written, by a write that began when there were so many ``failures``.

        A write that a failure came in between of may be part of what was lost.
        """
        if failures != self.failures or not self._ranges:
            return
        left: list[tuple[int, int]] = []
        for low, high in self._ranges:
            left += [part for part in ((low, min(high, start)), (max(low, end), high)) if part[0] < part[1]]
        if len(left) <= max(MAX_RANGES, len(self._ranges)):
            self._ranges = left

    def cut(self, size: int) -> None:
        """Bytes from ``size`` on were cut off."""
        self._ranges = [(low, min(high, size)) for low, high in self._ranges if low < size]

    def remains(self, size: int) -> bool:
        """Whether something of a file of ``size`` bytes may be lost."""
        return self._names or any(low < size for low, _ in self._ranges)

    @property
    def names_remain(self) -> bool:
        """Whether the names of chunk files may be lost."""
        return self._names

    def doubts(self, start: int, end: int) -> bool:
        """Whether something from ``start`` to ``end`` may be lost, or the names of chunk files."""
        return self._names or any(low < end and high > start for low, high in self._ranges)

    def _failed(self, failure: FlushFailed) -> None:
        self.failures += 1
        self._failure = failure
