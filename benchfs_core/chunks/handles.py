"""``HandleCache``: the open chunk files; least recently used first out, never one that is in use.

Imports trio; knows chunk keys and descriptors, not paths: opening is a function handed in.

Invariants:
- one handle per chunk serves reads and writes, and concurrent first users share one open;
- at most ``max_handles`` descriptors are open or being opened; who needs one more waits, first come first served;
- a pinned handle is never closed; a dropped one is closed when its last pin goes, and nobody gets it again;
- nobody waits for a handle while holding a pin (callers pin one chunk at a time), so waiting ends.
"""

from __future__ import annotations

import errno
import os
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TypeAlias, TypeVar

import trio

from benchfs_core.chunks.gate import Gate
from benchfs_core.types import ChunkIndex, InodeId

T = TypeVar("T")

_RELIEF = 16
"""How many idle handles are closed when the process or system is out of descriptors."""


class ChunkHandle:
    """One open chunk file. ``entry_durable``: the directory entries that lead to it are known to be on disk."""

    __slots__ = ("chunk_index", "descriptor", "dropped", "entry_durable", "inode", "pins")

    def __init__(self, inode: InodeId, chunk_index: ChunkIndex, descriptor: int, entry_durable: bool) -> None:
        """A handle with one pin, its opener's."""
        self.inode = inode
        self.chunk_index = chunk_index
        self.descriptor = descriptor
        self.entry_durable = entry_durable
        self.dropped = False
        self.pins = 1


Opener: TypeAlias = Callable[[InodeId, ChunkIndex, bool], Awaitable[tuple[int, bool] | None]]
"""Opens a chunk file, made if the flag says so: descriptor and ``entry_durable``; None where it is absent."""


@dataclass(slots=True, eq=False)
class _Opening:
    """An open under way, and those who wait for it; ``stale`` where the chunk was dropped meanwhile."""

    waiting: trio.lowlevel.ParkingLot = field(default_factory=trio.lowlevel.ParkingLot)
    stale: bool = False


class HandleCache:
    """Pins and unpins handles; ``unpin`` in a ``finally`` what ``pin`` or ``pin_cached`` returned."""

    def __init__(self, max_handles: int, opener: Opener) -> None:
        """``max_handles``: most descriptors open at a time, at least 1."""
        assert max_handles >= 1
        self._max_handles = max_handles
        self._opener = opener
        self._by_inode: dict[InodeId, dict[ChunkIndex, ChunkHandle]] = {}
        """Those that may be handed out; an inode without any has no entry."""
        self._idle: OrderedDict[ChunkHandle, None] = OrderedDict()
        """Unpinned, least recently used first."""
        self._opening: dict[tuple[InodeId, ChunkIndex], _Opening] = {}
        self._waiting: OrderedDict[trio.lowlevel.Task, None] = OrderedDict()
        """Who waits for a place. While anybody does, no handle is idle."""
        self._places_taken = 0
        """Descriptors open or about to be."""
        self._gate = Gate("chunk store")
        self.open_count = 0
        """Descriptors that are open."""
        self.high_water = 0
        """Most that ever were."""

    def pin_cached(self, inode: InodeId, chunk_index: ChunkIndex) -> ChunkHandle | None:
        """Pin the chunk's handle where it is open; None otherwise. Not a checkpoint.

        Raises:
            trio.ClosedResourceError: the cache is closed.
        """
        handle = self._find(inode, chunk_index)
        if handle is None:
            return None
        self._gate.enter()
        return self._take(handle)

    async def pin(self, inode: InodeId, chunk_index: ChunkIndex, *, create: bool) -> ChunkHandle | None:
        """Pin the chunk's handle, opening the file if need be; None where it is absent and not to be made.

        A checkpoint only where it waits. Cancelled, nothing is pinned; the file may have been made.

        Raises:
            OSError: the open failed; EMFILE and ENFILE only after idle handles were closed.
            trio.ClosedResourceError: the cache is closed.
        """
        self._gate.enter()
        handle: ChunkHandle | None = None
        try:
            key = (inode, chunk_index)
            while (found := self._find(inode, chunk_index)) is None and (busy := self._opening.get(key)) is not None:
                await busy.waiting.park()
            handle = await self._lead(key, create) if found is None else self._take(found)
        finally:
            if handle is None:
                self._gate.leave()
        return handle

    def unpin(self, handle: ChunkHandle) -> None:
        """Give a pin back. Not a checkpoint."""
        handle.pins -= 1
        assert handle.pins >= 0
        if not handle.pins:
            if handle.dropped:
                self._close(handle)
            elif self._waiting:
                self._forget(handle)
                self._close(handle)
            else:
                self._idle[handle] = None
        self._gate.leave()

    def drop(self, inode: InodeId, chunk_index: ChunkIndex) -> None:
        """Forget a chunk that is being deleted: closed now, or with its last pin. Not a checkpoint."""
        opening = self._opening.get((inode, chunk_index))
        if opening is not None:
            opening.stale = True
        handle = self._find(inode, chunk_index)
        if handle is None:
            return
        self._forget(handle)
        handle.dropped = True
        if not handle.pins:
            del self._idle[handle]
            self._close(handle)

    def drop_inode(self, inode: InodeId) -> None:
        """Forget every chunk of an inode. Not a checkpoint."""
        for key in [key for key in self._opening if key[0] == inode]:
            self._opening[key].stale = True
        for chunk_index in list(self._by_inode.get(inode, ())):
            self.drop(inode, chunk_index)

    async def relieved(self, call: Callable[[], Awaitable[T]]) -> T:
        """Make a call that opens something, chunk or directory; out of descriptors, again with some handles closed.

        Raises:
            OSError: what the call raised; EMFILE and ENFILE only where no handle is idle any more.
        """
        while True:
            try:
                return await call()
            except OSError as error:
                if error.errno not in (errno.EMFILE, errno.ENFILE) or not self._idle:
                    raise
            for _ in range(min(_RELIEF, len(self._idle))):
                self._evict()

    async def aclose(self) -> None:
        """Refuse new pins, wait for the last one to go, then close every handle. Cannot be cancelled."""
        await self._gate.close()
        while self._idle:
            self._evict()

    def _find(self, inode: InodeId, chunk_index: ChunkIndex) -> ChunkHandle | None:
        chunks = self._by_inode.get(inode)
        return None if chunks is None else chunks.get(chunk_index)

    def _take(self, handle: ChunkHandle) -> ChunkHandle:
        """Add a pin."""
        if not handle.pins:
            del self._idle[handle]
        handle.pins += 1
        return handle

    async def _lead(self, key: tuple[InodeId, ChunkIndex], create: bool) -> ChunkHandle | None:
        """Open for everybody who wants this chunk meanwhile."""
        opening = self._opening[key] = _Opening()
        try:
            return await self._open(*key, create, opening)
        finally:
            del self._opening[key]
            opening.waiting.unpark_all()

    async def _open(
        self, inode: InodeId, chunk_index: ChunkIndex, create: bool, opening: _Opening
    ) -> ChunkHandle | None:
        """Take a place and open; again where the chunk was dropped meanwhile: that file is gone or about to be."""
        await self._take_place()
        open_file = partial(self._opener, inode, chunk_index, create)
        opened: tuple[int, bool] | None = None
        try:
            while (opened := await self.relieved(open_file)) is not None and opening.stale:
                os.close(opened[0])
                opened = None
                opening.stale = False
        finally:
            if opened is None:
                self._free_place()
        if opened is None:
            return None
        handle = ChunkHandle(inode, chunk_index, *opened)
        self._by_inode.setdefault(inode, {})[chunk_index] = handle
        self.open_count += 1
        self.high_water = max(self.high_water, self.open_count)
        assert self.open_count <= self._max_handles
        return handle

    async def _take_place(self) -> None:
        """Reserve one of the ``max_handles`` places, closing an idle handle or waiting for a pin to go."""
        if self._places_taken < self._max_handles:
            self._places_taken += 1
        elif self._idle:
            self._evict()
            self._places_taken += 1
        else:
            task = trio.lowlevel.current_task()
            self._waiting[task] = None

            def leave(_: object) -> trio.lowlevel.Abort:
                del self._waiting[task]
                return trio.lowlevel.Abort.SUCCEEDED

            # Whoever frees a place while somebody waits hands it over, still taken.
            await trio.lowlevel.wait_task_rescheduled(leave)

    def _free_place(self) -> None:
        if self._waiting:
            task, _ = self._waiting.popitem(last=False)
            trio.lowlevel.reschedule(task)
        else:
            self._places_taken -= 1

    def _evict(self) -> None:
        """Close the handle that was idle longest."""
        handle, _ = self._idle.popitem(last=False)
        self._forget(handle)
        self._close(handle)

    def _forget(self, handle: ChunkHandle) -> None:
        """Let nobody find it any more."""
        chunks = self._by_inode[handle.inode]
        del chunks[handle.chunk_index]
        if not chunks:
            del self._by_inode[handle.inode]

    def _close(self, handle: ChunkHandle) -> None:
        self.open_count -= 1
        # Linux frees the descriptor whatever close(2) returns, and nothing durable is promised of it.
        with suppress(OSError):
            os.close(handle.descriptor)
        self._free_place()
