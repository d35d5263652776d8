"""``dying_mount.py SOURCE DIR``: a daemon that is killed when it is asked for the first time; a process for tests.

That is while it looks whether its own mount answers. As kill -9 does, the signal ends all threads where they are.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import NoReturn

import trio

from benchfs_fuse.mount import Request, serve
from benchfs_fuse.operations import BenchFSOperations
from benchfs_fuse.options import parse


async def die(*_: object) -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("still alive")


if __name__ == "__main__":
    BenchFSOperations.getattr = die  # type: ignore[assignment,method-assign]
    request = Request(Path(sys.argv[1]), Path(sys.argv[2]), parse("plane=pyfuse3"), "stderr")
    trio.run(serve, request, print)
