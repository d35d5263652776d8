"""``Ring``: the io_uring reactor on trio. Reads, writes and flushes of descriptors, each awaited by its caller.

Imports trio, ``uring`` and ``gate``; knows nothing of files, paths or chunks.

Two tasks serve every request. The *submitter* is parked until the first request of a turn of the event loop wakes it;
by the time it runs, every task of that turn has queued its requests, and all go to the kernel in one
io_uring_enter(2). It takes at once what completed during that call (reads in the page cache do). The *reaper* waits
for the ring's descriptor to become readable while something is in flight. Neither polls nor uses a timer: an idle
ring makes no system call.

Invariants:
- at most ``queue_depth`` requests are in flight; the rest wait, first in, first out;
- a caller resumes only when the kernel is done with its buffer and descriptor, cancelled or not;
- completions fit: at most one cancellation per request is queued, and the kernel's completion queue holds four
  entries per request.
"""

from __future__ import annotations

import errno
import logging
import os
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

import trio

from benchfs_core.chunks.gate import Gate
from benchfs_core.chunks.request import Background, Request, Verb
from benchfs_core.chunks.uring import Plain, RingDriver, UringDriver
from benchfs_core.types import Buffer

MAX_TRIES = 16
"""How often one request, or one submission, is tried while the kernel answers with a passing error."""

_PASSING = frozenset({-errno.EINTR, -errno.EAGAIN, -errno.ENOMEM})
_ENTER_AGAIN = frozenset({-errno.EINTR, -errno.EAGAIN, -errno.EBUSY})

_log = logging.getLogger(__name__)


class Ring:
    """One io_uring. Made by ``Ring.open``; every method belongs to that event loop."""

    def __init__(self, queue_depth: int, driver: RingDriver) -> None:
        """Use ``Ring.open``; this alone starts no tasks."""
        assert queue_depth > 0
        self._depth = queue_depth
        self._driver = driver
        self._gate = Gate("ring")
        self._pending: deque[Request] = deque()
        """Waiting for a place in the kernel's queue."""
        self._flying: dict[int, Request] = {}
        """By ``user_data``: in the kernel, or in ``_prepared``."""
        self._cancels: deque[int] = deque()
        """``user_data`` of those in flight whose caller was cancelled."""
        self._prepared: deque[int] = deque()
        """Entries in the submission queue that the kernel has not taken yet, in order; 0 for a cancellation."""
        self._last_user_data = 0
        self._failed_enters = 0
        self._broken: OSError | None = None
        self._submitter: trio.lowlevel.Task | None = None
        self._reaper: trio.lowlevel.Task | None = None
        self._loops = (Background(self._submit_forever), Background(self._reap_forever))

    @classmethod
    @asynccontextmanager
    async def open(cls, queue_depth: int, driver: RingDriver | None = None) -> AsyncIterator[Ring]:
        """A ring whose tasks live as long as the ``async with``; leaving it closes the ring, see ``aclose``.

        Args:
            queue_depth: most requests in flight.
            driver: the kernel's queues, with room for ``2 * queue_depth`` entries; made where None. The ring closes it.

        Raises:
            OSError: io_uring is not to be had; ``uring.io_uring_available`` says why.
        """
        ring = cls(queue_depth, UringDriver(2 * queue_depth) if driver is None else driver)
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
        return len(self._flying)

    @property
    def waiting(self) -> int:
        """Requests that wait for a place."""
        return len(self._pending)

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
        buffer = bytearray(length)  # zeroed by calloc: no second pass over the memory
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
            if self._broken is not None:
                raise OSError(self._broken.errno, self._broken.strerror)
            request = Request(verb, descriptor, offset, buffer, flags, trio.lowlevel.current_task())
            self._pending.append(request)
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
            self._pending.remove(request)
            return trio.lowlevel.Abort.SUCCEEDED
        # The kernel still has the buffer: the caller stays until the completion, which this hurries along.
        request.raise_cancel = raise_cancel
        self._cancels.append(request.user_data)
        self._wake_submitter()
        return trio.lowlevel.Abort.FAILED

    # Submitting

    def _wake_submitter(self) -> None:
        task = self._submitter
        if task is not None:
            self._submitter = None
            trio.lowlevel.reschedule(task)

    def _can_submit(self) -> bool:
        return bool(self._prepared or self._cancels or (self._pending and len(self._flying) < self._depth))

    async def _submit_forever(self) -> None:
        while True:
            while self._can_submit() and self._broken is None:
                self._prepare()
                may_retry = self._submit()
                self._reap()
                if not may_retry or not self._can_submit():
                    break
                await trio.lowlevel.checkpoint()
            self._submitter = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._abort_loop)

    def _prepare(self) -> None:
        """Move as many requests as may fly into the submission queue."""
        while self._cancels and self._driver.prepare_cancel(self._cancels[0]):
            self._cancels.popleft()
            self._prepared.append(0)
        while self._pending and len(self._flying) < self._depth:
            request = self._pending[0]
            user_data = self._last_user_data + 1
            try:
                if not request.prepare(self._driver, user_data):
                    break
            except Exception as error:  # a bad buffer is its caller's failure, not the ring's
                self._pending.popleft()
                request.fail(error)
                continue
            self._pending.popleft()
            self._last_user_data = request.user_data = user_data
            self._flying[user_data] = request
            self._prepared.append(user_data)

    def _submit(self) -> bool:
        """Enter the kernel once; whether a next turn may try to submit more, without waiting for a completion."""
        if not self._prepared:
            return True
        taken = self._driver.submit()
        if taken > 0:
            self._failed_enters = 0
            for _ in range(taken):
                self._prepared.popleft()
            return True
        self._failed_enters += 1
        unseen = sum(1 for user_data in self._prepared if user_data)
        if taken in _ENTER_AGAIN or taken == 0:
            if len(self._flying) > unseen and taken != -errno.EINTR:
                return False  # a completion will free what the kernel lacks, and wake the submitter
            if self._failed_enters < MAX_TRIES:
                return True
        self._break(OSError(-taken or errno.EIO, os.strerror(-taken or errno.EIO)))
        return False

    def _break(self, error: OSError) -> None:
        """Submitting fails for good: fail what the kernel has not seen. It is never entered again, so it never will."""
        _log.error("io_uring_enter failed, the ring is given up: %s", error)
        self._broken = error
        unseen = [self._flying.pop(user_data) for user_data in self._prepared if user_data]
        self._prepared.clear()
        self._cancels.clear()
        for request in (*unseen, *self._pending):
            request.fail(OSError(error.errno, error.strerror))
        self._pending.clear()

    # Reaping

    async def _reap_forever(self) -> None:
        while True:
            if self._flying:
                await trio.lowlevel.wait_readable(self._driver.ring_descriptor)
                self._reap()
            else:
                self._reaper = trio.lowlevel.current_task()
                await trio.lowlevel.wait_task_rescheduled(self._abort_loop)

    def _reap(self) -> None:
        """Give every completion that is ready to its caller, then wake whichever task has something to do."""
        for user_data, result in self._driver.reap():
            request = self._flying.pop(user_data, None)
            if request is None:
                _log.error("io_uring completed a request that nobody made: %d", user_data)
                continue
            try:
                request.complete(result)
            except Exception:  # whatever is wrong with this one, the others wait for theirs
                _log.exception("a completed io_uring request could not be handed over")
        if self._can_submit():
            self._wake_submitter()
        if self._flying and self._reaper is not None:
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
