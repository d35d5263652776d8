"""``SharedLock``: shared or alone, in order of arrival, and never lost to a cancellation."""

from __future__ import annotations

import trio
from trio.testing import wait_all_tasks_blocked

from benchfs_core.locks import SharedLock


class Queue:
    """Tasks that want one lock, each let go by name; ``log`` has who got it, in order."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.lock = SharedLock()
        self.log: list[str] = []
        self._nursery = nursery
        self._leave: dict[str, trio.Event] = {}
        self._scopes: dict[str, trio.CancelScope] = {}

    async def want(self, name: str) -> None:
        """Begin a task that takes the lock, alone if its name is a capital letter."""
        self._leave[name], self._scopes[name] = trio.Event(), trio.CancelScope()
        self._nursery.start_soon(self._take, name)
        await wait_all_tasks_blocked()

    async def leave(self, name: str) -> None:
        self._leave[name].set()
        await wait_all_tasks_blocked()

    def cancel(self, name: str) -> None:
        self._scopes[name].cancel()

    async def _take(self, name: str) -> None:
        with self._scopes[name]:
            if name.isupper():
                async with self.lock.exclusive():
                    await self._hold(name)
                return
            await self.lock.acquire_shared()
            try:
                await self._hold(name)
            finally:
                self.lock.release_shared()

    async def _hold(self, name: str) -> None:
        self.log.append(name)
        await self._leave[name].wait()


async def test_sharers_hold_it_together_and_one_alone() -> None:
    async with trio.open_nursery() as nursery:
        queue = Queue(nursery)
        for name in "abC":
            await queue.want(name)
        assert queue.log == ["a", "b"], "each was let in before the next came"
        await queue.leave("a")
        assert queue.log == ["a", "b"]
        await queue.leave("b")
        assert queue.log == ["a", "b", "C"]
        await queue.want("d")
        assert not queue.lock.idle
        await queue.leave("C")
        await queue.leave("d")
        assert queue.log == ["a", "b", "C", "d"]
    assert queue.lock.idle


async def test_who_waits_to_have_it_alone_is_not_starved() -> None:
    async with trio.open_nursery() as nursery:
        queue = Queue(nursery)
        for name in "aBcdE":
            await queue.want(name)
        assert queue.log == ["a"]
        await queue.leave("a")
        assert queue.log == ["a", "B"]
        await queue.leave("B")
        assert set(queue.log[2:]) == {"c", "d"}
        for name in "cdE":
            await queue.leave(name)
        assert queue.log[4:] == ["E"]


async def test_one_that_gives_up_waiting_lets_the_others_by() -> None:
    async with trio.open_nursery() as nursery:
        queue = Queue(nursery)
        for name in "aBc":
            await queue.want(name)
        queue.cancel("B")
        await wait_all_tasks_blocked()
        assert queue.log == ["a", "c"]
        await queue.leave("a")
        await queue.leave("c")
    assert queue.lock.idle


async def test_one_cancelled_in_the_turn_in_which_it_was_granted_hands_it_on() -> None:
    for waiter in "bB":
        async with trio.open_nursery() as nursery:
            queue = Queue(nursery)
            for name in ("A", waiter, "C"):
                await queue.want(name)
            queue._leave["A"].set()
            queue.cancel(waiter)
            await wait_all_tasks_blocked()
            assert "C" in queue.log or not queue.lock.idle
            await queue.leave(waiter)
            await queue.leave("C")
        assert queue.lock.idle
        assert queue.log[-1] == "C"


async def test_an_error_inside_gives_it_up() -> None:
    lock = SharedLock()
    try:
        async with lock.exclusive():
            raise ValueError
    except ValueError:
        pass  # expected: what counts is the lock afterwards
    assert lock.idle
