"""``Ring``: the io_uring reactor on trio. Reads, writes and flushes of descriptors, each awaited by its caller.

Imports trio, ``request_queue``, ``uring`` and ``gate``; knows nothing of files, paths or chunks.

Two tasks serve every request. The *submitter* is parked until the first request of a turn of the event loop wakes it;
by the time it runs, every task of that turn has queued its requests, and all go to the kernel in one
io_uring_enter(2). It takes at once what completed during that call (reads in the page cache do). The *reaper* waits
for the ring's descriptor to become readable while something is in flight. Neither polls nor uses a timer: an idle
ring makes no system call.

Or one task *drives* the ring (``drive``), as a front end does whose own requests come and go through it: it submits
and reaps by ``pump`` whenever it has a turn, and waits for the descriptor itself. In its ``turn`` it may run coroutines
of its own, without tasks: where such a one reads or writes here it is handed the ``Request``, and resumes the coroutine
when that is done. ``post`` is for what nobody awaits.

Invariants:
- at most ``queue_depth`` requests are in flight; the rest wait, first in, first out;
- a caller resumes only when the kernel is done with its buffer and descriptor, cancelled or not;
- completions fit: at most one cancellation per request is queued, and the kernel's completion queue holds four
  entries per request.
"""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial

import trio

from benchfs_core.chunks.buffers import BufferPool
from benchfs_core.chunks.gate import Gate
from benchfs_core.chunks.request import Background, Posted, Request, Verb
from benchfs_core.chunks.request_queue import MAX_TRIES, RequestQueue
from benchfs_core.chunks.uring import Plain, RingDriver, UringDriver
from benchfs_core.meter import Meter
from benchfs_core.types import Buffer

POSTED_ROOM = 256
"""Entries of the submission queue for what is posted."""

_PASSING = frozenset({-errno.EINTR, -errno.EAGAIN, -errno.ENOMEM})


class Ring:
    """One io_uring. Made by ``Ring.open``; every method belongs to that event loop."""

    def __init__(self, queue_depth: int, driver: RingDriver, meter: Meter | None = None) -> None:
        """Use ``Ring.open``; this alone starts no tasks."""
        self._meter = meter or Meter()
        self._queue = RequestQueue(queue_depth, driver)
        self._driver = driver
        self._gate = Gate("ring")
        self.buffers = BufferPool()
        """Where reads take their buffers from; whoever has done with one may give it back."""
        self._is_driven = False
        self._in_turn = False
        self.others_wait: Callable[[], bool] | None = None
        """Whether anybody else waits to be served; given by who drives it. Without, nobody can tell."""
        self._submitter: trio.lowlevel.Task | None = None
        self._reaper: trio.lowlevel.Task | None = None
        self._loops = (Background(self._submit_forever), Background(self._reap_forever))

    @classmethod
    @asynccontextmanager
    async def open(
        cls, queue_depth: int, driver: RingDriver | None = None, meter: Meter | None = None
    ) -> AsyncIterator[Ring]:
        """A ring whose tasks live as long as the ``async with``; leaving it closes the ring, see ``aclose``.

        Args:
            queue_depth: most requests in flight.
            driver: the kernel's queues, with room for ``2 * queue_depth`` entries and what is posted; made where None.
                The ring closes it.
            meter: whose requests these are; None: nobody's that are timed.

        Raises:
            OSError: io_uring is not to be had; ``uring.io_uring_available`` says why.
        """
        ring = cls(queue_depth, UringDriver(2 * queue_depth + POSTED_ROOM) if driver is None else driver, meter)
        failure: BaseException | None = None
        async with trio.open_nursery() as nursery:
            for loop in ring._loops:
                nursery.start_soon(loop.run)
            try:
                yield ring
            except BaseException as error:
                failure = error  # kept out of the nursery, which would wrap it in a group
            await ring.aclose()
        if failure is not None:
            raise failure

    @property
    def in_flight(self) -> int:
        """Requests handed to the kernel and not complete."""
        return len(self._queue.flying)

    @property
    def waiting(self) -> int:
        """Requests that wait for a place."""
        return len(self._queue.pending)

    @property
    def enter_count(self) -> int:
        """How often io_uring_enter(2) was called to submit."""
        return self._driver.enter_count

    async def read(self, descriptor: int, offset: int, length: int) -> bytearray:
        """Read ``length`` bytes at ``offset``; fewer only where the file ends. A checkpoint.

        Raises:
            OSError: as preadv2(2); passing errors (EINTR, EAGAIN, ENOMEM) only after ``MAX_TRIES``.
            trio.ClosedResourceError: the ring is closed.
        """
        buffer = self.buffers.take(length)
        self._gate.enter()
        try:
            done = await self._request(Verb.READ, descriptor, offset, buffer, 0) if length else await _nothing()
            while done < length:
                rest = bytearray(length - done)  # rare, so a copy; the driver takes no memoryview
                more = await self._request(Verb.READ, descriptor, offset + done, rest, 0)
                if not more:
                    del buffer[done:]
                    break
                buffer[done : done + more] = rest[:more]
                done += more
        finally:
            self._gate.leave()
        return buffer

    async def write(self, descriptor: int, offset: int, data: Buffer, rw_flags: int = 0) -> None:
        """Write all of ``data`` at ``offset``. A checkpoint; cancelled, a part of it may be written.

        Args:
            descriptor: an open file.
            offset: bytes from its start.
            data: not changed before the call ends; a memoryview is copied first (``uring`` says why).
            rw_flags: of pwritev2(2); with ``os.RWF_DSYNC`` data and length are durable on return.

        Raises:
            OSError: as pwritev2(2); EIO where the kernel writes nothing and gives no reason.
            trio.ClosedResourceError: the ring is closed.
        """
        whole = bytes(data) if isinstance(data, memoryview) else data
        length = len(whole)
        self._gate.enter()
        try:
            done = await self._request(Verb.WRITE, descriptor, offset, whole, rw_flags) if length else await _nothing()
            last = done
            while done < length:
                if not last:
                    raise OSError(errno.EIO, "a write stored nothing and named no error")
                last = await self._request(Verb.WRITE, descriptor, offset + done, whole[done:], rw_flags)
                done += last
        finally:
            self._gate.leave()

    async def read_once(self, descriptor: int, offset: int, buffer: bytearray) -> int:
        """Read into ``buffer`` by one request; how many bytes that brought. A checkpoint. Raises as ``read``."""
        self._gate.enter()
        try:
            return await self._request(Verb.READ, descriptor, offset, buffer, 0)
        finally:
            self._gate.leave()

    async def write_once(self, descriptor: int, offset: int, data: Plain, rw_flags: int = 0) -> int:
        """Write ``data`` by one request; how many bytes that took. A checkpoint. Raises as ``write``."""
        self._gate.enter()
        try:
            return await self._request(Verb.WRITE, descriptor, offset, data, rw_flags)
        finally:
            self._gate.leave()

    async def fsync(self, descriptor: int, datasync: bool = False) -> None:
        """Flush a file or directory; with ``datasync`` as fdatasync(2) does, else as fsync(2). A checkpoint.

        Raises:
            OSError: the flush failed.
            trio.ClosedResourceError: the ring is closed.
        """
        self._gate.enter()
        try:
            await self._request(Verb.FSYNC, descriptor, 0, b"", int(datasync))
        finally:
            self._gate.leave()

    # For the one task that drives the ring

    def drive(self) -> None:
        """From now on the caller's tasks reap, one at a time, by ``pump`` and ``wait_ready``."""
        assert not self._is_driven
        self._is_driven = True
        trio.lowlevel.notify_closing(self._driver.ring_descriptor)  # the reaper stops waiting for it

    def stop_driving(self) -> None:
        """From now on the ring's own tasks reap again."""
        self._is_driven = False
        self._wake_submitter()
        self._wake_reaper()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """A stretch without checkpoints, at whose end the driving task pumps, or another of its tasks in its place.

        A read, write or flush that is begun in it must be awaited by a coroutine which the driving task itself resumes:
        it is handed the ``Request``, sets its ``on_done``, and resumes the coroutine when that is called.
        """
        self._in_turn = True
        try:
            yield
        finally:
            self._in_turn = False
            if self._queue.can_submit:
                self._wake_submitter()

    def post(self, posted: Posted) -> None:
        """Queue what nobody awaits; it goes to the kernel with everything else. Not a checkpoint."""
        self._queue.post(posted)
        self._wake_submitter()

    def cancel(self, posted: Posted) -> None:
        """Have the kernel give up what was posted, if it still has it; its ``on_done`` is called in any case."""
        if posted.user_data:
            self._queue.cancels.append(posted.user_data)
            self._wake_submitter()

    def pump(self) -> bool:
        """Submit what is queued and take what is complete; whether that left more to submit. Not a checkpoint."""
        may_retry = True
        if self._queue.can_submit and self._queue.broken is None:
            self._queue.prepare()
            may_retry = self._queue.submit()
        self._reap()
        return may_retry and self._queue.can_submit and self._queue.broken is None

    @property
    def is_quiet(self) -> bool:
        """Whether nothing is in flight, posted or to be submitted: then ``pump`` would find nothing."""
        queue = self._queue
        return not (queue.flying or queue.pending or queue.prepared or queue.cancels)

    def is_lone(self) -> bool:
        """Whether this is a turn with nothing in the ring, and nobody else waits (``others_wait``)."""
        return self._in_turn and self.is_quiet and self.others_wait is not None and not self.others_wait()

    def woke_a_task(self) -> bool:
        """Whether a completion has resumed a task since this was last asked; it runs once the driver gives way."""
        woke, self._queue.woke_a_task = self._queue.woke_a_task, False
        return woke

    @property
    def descriptor(self) -> int:
        """The ring's descriptor: readable while there are completions to take."""
        return self._driver.ring_descriptor

    async def wait_ready(self) -> None:
        """Wait until there are completions to take. A checkpoint."""
        await trio.lowlevel.wait_readable(self._driver.ring_descriptor)

    async def aclose(self) -> None:
        """Refuse new requests, let those under way end, then free the ring. Cannot be cancelled; may be repeated."""
        if self._gate.closed:
            await self._gate.close()
            return
        await self._gate.close()
        for loop in self._loops:
            await loop.stop()
        self._driver.close()

    async def _request(self, verb: Verb, descriptor: int, offset: int, buffer: Plain, flags: int) -> int:
        """One request, tried again while it fails in passing; the bytes it moved."""
        if offset < 0:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        result = 0
        for _ in range(MAX_TRIES):
            if self._queue.broken is not None:
                raise OSError(self._queue.broken.errno, self._queue.broken.strerror)
            if self._in_turn:
                request = Request(verb, descriptor, offset, buffer, flags, None, self._meter.current)
                self._queue.pending.append(request)
                await request
            else:
                task = trio.lowlevel.current_task()
                request = Request(verb, descriptor, offset, buffer, flags, task, self._meter.current)
                self._queue.pending.append(request)
                self._wake_submitter()
                await trio.lowlevel.wait_task_rescheduled(partial(self._abort, request))
            result = request.settle()
            if result >= 0:
                return result
            if result not in _PASSING:
                break
            await trio.lowlevel.checkpoint()  # others get a turn before the kernel is asked again
        raise OSError(-result, os.strerror(-result))

    def _abort(self, request: Request, raise_cancel: Callable[[], None]) -> trio.lowlevel.Abort:
        """Trio cancels the caller of ``request``."""
        if not request.user_data:
            self._queue.pending.remove(request)
            return trio.lowlevel.Abort.SUCCEEDED
        # The kernel still has the buffer: the caller stays until the completion, which this hurries along.
        request.raise_cancel = raise_cancel
        self._queue.cancels.append(request.user_data)
        self._wake_submitter()
        return trio.lowlevel.Abort.FAILED

    # Submitting

    def _wake_submitter(self) -> None:
        task = self._submitter
        if task is not None and not self._in_turn:
            self._submitter = None
            trio.lowlevel.reschedule(task)

    async def _submit_forever(self) -> None:
        while True:
            while self._queue.can_submit and self._queue.broken is None:
                self._queue.prepare()
                may_retry = self._queue.submit()
                if not self._is_driven:
                    self._reap()
                if not may_retry or not self._queue.can_submit:
                    break
                await trio.lowlevel.checkpoint()
            self._submitter = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._abort_loop)

    # Reaping

    async def _reap_forever(self) -> None:
        while True:
            if self._queue.flying and not self._is_driven:
                try:
                    await self.wait_ready()
                except trio.ClosedResourceError:
                    continue  # somebody drives the ring now
                self._reap()
            else:
                self._reaper = trio.lowlevel.current_task()
                await trio.lowlevel.wait_task_rescheduled(self._abort_loop)

    def _reap(self) -> None:
        """Give every completion that is ready to its caller, then wake whichever task has something to do."""
        self._queue.reap()
        if self._queue.can_submit:
            self._wake_submitter()
        if self._queue.flying:
            self._wake_reaper()

    def _wake_reaper(self) -> None:
        if self._reaper is not None and not self._is_driven:
            task, self._reaper = self._reaper, None
            trio.lowlevel.reschedule(task)

    def _abort_loop(self, _: Callable[[], None]) -> trio.lowlevel.Abort:
        """The loops' own waits end at any time; they are cancelled only when the ring is drained."""
        self._submitter = self._reaper = None
        return trio.lowlevel.Abort.SUCCEEDED


async def _nothing() -> int:
    """The checkpoint of a request for no bytes."""
    await trio.lowlevel.checkpoint()
    return 0
