"""``silent_mount.py SOURCE DIR``: a daemon that never answers a write, once it has said ``writing``; for tests."""

from __future__ import annotations

import sys
from pathlib import Path

import trio

from benchfs_core.filesystem import FileSystem
from benchfs_fuse.mount import Request, serve
from benchfs_fuse.options import parse


async def wait_for_good(*_: object, **__: object) -> int:
    print("writing", flush=True)
    await trio.sleep_forever()
    raise AssertionError("for ever is over")


def say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    FileSystem.write = wait_for_good  # type: ignore[method-assign]
    request = Request(Path(sys.argv[1]), Path(sys.argv[2]), parse("plane=ring,sync=fsync"), "stderr")
    trio.run(serve, request, say)
