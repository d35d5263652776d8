"""``ChunkRanges``: what stores of chunk files do with parts of chunks besides reading and writing them.

Imports trio, ``io``, ``handles``, ``directories``, ``range_calls`` and ``types``. Invariants: a copy holds one pin at
a time, and a descriptor of its own of the other chunk, of which there are ``MAX_COPIES`` at most; nothing is durable.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TypeAlias

import trio

from benchfs_core.chunks import directories, range_calls
from benchfs_core.chunks.handles import ChunkHandle, HandleCache
from benchfs_core.chunks.io import ChunkIO
from benchfs_core.types import ChunkIndex, ChunkRange, InodeId

MAX_COPIES = 4
"""Descriptors of sources of copies that are open at a time; not counted among the handles."""

Pin: TypeAlias = Callable[[ChunkRange, bool], Awaitable[ChunkHandle | None]]
"""Pins a chunk, which is made if the flag says so; None where it is absent."""

Look: TypeAlias = Callable[[int, str, Sequence[ChunkIndex], int], tuple[ChunkIndex, int] | None]


class ChunkRanges:
    """Parts of the chunk files of one store; see ``ChunkStore`` for what the methods promise."""

    def __init__(self, base: int, io: ChunkIO, handles: HandleCache, pin: Pin) -> None:
        """``base``: a descriptor of the directory of the chunks, which stays the caller's."""
        self._base = base
        self._io = io
        self._handles = handles
        self._pin = pin
        self._copies = trio.Semaphore(MAX_COPIES)

    async def allocate(self, part: ChunkRange) -> None:
        """See ``ChunkStore``."""
        await self._with(part, range_calls.allocate, create=True)

    async def zero(self, part: ChunkRange) -> None:
        """See ``ChunkStore``."""
        await self._with(part, range_calls.zero, create=False)

    async def copy(self, source: ChunkRange, target: ChunkRange) -> int:
        """See ``ChunkStore``."""
        async with self._copies:
            descriptor = await self._open_again(source)
            try:
                if descriptor is None or not await self._io.run(partial(_holds_data, descriptor, source)):
                    await self.zero(target)
                    return 0
                handle = await self._pin(target, True)
                assert handle is not None
                places = (descriptor, source.offset, handle.descriptor, target.offset, source.length)
                try:
                    return await self._io.run(partial(range_calls.copy, *places))
                finally:
                    self._handles.unpin(handle)
            finally:
                if descriptor is not None:
                    os.close(descriptor)

    async def find(
        self, look: Look, inode: InodeId, chunk_indices: Sequence[ChunkIndex], offset: int
    ) -> tuple[ChunkIndex, int] | None:
        """``find_data`` and ``find_hole`` of ``ChunkStore``, in a worker thread."""
        for start in range(0, len(chunk_indices), directories.SLICE):
            part = chunk_indices[start : start + directories.SLICE]
            ask = partial(look, self._base, str(inode), part, 0 if start else offset)
            found = await self._handles.relieved(partial(self._io.run, ask))
            if found is not None:
                return found
        directories.check_exists(self._base)
        return None

    async def _with(self, part: ChunkRange, call: Callable[[int, int, int], None], *, create: bool) -> None:
        handle = await self._pin(part, create)
        if handle is None:
            return
        try:
            await self._io.run(partial(call, handle.descriptor, part.offset, part.length))
        finally:
            self._handles.unpin(handle)

    async def _open_again(self, part: ChunkRange) -> int | None:
        """A descriptor of our own of an existing chunk."""
        handle = await self._pin(part, False)
        if handle is None:
            return None
        descriptor = handle.descriptor

        async def open_again() -> int:
            return os.dup(descriptor)

        try:
            return await self._handles.relieved(open_again)
        finally:
            self._handles.unpin(handle)


def find_data(
    base: int, directory: str, chunk_indices: Sequence[ChunkIndex], offset: int
) -> tuple[ChunkIndex, int] | None:
    """The first data in chunk files, for a worker thread."""
    for chunk_index in chunk_indices:
        descriptor = _opened(base, f"{directory}/{chunk_index}")
        if descriptor is not None:
            try:
                found = range_calls.data_from(descriptor, offset)
            finally:
                os.close(descriptor)
            if found is not None:
                return chunk_index, found
        offset = 0
    return None


def find_hole(
    base: int, directory: str, chunk_indices: Sequence[ChunkIndex], offset: int, *, chunk_size: int
) -> tuple[ChunkIndex, int] | None:
    """The first hole in chunk files of at most ``chunk_size`` bytes, for a worker thread."""
    for chunk_index in chunk_indices:
        descriptor = _opened(base, f"{directory}/{chunk_index}")
        if descriptor is None:
            return chunk_index, offset
        try:
            found = range_calls.hole_from(descriptor, offset)
        finally:
            os.close(descriptor)
        if found < chunk_size:
            return chunk_index, found
        offset = 0
    return None


def _opened(base: int, path: str) -> int | None:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=base)
    except FileNotFoundError:
        return None


def _holds_data(descriptor: int, part: ChunkRange) -> bool:
    found = range_calls.data_from(descriptor, part.offset)
    return found is not None and found < part.offset + part.length
