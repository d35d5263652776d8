"""Buffers that are used again, and where the largest lie in memory."""

from __future__ import annotations

import ctypes
import itertools
import os
import re
from pathlib import Path

import pytest

from benchfs_core.chunks.buffers import BufferPool, huge_pages, is_aligned

LARGEST = 1 << 20
HUGE = Path("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size")
KERNEL = [int(part) for part in re.findall(r"\d+", os.uname().release)[:2]]


def address(buffer: bytearray) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))


def huge_bytes(buffers: list[bytearray]) -> int:
    """How much of the mappings that hold these lies in huge pages."""
    total, is_ours = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if bounds := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            low, high = (int(bound, 16) for bound in bounds.groups())
            is_ours = any(low <= address(buffer) < high for buffer in buffers)
        elif is_ours and line.startswith("AnonHugePages:"):
            total += int(line.split()[1]) * 1024
    return total


def test_one_that_was_given_back_is_taken_again() -> None:
    pool = BufferPool()
    for length in (64 << 10, LARGEST):
        buffer = pool.take(length)
        place = address(buffer)
        pool.give(buffer)
        del buffer
        assert address(pool.take(length)) == place


def test_each_is_another_and_begins_at_a_page() -> None:
    pool = BufferPool()
    taken = [pool.take(LARGEST) for _ in range(20)]
    assert all(is_aligned(buffer) and len(buffer) == LARGEST for buffer in taken)
    places = sorted(map(address, taken))
    assert all(after - before >= LARGEST for before, after in itertools.pairwise(places))


def test_huge_pages_are_those_of_the_buffers_however_far_apart_they_lie() -> None:
    """A buffer from the heap and others that were mapped had the kernel asked about all that lies between: 17 s."""
    heap, mapped = 0x5555_5560_0000, 0x7F00_0030_1000
    assert huge_pages([mapped, heap, mapped + LARGEST], LARGEST) == [heap, 0x7F00_0020_0000, 0x7F00_0040_0000]


@pytest.mark.skipif(
    not HUGE.exists() or HUGE.read_text() != "2097152\n" or KERNEL < [6, 1],
    reason="needs huge pages of 2 MiB, and MADV_COLLAPSE of Linux 6.1",
)
def test_the_largest_lie_in_huge_pages() -> None:
    pool = BufferPool()
    taken = [pool.take(LARGEST) for _ in range(8)]
    assert huge_bytes(taken) >= len(taken) * LARGEST // 2
