"""``FileChunkStore``: chunk files through plain system calls in worker threads, for where io_uring is not allowed.

Imports ``chunk_files`` and ``thread_io``. Invariant: nothing but the ``ChunkIO`` tells it from ``IOUringChunkStore``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from benchfs_core.chunks.chunk_files import ChunkFiles
from benchfs_core.chunks.thread_io import ThreadIO


class FileChunkStore(ChunkFiles):
    """``ChunkFiles`` meant for a ``ThreadIO``."""

    @classmethod
    @asynccontextmanager
    async def open(
        cls, base: str, *, chunk_size: int, durable_writes: bool, max_handles: int, queue_depth: int
    ) -> AsyncIterator[FileChunkStore]:
        """A store with a ``ThreadIO`` of its own, both closed at the end; see ``ChunkFiles`` for the arguments.

        Args:
            base: the directory of the chunks; it exists.
            chunk_size: bytes in a chunk.
            durable_writes: whether ``write_chunk`` makes its data durable.
            max_handles: most chunk files open at a time.
            queue_depth: most system calls on files at a time.
        """
        io = ThreadIO(queue_depth)
        store = cls(base, chunk_size=chunk_size, durable_writes=durable_writes, max_handles=max_handles, io=io)
        try:
            yield store
        finally:
            await store.close_all()
            await io.aclose()
