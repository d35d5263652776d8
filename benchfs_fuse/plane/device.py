"""``Device``: /dev/fuse read and written through the ring. Requests in, each in the buffers of a slot; replies out.

Imports the core's ring, ``protocol`` and ``replies``. Invariants: a slot's buffers are the kernel's until its read is
done, then its taker's until ``give_back``; at most ``MAX_SLOTS`` exist, so at most that many requests are here that
nobody has looked at; a reply's buffers live until it is written.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable
from functools import partial

import trio

from benchfs_core.chunks.request import Posted
from benchfs_core.chunks.ring import Ring
from benchfs_core.chunks.uring import Vectors
from benchfs_core.types import Buffer
from benchfs_fuse.plane import replies
from benchfs_fuse.plane.protocol import MAX_WRITE_BYTES, WRITE_HEAD_BYTES

log = logging.getLogger(__name__)

MAX_READS = 8
"""Most reads of the device outstanding at once: so many requests arrive by one call into the kernel.

One request wakes them all, and all but one in vain, so there are no more than requests came lately (``arrived_by``).
"""

_PROBE_AFTER = 16
"""After so many requests that came one by one, two reads are outstanding for once."""

MAX_SLOTS = 16
"""Most slots. More than ``MAX_READS`` are there only while large writes are under way, each from a slot's buffer."""

_JOINED_BYTES = 16 << 10
"""Data up to this length is copied behind its header; longer data is written from where it is."""

_AGAIN = frozenset({errno.EINTR, errno.EAGAIN, errno.ENOMEM, errno.ENOENT})
"""Failures of a read that pass. ENOENT: the request was aborted before it was read."""
_GONE = frozenset({errno.ENOENT, errno.ENODEV, errno.ECONNABORTED})
"""Failures of a reply that nobody waits for any more: its request was aborted, or the mount is gone."""


class Slot:
    """The buffers of one read: of a WRITE of full size the data is the whole of ``tail``."""

    __slots__ = ("arrived_ns", "head", "length", "posted", "tail")

    def __init__(self) -> None:
        self.head = bytearray(WRITE_HEAD_BYTES)
        self.tail = bytearray(MAX_WRITE_BYTES)
        self.length = 0
        """Bytes of the request that is here."""
        self.arrived_ns = 0
        """When it was taken off the device."""
        self.posted: Posted


class Device:
    """One session's /dev/fuse; the ring must be driven by whoever ``arrived`` belongs to."""

    def __init__(self, ring: Ring, descriptor: int, arrived: Callable[[Slot], None], now_ns: Callable[[], int]) -> None:
        """``descriptor`` is non-blocking and stays the caller's to close; ``arrived`` is told of each request."""
        self._now_ns = now_ns
        self._ring = ring
        self._descriptor = descriptor
        self._arrived = arrived
        self._slots: list[Slot] = []
        self._free: list[Slot] = []
        self._reading = 0
        """Slots whose read is outstanding."""
        self._wanted = 1
        """How many are to be."""
        self._alone = 0
        """Requests since there was last more than one at a time."""
        self._idle = trio.lowlevel.ParkingLot()
        self.failure: OSError | None = None
        """Why reading ended, where it was not by unmounting."""
        self.ended = trio.Event()
        """Set when no more requests will come."""

    @property
    def reads(self) -> int:
        """How many reads are to be outstanding."""
        return self._wanted

    def start(self) -> None:
        """Begin to take requests. Not a checkpoint."""
        while self._reading < self._wanted and not self.ended.is_set():
            if self._free:
                slot = self._free.pop()
            elif len(self._slots) < MAX_SLOTS:
                slot = Slot()
                vectors = Vectors(slot.head, slot.tail)
                slot.posted = Posted(self._descriptor, vectors, partial(self._done, slot), writes=False)
                self._slots.append(slot)
            else:
                return
            self._reading += 1
            self._ring.post(slot.posted)

    def give_back(self, slot: Slot) -> None:
        """The request in the slot has been taken, with its data: the next one may be read into it."""
        if self._reading < self._wanted and not self.ended.is_set():
            self._reading += 1
            self._ring.post(slot.posted)
        else:
            self._free.append(slot)

    def arrived_by(self, count: int) -> None:
        """So many requests came by one call into the kernel: adapt to that how many reads are outstanding."""
        if count > 1:
            self._alone = 0
            if not self._reading and self._wanted < MAX_READS:
                self._wanted *= 2
        elif self._wanted > 1:
            self._wanted //= 2
        else:
            self._alone += 1
            if self._alone >= _PROBE_AFTER:
                self._alone = 0
                self._wanted = 2
        self.start()

    async def stop(self) -> None:
        """Take no more requests; on return the kernel writes to no buffer. Cannot be cancelled."""
        self.ended.set()
        for slot in self._slots:
            self._ring.cancel(slot.posted)
        with trio.CancelScope(shield=True):
            while self._reading:
                await self._idle.park()

    def reply(self, unique: int, body: Buffer) -> None:
        """Answer with success. Not a checkpoint."""
        if len(body) <= _JOINED_BYTES:
            self.send(b"".join((replies.head(unique, len(body)), body)))
        else:
            data = bytes(body) if isinstance(body, memoryview) else body
            self._send(Vectors(replies.head(unique, len(body)), data))

    def refuse(self, unique: int, number: int) -> None:
        """Answer with an errno. Not a checkpoint."""
        self.send(replies.failure(unique, number))

    def send(self, message: bytes) -> None:
        """Write a whole message. Not a checkpoint."""
        self._send(Vectors(message))

    def _send(self, vectors: Vectors) -> None:
        self._ring.post(Posted(self._descriptor, vectors, partial(self._sent, vectors), writes=True))

    def _sent(self, vectors: Vectors, result: int) -> None:
        if result == -errno.EAGAIN or result == -errno.EINTR:
            self._send(vectors)
            return
        if result != vectors.length and -result not in _GONE:
            what = os.strerror(-result) if result < 0 else f"{result} bytes taken"
            log.error("a reply of %d bytes to the kernel: %s", vectors.length, what)
        if type(data := vectors.buffers[-1]) is bytearray:
            self._ring.buffers.give(data)

    def _done(self, slot: Slot, result: int) -> None:
        if result > 0:
            self._reading -= 1
            slot.length = result
            slot.arrived_ns = self._now_ns()
            self._arrived(slot)
        elif not self.ended.is_set() and -result in _AGAIN:
            self._ring.post(slot.posted)
            return
        else:
            self._reading -= 1
            if not self.ended.is_set():
                if -result != errno.ENODEV:
                    number = -result or errno.EIO
                    self.failure = OSError(number, f"reading /dev/fuse: {os.strerror(number)}")
                self.ended.set()
        if not self._reading:
            self._idle.unpark_all()
