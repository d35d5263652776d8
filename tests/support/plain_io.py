"""``PlainIO``: a ``ChunkIO`` of plain system calls on the event loop: no thread is woken, so many tests are quick.

Imports trio and the protocol.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar

import trio

from benchfs_core.types import Buffer

T = TypeVar("T")


class PlainIO:
    """See ``ChunkIO``. Every method is a checkpoint, and blocks the loop for the length of its call."""

    async def open(self, directory: int, path: str, flags: int) -> int:
        await trio.lowlevel.checkpoint()
        return os.open(path, flags | os.O_CLOEXEC, 0o600, dir_fd=directory)

    async def mkdir(self, directory: int, path: str) -> None:
        await trio.lowlevel.checkpoint()
        os.mkdir(path, 0o700, dir_fd=directory)

    async def read(self, descriptor: int, offset: int, length: int) -> Buffer:
        await trio.lowlevel.checkpoint()
        return os.pread(descriptor, length, offset)

    async def write(self, descriptor: int, offset: int, data: Buffer, *, durable: bool) -> None:
        await trio.lowlevel.checkpoint()
        written = os.pwritev(descriptor, [data], offset, os.RWF_DSYNC if durable else 0)
        assert written == len(data)

    async def fsync(self, descriptor: int, *, datasync: bool) -> None:
        await trio.lowlevel.checkpoint()
        (os.fdatasync if datasync else os.fsync)(descriptor)

    async def run(self, call: Callable[[], T]) -> T:
        await trio.lowlevel.checkpoint()
        return call()

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()
