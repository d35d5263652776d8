"""``Forwarder``: hands requests that the plane has no handler for to pyfuse3, and its replies to the kernel.

Imports trio and ``device``; knows of pyfuse3 only that it is at the other end of a pair of sockets. Invariant: every
request that is forwarded is answered once, in ``ANSWER_S`` at the latest, whatever becomes of the other side.
"""

from __future__ import annotations

import errno
import logging
import socket

import trio

from benchfs_fuse.plane.device import Device
from benchfs_fuse.plane.protocol import OUT_HEADER

log = logging.getLogger(__name__)

ANSWER_S = 20.0
"""How long the other side may take: it has nothing to do but to say that it does not know the request."""

MAX_WAITING = 64
"""Most requests that it may owe an answer; what comes beyond is not supported."""

_MAX_MESSAGE_BYTES = 1 << 20


class Forwarder:
    """One session's way to pyfuse3."""

    def __init__(self, device: Device, pair: socket.socket) -> None:
        """``pair`` keeps messages whole (SOCK_SEQPACKET); it stays the caller's to close."""
        pair.setblocking(False)
        self._device = device
        self._pair = pair
        self._due_s: dict[int, float] = {}
        """When the answer to each ``unique`` is due, oldest first."""
        self._sent = trio.Event()
        self._is_dead = False

    def forward(self, unique: int, message: bytes) -> None:
        """Pass a whole request on; where that is not possible it is answered with ENOSYS. Not a checkpoint."""
        if self._is_dead or len(self._due_s) >= MAX_WAITING:
            self._device.refuse(unique, errno.ENOSYS)
            return
        try:
            self._pair.send(message)
        except OSError as error:
            log.warning("a request could not be passed on to pyfuse3: %s", error)
            self._device.refuse(unique, errno.ENOSYS)
            return
        self._due_s[unique] = trio.current_time() + ANSWER_S
        self._sent.set()

    async def run(self) -> None:
        """Pass replies back until cancelled."""
        while True:
            if not self._due_s:
                self._sent = trio.Event()
                await self._sent.wait()
            with trio.move_on_at(next(iter(self._due_s.values()))) as waiting:
                await trio.lowlevel.wait_readable(self._pair)
            if waiting.cancelled_caught:
                unique = next(iter(self._due_s))
                log.error("pyfuse3 has not answered a request within %d s: ENOSYS", ANSWER_S)
                self._give_up(unique)
            else:
                self._pass_back()

    def _pass_back(self) -> None:
        try:
            message = self._pair.recv(_MAX_MESSAGE_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            log.error("pyfuse3's side of the session: %s", error)
            message = b""
        if len(message) >= OUT_HEADER.size:
            _, _, unique = OUT_HEADER.unpack_from(message)
            if self._due_s.pop(unique, None) is not None:
                self._device.send(message)
        elif not message:  # the other end is closed
            self._is_dead = True
            for unique in list(self._due_s):
                self._give_up(unique)

    def _give_up(self, unique: int) -> None:
        del self._due_s[unique]
        self._device.refuse(unique, errno.ENOSYS)
