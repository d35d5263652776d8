"""What the dispatcher knows of others while it runs a request. Plane and ring: ``test_plane``, ``test_ring_driven``."""

from __future__ import annotations

import os
from collections import deque

import pytest
import trio

from benchfs_core.chunks.ring import Ring
from benchfs_core.chunks.uring import io_uring_available
from benchfs_fuse.plane.dispatch import Dispatcher

pytestmark = pytest.mark.skipif(io_uring_available() is not None, reason=str(io_uring_available()))


class Given:
    """A source of what it is given at the start."""

    def __init__(self, *items: str) -> None:
        self.arrived = deque(items)

    def take(self, *, patient: bool) -> bool:
        return False

    def listen(self) -> None:
        pass

    def stop_listening(self) -> None:
        pass


async def test_a_request_can_tell_whether_others_wait_or_run_in_tasks() -> None:
    found, go_on = dict[str, bool](), trio.Event()

    async def answer(name: str) -> None:
        found[name] = dispatcher.has_others
        if name == "waits in a task":
            await go_on.wait()
        if name == "beside that task":
            go_on.set()

    async with Ring.open(4) as ring:
        source = Given("before others", "the last")
        dispatcher = Dispatcher(ring, source, answer, 10)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(dispatcher.run)
            await dispatcher.drain()
            source.arrived.append("waits in a task")
            source.arrived.append("beside that task")
            descriptor = os.memfd_create("one byte")
            os.write(descriptor, b"x")
            await ring.read(descriptor, 0, 1)  # which has the leader look
            os.close(descriptor)
            await dispatcher.drain()
            nursery.cancel_scope.cancel()
    assert found == {"before others": True, "the last": False, "waits in a task": True, "beside that task": True}
