"""Flushes and short durable writes on the event loop: when they are made there, and that they are made."""

from __future__ import annotations

import errno
import os
import select
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from benchfs_core.chunks.lone_calls import LITTLE_BYTES, QUICK_NS, RESPITE_NS
from benchfs_core.chunks.page_cache import WRITE_BYTES
from benchfs_core.chunks.request import Request
from benchfs_core.chunks.ring import Ring
from benchfs_core.chunks.ring_io import RingIO
from benchfs_core.chunks.uring import io_uring_available
from benchfs_core.meter import Meter

pytestmark = pytest.mark.skipif(io_uring_available() is not None, reason=str(io_uring_available()))


class Clock:
    """Moves by ``step_ns`` at each look; ``then``, once, is done at the second look from now: at a call's end."""

    def __init__(self) -> None:
        self.time_ns = 10**12
        self.step_ns = 1000
        self.then: bytes | None = None
        self.pipe = -1
        self._looks = 0

    def __call__(self) -> int:
        self.time_ns += self.step_ns
        if self.then is not None:
            self._looks += 1
            if self._looks == 2:
                os.write(self.pipe, self.then)
                self.then, self._looks = None, 0
        return self.time_ns


class Rig:
    """A ring that is driven, whose requests would come by a pipe."""

    def __init__(self, io: RingIO, clock: Clock, asked: int, descriptor: int) -> None:
        self.io = io
        self.clock = clock
        self.asked = asked
        self.descriptor = descriptor

    async def went_by_ring(self, work: Coroutine[Any, Any, None]) -> bool:
        """Run it as the leader of the plane's dispatcher does; whether it waited for the ring."""
        waited = False
        with trio.fail_after(10):
            while True:
                with self.io.ring.turn():
                    try:
                        request = work.send(None)
                    except StopIteration:
                        return waited
                assert isinstance(request, Request)
                waited = True
                await self._done(self.io.ring, request)

    async def _done(self, ring: Ring, request: Request) -> None:
        done: list[bool] = []
        request.on_done = lambda: done.append(True)
        ring.pump()
        while not done:
            await ring.wait_ready()
            ring.pump()

    async def flush_by_ring(self) -> bool:
        """Flush; whether through the ring."""
        return await self.went_by_ring(self.io.fsync(self.descriptor, datasync=True))


@asynccontextmanager
async def driven(descriptor: int, *, watched: bool = True) -> AsyncIterator[Rig]:
    reader, writer = os.pipe2(os.O_NONBLOCK)
    clock = Clock()
    clock.pipe = writer
    async with RingIO.open_ring(4, meter=Meter(clock)) as io:
        if watched:
            asked = select.poll()
            asked.register(reader, select.POLLIN)
            io.ring.others_wait = lambda: bool(asked.poll(0))
        io.ring.drive()
        yield Rig(io, clock, reader, descriptor)
        io.ring.stop_driving()
    for end in (reader, writer):
        os.close(end)


@pytest.fixture
def descriptor(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    yield descriptor
    os.close(descriptor)


async def test_a_flush_is_made_on_the_loop_once_one_was_quick(descriptor: int) -> None:
    async with driven(descriptor) as rig:
        assert [await rig.flush_by_ring() for _ in range(4)] == [True, False, False, False]
        assert rig.io.counts.flushes == 4


async def test_after_one_that_was_slow_the_next_goes_through_the_ring(descriptor: int) -> None:
    async with driven(descriptor) as rig:
        await rig.flush_by_ring()
        rig.clock.step_ns = QUICK_NS
        assert [await rig.flush_by_ring() for _ in range(3)] == [False, True, True]
        rig.clock.step_ns = 1000
        assert [await rig.flush_by_ring() for _ in range(2)] == [True, False]


async def test_what_has_much_to_flush_goes_through_the_ring(descriptor: int) -> None:
    async with driven(descriptor) as rig:
        await rig.flush_by_ring()
        for _ in range(2):
            await rig.went_by_ring(rig.io.write(descriptor, 0, bytes(LITTLE_BYTES // 2), durable=False))
        assert not await rig.flush_by_ring()
        for length in (LITTLE_BYTES, 1):
            await rig.went_by_ring(rig.io.write(descriptor, 0, bytes(length), durable=False))
        assert [await rig.flush_by_ring() for _ in range(2)] == [True, False]


async def test_none_is_made_while_somebody_else_asks(descriptor: int) -> None:
    async with driven(descriptor) as rig:
        await rig.flush_by_ring()
        os.write(rig.clock.pipe, b"x")
        assert await rig.flush_by_ring()
        os.read(rig.asked, 1)
        assert not await rig.flush_by_ring()


async def test_none_is_made_for_a_while_after_somebody_had_to_wait_for_one(descriptor: int) -> None:
    async with driven(descriptor) as rig:
        await rig.flush_by_ring()
        rig.clock.then = b"x"
        assert not await rig.flush_by_ring()
        os.read(rig.asked, 1)
        assert await rig.flush_by_ring()
        rig.clock.time_ns += RESPITE_NS
        assert not await rig.flush_by_ring()


async def test_none_is_made_while_something_is_in_the_ring(descriptor: int) -> None:
    reader, writer = os.pipe()
    async with driven(descriptor) as rig, trio.open_nursery() as nursery:
        await rig.flush_by_ring()
        nursery.start_soon(rig.io.ring.read, reader, 0, 1)
        while rig.io.ring.is_quiet:
            await trio.lowlevel.checkpoint()
        assert await rig.flush_by_ring()
        os.write(writer, b"x")
        while not rig.io.ring.is_quiet:
            await rig.io.ring.wait_ready()
            rig.io.ring.pump()
    for end in (reader, writer):
        os.close(end)


async def test_none_is_made_where_nobody_can_tell_whether_others_ask(descriptor: int) -> None:
    async with driven(descriptor, watched=False) as rig:
        assert [await rig.flush_by_ring() for _ in range(3)] == [True] * 3


async def test_another_file_that_is_flushed_says_nothing_of_this_one(descriptor: int, tmp_path: Path) -> None:
    other = os.open(tmp_path / "other", os.O_RDWR | os.O_CREAT)
    async with driven(descriptor) as rig:
        await rig.flush_by_ring()
        await rig.went_by_ring(rig.io.write(descriptor, 0, bytes(LITTLE_BYTES + 1), durable=False))
        assert not await rig.went_by_ring(rig.io.fsync(other, datasync=True))
        assert [await rig.flush_by_ring() for _ in range(2)] == [True, False]
    os.close(other)


async def test_what_fails_in_passing_is_tried_again_by_the_ring(
    descriptor: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOMEM, "of the test")

    async with driven(descriptor) as rig:
        await rig.flush_by_ring()
        monkeypatch.setattr(os, "fdatasync", fail)
        assert await rig.flush_by_ring()
        monkeypatch.setattr(os, "pwritev", fail)
        assert await rig.went_by_ring(rig.io.write(descriptor, 0, b"data", durable=True))
    assert os.pread(descriptor, 10, 0) == b"data"


async def test_a_task_of_its_own_waits_for_the_ring(descriptor: int) -> None:
    async with driven(descriptor) as rig:
        await rig.flush_by_ring()
        rig.io.ring.stop_driving()
        before = rig.io.enter_count
        await rig.io.fsync(descriptor, datasync=True)
        assert rig.io.enter_count > before
        rig.io.ring.drive()


@pytest.mark.parametrize("length", [1, 4096, WRITE_BYTES])
async def test_a_short_durable_write_is_made_on_the_loop_whole(descriptor: int, length: int) -> None:
    data = os.urandom(length)
    async with driven(descriptor) as rig:
        await rig.flush_by_ring()
        assert not await rig.went_by_ring(rig.io.write(descriptor, 5, data, durable=True))
        assert rig.io.counts.durable_writes == 1
    assert os.pread(descriptor, length + 10, 5) == data


async def test_a_long_durable_write_goes_through_the_ring(descriptor: int) -> None:
    data = os.urandom(WRITE_BYTES + 1)
    async with driven(descriptor) as rig:
        await rig.flush_by_ring()
        assert await rig.went_by_ring(rig.io.write(descriptor, 0, data, durable=True))
    assert os.pread(descriptor, len(data) + 1, 0) == data


async def test_what_fails_on_the_loop_is_told_as_by_the_ring(descriptor: int, tmp_path: Path) -> None:
    async with driven(descriptor) as rig:
        for _ in range(2):
            with pytest.raises(OSError) as caught:
                await rig.went_by_ring(rig.io.fsync(rig.asked, datasync=True))
            assert caught.value.errno == errno.EINVAL
        closed = os.open(tmp_path / "file", os.O_RDONLY)
        try:
            for _ in range(2):
                with pytest.raises(OSError) as caught:
                    await rig.went_by_ring(rig.io.write(closed, 0, b"x", durable=True))
                assert caught.value.errno == errno.EBADF
        finally:
            os.close(closed)
