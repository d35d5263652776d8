"""``Request``: one entry of the ring, from the call that made it to its completion; ``Background``: a task of the ring.

Imports trio and ``uring``'s protocol; used by ``ring`` alone. Invariant: a request refers to its buffer until it is
complete.
"""

from __future__ import annotations

import enum
import errno
from collections.abc import Awaitable, Callable

import trio

from benchfs_core.chunks.uring import Plain, RingDriver


class Verb(enum.Enum):
    """What a request asks of the kernel."""

    READ = enum.auto()
    WRITE = enum.auto()
    FSYNC = enum.auto()


class Request:
    """One read, write or flush; ``user_data`` is 0 until it is in the submission queue."""

    __slots__ = (
        "buffer",
        "descriptor",
        "flags",
        "error",
        "offset",
        "raise_cancel",
        "result",
        "task",
        "user_data",
        "verb",
    )

    def __init__(
        self, verb: Verb, descriptor: int, offset: int, buffer: Plain, flags: int, task: trio.lowlevel.Task
    ) -> None:
        """``flags`` are a write's rw_flags; for a flush, 1 means data only."""
        self.verb = verb
        self.descriptor = descriptor
        self.offset = offset
        self.buffer = buffer
        self.flags = flags
        self.task = task
        self.user_data = 0
        self.result = 0
        self.error: Exception | None = None
        self.raise_cancel: Callable[[], None] | None = None

    def prepare(self, driver: RingDriver, user_data: int) -> bool:
        """Put it into the submission queue; False where that is full."""
        verb = self.verb
        if verb is Verb.WRITE:
            return driver.prepare_write(user_data, self.descriptor, self.offset, self.buffer, self.flags)
        if verb is Verb.READ:
            assert isinstance(self.buffer, bytearray)
            return driver.prepare_read(user_data, self.descriptor, self.offset, self.buffer)
        return driver.prepare_fsync(user_data, self.descriptor, bool(self.flags))

    def complete(self, result: int) -> None:
        """Resume the caller with the kernel's result."""
        self.result = result
        trio.lowlevel.reschedule(self.task)

    def fail(self, error: Exception) -> None:
        """Resume the caller of a request that the kernel has not seen."""
        self.error = error
        trio.lowlevel.reschedule(self.task)

    def settle(self) -> int:
        """In the caller, once resumed: the result, or a negative errno.

        Raises:
            Exception: the request never reached the kernel.
            trio.Cancelled: the kernel gave the request up because its caller is cancelled.
        """
        if self.error is not None:
            raise self.error
        if self.result == -errno.ECANCELED and self.raise_cancel is not None:
            self.raise_cancel()
        return self.result


class Background:
    """A task that outlives the cancellation of its surroundings, until it is stopped."""

    __slots__ = ("_body", "_ended", "_scope")

    def __init__(self, body: Callable[[], Awaitable[None]]) -> None:
        """``body`` runs for ever and may be cancelled at any of its checkpoints."""
        self._body = body
        self._scope = trio.CancelScope(shield=True)
        self._ended = trio.Event()

    async def run(self) -> None:
        """The task, for a nursery."""
        try:
            with self._scope:
                await self._body()
        finally:
            self._ended.set()

    async def stop(self) -> None:
        """Cancel the task and wait for its end. A checkpoint; cannot be cancelled."""
        self._scope.cancel()
        with trio.CancelScope(shield=True):
            await self._ended.wait()
