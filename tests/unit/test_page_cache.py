"""What the page cache below takes at once, and when it is not even asked."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchfs_core.chunks.buffers import BufferPool
from benchfs_core.chunks.page_cache import WRITE_BYTES, PageCache

CONTENT = bytes(range(256)) * 64


@pytest.fixture
def descriptor(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    os.pwrite(descriptor, CONTENT, 0)
    yield descriptor
    os.close(descriptor)


class Clock:
    """Moves by ``step_s`` at each look."""

    def __init__(self) -> None:
        self.time_s = 100.0
        self.step_s = 0.0

    def __call__(self) -> float:
        self.time_s += self.step_s
        return self.time_s


def test_what_is_cached_is_read_and_what_is_short_is_left_to_others(descriptor: int) -> None:
    cache = PageCache(BufferPool())
    assert bytes(cache.read(descriptor, 5, 100) or b"") == CONTENT[5:105]
    assert cache.read(descriptor, len(CONTENT) - 5, 10) is None


def test_reads_are_not_tried_after_some_that_were_not_cached(descriptor: int) -> None:
    cache = PageCache(BufferPool())
    for _ in range(200):
        assert cache.read(descriptor, len(CONTENT), 10) is None
    tries = [cache.read(descriptor, 0, 10) is not None for _ in range(40)]
    assert True in tries, "it is tried again"
    assert all(tries[tries.index(True) :]), "and from then on always"


def test_a_descriptor_that_fails_is_left_to_who_reads_in_earnest(tmp_path: Path) -> None:
    directory = os.open(tmp_path, os.O_RDONLY)
    assert PageCache(BufferPool()).read(directory, 0, 10) is None
    os.close(directory)


def test_writes_are_taken_unless_they_are_long_or_the_last_was_slow(descriptor: int) -> None:
    clock = Clock()
    cache = PageCache(BufferPool(), clock)
    assert cache.write(descriptor, 3, b"new") == 3
    assert cache.write(descriptor, 6, memoryview(b"newer")[:3]) == 3
    assert os.pread(descriptor, 8, 2) == b"\x02newnew\x09"
    assert cache.write(descriptor, 0, bytes(WRITE_BYTES + 1)) == 0
    clock.step_s = 0.01
    assert cache.write(descriptor, 0, b"slow") == 4
    clock.step_s = 0.0
    for _ in range(2):  # for ten times as long
        assert cache.write(descriptor, 0, b"not") == 0
        assert os.pread(descriptor, 4, 0) == b"slow"
        clock.time_s += 0.0501
    assert cache.write(descriptor, 0, b"again") == 5


def test_a_write_that_is_refused_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    descriptor = os.open(tmp_path / "file", os.O_RDONLY)
    with pytest.raises(OSError) as caught:
        PageCache(BufferPool()).write(descriptor, 0, b"x")
    assert caught.value.errno == errno.EBADF
    os.close(descriptor)


def test_large_buffers_are_used_again_and_no_more_are_kept_than_allowed() -> None:
    pool = BufferPool()
    large = [bytearray(1 << 20) for _ in range(40)]
    for buffer in (*large, bytearray(100), bytearray((1 << 20) - 1), bytearray(2 << 20)):
        pool.give(buffer)
    taken = [pool.take(1 << 20) for _ in range(40)]
    assert sum(any(buffer is kept for kept in large) for buffer in taken) == 24
    assert [len(pool.take(length)) for length in (100, (1 << 20) - 1, 2 << 20)] == [100, (1 << 20) - 1, 2 << 20]
