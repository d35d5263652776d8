"""Blocking calls in worker threads, with their time counted for whose request makes them.

Imports trio and ``meter``. Invariant: no thread is abandoned: a call that was cancelled has either not begun, or has
ended when the caller resumes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import trio

from benchfs_core.meter import Meter, Part

T = TypeVar("T")


async def run_in_thread(call: Callable[[], T], limiter: trio.CapacityLimiter, meter: Meter) -> T:
    """Run ``call`` in a worker thread; what it takes to get there and back counts as ``Part.RING``. A checkpoint."""
    if (timing := meter.current) is None:
        return await trio.to_thread.run_sync(call, limiter=limiter)
    instants_ns: list[int] = []

    def noted() -> T:
        instants_ns.append(meter.now_ns())
        try:
            return call()
        finally:
            instants_ns.append(meter.now_ns())

    was = timing.enter(Part.RING)
    try:
        return await trio.to_thread.run_sync(noted, limiter=limiter)
    finally:
        if instants_ns:
            began_ns, ended_ns = instants_ns
            timing.enter_at(Part.DISK, began_ns)
            timing.enter_at(Part.RING, ended_ns)
        timing.enter(was)
