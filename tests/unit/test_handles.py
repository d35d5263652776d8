"""``HandleCache``: sharing, bounds, eviction, dropping, shortage of descriptors."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from benchfs_core.chunks.handles import ChunkHandle, HandleCache
from benchfs_core.types import ChunkIndex, InodeId

INODE = InodeId(1)


class Files:
    """Opens files under a directory, giving way once like a worker thread; fails as told."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.opened: list[tuple[int, int]] = []
        self.errors: list[int] = []
        self.gate: trio.Event | None = None

    async def open(self, inode: InodeId, chunk_index: ChunkIndex, create: bool) -> tuple[int, bool] | None:
        await trio.lowlevel.checkpoint()
        if self.errors and (error := self.errors.pop(0)):
            raise OSError(error, os.strerror(error))
        path = self.base / f"{inode}-{chunk_index}"
        if not create and not path.exists():
            return None
        self.opened.append((inode, chunk_index))
        descriptor = os.open(path, os.O_RDWR | (os.O_CREAT if create else 0))
        if self.gate is not None:
            await self.gate.wait()
        return descriptor, False


@pytest.fixture
def files(tmp_path: Path) -> Iterator[Files]:
    before = len(os.listdir("/proc/self/fd"))
    yield Files(tmp_path)
    assert len(os.listdir("/proc/self/fd")) == before, "a descriptor was left open"


async def pin(cache: HandleCache, number: int, *, create: bool = True) -> ChunkHandle:
    handle = await cache.pin(INODE, ChunkIndex(number), create=create)
    assert handle is not None
    return handle


def is_open(handle: ChunkHandle) -> bool:
    try:
        os.fstat(handle.descriptor)
    except OSError:
        return False
    return True


async def test_a_handle_is_shared_and_kept(files: Files) -> None:
    cache = HandleCache(4, files.open)
    assert cache.pin_cached(INODE, ChunkIndex(0)) is None
    first = await pin(cache, 0)
    assert await pin(cache, 0) is first
    cache.unpin(first)
    cache.unpin(first)
    assert cache.pin_cached(INODE, ChunkIndex(0)) is first
    cache.unpin(first)
    assert (cache.open_count, len(files.opened)) == (1, 1)
    await cache.aclose()
    assert cache.open_count == 0


async def test_an_absent_chunk_is_not_made(files: Files) -> None:
    cache = HandleCache(1, files.open)
    for _ in range(3):
        assert await cache.pin(INODE, ChunkIndex(0), create=False) is None
    cache.unpin(await pin(cache, 0))
    await cache.aclose()


async def test_the_least_recently_used_goes_first(files: Files) -> None:
    cache = HandleCache(2, files.open)
    a = await pin(cache, 0)
    cache.unpin(a)
    b = await pin(cache, 1)
    cache.unpin(b)
    cache.unpin(await pin(cache, 0))
    cache.unpin(await pin(cache, 2))
    assert cache.pin_cached(INODE, ChunkIndex(1)) is None
    assert cache.pin_cached(INODE, ChunkIndex(0)) is a
    cache.unpin(a)
    await cache.aclose()


async def test_concurrent_first_users_share_one_open(files: Files) -> None:
    cache = HandleCache(4, files.open)
    handles: list[ChunkHandle] = []

    async def use() -> None:
        handles.append(await pin(cache, 0))

    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(use)
    assert len(files.opened) == len(set(handles)) == 1
    for handle in handles:
        cache.unpin(handle)
    await cache.aclose()


async def test_a_failed_or_cancelled_open_is_taken_over(files: Files) -> None:
    cache = HandleCache(1, files.open)
    files.errors = [errno.EACCES]
    outcomes: list[str] = []

    async def use(scope: trio.CancelScope) -> None:
        with scope:
            try:
                cache.unpin(await pin(cache, 0))
                outcomes.append("pinned")
            except PermissionError:
                outcomes.append("refused")

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(use, trio.CancelScope())
    assert sorted(outcomes) == ["pinned", "pinned", "refused"]
    cache.drop(INODE, ChunkIndex(0))
    files.gate = trio.Event()
    scope = trio.CancelScope()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(use, scope)
        await wait_all_tasks_blocked()
        nursery.start_soon(use, trio.CancelScope())
        await wait_all_tasks_blocked()
        descriptor = max(int(name) for name in os.listdir("/proc/self/fd") if is_chunk(name))
        scope.cancel()
        os.close(descriptor)  # the fake's: a real open is never cancelled half-way
        await wait_all_tasks_blocked()
        files.gate.set()
    assert outcomes[3:] == ["pinned"]
    await cache.aclose()


def is_chunk(name: str) -> bool:
    try:
        return os.readlink(f"/proc/self/fd/{name}").endswith("/1-0")
    except OSError:
        return False


async def test_eviction_under_load_keeps_the_bound(files: Files) -> None:
    cache = HandleCache(3, files.open)

    async def use(number: int) -> None:
        for step in range(5):
            handle = await pin(cache, (number + step * 7) % 20)
            assert is_open(handle)
            await trio.lowlevel.checkpoint()
            assert is_open(handle), "a pinned handle was closed"
            assert cache.open_count <= 3
            cache.unpin(handle)

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            for number in range(40):
                nursery.start_soon(use, number)
    assert cache.high_water == 3
    await cache.aclose()


async def test_when_all_are_pinned_callers_wait_in_order(files: Files) -> None:
    cache = HandleCache(1, files.open)
    held = await pin(cache, 0)
    order: list[int] = []

    async def use(number: int, scope: trio.CancelScope) -> None:
        with scope:
            handle = await pin(cache, number)
            order.append(number)
            cache.unpin(handle)

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            scopes = [trio.CancelScope() for _ in range(5)]
            for number in range(1, 5):
                nursery.start_soon(use, number, scopes[number])
                await wait_all_tasks_blocked()
            scopes[2].cancel()
            await wait_all_tasks_blocked()
            assert order == []
            cache.unpin(held)
    assert order == [1, 3, 4]
    assert cache.high_water == 1
    await cache.aclose()


async def test_a_dropped_handle_is_closed_with_its_last_pin(files: Files) -> None:
    cache = HandleCache(2, files.open)
    old = await pin(cache, 0)
    cache.drop(INODE, ChunkIndex(0))
    new = await pin(cache, 0)
    assert new is not old
    assert is_open(old)
    cache.unpin(old)
    assert not is_open(old)
    assert is_open(new)
    cache.unpin(new)
    cache.drop_inode(INODE)
    assert not is_open(new)
    assert cache.open_count == 0
    await cache.aclose()


async def test_a_drop_during_an_open_opens_again(files: Files) -> None:
    cache = HandleCache(2, files.open)
    files.gate = trio.Event()
    async with trio.open_nursery() as nursery:

        async def use() -> None:
            handle = await pin(cache, 0)
            assert os.fstat(handle.descriptor).st_nlink == 1, "the handle of a file that was deleted"
            cache.unpin(handle)

        nursery.start_soon(use)
        await wait_all_tasks_blocked()
        cache.drop(INODE, ChunkIndex(0))
        (files.base / "1-0").unlink()
        files.gate.set()
    assert len(files.opened) == 2
    await cache.aclose()


@pytest.mark.parametrize("error", [errno.EMFILE, errno.ENFILE])
async def test_out_of_descriptors_idle_handles_go_and_the_open_is_tried_again(files: Files, error: int) -> None:
    cache = HandleCache(100, files.open)
    for number in range(20):
        cache.unpin(await pin(cache, number))
    files.errors = [error]
    cache.unpin(await pin(cache, 50))
    assert cache.open_count == 20 - 16 + 1
    files.errors = [error, error]
    with pytest.raises(OSError, match="open files"):
        await pin(cache, 60)
    cache.unpin(await pin(cache, 60))
    await cache.aclose()


async def test_closing_waits_for_pins(files: Files) -> None:
    cache = HandleCache(2, files.open)
    handle = await pin(cache, 0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(cache.aclose)
        await wait_all_tasks_blocked()
        assert is_open(handle)
        with pytest.raises(trio.ClosedResourceError):
            cache.pin_cached(INODE, ChunkIndex(0))
        with pytest.raises(trio.ClosedResourceError):
            await pin(cache, 1)
        cache.unpin(handle)
    assert not is_open(handle)
