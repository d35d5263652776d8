"""The lock on a volume: one owner at a time, on this machine, across mount namespaces and containers.

Imports trio, fcntl, os and ``host``. Invariant: the flock(2) on ``lock`` is held from before the volume is touched
until everything is closed. The text in the file is for people and for telling an owner that is about to end from one
that serves.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
from pathlib import Path

import trio

from benchfs_core.errors import VolumeBusy
from benchfs_core.host import create_overwritable

_CLOSING = "closing"

_TEXT_BYTES = 4096
"""The text is filled up with newlines to this length, and never shortened."""


class VolumeLock:
    """The lock file of one volume, held."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def try_acquire(cls, path: Path) -> VolumeLock:
        """Take the lock now.

        Raises:
            VolumeBusy: somebody else has it.
            OSError: the lock file cannot be made.
        """
        descriptor = _open(path)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise _busy(path) from None
        return cls(descriptor)

    @classmethod
    async def acquire(cls, path: Path, *, wait_s: float) -> VolumeLock:
        """Take the lock; wait up to ``wait_s`` seconds for an owner that no longer serves a mount point.

        Raises:
            VolumeBusy: somebody else has it.
            OSError: the lock file cannot be made.
        """
        descriptor = _open(path)
        try:
            await _flock(descriptor, path, wait_s)
        except BaseException:
            os.close(descriptor)
            raise
        lock = cls(descriptor)
        lock._note("open")
        return lock

    def serving(self, mount_point: str) -> None:
        """Note where the volume is mounted."""
        self._note(mount_point)

    def closing(self) -> None:
        """Note that the owner is about to end."""
        self._note(_CLOSING)

    def release(self) -> None:
        """Give the lock up."""
        os.close(self._descriptor)

    def _note(self, state: str) -> None:
        name = os.fsencode(state).replace(b"\\", rb"\134").replace(b"\n", rb"\012")
        text = b"%d\n%s\n" % (os.getpid(), name)
        with contextlib.suppress(OSError):  # the text is a courtesy: a full or read-only disk must not stop the mount
            length = max(_TEXT_BYTES, os.fstat(self._descriptor).st_size)
            os.pwrite(self._descriptor, text.ljust(length, b"\n"), 0)  # in place: that needs no space on a full disk


def _open(path: Path) -> int:
    try:
        create_overwritable(path)
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        if error.errno != errno.EROFS:
            raise
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC)  # flock(2) works on it all the same


async def _flock(descriptor: int, path: Path, wait_s: float) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return
    except BlockingIOError:
        _, state = _read(path)
    if not (state.startswith("/") and _is_mounted(state)):
        with trio.move_on_after(wait_s):
            await trio.to_thread.run_sync(fcntl.flock, descriptor, fcntl.LOCK_EX, abandon_on_cancel=True)
            return
    raise _busy(path)


def _busy(path: Path) -> VolumeBusy:
    owner, state = _read(path)
    place = f" at {state}" if state.startswith("/") else ""
    return VolumeBusy(f"{path.parent}: is mounted already{place} by process {owner}: unmount it first")


def _read(path: Path) -> tuple[str, str]:
    owner, _, rest = path.read_bytes().partition(b"\n")
    return os.fsdecode(owner) or "unknown", os.fsdecode(_unescape(rest.partition(b"\n")[0]))


def _is_mounted(mount_point: str) -> bool:
    """Whether something is mounted there (proc_pid_mountinfo(5): field 5, with octal escapes)."""
    wanted = os.fsencode(mount_point)
    lines = Path("/proc/self/mountinfo").read_bytes().rstrip(b"\n").split(b"\n")
    return any(_unescape(line.split(b" ")[4]) == wanted for line in lines)


def _unescape(name: bytes) -> bytes:
    """Undo mountinfo's octal escapes, which the lock file has for newline and backslash as well."""
    return re.sub(rb"\\([0-7]{3})", lambda found: bytes([int(found[1], 8) & 0xFF]), name)
