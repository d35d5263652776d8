"""``Dispatcher``: runs the handlers of requests on trio without starting a task for each.

Imports trio and the core's ring; knows no protocol. Some tasks wait in a pool; one of them *leads*. In its turn the
leader takes what the ring has completed and runs the coroutine of each arrived request itself, step by step:

- it ends without waiting: the next one;
- it waits for the ring alone (a chunk is read or written, something flushed): it is put aside, and resumed in a turn of
  the leader's when that is done (``ring.Ring.turn``);
- it waits for anything else, as for a lock or somebody else's flush: now it needs a task, so it gets this one. Another
  task of the pool is promoted to leader, and this one sees the request through, as if it had run it from the start.

So that a request that must wait is an ordinary coroutine in an ordinary task, and one that need not costs neither a
task nor a trip through the event loop. Invariants: somebody leads, always; while a coroutine is put aside, it holds no
cancel scope, no nursery and no lock that belongs to a task; at most ``max_requests`` are under way;
every turn ends after ``_TURN_S``.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from functools import partial
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

import trio

from benchfs_core.chunks.request import Request
from benchfs_core.chunks.ring import Ring

T = TypeVar("T")
Work: TypeAlias = Coroutine[Any, Any, None]

_TURN_S = 0.002
"""How long a leader may go on without giving way to other tasks."""


class _Hosted:
    """The rest of a coroutine that was stopped at one of trio's traps, as an awaitable."""

    __slots__ = ("_trap", "_work")

    def __init__(self, work: Work, trap: Any) -> None:
        self._work = work
        self._trap = trap

    def __await__(self) -> Generator[Any, Any, None]:
        trap = self._trap
        while True:
            try:
                sent = yield trap
            except BaseException as error:  # trio's: handed in, as what is sent is
                step = partial(self._work.throw, error)
            else:
                step = partial(self._work.send, sent)
            try:
                trap = step()
            except StopIteration:
                return


class Source(Protocol[T]):
    """Where items come from: past the ring, which wakes who sleeps."""

    arrived: deque[T]
    """What nobody has taken."""

    def take(self, *, patient: bool) -> bool:
        """Take what items are there; whether there is something more to do, for an item or in the ring.

        If ``patient``, block for a moment until there is: only while nothing under way has a task, so that nobody else
        is kept waiting for long.
        """

    def listen(self) -> None:
        """See to it that the ring becomes ready when an item arrives, until ``stop_listening``."""

    def stop_listening(self) -> None:
        """Nobody waits for the ring now: ``take`` is asked for items."""


class Dispatcher(Generic[T]):
    """Runs one coroutine for each item of its source."""

    def __init__(self, ring: Ring, source: Source[T], begin: Callable[[T], Work | None], max_requests: int) -> None:
        """Run at most ``max_requests`` at a time.

        Args:
            ring: driven from ``run`` on.
            source: where items come from.
            begin: makes an item's coroutine, which raises nothing; None where there is nothing to run.
            max_requests: most requests under way.
        """
        self._ring = ring
        self._source = source
        self._fresh = source.arrived
        self._begin = begin
        self._max_requests = max_requests
        self._resumable: deque[Work] = deque()
        """Those put aside whose request of the ring is done."""
        self._aside = 0
        """How many are put aside, or resumable."""
        self._followers: list[trio.lowlevel.Task] = []
        self._led = False
        self.under_way = 0
        """Requests begun and not ended."""
        self._is_finishing = False
        self._changed = trio.lowlevel.ParkingLot()

    async def run(self) -> None:
        """Serve until cancelled; then what was put aside is seen through to its end. The ring is driven meanwhile."""
        self._ring.drive()
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self._serve)
        finally:
            with trio.CancelScope(shield=True):
                await self._finish()

    @property
    def has_others(self) -> bool:
        """Asked in a request that the leader runs: whether others wait, or run in tasks of their own."""
        return bool(self._fresh or self._resumable or self.under_way > self._aside + 1)

    async def drain(self) -> None:
        """Wait until no request is under way. A checkpoint."""
        await trio.lowlevel.checkpoint()
        while self.under_way or self._fresh:
            await self._changed.park()

    # Tasks of the pool

    async def _serve(self) -> None:
        while True:
            while self._led:
                await self._follow()
            self._led = True
            await self._lead()
            self._ended()
            await self._help()

    async def _follow(self) -> None:
        task = trio.lowlevel.current_task()
        self._followers.append(task)

        def abort(_: Callable[[], None]) -> trio.lowlevel.Abort:
            self._followers.remove(task)
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)

    async def _lead(self) -> None:
        """Lead until a request needs this task; return when that has ended."""
        try:
            while True:
                stopped, rest = self._turn()
                if stopped is not None:
                    self._promote()
                    break
                if rest:
                    await trio.lowlevel.checkpoint()
                else:
                    await self._ring.wait_ready()
        except BaseException:
            self._ring.stop_driving()  # nobody leads any more, and those who still wait for the ring must not wait
            raise
        await stopped

    async def _help(self) -> None:
        """Take requests that came while too many were under way: the leader may be waiting for the ring meanwhile."""
        while self._fresh and self.under_way < self._max_requests:
            with self._ring.turn():
                stopped = self._take()
            if stopped is not None:
                await stopped
                self._ended()

    def _promote(self) -> None:
        """Somebody else leads from now on."""
        self._led = False
        if self._followers:
            trio.lowlevel.reschedule(self._followers.pop())
        else:
            self._nursery.start_soon(self._serve)

    # The leader's turn

    def _turn(self) -> tuple[_Hosted | None, bool]:
        """Run what can be run; a request that needs this task, if one does, and whether there is more to run."""
        deadline_s = time.monotonic() + _TURN_S
        self._source.stop_listening()
        with self._ring.turn():
            self._ring.pump()
            while True:
                while self._resumable or (self._fresh and self.under_way < self._max_requests):  # ``_can_run``, inlined
                    if self._resumable:
                        self._aside -= 1
                        stopped = self._step(self._resumable.popleft())
                    else:
                        stopped = self._take()
                    if stopped is not None:
                        return stopped, True
                if time.monotonic() > deadline_s:
                    return None, True
                if not self._ring.is_quiet and (self._ring.pump() or self._can_run()):
                    continue
                if self._ring.woke_a_task():
                    return None, True
                if not self._will_have_more():
                    return None, False

    def _can_run(self) -> bool:
        return bool(self._resumable or (self._fresh and self.under_way < self._max_requests))

    def _will_have_more(self) -> bool:
        """Whether there is something to do after a moment's wait; otherwise the ring will be ready once there is."""
        if self._source.take(patient=self.under_way == self._aside):
            return True
        self._source.listen()
        return self._ring.pump() or self._can_run()

    def _take(self) -> _Hosted | None:
        work = self._begin(self._fresh.popleft())
        if work is None:
            return None
        self.under_way += 1
        try:  # as ``_step``, once less called
            trap = work.send(None)
        except StopIteration:
            self._ended()
            return None
        return self._stopped(work, trap)

    def _step(self, work: Work) -> _Hosted | None:
        """Run until it ends or waits for the ring (None), or needs a task."""
        try:
            trap = work.send(None)
        except StopIteration:
            self._ended()
            return None
        return self._stopped(work, trap)

    def _stopped(self, work: Work, trap: Any) -> _Hosted | None:
        if type(trap) is Request:
            self._aside += 1
            trap.on_done = partial(self._resume, work)
            return None
        return _Hosted(work, trap)

    def _resume(self, work: Work) -> None:
        self._resumable.append(work)
        if self._is_finishing:
            self._changed.unpark_all()

    async def _finish(self) -> None:
        """See through to its end what was put aside: without turns, so that it waits as any task does."""
        self._is_finishing = True
        while self._aside:
            while not self._resumable:
                await self._changed.park()
            self._aside -= 1
            work = self._resumable.popleft()
            try:
                trap = work.send(None)
            except StopIteration:
                continue
            await _Hosted(work, trap)

    def _ended(self) -> None:
        self.under_way -= 1
        if not self.under_way and self._changed:  # asking is cheap, waking nobody is not
            self._changed.unpark_all()
