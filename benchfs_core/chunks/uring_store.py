"""``IOUringChunkStore``: chunk files through io_uring.

Imports ``chunk_files`` and ``ring_io``. Invariant: nothing but the ``ChunkIO`` tells it from ``FileChunkStore``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from benchfs_core.chunks.chunk_files import ChunkFiles
from benchfs_core.chunks.ring_io import RingIO


class IOUringChunkStore(ChunkFiles):
    """``ChunkFiles`` meant for a ``RingIO``."""

    @classmethod
    @asynccontextmanager
    async def open(
        cls, base: str, *, chunk_size: int, durable_writes: bool, max_handles: int, queue_depth: int
    ) -> AsyncIterator[IOUringChunkStore]:
        """A store with a ring of its own, both closed at the end; see ``ChunkFiles`` for the arguments.

        Args:
            base: the directory of the chunks; it exists.
            chunk_size: bytes in a chunk.
            durable_writes: whether ``write_chunk`` makes its data durable.
            max_handles: most chunk files open at a time.
            queue_depth: most requests in the kernel at a time.

        Raises:
            OSError: io_uring is not to be had; ``uring.io_uring_available`` says why.
        """
        async with RingIO.open_ring(queue_depth) as io:
            store = cls(base, chunk_size=chunk_size, durable_writes=durable_writes, max_handles=max_handles, io=io)
            try:
                yield store
            finally:
                await store.close_all()
