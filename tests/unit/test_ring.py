"""The reactor: batching, bounds, continuation, retries, cancellation, closing."""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from benchfs_core.chunks.request_queue import MAX_TRIES
from benchfs_core.chunks.ring import Ring
from benchfs_core.chunks.uring import UringDriver, io_uring_available
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
    """A read of an empty pipe stays in flight for as long as the test likes."""
    reader, writer = os.pipe()
    yield reader, writer
    for end in (reader, writer):
        os.close(end)


@asynccontextmanager
async def faulty(*rules: Rule, depth: int = 8) -> AsyncIterator[tuple[Ring, FaultyDriver]]:
    driver = FaultyDriver(UringDriver(2 * depth), FaultPlan(rules=rules))
    with trio.fail_after(30):
        async with Ring.open(depth, driver) as ring:
            yield ring, driver
    assert driver.closed


async def test_read_write_fsync(descriptor: int) -> None:
    async with Ring.open(4) as ring:
        assert await ring.read(descriptor, 5, 10) == CONTENT[5:15]
        await ring.write(descriptor, 2, b"new", os.RWF_DSYNC)
        await ring.fsync(descriptor)
        await ring.fsync(descriptor, datasync=True)
        assert await ring.read(descriptor, 0, 6) == b"\x00\x01new\x05"
        assert await ring.read(descriptor, len(CONTENT) - 3, 10) == CONTENT[-3:]
        assert await ring.read(descriptor, len(CONTENT), 10) == b""
        assert await ring.read(descriptor, 0, 0) == b""
        await ring.write(descriptor, 0, b"")


async def test_requests_of_one_turn_enter_the_kernel_once(descriptor: int) -> None:
    async with Ring.open(64) as ring:
        await ring.read(descriptor, 0, 1)
        before = ring.enter_count
        async with trio.open_nursery() as nursery:
            for offset in range(50):
                nursery.start_soon(ring.read, descriptor, offset, 1)
        assert ring.enter_count == before + 1


async def test_an_idle_ring_does_not_enter_the_kernel(descriptor: int) -> None:
    async with Ring.open(8) as ring:
        await ring.read(descriptor, 0, 1)
        await wait_all_tasks_blocked()
        before = ring.enter_count
        for _ in range(100):
            await trio.lowlevel.checkpoint()
        assert ring.enter_count == before
        assert ring.in_flight == ring.waiting == 0


async def test_a_full_queue_waits_first_in_first_out(descriptor: int, pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    order: list[int] = []

    async def read(number: int, source: int) -> None:
        assert len(await ring.read(source, 0, 1)) == 1
        order.append(number)

    async with faulty(depth=2) as (ring, _), trio.open_nursery() as nursery:
        for number in range(2):
            nursery.start_soon(read, number, reader)
            await wait_all_tasks_blocked()
        for number in range(2, 8):
            nursery.start_soon(read, number, descriptor)
            await wait_all_tasks_blocked()
        assert (ring.in_flight, ring.waiting, order) == (2, 6, [])
        os.write(writer, b"x")
        await wait_all_tasks_blocked()
        while ring.waiting:
            await trio.lowlevel.checkpoint()
        os.write(writer, b"x")
    assert [number for number in order if number >= 2] == [2, 3, 4, 5, 6, 7]


async def test_short_completions_are_continued(descriptor: int) -> None:
    async with faulty(Rule("read", 1, short_by=1000), Rule("read", 2, short_by=1), Rule("write", short_by=700)) as (
        ring,
        driver,
    ):
        assert await ring.read(descriptor, 0, len(CONTENT)) == CONTENT
        await ring.write(descriptor, 100, CONTENT[::-1])
        assert {rule.operation for rule in driver.plan.fired} == {"read", "write"}
    assert os.pread(descriptor, 5000, 100) == CONTENT[::-1]


async def test_a_short_read_ends_at_the_end_of_the_file(descriptor: int) -> None:
    async with faulty(Rule("read", 1, short_by=50)) as (ring, _):
        assert await ring.read(descriptor, len(CONTENT) - 100, 200) == CONTENT[-100:]


@pytest.mark.parametrize("error", [errno.ENOMEM, errno.EAGAIN, errno.EINTR])
@pytest.mark.parametrize("operation", ["read", "write", "fsync"])
async def test_passing_errors_are_tried_again(descriptor: int, operation: str, error: int) -> None:
    async with faulty(*(Rule(operation, nth, error) for nth in range(1, MAX_TRIES))) as (ring, driver):
        assert await call(ring, operation, descriptor)
        assert driver.plan.calls[operation] == MAX_TRIES


@pytest.mark.parametrize(("error", "tries"), [(errno.EIO, 1), (errno.ENOSPC, 1), (errno.ENOMEM, MAX_TRIES)])
@pytest.mark.parametrize("operation", ["read", "write", "fsync"])
async def test_errors_reach_the_caller(descriptor: int, operation: str, error: int, tries: int) -> None:
    async with faulty(*(Rule(operation, nth, error) for nth in range(1, tries + 1))) as (ring, driver):
        with pytest.raises(OSError, match=os.strerror(error)) as caught:
            await call(ring, operation, descriptor)
        assert caught.value.errno == error
        assert driver.plan.calls[operation] == tries
        assert await call(ring, operation, descriptor), "the next request is served"


async def call(ring: Ring, operation: str, descriptor: int) -> bool:
    if operation == "read":
        return await ring.read(descriptor, 0, 10) == CONTENT[:10]
    if operation == "write":
        await ring.write(descriptor, 0, CONTENT[:10])
    else:
        await ring.fsync(descriptor)
    return True


@pytest.mark.parametrize("error", [errno.EAGAIN, errno.EBUSY, errno.EINTR])
async def test_a_failed_enter_keeps_the_queue(descriptor: int, error: int) -> None:
    async with faulty(Rule("submit", 1, error), Rule("submit", 2, error)) as (ring, driver):
        assert await ring.read(descriptor, 0, 10) == CONTENT[:10]
        assert driver.plan.calls["submit"] == 3


async def test_a_failed_enter_waits_for_a_completion(descriptor: int, pipe: tuple[int, int]) -> None:
    async with faulty(Rule("submit", 2, errno.EBUSY)) as (ring, driver), trio.open_nursery() as nursery:
        nursery.start_soon(ring.read, pipe[0], 0, 1)
        await wait_all_tasks_blocked()
        nursery.start_soon(ring.read, descriptor, 0, 1)
        await wait_all_tasks_blocked()
        assert (driver.plan.calls["submit"], ring.in_flight) == (2, 2)
        os.write(pipe[1], b"x")


async def test_an_enter_that_fails_for_good_fails_everybody(descriptor: int) -> None:
    async with faulty(Rule("submit", None, errno.EBADF)) as (ring, _):
        for _ in range(2):
            with pytest.raises(OSError, match="Bad file"):
                await ring.read(descriptor, 0, 1)


async def test_an_enter_that_keeps_failing_is_given_up(descriptor: int) -> None:
    async with faulty(Rule("submit", None, errno.EAGAIN)) as (ring, driver):
        with pytest.raises(BlockingIOError):
            await ring.read(descriptor, 0, 1)
        assert driver.plan.calls["submit"] == MAX_TRIES


async def test_a_cancelled_pending_request_never_reaches_the_kernel(descriptor: int, pipe: tuple[int, int]) -> None:
    async with faulty(depth=1) as (ring, driver), trio.open_nursery() as nursery:
        nursery.start_soon(ring.read, pipe[0], 0, 1)
        await wait_all_tasks_blocked()
        scope = trio.CancelScope()
        nursery.start_soon(cancellable, scope, lambda: ring.write(descriptor, 0, b"never"))
        await wait_all_tasks_blocked()
        assert ring.waiting == 1
        scope.cancel()
        await wait_all_tasks_blocked()
        assert scope.cancelled_caught
        assert (ring.waiting, driver.plan.calls["write"]) == (0, 0)
        os.write(pipe[1], b"x")
    assert os.pread(descriptor, 5, 0) == CONTENT[:5]


async def test_a_cancelled_submitted_request_is_cancelled_in_the_kernel(pipe: tuple[int, int]) -> None:
    async with faulty() as (ring, driver), trio.open_nursery() as nursery:
        scope = trio.CancelScope()
        nursery.start_soon(cancellable, scope, lambda: ring.read(pipe[0], 0, 1))
        await wait_all_tasks_blocked()
        scope.cancel()
        await wait_all_tasks_blocked()
        assert scope.cancelled_caught
        assert (ring.in_flight, driver.cancelled) == (0, [1])
        os.write(pipe[1], b"x")
        assert await ring.read(pipe[0], 0, 1) == b"x", "the cancelled read took nothing"


async def test_a_request_that_completed_before_its_cancellation_returns_its_result(descriptor: int) -> None:
    """What is done cannot be taken back: the caller gets the result and is cancelled at its next checkpoint."""
    async with Ring.open(4) as ring, trio.open_nursery() as nursery:
        scope = trio.CancelScope()
        results: list[bytes] = []

        async def caller() -> None:
            with scope:
                results.append(bytes(await ring.read(descriptor, 0, 3)))
                await trio.lowlevel.checkpoint()

        nursery.start_soon(caller)
        while not ring.enter_count:
            await trio.lowlevel.checkpoint()
        scope.cancel()
    assert results == [CONTENT[:3]]


async def cancellable(scope: trio.CancelScope, request: Callable[[], object]) -> None:
    with scope:
        await request()  # type: ignore[misc]


async def test_cancelling_an_already_cancelled_scope_submits_nothing(descriptor: int) -> None:
    async with faulty() as (ring, driver):
        with trio.CancelScope() as scope:
            scope.cancel()
            await ring.write(descriptor, 0, b"never")
        assert scope.cancelled_caught
        assert not driver.plan.calls["write"]


async def test_closing_drains(descriptor: int, pipe: tuple[int, int]) -> None:
    async with faulty(depth=1) as (ring, driver), trio.open_nursery() as nursery:
        results: list[bytes] = []

        async def read(source: int) -> None:
            results.append(bytes(await ring.read(source, 0, 1)))

        nursery.start_soon(read, pipe[0])
        await wait_all_tasks_blocked()
        nursery.start_soon(read, descriptor)
        await wait_all_tasks_blocked()
        nursery.start_soon(ring.aclose)
        await wait_all_tasks_blocked()
        assert not driver.closed
        with pytest.raises(trio.ClosedResourceError):
            await ring.read(descriptor, 0, 1)
        os.write(pipe[1], b"x")
        await ring.aclose()
    assert results == [b"x", CONTENT[:1]]


async def fail_inside(descriptor: int) -> None:
    async with Ring.open(4) as ring:
        await ring.read(descriptor, 0, 1)
        raise ZeroDivisionError


async def test_leaving_by_cancellation_or_exception_drains_too(descriptor: int) -> None:
    with trio.fail_after(10):
        with pytest.raises(ZeroDivisionError):  # itself, not a group
            await fail_inside(descriptor)
        with trio.CancelScope() as scope:
            async with Ring.open(4), trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep_forever)
                scope.cancel()
        assert scope.cancelled_caught


async def test_a_bad_buffer_fails_its_caller_alone(descriptor: int) -> None:
    async with Ring.open(4) as ring:
        with pytest.raises(TypeError):
            await ring.write(descriptor, 0, [1, 2])  # type: ignore[arg-type]
        with pytest.raises(OSError, match="Invalid"):
            await ring.read(descriptor, -1, 1)
        with pytest.raises(OSError, match="Bad file"):
            await ring.read(1_000_000, 0, 1)
        assert await ring.read(descriptor, 0, 2) == CONTENT[:2]


async def test_a_write_that_stores_nothing_is_an_error(descriptor: int) -> None:
    class Nothing(FaultyDriver):
        def reap(self) -> list[tuple[int, int]]:
            return [(user_data, 0) for user_data, _ in super().reap()]

    async with Ring.open(4, Nothing(UringDriver(8), FaultPlan())) as ring:
        with pytest.raises(OSError, match="stored nothing") as caught:
            await ring.write(descriptor, 0, b"abc")
        assert caught.value.errno == errno.EIO


async def test_many_requests_through_a_small_queue(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path / "many", os.O_RDWR | os.O_CREAT)
    rules = (Rule("write", short_by=300, probability=0.2), Rule("write", error=errno.ENOMEM, probability=0.1))
    async with faulty(*rules, depth=3) as (ring, driver):
        async with trio.open_nursery() as nursery:
            for part in range(200):
                nursery.start_soon(ring.write, descriptor, part * 1000, bytes([part]) * 1000)
        assert driver.plan.fired
        for part in range(200):
            assert await ring.read(descriptor, part * 1000, 1000) == bytes([part]) * 1000
    os.close(descriptor)
