"""``Device``: /dev/fuse read and written.

Requests in, each in the buffers of a slot; replies out. Both pass by the ring: a system call costs less than to queue
an entry, and to take its completion, in Python. A read in the ring is only what wakes the event loop when it sleeps.

Imports the core's ring, ``protocol`` and ``replies``. Invariants: a slot's buffers are the kernel's until its read is
done, then its taker's until ``give_back``; at most ``MAX_SLOTS`` exist, so at most that many requests are here that
nobody has looked at; a reply's buffers live until it is written.
"""

from __future__ import annotations

import errno
import logging
import os
import select
from collections import deque
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

MAX_TAKEN = 8
"""Most requests that are taken before the first of them is run."""

_PROBE_AFTER = 17
"""After so many requests that came one by one, it is looked whether more are there. A prime, so that it is looked at
every place among those that keep coming together."""

PROMPT_NS, DISK_NS = 50_000, 100_000
"""Requests that keep coming within this time are looked for again and again, without sleeping, and so is what the disk
brings: falling asleep and being woken costs the asker and the daemon more time than a small request, and the daemon
more CPU time than looking."""
RESPITE_NS = 1_000_000
"""Who has looked in vain sleeps instead for so long. Else who asks might be waiting for this processor."""
PATIENCE_MS = 1
"""How long to wait in poll(2) for the next request after one that came alone, before the event loop is asked."""

MAX_SLOTS = 16
"""Most slots. More than ``MAX_TAKEN`` are there only while large writes are under way, each from a slot's buffer."""

_JOINED_BYTES = 16 << 10
"""Data up to this length is copied behind its header; longer data is written from where it is."""

_AGAIN = frozenset({errno.EINTR, errno.EAGAIN, errno.ENOMEM, errno.ENOENT})
"""Failures of a read that pass. ENOENT: the request was aborted before it was read."""
_GONE = frozenset({errno.ENOENT, errno.ENODEV, errno.ECONNABORTED})
"""Failures of a reply that nobody waits for any more: its request was aborted, or the mount is gone."""


class Slot:
    """The buffers of one read: of a WRITE of full size the data is the whole of ``tail``, at a page for direct I/O."""

    __slots__ = ("arrived_ns", "head", "length", "posted", "tail")

    def __init__(self, tail: bytearray) -> None:
        self.head = bytearray(WRITE_HEAD_BYTES)
        self.tail = tail
        self.length = 0
        """Bytes of the request that is here."""
        self.arrived_ns = 0
        """When it was taken off the device."""
        self.posted: Posted


class Device:
    """One session's /dev/fuse: the source of a ``Dispatcher``, which drives the ring."""

    def __init__(self, ring: Ring, descriptor: int, now_ns: Callable[[], int]) -> None:
        """``descriptor`` is non-blocking and stays the caller's to close; ``now_ns``: the clock of arrivals."""
        self._now_ns = now_ns
        self._ring = ring
        self._descriptor = descriptor
        self.arrived: deque[Slot] = deque()
        """Requests that nobody has taken."""
        self._slots: list[Slot] = []
        self._free: list[Slot] = []
        self._reading = False
        """Whether a slot's read is outstanding in the ring."""
        self._listening = False
        """Whether somebody waits for the ring to tell of the next request."""
        self._looks = False
        """Whether to look for what comes next, without sleeping: the last wait was short."""
        self._sleeps_until_ns = 0 if len(os.sched_getaffinity(0)) > 1 else 1 << 63
        """Until when not: never where there is one processor, which who asks needs."""
        self._alone: int | None = 0
        """How many requests came one by one since it was last looked for more; None: they come several at a time."""
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLIN)
        self._poll.register(ring.descriptor, select.POLLIN)
        self._asked = select.poll()
        self._asked.register(descriptor, select.POLLIN)
        self._idle = trio.lowlevel.ParkingLot()
        self.failure: OSError | None = None
        """Why reading ended, where it was not by unmounting."""
        self.ended = trio.Event()
        """Set when no more requests will come."""

    def listen(self) -> None:
        """See to it that the ring becomes ready when a request arrives. Not a checkpoint."""
        self._listening = True
        if not self._reading and not self.ended.is_set() and (slot := self._unused()) is not None:
            self._reading = True
            self._ring.post(slot.posted)

    def stop_listening(self) -> None:
        """Nobody waits for the ring now: who asks for the next request will say so. Not a checkpoint."""
        self._listening = False

    def _unused(self) -> Slot | None:
        if self._free:
            return self._free.pop()
        if len(self._slots) == MAX_SLOTS:
            return None
        slot = Slot(self._ring.buffers.take(MAX_WRITE_BYTES))
        slot.posted = Posted(self._descriptor, Vectors(slot.head, slot.tail), partial(self._done, slot), writes=False)
        self._slots.append(slot)
        return slot

    def is_asked(self) -> bool:
        """Whether a request waits to be taken, or that cannot be told."""
        try:
            return bool(self._asked.poll(0))
        except OSError:  # poll(2) itself is subject to limits
            return True

    def take(self, *, patient: bool) -> bool:
        """Take the requests that are there, up to ``MAX_TAKEN``; one while they come one by one. Not a checkpoint.

        Args:
            patient: block for the next request or completion, little longer than ``PATIENCE_MS``.

        Returns:
            Whether a request came or something in the ring is complete.
        """
        if self._reading or self.ended.is_set():
            return False
        if patient:
            try:
                ready = self._wait()
            except OSError:  # poll(2) itself is subject to limits; the ring, which has been set up, is not
                return False
            if not ready:
                return False
            if ready[0][0] != self._descriptor:
                return True
        if not self._take_one():  # as without a slot: one comes back by way of the ring
            return False
        if self._alone is not None:
            self._alone += 1
            if self._alone < _PROBE_AFTER:
                return True
        taken = 1
        while taken < MAX_TAKEN and self._take_one():
            taken += 1
        self._alone = 0 if taken == 1 else None
        return True

    def _wait(self) -> list[tuple[int, int]]:
        """What poll(2) finds, the device or the ring or both; none after ``PATIENCE_MS``."""
        poll, now_ns, begun_ns = self._poll.poll, self._now_ns, self._now_ns()
        until_ns = begun_ns + (PROMPT_NS if self._ring.is_quiet else DISK_NS)
        ready: list[tuple[int, int]] = []
        if self._looks:
            while not (ready := poll(0)) and now_ns() < until_ns:
                pass
        if not ready:
            ready = poll(PATIENCE_MS)
        ended_ns = now_ns()
        is_prompt = bool(ready) and ended_ns < until_ns
        if self._looks and not is_prompt:
            self._sleeps_until_ns = ended_ns + RESPITE_NS
        self._looks = is_prompt and ended_ns > self._sleeps_until_ns
        return ready

    def _take_one(self) -> bool:
        if (slot := self._free.pop() if self._free else self._unused()) is None:
            return False
        try:
            slot.length = os.readv(self._descriptor, (slot.head, slot.tail))
        except OSError as error:
            self._free.append(slot)
            if error.errno not in _AGAIN:
                self._end(error.errno or errno.EIO)
            return False
        if not slot.length:
            self._free.append(slot)
            self._end(0)
            return False
        slot.arrived_ns = self._now_ns()
        self.arrived.append(slot)
        return True

    def give_back(self, slot: Slot) -> None:
        """The request in the slot has been taken, with its data: the next one may be read into it."""
        if self._listening and not self._reading and not self.ended.is_set():  # for who found no slot
            self._reading = True
            self._ring.post(slot.posted)
        else:
            self._free.append(slot)

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
            self._send_parts(replies.head(unique, len(body)), data)

    def refuse(self, unique: int, number: int) -> None:
        """Answer with an errno. Not a checkpoint."""
        self.send(replies.failure(unique, number))

    def send(self, message: bytes) -> None:
        """Write a whole message. Not a checkpoint."""
        try:
            result = os.write(self._descriptor, message)
        except OSError as error:
            result = -(error.errno or errno.EIO)
        if result != len(message):
            self._sent((message,), result)

    def _send_parts(self, *parts: bytes | bytearray) -> None:
        try:
            result = os.writev(self._descriptor, parts)
        except OSError as error:
            result = -(error.errno or errno.EIO)
        self._sent(parts, result)

    def _post(self, vectors: Vectors) -> None:
        self._ring.post(Posted(self._descriptor, vectors, partial(self._sent, vectors.buffers), writes=True))

    def _sent(self, parts: tuple[bytes | bytearray, ...], result: int) -> None:
        length = sum(map(len, parts))
        if result != length:
            if result == -errno.EAGAIN or result == -errno.EINTR:
                self._post(Vectors(*parts))
                return
            if -result not in _GONE:
                what = os.strerror(-result) if result < 0 else f"{result} bytes taken"
                log.error("a reply of %d bytes to the kernel: %s", length, what)
        if type(data := parts[-1]) is bytearray:
            self._ring.buffers.give(data)

    def _done(self, slot: Slot, result: int) -> None:
        if result <= 0 and not self.ended.is_set() and -result in _AGAIN:
            self._ring.post(slot.posted)
            return
        self._reading = False
        if result > 0:
            slot.length = result
            slot.arrived_ns = self._now_ns()
            self.arrived.append(slot)
        elif not self.ended.is_set():
            self._end(-result)
        if not self._reading:
            self._idle.unpark_all()

    def _end(self, number: int) -> None:
        """No more requests come: for this errno, or 0 where a read returned nothing."""
        if number != errno.ENODEV:
            number = number or errno.EIO
            self.failure = OSError(number, f"reading /dev/fuse: {os.strerror(number)}")
        self.ended.set()
