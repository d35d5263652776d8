"""``Plane``: one session's requests, from /dev/fuse through the handlers and back, on one ring.

Imports everything else in this package and ``translate``. Invariants: every request but those that have no answer is
answered once, with an errno where its handler fails in whatever way; what arrives malformed is answered with EIO, and
ends nothing.
"""

from __future__ import annotations

import errno
import logging
import socket
from collections.abc import Awaitable, Callable
from typing import NamedTuple

import trio

from benchfs_core.chunks.ring import Ring
from benchfs_core.profile import Operation, Profile
from benchfs_fuse.plane.answering import Handler, Refused, Reply
from benchfs_fuse.plane.device import Device, Slot
from benchfs_fuse.plane.dispatch import Dispatcher, Work
from benchfs_fuse.plane.forward import Forwarder
from benchfs_fuse.plane.handlers import Handlers
from benchfs_fuse.plane.protocol import IN_HEADER, WRITE_HEAD_BYTES, Opcode, ProtocolError, Request, decode
from benchfs_fuse.translate import to_errno

log = logging.getLogger(__name__)

MAX_REQUESTS = 128
"""Most requests under way; the kernel has no more than that many in the background (``max_background``)."""

_FORGETTING = frozenset({Opcode.FORGET, Opcode.BATCH_FORGET, Opcode.INTERRUPT})
"""Requests without an answer, not even to failure."""


_IN, _OUT = 1, 2
_MOVES: dict[int, int] = {Opcode.WRITE: _IN, Opcode.READ: _OUT}


class _Known(NamedTuple):
    """What there is for a request that is answered here."""

    operation: Operation
    handler: Handler
    timed_handler: Handler
    moves: int
    """Whether bytes of files come with the request (``_IN``) or go with its answer (``_OUT``); 0: neither."""


class Plane:
    """Serves one mount."""

    def __init__(
        self,
        ring: Ring,
        descriptor: int,
        pair: socket.socket,
        handlers: Handlers,
        timed_handlers: Handlers,
        profile: Profile,
    ) -> None:
        """Serve ``descriptor``, /dev/fuse after INIT.

        Args:
            ring: the ring of the chunk store, or one of its own; driven by the plane while it runs.
            descriptor: non-blocking; the caller closes it.
            pair: to pyfuse3; the caller closes it.
            handlers: of what is answered here.
            timed_handlers: the same, for requests of which it is found out where their time goes.
            profile: where requests are counted.
        """
        self._handlers = {
            opcode: _Known(profile.operation(name), handler, timed_handlers.table[opcode][1], _MOVES.get(opcode, 0))
            for opcode, (name, handler) in handlers.table.items()
        }
        self._meter = profile.meter
        self._now_ns = profile.meter.now_ns
        self._device = Device(ring, descriptor, profile.meter.now_ns)
        self._dispatcher: Dispatcher[Slot] = Dispatcher(ring, self._device, self._begin, MAX_REQUESTS)
        ring.others_wait = self._others_wait
        self._forwarder = Forwarder(self._device, pair)
        for either in (handlers, timed_handlers):
            either.connect(self._device.send)

    @property
    def opcodes(self) -> frozenset[int]:
        """What is answered here."""
        return frozenset(self._handlers)

    @property
    def ended(self) -> trio.Event:
        """Set when no more requests will come."""
        return self._device.ended

    def _others_wait(self) -> bool:
        return self._dispatcher.has_others or self._device.is_asked()

    def stop(self) -> None:
        """End as at unmounting."""
        self._device.ended.set()

    async def run(self, other_side: Callable[[], Awaitable[None]]) -> None:
        """Serve until unmounted; what has arrived by then is seen through to its end.

        Args:
            other_side: pyfuse3's loop, which runs meanwhile.

        Raises:
            OSError: /dev/fuse could not be read any more.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._dispatcher.run)
            nursery.start_soon(self._forwarder.run)
            nursery.start_soon(_outlived, other_side)
            try:
                self._device.listen()
                await self._device.ended.wait()
                await self._dispatcher.drain()
            finally:
                await self._device.stop()
            nursery.cancel_scope.cancel()
        if self._device.failure is not None:
            raise self._device.failure

    def _begin(self, slot: Slot) -> Work | None:
        """Decode what is in the slot; the coroutine that answers it, if it is answered here."""
        try:
            request = decode(slot.head, slot.tail, slot.length)
        except ProtocolError as error:
            self._malformed(slot, error)
            return None
        known = self._handlers.get(request.opcode)
        if known is None:
            self._unknown(slot, request)
            return None
        arrived_ns = slot.arrived_ns
        if request.data is slot.tail:
            return self._answer_in_place(slot, request, known, arrived_ns)
        self._device.give_back(slot)
        return self._answer(request, known, arrived_ns)

    async def _answer_in_place(self, slot: Slot, request: Request, known: _Known, arrived_ns: int) -> None:
        try:
            await self._answer(request, known, arrived_ns)
        finally:
            self._device.give_back(slot)

    async def _answer(self, request: Request, known: _Known, arrived_ns: int) -> None:
        operation, handler, timed_handler, moves = known
        timing, moved, failed = None, 0, 0
        body: Reply = None
        try:
            if operation.unsplit:
                operation.unsplit -= 1
                body = await handler(request)
            else:
                timing = operation.split(arrived_ns)
                body = await self._meter.follow(timing, timed_handler(request))
        except Refused as refused:
            failed = refused.number
        except Exception as error:
            failed = errno.EIO if isinstance(error, ProtocolError) else to_errno(error, operation.name)
            if isinstance(error, ProtocolError):
                log.error("%s: malformed: %s", operation.name, error)
        if failed:
            operation.errors += 1
        elif moves and body is not None:
            moved = len(body) if moves == _OUT else len(request.data)
        if timing is not None:
            operation.end(arrived_ns, moved, timing)
        else:  # the same, without a call
            operation.times_ns.append(self._now_ns() - arrived_ns)
            if moves:
                operation.bytes += moved
        # Only now: in writing the reply the kernel wakes who asked, who may have the processor before this goes on.
        if failed:
            if request.opcode not in _FORGETTING:
                self._device.refuse(request.unique, failed)
        elif body is not None:
            self._device.reply(request.unique, body)

    def _unknown(self, slot: Slot, request: Request) -> None:
        if request.opcode == Opcode.FLUSH:
            self._device.refuse(request.unique, errno.ENOSYS)
        else:
            message = b"".join((slot.head, slot.tail[: max(0, slot.length - WRITE_HEAD_BYTES)]))[: slot.length]
            self._forwarder.forward(request.unique, message)
        self._device.give_back(slot)

    def _malformed(self, slot: Slot, error: ProtocolError) -> None:
        log.error("a malformed request: %s", error)
        if slot.length >= IN_HEADER.size:
            _, opcode, unique, *_ = IN_HEADER.unpack_from(slot.head)
            if unique and opcode not in _FORGETTING:
                self._device.refuse(unique, errno.EIO)
        self._device.give_back(slot)


async def _outlived(other_side: Callable[[], Awaitable[None]]) -> None:
    """pyfuse3's loop: that it ends, or how, is nothing to those whose requests are answered here."""
    try:
        await other_side()
    except Exception:
        log.exception("pyfuse3's loop has ended: requests that are passed on to it will be refused")
