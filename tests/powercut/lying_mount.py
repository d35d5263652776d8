"""``lying_mount.py SOURCE DIR SYNC``: a mount that confirms every flush of a chunk and makes none; a process for tests.

What the campaign must see: acknowledged bytes that a power cut takes. Prints ``ready`` and ends when unmounted.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pyfuse3
import trio

from benchfs_core.chunks.io import ChunkIO
from benchfs_core.config import VolumeOptions
from benchfs_core.types import Buffer, SyncMode
from benchfs_core.volume import open_volume
from benchfs_fuse.operations import BenchFSOperations

T = TypeVar("T")


class LyingIO:
    """A ``ChunkIO`` that flushes the WAL and nothing else: names are kept and contents are not."""

    def __init__(self, inner: ChunkIO) -> None:
        self._inner = inner

    async def open(self, directory: int, path: str, flags: int) -> int:
        return await self._inner.open(directory, path, flags)

    async def mkdir(self, directory: int, path: str) -> None:
        await self._inner.mkdir(directory, path)

    async def read(self, descriptor: int, offset: int, length: int) -> Buffer:
        return await self._inner.read(descriptor, offset, length)

    async def write(self, descriptor: int, offset: int, data: Buffer, *, durable: bool) -> None:
        await self._inner.write(descriptor, offset, data, durable=False)

    async def fsync(self, descriptor: int, *, datasync: bool) -> None:
        await trio.lowlevel.checkpoint()
        if os.readlink(f"/proc/self/fd/{descriptor}").endswith("-wal"):
            await self._inner.fsync(descriptor, datasync=datasync)

    async def run(self, call: Callable[[], T]) -> T:
        return await self._inner.run(call)

    async def aclose(self) -> None:
        await self._inner.aclose()


async def serve(source: Path, mount_point: Path, sync: SyncMode) -> None:
    """Mount until unmounted."""
    async with open_volume(source, VolumeOptions(sync=sync), wrap_io=LyingIO) as volume:
        writeback = sync is SyncMode.FSYNC
        operations = BenchFSOperations(volume.filesystem, writeback_cache=writeback, acl=False)
        pyfuse3.init(operations, str(mount_point), {"default_permissions", "fsname=lying"})
        print("ready", flush=True)
        await pyfuse3.main()
        pyfuse3.close(unmount=True)


if __name__ == "__main__":
    logging.basicConfig()
    trio.run(serve, Path(sys.argv[1]), Path(sys.argv[2]), SyncMode(sys.argv[3]))
