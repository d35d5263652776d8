"""The stores that the contract is tried on: each kind, with and without durable writes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
import trio

from benchfs_core.chunks.file_store import FileChunkStore
from benchfs_core.chunks.memory import InMemoryChunkStore
from benchfs_core.chunks.store import ChunkStore
from benchfs_core.chunks.uring import io_uring_available
from benchfs_core.chunks.uring_store import IOUringChunkStore

CHUNK_SIZE = 64 * 1024
MAX_HANDLES = 4
"""Few, so that every test with more chunks evicts."""

Opener = Callable[[Path, bool], AbstractAsyncContextManager[ChunkStore]]


@asynccontextmanager
async def open_memory(base: Path, durable: bool) -> AsyncIterator[ChunkStore]:
    store = InMemoryChunkStore(chunk_size=CHUNK_SIZE, durable_writes=durable)
    yield store
    await store.close_all()


@asynccontextmanager
async def open_file(base: Path, durable: bool) -> AsyncIterator[ChunkStore]:
    async with FileChunkStore.open(
        str(base), chunk_size=CHUNK_SIZE, durable_writes=durable, max_handles=MAX_HANDLES, queue_depth=8
    ) as store:
        yield store


@asynccontextmanager
async def open_uring(base: Path, durable: bool) -> AsyncIterator[ChunkStore]:
    reason = io_uring_available()
    if reason is not None:
        pytest.skip(reason)
    async with IOUringChunkStore.open(
        str(base), chunk_size=CHUNK_SIZE, durable_writes=durable, max_handles=MAX_HANDLES, queue_depth=8
    ) as store:
        yield store


@pytest.fixture(params=[open_memory, open_file, open_uring], ids=["memory", "file", "io_uring"])
def opener(request: pytest.FixtureRequest) -> Opener:
    opener: Opener = request.param
    return opener


@pytest.fixture(params=[True, False], ids=["durable", "deferred"])
def durable(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
async def store(opener: Opener, durable: bool, tmp_path: Path) -> AsyncIterator[ChunkStore]:
    with trio.fail_after(60):
        async with opener(tmp_path, durable) as store:
            yield store
