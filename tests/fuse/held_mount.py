"""``held_mount.py SOURCE DIR`` mounts a volume where some writes wait: a process for tests.

What begins with ``held`` is written to its chunk when a byte comes on stdin; ``held`` is printed first. Prints
``ready`` and ends when unmounted.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

import pyfuse3
import trio

from benchfs_core.chunks.io import ChunkIO
from benchfs_core.config import VolumeOptions
from benchfs_core.types import Buffer
from benchfs_core.volume import open_volume
from benchfs_fuse.operations import BenchFSOperations
from tests.support.faults import FaultPlan, FaultyIO


class HoldingIO(FaultyIO):
    """See the file's docstring."""

    def __init__(self, inner: ChunkIO) -> None:
        super().__init__(inner, FaultPlan(0))

    async def write(self, descriptor: int, offset: int, data: Buffer, *, durable: bool) -> None:
        if bytes(data[:4]) == b"held":
            print("held", flush=True)
            await trio.lowlevel.wait_readable(sys.stdin)
            os.read(sys.stdin.fileno(), 1)
        await super().write(descriptor, offset, data, durable=durable)


async def serve(source: Path, mount_point: Path) -> None:
    """Mount until unmounted."""
    async with open_volume(source, VolumeOptions(), wrap_io=HoldingIO) as volume:
        operations = BenchFSOperations(volume.filesystem, writeback_cache=False, acl=False)
        pyfuse3.init(operations, str(mount_point), {"default_permissions"})
        print("ready", flush=True)
        await pyfuse3.main()
        pyfuse3.close(unmount=True)


if __name__ == "__main__":
    logging.basicConfig()
    trio.run(serve, Path(sys.argv[1]), Path(sys.argv[2]))
