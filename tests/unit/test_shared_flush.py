"""``SharedFlush``: who is covered by which flush."""

from __future__ import annotations

import errno

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from benchfs_core.shared_flush import SharedFlush


class Disk:
    """A flush that ends when told to; ``began`` counts."""

    def __init__(self) -> None:
        self.began = 0
        self.gates: list[trio.Event] = []
        self.errors: dict[int, Exception] = {}

    async def flush(self) -> None:
        self.began += 1
        number = self.began
        gate = trio.Event()
        self.gates.append(gate)
        await gate.wait()
        if number in self.errors:
            raise self.errors[number]

    def end(self, number: int) -> None:
        self.gates[number - 1].set()


async def test_callers_who_come_during_a_flush_share_the_next() -> None:
    disk = Disk()
    shared = SharedFlush(disk.flush)
    done: list[int] = []

    async def call(name: int) -> None:
        await shared.flush()
        done.append(name)

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(call, 0)
            await wait_all_tasks_blocked()
            for name in range(1, 50):
                nursery.start_soon(call, name)
            await wait_all_tasks_blocked()
            assert disk.began == 1
            disk.end(1)
            await wait_all_tasks_blocked()
            assert done == [0], "a flush that began before the call covers nobody"
            assert disk.began == 2
            disk.end(2)
    assert sorted(done) == list(range(50))
    assert shared.begun == disk.began == 2


async def test_an_error_reaches_all_that_waited_and_nobody_later() -> None:
    disk = Disk()
    disk.errors[2] = OSError(errno.EIO, "lost")
    shared = SharedFlush(disk.flush)
    failed: list[tuple[int, int | None]] = []

    async def call(name: int) -> None:
        try:
            await shared.flush()
        except OSError as error:
            failed.append((name, error.errno))

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(call, 0)
            await wait_all_tasks_blocked()
            for name in range(1, 5):
                nursery.start_soon(call, name)
            await wait_all_tasks_blocked()
            disk.end(1)
            await wait_all_tasks_blocked()
            nursery.start_soon(call, 5)
            await wait_all_tasks_blocked()
            disk.end(2)
            await wait_all_tasks_blocked()
            assert disk.began == 3, "who came during the failing flush needs one more"
            disk.end(3)
    assert sorted(failed) == [(name, errno.EIO) for name in range(1, 5)]


async def test_a_cancelled_leader_leaves_the_flush_to_the_others() -> None:
    disk = Disk()
    shared = SharedFlush(disk.flush)
    done: list[int] = []

    async def call(name: int) -> None:
        await shared.flush()
        done.append(name)

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            scope = trio.CancelScope()

            async def leader() -> None:
                with scope:
                    await shared.flush()

            nursery.start_soon(leader)
            await wait_all_tasks_blocked()
            for name in range(3):
                nursery.start_soon(call, name)
            await wait_all_tasks_blocked()
            scope.cancel()
            await wait_all_tasks_blocked()
            assert scope.cancelled_caught
            assert (done, disk.began) == ([], 2)
            disk.end(2)
    assert sorted(done) == [0, 1, 2]


async def test_a_cancelled_follower_just_leaves() -> None:
    disk = Disk()
    shared = SharedFlush(disk.flush)
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(shared.flush)
            await wait_all_tasks_blocked()
            with trio.CancelScope() as scope:
                scope.cancel()
                await shared.flush()
            assert scope.cancelled_caught
            disk.end(1)
    assert disk.began == 1


async def test_a_failure_counts_even_after_a_later_success() -> None:
    calls = 0

    async def flush() -> None:
        nonlocal calls
        calls += 1
        await trio.lowlevel.checkpoint()
        if calls == 1:
            raise OSError(errno.EIO, "lost")

    shared = SharedFlush(flush)
    with pytest.raises(OSError, match="lost"):
        await shared.flush()
    await shared.flush()
    assert calls == 2
