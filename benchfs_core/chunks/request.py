"""``Request``: one entry of the ring, from the call that made it to its completion; ``Background``: a task of the ring.

Imports trio and ``uring``'s protocol; used by ``ring``, and by who drives it (``ring.Ring.turn``). Invariant: a request
refers to its buffer until it is complete.
"""

from __future__ import annotations

import enum
import errno
from collections.abc import Awaitable, Callable, Generator

import trio

from benchfs_core.chunks.uring import Plain, RingDriver, Vectors
from benchfs_core.meter import Part, Timing


class Verb(enum.Enum):
    """What a request asks of the kernel."""

    READ = enum.auto()
    WRITE = enum.auto()
    FSYNC = enum.auto()


class Request:
    """One read, write or flush; ``user_data`` is 0 until it is in the submission queue.

    Its caller is a trio task, or, where there is none, a coroutine that awaits the request itself and is resumed by
    ``on_done``: see ``ring.Ring.turn``.
    """

    __slots__ = (
        "buffer",
        "descriptor",
        "flags",
        "error",
        "offset",
        "on_done",
        "raise_cancel",
        "result",
        "task",
        "timing",
        "user_data",
        "verb",
        "was",
    )

    def __init__(
        self,
        verb: Verb,
        descriptor: int,
        offset: int,
        buffer: Plain,
        flags: int,
        task: trio.lowlevel.Task | None,
        timing: Timing | None,
    ) -> None:
        """``flags`` are a write's rw_flags; for a flush, 1 means data only. ``timing``: whose time this is."""
        self.verb = verb
        self.descriptor = descriptor
        self.offset = offset
        self.buffer = buffer
        self.flags = flags
        self.task = task
        self.on_done: Callable[[], None] | None = None
        self.user_data = 0
        self.result = 0
        self.error: Exception | None = None
        self.raise_cancel: Callable[[], None] | None = None
        self.timing = timing
        if timing is not None:
            self.was = timing.enter(Part.RING)

    def __await__(self) -> Generator[Request, None, None]:
        """Wait without a task: whoever drives the coroutine is handed the request, and resumes it once it is done."""
        yield self

    def prepare(self, driver: RingDriver, user_data: int) -> bool:
        """Put it into the submission queue; False where that is full."""
        if self.timing is not None:
            self.timing.enter(Part.DISK)
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
        self._resume()

    def fail(self, error: Exception) -> None:
        """Resume the caller of a request that the kernel has not seen."""
        self.error = error
        self._resume()

    def _resume(self) -> None:
        if self.timing is not None:
            self.timing.enter(Part.RING)
        if self.task is not None:
            trio.lowlevel.reschedule(self.task)
        else:
            assert self.on_done is not None
            self.on_done()

    def settle(self) -> int:
        """In the caller, once resumed: the result, or a negative errno.

        Raises:
            Exception: the request never reached the kernel.
            trio.Cancelled: the kernel gave the request up because its caller is cancelled.
        """
        if self.timing is not None:
            self.timing.enter(self.was)
        if self.error is not None:
            raise self.error
        if self.result == -errno.ECANCELED and self.raise_cancel is not None:
            self.raise_cancel()
        return self.result


class Posted:
    """One vectored read or write that nobody awaits: ``on_done`` is told its result, a negative errno included.

    May be posted again once it is done.
    """

    __slots__ = ("_descriptor", "_on_done", "_vectors", "_writes", "user_data")

    def __init__(self, descriptor: int, vectors: Vectors, on_done: Callable[[int], None], *, writes: bool) -> None:
        """Read into ``vectors``, or write from them, at no particular offset."""
        self._descriptor = descriptor
        self._vectors = vectors
        self._on_done = on_done
        self._writes = writes
        self.user_data = 0

    def prepare(self, driver: RingDriver, user_data: int) -> bool:
        """Put it into the submission queue; False where that is full."""
        return driver.prepare_vectors(user_data, self._descriptor, self._vectors, self._writes)

    def complete(self, result: int) -> None:
        """Tell the result."""
        self.user_data = 0
        self._on_done(result)

    def fail(self, _: Exception) -> None:
        """It never reached the kernel, nor would it if posted again."""
        self.complete(-errno.EIO)


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
