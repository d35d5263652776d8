"""A trio loop in a thread of its own, for tests whose steps come from outside trio; and a volume that lives in it.

Imports trio and ``volumes``. Invariant: each ``call`` runs to its end before the next; an error of the volume's own
tasks is raised by the call that ends the volume.
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import trio

from benchfs_core.types import StoreKind, SyncMode
from benchfs_core.volume import Volume
from tests.support.volumes import Abandoned, Ticks, open_test_volume

T = TypeVar("T")


class Portal:
    """Runs async functions for a thread that has no loop."""

    def __init__(self) -> None:
        self._ready = threading.Event()
        self._thread = threading.Thread(target=trio.run, args=(self._main,), name="portal")

    async def _main(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._stop = trio.Event()
        async with trio.open_nursery() as self.nursery:
            self._ready.set()
            await self._stop.wait()
            self.nursery.cancel_scope.cancel()  # a volume that a failed test left open would have its end waited for

    def __enter__(self) -> Portal:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._token.run_sync_soon(self._stop.set)
        self._thread.join()

    def call(self, work: Callable[[], Awaitable[T]]) -> T:
        """Run ``work()`` in the loop; its result or its error."""
        return trio.from_thread.run(work, trio_token=self._token)


class HeldVolume:
    """A volume that stays open between calls."""

    def __init__(
        self, portal: Portal, source: Path, sync: SyncMode, store: StoreKind, ticks: Ticks, inline_bytes: int = 0
    ) -> None:
        self._portal = portal
        self._how = (source, sync, store)
        self._ticks = ticks
        self._inline_bytes = inline_bytes
        self._error: BaseException | None = None
        self._abandon = False
        self.volume: Volume = portal.call(self._start)

    def close(self, *, abandon: bool = False) -> None:
        """End it in order, or without bringing anything to disk."""
        self._abandon = abandon
        self._portal.call(self._finish)
        if self._error is not None:
            raise self._error

    async def _start(self) -> Volume:
        self._end, self._ended = trio.Event(), trio.Event()
        volume: Volume | None = await self._portal.nursery.start(self._serve)
        if volume is None:
            assert self._error is not None
            raise self._error
        return volume

    async def _finish(self) -> None:
        self._end.set()
        await self._ended.wait()

    async def _serve(self, task_status: trio.TaskStatus[Volume | None]) -> None:
        started = False
        try:
            async with open_test_volume(*self._how, ticks=self._ticks, inline_bytes=self._inline_bytes) as volume:
                started = True
                task_status.started(volume)
                await self._end.wait()
                if self._abandon:
                    raise Abandoned
        except Abandoned:
            pass
        except Exception as error:
            self._error = error
            if not started:
                task_status.started(None)
        finally:
            self._ended.set()
