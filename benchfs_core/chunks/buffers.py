"""``BufferPool``: large buffers to be read into, used again instead of allocated and zeroed anew.

Imports ctypes, for addresses. Invariant: what is kept is bounded, ``_MOST_SPARE`` buffers of each power of two up to
``_LARGEST``.
"""

from __future__ import annotations

import ctypes

PAGE_BYTES = 4096
"""What direct I/O is aligned to in memory and in files: a multiple of the logical block of any disk in use."""

_SMALLEST = 64 << 10
_LARGEST = 1 << 20
_MOST_SPARE = 16


def aligned(length: int) -> bytearray:
    """A buffer of zeros that begins at a page, as direct I/O needs it; for requests whose size makes that worth it.

    The package liburing takes no views without leaking them, so this is a bytearray whose front was dropped, which
    CPython does without moving the rest. ``is_aligned`` says whether it still does.
    """
    buffer = bytearray(length + PAGE_BYTES)
    del buffer[: -_address(buffer) % PAGE_BYTES]
    del buffer[length:]
    return buffer


def is_aligned(buffer: bytearray) -> bool:
    """Whether the buffer begins at a page."""
    return not _address(buffer) % PAGE_BYTES


def _address(buffer: bytearray) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))


class BufferPool:
    """Buffers that nobody uses."""

    __slots__ = ("_spare",)

    def __init__(self) -> None:
        self._spare: dict[int, list[bytearray]] = {}

    def take(self, length: int) -> bytearray:
        """A buffer of that length, a large one at a page (``aligned``); what is in it has no meaning."""
        spare = self._spare.get(length)
        if spare:
            return spare.pop()
        return aligned(length) if length >= _SMALLEST else bytearray(length)

    def give(self, buffer: bytearray) -> None:
        """Take a buffer back that nobody refers to any more."""
        length = len(buffer)
        if _SMALLEST <= length <= _LARGEST and not length & (length - 1):
            spare = self._spare.setdefault(length, [])
            if len(spare) < _MOST_SPARE:
                spare.append(buffer)
