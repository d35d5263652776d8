"""Who waits for the next request, and how. A pair of sockets stands for /dev/fuse."""

from __future__ import annotations

import os
import resource
import select
import socket
import time
from typing import cast

import pytest
import trio
import trio.testing

from benchfs_core.chunks.ring import Ring
from benchfs_core.chunks.uring import io_uring_available
from benchfs_fuse.plane.device import DISK_NS, MAX_SLOTS, MAX_TAKEN, PATIENCE_MS, PROMPT_NS, RESPITE_NS, Device, Slot

pytestmark = pytest.mark.skipif(io_uring_available() is not None, reason=str(io_uring_available()))


async def test_nobody_spins_for_a_request_while_there_is_no_slot_for_it() -> None:
    kernel_end, device_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with kernel_end, device_end:
        device_end.setblocking(False)
        async with Ring.open(4) as ring:
            device = Device(ring, device_end.fileno(), time.monotonic_ns)
            slots = [device._unused() for _ in range(MAX_SLOTS)]
            kernel_end.send(bytes(40))
            assert not device.take(patient=True)
            device.give_back(cast("Slot", slots[0]))
            assert device.take(patient=True)
            assert len(device.arrived) == 1


async def test_whether_a_request_waits_is_told_and_supposed_where_nobody_may_look() -> None:
    kernel_end, device_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with kernel_end, device_end:
        device_end.setblocking(False)
        async with Ring.open(4) as ring:
            device = Device(ring, device_end.fileno(), time.monotonic_ns)
            assert not device.is_asked()
            kernel_end.send(bytes(40))
            assert device.is_asked()
            assert device.take(patient=True)
            assert not device.is_asked()
            resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
            try:
                assert device.is_asked()
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, limits)


class Waits:
    """Stands for poll(2) and the clock: ``delays_ns`` says how long after it is waited for each request comes."""

    def __init__(self, kernel_end: socket.socket, device_end: socket.socket, delays_ns: list[int]) -> None:
        self._kernel_end, self._device = kernel_end, device_end.fileno()
        self._delays_ns = delays_ns
        self.time_ns = 0
        self._due_ns: int | None = None
        self.asked_ms: list[int] = []

    def now_ns(self) -> int:
        self.time_ns += 1000
        return self.time_ns

    def poll(self, timeout_ms: int) -> list[tuple[int, int]]:
        self.asked_ms.append(timeout_ms)
        if self._due_ns is None:
            self._due_ns = self.time_ns + self._delays_ns.pop(0)
        if self._due_ns > self.time_ns + timeout_ms * 1_000_000:
            self.time_ns += timeout_ms * 1_000_000
            return []
        self.time_ns = max(self.time_ns, self._due_ns)
        self._due_ns = None
        self._kernel_end.send(bytes(40))
        return [(self._device, select.POLLIN)]


@pytest.mark.parametrize(("processors", "spins"), [({0, 1}, True), ({0}, False)])
async def test_a_prompt_request_is_looked_for_without_sleeping(
    monkeypatch: pytest.MonkeyPatch, processors: set[int], spins: bool
) -> None:
    """After a wait that was short; once in vain, and then not for a while."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: processors)
    kernel_end, device_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    slow, prompt, respite = PROMPT_NS * 2, PROMPT_NS // 4, RESPITE_NS - 10_000
    sleeps, looks, looks_in_vain = (False, True), (True, False), (True, True)
    expected = [
        *((slow, sleeps), (prompt, sleeps), (prompt, looks), (slow, looks_in_vain), (prompt, sleeps)),
        *((respite, sleeps), (prompt, sleeps), (prompt, looks)),
    ]
    with kernel_end, device_end:
        device_end.setblocking(False)
        waits = Waits(kernel_end, device_end, [delay_ns for delay_ns, _ in expected])
        waited = []
        async with Ring.open(4) as ring:
            device = Device(ring, device_end.fileno(), waits.now_ns)
            device._poll = cast("select.poll", waits)
            for _ in expected:
                assert device.take(patient=True)
                device.give_back(device.arrived.popleft())
                assert waits.asked_ms.count(0) <= PROMPT_NS // 1000
                waited.append((0 in waits.asked_ms, PATIENCE_MS in waits.asked_ms))
                waits.asked_ms.clear()
    assert waited == ([how for _, how in expected] if spins else [sleeps] * len(expected))


@pytest.mark.parametrize(("in_flight", "looks_ns"), [(False, PROMPT_NS), (True, DISK_NS)])
async def test_what_the_disk_brings_is_looked_for_longer(*, in_flight: bool, looks_ns: int) -> None:
    kernel_end, device_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    reading, writing = os.pipe()
    with kernel_end, device_end:
        device_end.setblocking(False)
        waits = Waits(kernel_end, device_end, [1000, 1000, DISK_NS * 2])
        async with Ring.open(4) as ring, trio.open_nursery() as nursery:
            if in_flight:
                nursery.start_soon(ring.read, reading, 0, 1)
                await trio.testing.wait_all_tasks_blocked()
            device = Device(ring, device_end.fileno(), waits.now_ns)
            device._poll = cast("select.poll", waits)
            for _ in range(3):
                waits.asked_ms.clear()
                assert device.take(patient=True)
                device.give_back(device.arrived.popleft())
            os.write(writing, b"x")
    assert waits.asked_ms == [0] * (looks_ns // 1000) + [PATIENCE_MS]
    os.close(reading)
    os.close(writing)


async def test_requests_are_taken_one_by_one_or_several_at_once_as_they_come() -> None:
    """When they came one by one for a while it is looked for more, and while there are more, always."""
    kernel_end, device_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with kernel_end, device_end:
        device_end.setblocking(False)
        async with Ring.open(4) as ring:
            device = Device(ring, device_end.fileno(), time.monotonic_ns)

            def takes(count: int) -> list[int]:
                """How many requests each call takes when so many come at once."""
                for _ in range(count):
                    kernel_end.send(bytes(40))
                taken: list[int] = []
                while sum(taken) < count:
                    assert device.take(patient=True)
                    taken.append(len(device.arrived))
                    while device.arrived:
                        device.give_back(device.arrived.popleft())
                return taken

            assert takes(3) == [1, 1, 1]
            assert [len(takes(1)) for _ in range(13)] == [1] * 13
            assert takes(3) == [3]
            assert takes(MAX_TAKEN + 1) == [MAX_TAKEN, 1]
            assert takes(3) == [1, 1, 1]


async def test_who_must_not_wait_takes_what_is_there() -> None:
    kernel_end, device_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with kernel_end, device_end:
        device_end.setblocking(False)
        async with Ring.open(4) as ring:
            waits = Waits(kernel_end, device_end, [])
            device = Device(ring, device_end.fileno(), waits.now_ns)
            device._poll = cast("select.poll", waits)
            assert not device.take(patient=False)
            kernel_end.send(bytes(40))
            assert device.take(patient=False)
            assert not waits.asked_ms
