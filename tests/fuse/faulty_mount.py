"""``faulty_mount.py SOURCE DIR METHOD`` mounts a volume whose file system has a bug; a process for tests.

The bug is an object handed to the operations, as any ``FileSystem`` would be: METHOD raises ValueError for names that
begin with ``bug``, and works for others. Prints ``ready`` and ends when unmounted; messages go to stderr.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any, cast

import pyfuse3
import trio

from benchfs_core.config import VolumeOptions
from benchfs_core.filesystem import FileSystem
from benchfs_core.types import InodeId
from benchfs_core.volume import open_volume
from benchfs_fuse.operations import BenchFSOperations


class FaultyFileSystem:
    """Passes everything on to a file system, but for one method and some names."""

    def __init__(self, inner: FileSystem, method: str) -> None:
        self._inner = inner
        self._method = method

    def __getattr__(self, name: str) -> Any:
        """The inner file system's attribute, with the bug where it belongs."""
        inner = getattr(self._inner, name)
        if name != self._method:
            return inner

        async def faulty(parent: InodeId, name: bytes, *more: object) -> object:
            if name.startswith(b"bug"):
                raise ValueError("a bug made for this test")
            return await inner(parent, name, *more)

        return faulty


async def serve(source: Path, mount_point: Path, method: str) -> None:
    """Mount until unmounted."""
    async with open_volume(source, VolumeOptions()) as volume:
        faulty = cast("FileSystem", FaultyFileSystem(volume.filesystem, method))
        pyfuse3.init(
            BenchFSOperations(faulty, writeback_cache=False, acl=False), str(mount_point), {"default_permissions"}
        )
        print("ready", flush=True)
        await pyfuse3.main()
        pyfuse3.close(unmount=True)


if __name__ == "__main__":
    logging.basicConfig()
    trio.run(serve, Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
