"""A ring that somebody drives: what is posted, what is resumed without a task, and who reaps afterwards."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from benchfs_core.chunks.request import Posted, Request
from benchfs_core.chunks.ring import Ring
from benchfs_core.chunks.uring import UringDriver, Vectors, io_uring_available
from tests.support.faults import FaultPlan, FaultyDriver, Rule

pytestmark = pytest.mark.skipif(io_uring_available() is not None, reason=str(io_uring_available()))

CONTENT = bytes(range(256)) * 16


@pytest.fixture
def descriptor(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    os.pwrite(descriptor, CONTENT, 0)
    yield descriptor
    os.close(descriptor)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe2(os.O_NONBLOCK)
    yield reader, writer
    for end in (reader, writer):
        os.close(end)


async def pumped(ring: Ring, until: list[int], count: int = 1) -> None:
    """Drive until ``until`` has ``count`` entries."""
    with trio.fail_after(10):
        ring.pump()
        while len(until) < count:
            await ring.wait_ready()
            ring.pump()


async def test_what_is_posted_reads_and_writes_several_buffers(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    head, tail, told = bytearray(3), bytearray(10), list[int]()
    async with Ring.open(4) as ring:
        ring.drive()
        ring.post(Posted(reader, Vectors(head, tail), told.append, writes=False))
        ring.pump()
        assert not told
        ring.post(Posted(writer, Vectors(b"ab", bytearray(b"cde")), told.append, writes=True))
        await pumped(ring, told, 2)
        ring.stop_driving()
    assert told == [5, 5]
    assert (bytes(head), bytes(tail[:2])) == (b"abc", b"de")


async def test_what_is_posted_can_be_taken_back_and_posted_again(pipe: tuple[int, int]) -> None:
    told = list[int]()
    async with Ring.open(4) as ring:
        ring.drive()
        posted = Posted(pipe[0], Vectors(bytearray(5)), told.append, writes=False)
        ring.post(posted)
        ring.pump()
        ring.cancel(posted)
        await pumped(ring, told)
        assert told == [-errno.ECANCELED]
        ring.cancel(posted)  # is with nobody: nothing happens
        ring.post(posted)
        os.write(pipe[1], b"12345")
        await pumped(ring, told, 2)
        ring.stop_driving()
    assert told[1] == 5


async def test_what_is_posted_takes_no_place_of_a_request(descriptor: int, pipe: tuple[int, int]) -> None:
    told = list[int]()
    async with Ring.open(1) as ring:
        posted = [Posted(pipe[0], Vectors(bytearray(1)), told.append, writes=False) for _ in range(20)]
        for one in posted:
            ring.post(one)
        with trio.fail_after(10):
            assert await ring.read(descriptor, 0, 3) == CONTENT[:3]
            for one in posted:
                ring.cancel(one)
            while len(told) < len(posted):
                await trio.lowlevel.checkpoint()


async def test_a_broken_ring_fails_what_is_posted(pipe: tuple[int, int]) -> None:
    told = list[int]()
    driver = FaultyDriver(UringDriver(8), FaultPlan(rules=(Rule("submit", None, errno.EBADF),)))
    async with Ring.open(4, driver) as ring:
        for _ in range(2):
            ring.post(Posted(pipe[0], Vectors(bytearray(1)), told.append, writes=False))
            ring.pump()
    assert told == [-errno.EIO, -errno.EIO]


async def test_a_coroutine_of_a_turn_is_handed_its_requests_and_resumed(descriptor: int) -> None:
    results: list[bytes] = []
    done = list[int]()

    async def work() -> None:
        results.append(bytes(await ring.read(descriptor, 5, 5)))
        await ring.write(descriptor, 5, b"fresh")
        results.append(bytes(await ring.read(descriptor, 4, 7)))

    async with Ring.open(4) as ring:
        ring.drive()
        with ring.turn():
            coroutine = work()
            request = coroutine.send(None)
        for count in (1, 2, 3):
            assert isinstance(request, Request)
            request.on_done = lambda: done.append(1)
            await pumped(ring, done, count)
            with ring.turn():
                try:
                    request = coroutine.send(None)
                except StopIteration:
                    assert count == 3
        ring.stop_driving()
    assert results == [CONTENT[5:10], b"\x04fresh\x0a"]


async def test_the_rings_own_tasks_reap_before_and_after(descriptor: int, pipe: tuple[int, int]) -> None:
    reader, writer = os.pipe()
    async with Ring.open(4) as ring, trio.open_nursery() as nursery:
        with trio.fail_after(10):
            nursery.start_soon(ring.read, reader, 0, 1)
            while not ring.in_flight:
                await trio.lowlevel.checkpoint()
            ring.drive()
            os.write(writer, b"x")
            while ring.in_flight:
                await ring.wait_ready()
                ring.pump()
            nursery.start_soon(ring.read, reader, 0, 1)
            while not ring.in_flight:
                await trio.lowlevel.checkpoint()
            ring.stop_driving()
            os.write(writer, b"x")
    for end in (reader, writer):
        os.close(end)
