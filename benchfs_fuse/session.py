"""A FUSE session of which we know more than pyfuse3 tells libfuse: the INIT reply is changed on its way to the kernel.

Imports pyfuse3, trio and this package's ``mounts``. libfuse negotiates what a filesystem may leave to the kernel, and
pyfuse3 offers no way to ask for more. So fusermount3 mounts, as it does for libfuse; the kernel's first request, INIT,
goes to pyfuse3 through a pair of sockets, and its reply from there to the kernel, changed. Then either /dev/fuse takes
the place of the sockets, and from there on nothing is different (``init_with_flags``); or it stays ours, and pyfuse3
gets what we pass on to it (``init_owned``). Invariants: only flags that the kernel offers are set, none that changes
the layout of messages that libfuse parses; nothing here waits longer than ``TIMEOUT_S``; what fails leaves no mount.
"""

from __future__ import annotations

import array
import contextlib
import os
import select
import socket
import struct
import subprocess
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pyfuse3
import trio

from benchfs_fuse import mounts

TIMEOUT_S = 30
"""How long fusermount3 and the exchange of INIT may take: far more than they need."""

DONT_MASK = 1 << 6
"""``FUSE_DONT_MASK`` (linux/fuse.h): the umask comes with the request and is ours to apply."""

_INIT = 26
_REQUEST_HEADER = struct.Struct("<IIQQIIII")
"""``fuse_in_header``: length, opcode, unique, nodeid, uid, gid, pid, padding."""
_REPLY_HEADER = struct.Struct("<IiQ")
"""``fuse_out_header``: length, error, unique."""
_VERSION_READAHEAD_FLAGS = struct.Struct("<IIII")
"""How ``fuse_init_in`` and ``fuse_init_out`` both begin: major, minor, max_readahead, flags."""
_LIMITS = struct.Struct("<HHIIH")
"""How ``fuse_init_out`` goes on: max_background, congestion_threshold, max_write, time_gran, max_pages."""
_PAGE_BYTES = 4096
_MAX_MESSAGE_BYTES = 1 << 20
"""More than INIT has; /dev/fuse refuses a buffer smaller than the largest request."""


class SessionError(Exception):
    """The session could not be set up in this way."""


@dataclass(frozen=True, slots=True)
class Change:
    """What is changed in the INIT reply."""

    needed: int = 0
    """Flags to set; a kernel that does not offer them all is refused."""
    wanted: int = 0
    """Flags to set where the kernel offers them."""
    cleared: int = 0
    """Flags to take back."""
    max_background: int = 0
    """Most requests in the background; 0: as libfuse has it."""
    max_write: int = 0
    """Bytes of the largest READ and WRITE; 0: as libfuse has it."""


@dataclass(frozen=True, slots=True)
class Owned:
    """A session whose /dev/fuse is ours."""

    device: int
    """/dev/fuse, non-blocking, INIT answered."""
    pair: socket.socket
    """Leads to pyfuse3, a message a request."""

    def close(self, mount_point: Path, *, unmount: bool) -> None:
        """End the session and pyfuse3's; with ``unmount``, unmount what nobody has unmounted yet."""
        close(self.device, mount_point, unmount=unmount)
        self.pair.close()
        os.close(self.device)


async def init_with_flags(operations: pyfuse3.Operations, mount_point: Path, words: Iterable[str], flags: int) -> int:
    """Mount, and set up pyfuse3 with ``flags`` added to what it negotiates.

    Args:
        operations: as for ``pyfuse3.init``.
        mount_point: as for ``pyfuse3.init``.
        words: mount options, as fusermount3 takes them.
        flags: ``FUSE_…`` flags of INIT.

    Returns:
        The session's descriptor, pyfuse3's to close; see ``close``.

    Raises:
        SessionError: it did not work; nothing is mounted.
    """
    async with _initialised(operations, mount_point, words, Change(needed=flags)) as (device, ours, descriptor):
        os.set_blocking(device, True)  # as libfuse leaves it: pyfuse3 takes EAGAIN for the end
        os.dup2(device, descriptor, inheritable=False)
        os.close(device)
        ours.close()
    return descriptor


async def init_owned(operations: pyfuse3.Operations, mount_point: Path, words: Iterable[str], change: Change) -> Owned:
    """Mount, and keep /dev/fuse; pyfuse3 stays at the other end of a pair of sockets.

    Args:
        operations: as for ``pyfuse3.init``.
        mount_point: as for ``pyfuse3.init``.
        words: mount options, as fusermount3 takes them.
        change: of what pyfuse3 negotiates.

    Raises:
        SessionError: it did not work; nothing is mounted.
    """
    async with _initialised(operations, mount_point, words, change) as (device, ours, _):
        return Owned(device, ours)


@asynccontextmanager
async def _initialised(
    operations: pyfuse3.Operations, mount_point: Path, words: Iterable[str], change: Change
) -> AsyncIterator[tuple[int, socket.socket, int]]:
    """A session after INIT: /dev/fuse, our end of the pair, and the descriptor of pyfuse3's; a failure leaves none."""
    device = await trio.to_thread.run_sync(_mount, mount_point, ",".join(sorted(words)))
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        descriptor = theirs.detach()
        try:
            pyfuse3.init(operations, f"/dev/fd/{descriptor}", set())
        except RuntimeError as error:
            os.close(descriptor)
            raise SessionError(str(error)) from error
        try:
            await _negotiate(device, ours, change)
            yield device, ours, descriptor
        except BaseException:
            pyfuse3.close(unmount=False)
            raise
    except BaseException as error:
        mounts.unmount(mount_point, lazy=True)
        os.close(device)
        ours.close()
        if isinstance(error, (OSError, trio.TooSlowError, struct.error)):
            raise SessionError(f"INIT: {error}") from error
        raise


def close(descriptor: int, mount_point: Path, *, unmount: bool) -> None:
    """End pyfuse3's session; with ``unmount``, unmount what nobody has unmounted yet."""
    poll = select.poll()
    poll.register(descriptor, 0)
    if unmount and not any(events & select.POLLERR for _, events in poll.poll(0)):
        mounts.unmount(mount_point, lazy=True)
    pyfuse3.close(unmount=False)


async def _negotiate(device: int, ours: socket.socket, change: Change) -> None:
    """Take INIT from the kernel to pyfuse3, and its reply back, changed."""
    os.set_blocking(device, False)
    ours.setblocking(False)
    request = os.read(device, _MAX_MESSAGE_BYTES)
    if _REQUEST_HEADER.unpack_from(request)[1] != _INIT:
        raise SessionError("the kernel's first request is not INIT")
    *_, offered = _VERSION_READAHEAD_FLAGS.unpack_from(request, _REQUEST_HEADER.size)
    if change.needed & ~offered:
        raise SessionError(f"this kernel does not offer the FUSE flags {change.needed & ~offered:#x}")
    ours.send(request)
    with trio.fail_after(TIMEOUT_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pyfuse3.main)
            await trio.lowlevel.wait_readable(ours)
            nursery.cancel_scope.cancel()
    os.write(device, changed(ours.recv(_MAX_MESSAGE_BYTES), change, offered))


def changed(reply: bytes, change: Change, offered: int) -> bytes:
    """The reply to INIT, with ``change`` made to it as far as the kernel offers that.

    Raises:
        SessionError: INIT failed.
        struct.error: the reply is too short.
    """
    _, error, _ = _REPLY_HEADER.unpack_from(reply)
    if error:
        raise SessionError(f"INIT was answered with {os.strerror(-error)}")
    start = _REPLY_HEADER.size
    major, minor, read_ahead, flags = _VERSION_READAHEAD_FLAGS.unpack_from(reply, start)
    flags = flags & ~change.cleared | change.needed | change.wanted & offered
    background, congestion, max_write, granularity, max_pages = _LIMITS.unpack_from(
        reply, start + _VERSION_READAHEAD_FLAGS.size
    )
    if change.max_background:
        background, congestion = change.max_background, change.max_background * 3 // 4
    if change.max_write:
        max_write, max_pages = change.max_write, change.max_write // _PAGE_BYTES
    altered = bytearray(reply)
    _VERSION_READAHEAD_FLAGS.pack_into(altered, start, major, minor, read_ahead, flags)
    _LIMITS.pack_into(
        altered,
        start + _VERSION_READAHEAD_FLAGS.size,
        *(background, congestion, max_write, granularity, max_pages),
    )
    return bytes(altered)


def _mount(mount_point: Path, words: str) -> int:
    """Have fusermount3 mount; return the descriptor of /dev/fuse, which it sends through a socket (fusermount3(1))."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs:
        ours.settimeout(TIMEOUT_S)
        environment = {**os.environ, "_FUSE_COMMFD": str(theirs.fileno())}
        command = ["fusermount3", "-o", words, "--", os.fspath(mount_point)]
        try:
            done = subprocess.run(
                command,
                env=environment,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
                timeout=TIMEOUT_S,
            )
        except subprocess.TimeoutExpired as error:
            mounts.unmount(mount_point, lazy=True)
            raise SessionError(f"fusermount3 has not ended within {TIMEOUT_S} s") from error
        except OSError as error:
            raise SessionError(f"fusermount3: {error.strerror}") from error
        if done.returncode:
            raise SessionError((done.stderr.strip().splitlines() or [f"fusermount3 ended with {done.returncode}"])[-1])
        descriptors = array.array("i")
        with contextlib.suppress(OSError):
            _, ancillary, *_ = ours.recvmsg(1, socket.CMSG_SPACE(descriptors.itemsize), socket.MSG_CMSG_CLOEXEC)
            for _level, kind, data in ancillary:
                if kind == socket.SCM_RIGHTS:
                    descriptors.frombytes(data[: descriptors.itemsize])
    if not descriptors:
        mounts.unmount(mount_point, lazy=True)
        raise SessionError("fusermount3 mounted, but handed over no descriptor")
    return descriptors[0]
