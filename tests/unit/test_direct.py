"""Large reads and writes past the page cache below: when they go that way, what they show, and what refuses them."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

from benchfs_core.chunks.buffers import PAGE_BYTES, BufferPool, aligned, is_aligned
from benchfs_core.chunks.direct import DIRECT_BYTES
from benchfs_core.chunks.ring import Ring
from benchfs_core.chunks.ring_io import RingIO
from benchfs_core.chunks.uring import Plain, UringDriver, io_uring_available
from tests.support.faults import FaultPlan, FaultyDriver, Rule

needs_ring = pytest.mark.skipif(io_uring_available() is not None, reason=str(io_uring_available()))

LENGTH = 2 * DIRECT_BYTES


@pytest.fixture
def descriptor(tmp_path: Path) -> Iterator[int]:
    if run_tool("stat", "-f", "-c", "%T", tmp_path) == "tmpfs":
        pytest.skip("on tmpfs files are their cache")
    try:
        os.close(os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT | os.O_DIRECT))
    except OSError as error:
        pytest.skip(f"no direct I/O here: {error}")
    descriptor = os.open(tmp_path / "file", os.O_RDWR)
    yield descriptor
    os.close(descriptor)


class Shortening(FaultyDriver):
    """The first write and the first read move fewer bytes than they were asked to, in a way that direct I/O can."""

    def __init__(self, inner: UringDriver, missing: int) -> None:
        super().__init__(inner, FaultPlan())
        self._missing = missing
        self._buffers: dict[int, bytearray | None] = {}

    def prepare_read(self, user_data: int, descriptor: int, offset: int, buffer: bytearray) -> bool:
        if self.plan.calls["read"] == 0:
            self._buffers[user_data] = buffer
        return super().prepare_read(user_data, descriptor, offset, buffer)

    def prepare_write(self, user_data: int, descriptor: int, offset: int, data: Plain, rw_flags: int) -> bool:
        if self.plan.calls["write"] == 0:
            self._buffers[user_data] = None
        return super().prepare_write(user_data, descriptor, offset, data, rw_flags)

    def reap(self) -> list[tuple[int, int]]:
        return [(user_data, self._shorten(user_data, result)) for user_data, result in super().reap()]

    def _shorten(self, user_data: int, result: int) -> int:
        if user_data not in self._buffers:
            return result
        if (buffer := self._buffers.pop(user_data)) is not None:
            buffer[-self._missing :] = bytes(self._missing)
        return result - self._missing


@asynccontextmanager
async def opened(*rules: Rule) -> AsyncIterator[tuple[RingIO, FaultyDriver]]:
    """Without the page cache's own short way, so that every request is the ring's."""
    driver = FaultyDriver(UringDriver(16), FaultPlan(0, list(rules)))
    async with Ring.open(4, driver) as ring:
        yield RingIO(ring, page_cache=False), driver


def run_tool(*command: str | Path) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def filled(length: int, seed: int = 1) -> bytearray:
    """Content that differs from page to page, in memory as direct I/O needs it."""
    buffer = aligned(length)
    for start in range(0, length, PAGE_BYTES):
        buffer[start : start + 8] = (start * seed + 1).to_bytes(8)
    return buffer


def cached_pages(descriptor: int) -> int:
    """How many of the file's pages are in the page cache below (mincore(2))."""
    size = os.fstat(descriptor).st_size
    with mmap.mmap(descriptor, size) as mapped:
        pages = (ctypes.c_ubyte * -(-size // PAGE_BYTES))()
        start = ctypes.c_char.from_buffer(mapped)
        answer = ctypes.CDLL(None, use_errno=True).mincore(ctypes.byref(start), ctypes.c_size_t(size), pages)
        del start
    assert answer == 0, os.strerror(ctypes.get_errno())
    return sum(page & 1 for page in pages)


def cool(descriptor: int) -> None:
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


@pytest.mark.parametrize("length", [64 << 10, 1 << 20])
def test_large_buffers_begin_at_a_page(length: int) -> None:
    pool = BufferPool()
    for buffer in [pool.take(length) for _ in range(20)] + [aligned(length) for _ in range(20)]:
        assert type(buffer) is bytearray
        assert len(buffer) == length
        assert is_aligned(buffer)
    assert not is_aligned(bytearray(16)), "nothing small begins at a page: it could not be told apart"


@needs_ring
async def test_large_durable_writes_and_reads_leave_nothing_in_the_cache_below(descriptor: int) -> None:
    async with opened() as (io, driver):
        content = filled(LENGTH)
        await io.write(descriptor, PAGE_BYTES, content, durable=True)
        assert driver.rw_flags == [os.RWF_DSYNC]
        assert cached_pages(descriptor) == 0
        assert await io.read(descriptor, PAGE_BYTES, LENGTH) == content
        assert cached_pages(descriptor) == 0
        assert io.direct.count == 2


@needs_ring
async def test_what_is_short_or_out_of_place_or_not_durable_goes_through_the_cache(descriptor: int) -> None:
    async with opened() as (io, _):
        content = filled(LENGTH)
        await io.write(descriptor, 0, bytes(16), durable=False)
        assert cached_pages(descriptor) > 0
        await io.write(descriptor, 0, content, durable=False)
        await io.write(descriptor, 512, content, durable=True)
        await io.write(descriptor, 0, filled(DIRECT_BYTES // 2), durable=True)
        await io.write(descriptor, 0, bytes(content), durable=True)
        await io.write(descriptor, 0, memoryview(content)[: DIRECT_BYTES + 512], durable=True)
        unaligned = bytearray(LENGTH + 1)
        del unaligned[0]
        await io.write(descriptor, 0, unaligned, durable=True)
        assert len(await io.read(descriptor, 512, LENGTH)) == LENGTH
        assert len(await io.read(descriptor, 0, LENGTH - 512)) == LENGTH - 512
        assert len(await io.read(descriptor, 0, DIRECT_BYTES // 2)) == DIRECT_BYTES // 2
        assert io.direct.count == 0


@needs_ring
async def test_both_ways_show_the_same_bytes(descriptor: int) -> None:
    async with opened() as (io, _):
        await io.write(descriptor, 0, filled(LENGTH), durable=True)
        await io.write(descriptor, 100, b"dirty below", durable=False)
        read = await io.read(descriptor, 0, LENGTH)
        assert bytes(read[100:111]) == b"dirty below"
        assert await io.read(descriptor, 100, 11) == b"dirty below"  # cached now
        again = filled(LENGTH, seed=3)
        await io.write(descriptor, 0, again, durable=True)
        assert await io.read(descriptor, 100, 11) == again[100:111]
        assert io.direct.count == 3


@needs_ring
@pytest.mark.parametrize("size", [0, 1, 511, PAGE_BYTES, DIRECT_BYTES + 513, LENGTH - 1])
async def test_a_read_ends_where_the_file_does(descriptor: int, size: int) -> None:
    content = filled(LENGTH)[:size]
    os.pwrite(descriptor, content, 0)
    cool(descriptor)
    async with opened() as (io, _):
        assert bytes(await io.read(descriptor, 0, LENGTH)) == content
        assert io.direct.count == 1


@needs_ring
@pytest.mark.parametrize("missing", [PAGE_BYTES, 1000, LENGTH - 1])
async def test_what_comes_short_is_finished_through_the_cache(descriptor: int, missing: int) -> None:
    content = filled(LENGTH)
    driver = Shortening(UringDriver(16), missing)
    async with Ring.open(4, driver) as ring:
        io = RingIO(ring, page_cache=False)
        await io.write(descriptor, 0, content, durable=True)
        assert bytes(await io.read(descriptor, 0, LENGTH)) == content
        assert io.direct.count == 2
        assert len(driver.rw_flags) >= 2
        assert all(flags & os.RWF_DSYNC for flags in driver.rw_flags)
    assert os.pread(descriptor, LENGTH, 0) == content


@needs_ring
@pytest.mark.parametrize("number", [errno.EINVAL, errno.EOPNOTSUPP])
async def test_where_it_is_refused_the_cache_serves_and_it_is_not_tried_again(descriptor: int, number: int) -> None:
    content = filled(LENGTH)
    async with opened(Rule("write", 1, number)) as (io, driver):
        for _ in range(2):
            await io.write(descriptor, 0, content, durable=True)
        assert bytes(await io.read(descriptor, 0, LENGTH)) == content
        assert io.direct.count == 0
        assert driver.rw_flags[0] == os.RWF_DSYNC
        assert all(flags & os.RWF_DSYNC for flags in driver.rw_flags)
    async with opened(Rule("read", 1, number)) as (io, driver):
        for _ in range(2):
            assert bytes(await io.read(descriptor, 0, LENGTH)) == content
        assert io.direct.count == 0
        assert driver.plan.calls["read"] == 3


@needs_ring
@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
async def test_a_failure_is_the_callers(descriptor: int, number: int) -> None:
    before = len(os.listdir("/proc/self/fd"))
    async with opened(Rule("write", 1, number), Rule("read", 1, number)) as (io, _):
        with pytest.raises(OSError) as caught:
            await io.write(descriptor, 0, filled(LENGTH), durable=True)
        assert caught.value.errno == number
        with pytest.raises(OSError) as caught:
            await io.read(descriptor, 0, LENGTH)
        assert caught.value.errno == number
        await io.write(descriptor, 0, filled(LENGTH), durable=True)
        assert io.direct.count == 1, "it is still tried"
    assert len(os.listdir("/proc/self/fd")) <= before, "every descriptor was closed"


@needs_ring
async def test_durable_writes_at_the_same_time_go_past_the_cache_whatever_their_length(descriptor: int) -> None:
    os.pwrite(descriptor, bytes(LENGTH), 0)
    pages = {number * PAGE_BYTES: bytes([number + 1]) * PAGE_BYTES for number in range(8)}
    async with opened() as (io, driver):
        for offset, page in pages.items():
            await io.write(descriptor, offset, page, durable=True)
        assert io.direct.count == 0, "one after another they are no quicker so"
        async with trio.open_nursery() as nursery:
            for offset, page in pages.items():
                nursery.start_soon(partial(io.write, descriptor, offset, page[::-1] + page, durable=True))
                nursery.start_soon(partial(io.write, descriptor, LENGTH + offset + 1, page, durable=True))
                nursery.start_soon(partial(io.write, descriptor, 2 * LENGTH + offset, page, durable=False))
        count = io.direct.count
        assert len(pages) - 1 <= count <= len(pages), "all but one that was alone, and what is not whole pages"
        assert driver.rw_flags.count(os.RWF_DSYNC) == 3 * len(pages)
        for offset, page in pages.items():
            assert await io.read(descriptor, LENGTH + offset + 1, PAGE_BYTES) == page
            assert await io.read(descriptor, 2 * LENGTH + offset, PAGE_BYTES) == page
        assert bytes(await io.read(descriptor, 8 * PAGE_BYTES, PAGE_BYTES)) == pages[7 * PAGE_BYTES]
        await io.write(descriptor, 0, pages[0], durable=True)
        assert io.direct.count == count, "alone again"


@needs_ring
async def test_short_ones_that_are_refused_are_made_all_the_same(descriptor: int) -> None:
    content = bytes(filled(4 * PAGE_BYTES))
    async with opened(Rule("write", 2, errno.EINVAL)) as (io, _):
        async with trio.open_nursery() as nursery:
            for start in range(0, len(content), PAGE_BYTES):
                part = content[start : start + PAGE_BYTES]
                nursery.start_soon(partial(io.write, descriptor, start, part, durable=True))
        assert io.direct.count == 2, "those under way when one was refused are told by themselves"
    assert os.pread(descriptor, len(content), 0) == content
