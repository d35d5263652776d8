"""``BufferPool``: large buffers to be read into, used again instead of allocated and zeroed anew.

Imports nothing. Invariant: what is kept is bounded, ``_MOST_SPARE`` buffers of each power of two up to ``_LARGEST``.
"""

from __future__ import annotations

_SMALLEST = 64 << 10
_LARGEST = 1 << 20
_MOST_SPARE = 16


class BufferPool:
    """Buffers that nobody uses."""

    __slots__ = ("_spare",)

    def __init__(self) -> None:
        self._spare: dict[int, list[bytearray]] = {}

    def take(self, length: int) -> bytearray:
        """A buffer of that length; what is in it has no meaning."""
        spare = self._spare.get(length)
        return spare.pop() if spare else bytearray(length)

    def give(self, buffer: bytearray) -> None:
        """Take a buffer back that nobody refers to any more."""
        length = len(buffer)
        if _SMALLEST <= length <= _LARGEST and not length & (length - 1):
            spare = self._spare.setdefault(length, [])
            if len(spare) < _MOST_SPARE:
                spare.append(buffer)
