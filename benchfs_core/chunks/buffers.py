"""``BufferPool``: large buffers for requests and data, used again instead of allocated and zeroed anew.

Imports ctypes, for addresses and madvise(2). Invariant: what is kept is bounded, ``_MOST_SPARE`` buffers of each power
of two up to ``_LARGEST``.

The largest are made several at a time, side by side in huge pages: to a disk a buffer of 1 MiB in pages of 4 KiB is
256 pieces, more than many take at once, and the kernel looks for each page by itself.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable

PAGE_BYTES = 4096
"""What direct I/O is aligned to in memory and in files: a multiple of the logical block of any disk in use."""

_SMALLEST = 64 << 10
_LARGEST = 1 << 20
_MOST_SPARE = 24
_MADE_TOGETHER = 8
_MOST_MADE_TOGETHER = 24
"""Further ones are made one by one, when they are needed, in ordinary pages."""

_HUGE_BYTES = 2 << 20
_MADV_COLLAPSE = 25
"""Of <linux/mman.h>, since Linux 6.1."""
_libc = ctypes.CDLL(None)


def aligned(length: int) -> bytearray:
    """A buffer of zeros that begins at a page, as direct I/O needs it; for requests whose size makes that worth it.

    The package liburing takes no views without leaking them, so this is a bytearray whose front was dropped, which
    CPython does without moving the rest. ``is_aligned`` says whether it still does.
    """
    buffer = bytearray(length + PAGE_BYTES)
    del buffer[: -_address(buffer) % PAGE_BYTES]
    del buffer[length:]
    return buffer


def huge_pages(addresses: Iterable[int], length: int) -> list[int]:
    """Where the huge pages begin that buffers of ``length`` bytes at these addresses have a part in."""
    places = {place for address in addresses for place in (address, address + length - 1)}
    return sorted({place - place % _HUGE_BYTES for place in places})


def _side_by_side() -> list[bytearray]:
    """Some of the largest buffers (``aligned``), in huge pages where the kernel has them to spare.

    Allocated one after the other most of them lie so, too: the C library maps what is large page after page.
    """
    assert _LARGEST <= _HUGE_BYTES
    buffers = [aligned(_LARGEST) for _ in range(_MADE_TOGETHER)]
    for start in huge_pages(map(_address, buffers), _LARGEST):  # advice: what is refused works all the same
        _libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(_HUGE_BYTES), _MADV_COLLAPSE)
    return buffers


def is_aligned(buffer: bytearray) -> bool:
    """Whether the buffer begins at a page."""
    return not _address(buffer) % PAGE_BYTES


def _address(buffer: bytearray) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))


class BufferPool:
    """Buffers that nobody uses."""

    __slots__ = ("_made_together", "_spare")

    def __init__(self) -> None:
        self._made_together = 0
        self._spare: dict[int, list[bytearray]] = {}

    def take(self, length: int) -> bytearray:
        """A buffer of that length, a large one at a page (``aligned``); what is in it has no meaning."""
        spare = self._spare.get(length)
        if spare:
            return spare.pop()
        if length == _LARGEST and self._made_together < _MOST_MADE_TOGETHER:
            self._made_together += _MADE_TOGETHER
            made = self._spare[length] = _side_by_side()
            return made.pop()
        return aligned(length) if length >= _SMALLEST else bytearray(length)

    def give(self, buffer: bytearray) -> None:
        """Take a buffer back that nobody refers to any more."""
        length = len(buffer)
        if _SMALLEST <= length <= _LARGEST and not length & (length - 1):
            spare = self._spare.setdefault(length, [])
            if len(spare) < _MOST_SPARE:
                spare.append(buffer)
