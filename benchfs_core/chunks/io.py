"""The ``ChunkIO`` protocol: the few system calls that stores of chunk files make, async.

Two implementations: ``thread_io.ThreadIO`` (worker threads) and ``ring_io.RingIO`` (io_uring). A fault is injected by
wrapping one of them. Imports only ``types``. Knows descriptors and paths, not chunks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from benchfs_core.types import Buffer

T = TypeVar("T")


class ChunkIO(Protocol):
    """System calls on the filesystem below, raising OSError as the call would.

    Every method is a checkpoint, except that ``open`` and ``mkdir``, and a ``read`` or ``write`` that the page cache
    takes, may be plain calls that never give way: what is in the kernel's caches is had faster than another thread is
    woken.

    A cancelled call has either not begun or has ended when the cancellation surfaces: the kernel never touches a
    buffer or a descriptor afterwards.
    """

    async def open(self, directory: int, path: str, flags: int) -> int:
        """Open a file below an open directory (openat(2), mode 0600, O_CLOEXEC added) and return its descriptor."""
        ...

    async def mkdir(self, directory: int, path: str) -> None:
        """Make a directory of mode 0700 below an open one (mkdirat(2))."""
        ...

    async def read(self, descriptor: int, offset: int, length: int) -> Buffer:
        """Read up to ``length`` bytes at ``offset``; fewer only at the end of the file."""
        ...

    async def write(self, descriptor: int, offset: int, data: Buffer, *, durable: bool) -> None:
        """Write all of ``data`` at ``offset``; with ``durable``, data and file length are on disk on return."""
        ...

    async def fsync(self, descriptor: int, *, datasync: bool) -> None:
        """Flush a file or directory; with ``datasync`` as fdatasync(2) does, else as fsync(2)."""
        ...

    async def run(self, call: Callable[[], T]) -> T:
        """Run a blocking call that has no method of its own (unlink, ftruncate, scandir, …) in a worker thread."""
        ...

    async def aclose(self) -> None:
        """Let what is under way end, then release everything. Of no use afterwards."""
        ...
