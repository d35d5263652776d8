"""``UringDriver``: a typed, thin layer over the package ``liburing``, and the probe for whether io_uring may be used.

The only module that imports ``liburing``, which has no types, takes positional arguments only and silently ignores
those it does not know: each call's form is written down here once, and pinned by ``tests/unit/test_uring.py``.
Knows the kernel's queues, not trio.

Invariants: a buffer handed to ``prepare_*``, and the Iovec over it, stay referenced until ``reap`` has returned the
completion; an Iovec is never made over a memoryview (the package leaks the view and what it shows, for good);
``submit`` and ``reap`` report errors as negative numbers and never raise; nothing is called on a closed
ring (the package would crash the process).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

try:
    import liburing as _liburing
except (ImportError, OSError) as _error:
    _liburing = None
    _import_failure: str | None = f"the package liburing cannot be loaded: {_error}"
else:
    _import_failure = None

Plain: TypeAlias = bytes | bytearray
"""Buffers that the package takes without leaking them."""


class Vectors:
    """Buffers in a row for one vectored read or write, made once and used as often as one likes."""

    __slots__ = ("buffers", "iovec", "length")

    def __init__(self, *buffers: Plain) -> None:
        """The buffers are not resized for as long as this exists; only bytearrays are read into.

        Raises:
            TypeError: a buffer is neither bytes nor bytearray.
        """
        for buffer in buffers:
            if not isinstance(buffer, bytes | bytearray):
                raise TypeError(f"no vector over a {type(buffer).__name__}")
        self.buffers = buffers
        self.length = sum(map(len, buffers))
        """Bytes in all."""
        self.iovec: Any = _liburing.Iovec(list(buffers))


_DISABLED_PATH = "/proc/sys/kernel/io_uring_disabled"
_NOBODY = 0
"""``user_data`` of a cancellation: no caller waits for its completion. Requests count from 1."""


class RingDriver(Protocol):
    """What ``Ring`` needs of the kernel's two queues. Tests hand in one with faults.

    ``prepare_*`` queue one entry for the next ``submit``; they return False where the submission queue is full, and
    raise TypeError, having queued nothing, for any buffer but bytes and bytearray. ``user_data`` is positive, and not
    used again while the request is on its way. No method is a checkpoint.
    """

    @property
    def ring_descriptor(self) -> int:
        """The ring's descriptor: readable while completions are ready."""
        ...

    @property
    def enter_count(self) -> int:
        """How often io_uring_enter(2) was called to submit."""
        ...

    def prepare_read(self, user_data: int, descriptor: int, offset: int, buffer: bytearray) -> bool:
        """Queue pread(2) into the whole of ``buffer``, which is not resized before the completion."""
        ...

    def prepare_write(self, user_data: int, descriptor: int, offset: int, data: Plain, rw_flags: int) -> bool:
        """Queue pwritev2(2) of ``data`` with ``rw_flags`` (``os.RWF_DSYNC``, …)."""
        ...

    def prepare_fsync(self, user_data: int, descriptor: int, datasync: bool) -> bool:
        """Queue fdatasync(2) or fsync(2)."""
        ...

    def prepare_vectors(self, user_data: int, descriptor: int, vectors: Vectors, writes: bool) -> bool:
        """Queue readv(2) or writev(2); the caller keeps ``vectors`` until the completion."""
        ...

    def prepare_cancel(self, target: int) -> bool:
        """Queue the cancellation of the request whose ``user_data`` is ``target``; its own outcome is dropped."""
        ...

    def submit(self) -> int:
        """Hand what is queued to the kernel in one call; return how many entries it took, or a negative errno."""
        ...

    def reap(self) -> list[tuple[int, int]]:
        """Take the completions that are ready, without waiting: ``user_data`` and result (negative: an errno)."""
        ...

    def close(self) -> None:
        """Free the ring; nothing may be in flight."""
        ...


class UringDriver:
    """``RingDriver`` over the kernel."""

    __slots__ = (
        "_api",
        "_cq_ready",
        "_cqe",
        "_enter_count",
        "_get_sqe",
        "_iovec",
        "_kept",
        "_prep_read",
        "_prep_readv",
        "_prep_writev",
        "_ring",
    )

    def __init__(self, entries: int) -> None:
        """Set up a ring.

        Args:
            entries: submission queue entries; the kernel rounds up to a power of two, and makes the completion queue
                twice as long.

        Raises:
            OSError: io_uring_setup(2) refused (EPERM, ENOSYS, ENOMEM), or the package is missing (ENOSYS).
        """
        if _liburing is None:
            raise OSError(errno.ENOSYS, _import_failure)
        self._api: Any = _liburing
        self._ring: Any = _set_up(entries)
        # One function call each on the path of every request: the lookups in the package are saved.
        self._get_sqe: Callable[..., Any] = _liburing.io_uring_get_sqe
        self._cq_ready: Callable[..., int] = _liburing.io_uring_cq_ready
        self._prep_read: Callable[..., None] = _liburing.io_uring_prep_read
        self._prep_readv: Callable[..., None] = _liburing.io_uring_prep_readv
        self._prep_writev: Callable[..., None] = _liburing.io_uring_prep_writev
        self._iovec: Callable[..., Any] = _liburing.Iovec
        self._cqe: Any = _liburing.Cqe()
        self._kept: dict[int, tuple[Any, Plain]] = {}
        self._enter_count = 0

    @property
    def ring_descriptor(self) -> int:
        """The ring's descriptor: readable while completions are ready."""
        return int(self._ring.ring_fd)

    @property
    def enter_count(self) -> int:
        """How often io_uring_enter(2) was called to submit."""
        return self._enter_count

    def prepare_read(self, user_data: int, descriptor: int, offset: int, buffer: bytearray) -> bool:
        """Queue a read; see ``RingDriver``."""
        if not isinstance(buffer, bytearray):
            raise TypeError(f"cannot read into a {type(buffer).__name__}")
        sqe = self._get_sqe(self._ring)
        if sqe is None:
            return False
        self._prep_read(sqe, descriptor, buffer, offset)
        sqe.user_data = user_data
        self._kept[user_data] = (None, buffer)
        return True

    def prepare_write(self, user_data: int, descriptor: int, offset: int, data: Plain, rw_flags: int) -> bool:
        """Queue a write; see ``RingDriver``."""
        if not isinstance(data, bytes | bytearray):
            raise TypeError(f"cannot write a {type(data).__name__}")
        iovec = self._iovec([data])  # before the entry is taken: an entry cannot be given back
        sqe = self._get_sqe(self._ring)
        if sqe is None:
            return False
        self._prep_writev(sqe, descriptor, iovec, offset, rw_flags)
        sqe.user_data = user_data
        self._kept[user_data] = (iovec, data)
        return True

    def prepare_fsync(self, user_data: int, descriptor: int, datasync: bool) -> bool:
        """Queue a flush; see ``RingDriver``."""
        sqe = self._get_sqe(self._ring)
        if sqe is None:
            return False
        self._api.io_uring_prep_fsync(sqe, descriptor, self._api.IORING_FSYNC_DATASYNC if datasync else 0)
        sqe.user_data = user_data
        return True

    def prepare_vectors(self, user_data: int, descriptor: int, vectors: Vectors, writes: bool) -> bool:
        """Queue a vectored read or write; see ``RingDriver``."""
        sqe = self._get_sqe(self._ring)
        if sqe is None:
            return False
        (self._prep_writev if writes else self._prep_readv)(sqe, descriptor, vectors.iovec, 0, 0)
        sqe.user_data = user_data
        return True

    def prepare_cancel(self, target: int) -> bool:
        """Queue a cancellation; see ``RingDriver``."""
        sqe = self._get_sqe(self._ring)
        if sqe is None:
            return False
        self._api.io_uring_prep_cancel64(sqe, target, 0)
        sqe.user_data = _NOBODY
        return True

    def submit(self) -> int:
        """Submit what is queued; see ``RingDriver``."""
        self._enter_count += 1
        try:
            return int(self._api.io_uring_submit(self._ring))
        except OSError as error:
            return -(error.errno or errno.EIO)

    def reap(self) -> list[tuple[int, int]]:
        """Take what is ready; see ``RingDriver``. Makes no system call."""
        completions = []
        # Entry by entry: the package reads cqe[n] past the end of the kernel's array where the queue wraps round.
        for _ in range(self._cq_ready(self._ring)):
            user_data, result = self._take()
            if user_data != _NOBODY:
                self._kept.pop(user_data, None)
                completions.append((user_data, result))
        return completions

    def _take(self) -> tuple[int, int]:
        """The next completion; there is one."""
        self._api.io_uring_peek_cqe(self._ring, self._cqe)
        cqe = self._cqe[0]
        user_data = int(cqe.user_data)
        try:
            result = int(cqe.res)
        except OSError as error:  # how the package shows a negative result
            result = -(error.errno or errno.EIO)
        self._api.io_uring_cqe_seen(self._ring, cqe)
        return user_data, result

    def close(self) -> None:
        """Free the ring and its descriptor."""
        self._api.io_uring_queue_exit(self._ring)
        self._kept.clear()


def _set_up(entries: int) -> Any:
    """A ring; with SUBMIT_ALL where the kernel has it (5.18), so that one bad entry does not hold up the rest."""
    for flags in (_liburing.IORING_SETUP_SUBMIT_ALL, 0):
        ring = _liburing.Ring()
        try:
            _liburing.io_uring_queue_init(entries, ring, flags)
        except OSError as error:
            if error.errno != errno.EINVAL or not flags:
                raise
        else:
            return ring
    raise AssertionError("unreachable")


def io_uring_available() -> str | None:
    """None where io_uring works here; otherwise the reason why not, in one line for the user.

    Sets up a small ring and sends one cancellation through it, the youngest operation that is used (Linux 5.5).
    """
    try:
        driver = UringDriver(2)
    except OSError as error:
        return explain(error)
    try:
        driver.prepare_cancel(1)
        taken = driver.submit()
        return None if taken == 1 else explain(OSError(-min(taken, 0), os.strerror(-min(taken, 0))))
    finally:
        driver.close()


def explain(error: OSError) -> str:
    """Why a ring could not be set up, in one line for the user."""
    if _import_failure is not None:
        return _import_failure
    if error.errno == errno.EPERM:
        try:
            with open(_DISABLED_PATH, encoding="ascii") as file:
                setting = file.read().strip()
        except OSError:
            setting = "0"
        if setting != "0":
            return f"io_uring is disabled: kernel.io_uring_disabled is {setting}"
        return "io_uring is forbidden to this process (EPERM), as by a container's seccomp profile"
    if error.errno == errno.ENOSYS:
        return "the kernel has no io_uring (ENOSYS), or a seccomp profile hides it"
    if error.errno == errno.ENOMEM:
        return "io_uring got no memory (ENOMEM): RLIMIT_MEMLOCK (ulimit -l) may be too low"
    return f"io_uring cannot be set up: {error}"
