"""What the file-backed stores do below the contract: files, flushes, faults."""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from benchfs_core.chunks.chunk_files import ChunkFiles
from benchfs_core.chunks.io import ChunkIO
from benchfs_core.chunks.ring import Ring
from benchfs_core.chunks.ring_io import LARGE_BYTES, RWF_DONTCACHE, RingIO
from benchfs_core.chunks.thread_io import ThreadIO
from benchfs_core.chunks.uring import UringDriver, io_uring_available
from benchfs_core.errors import CorruptChunk
from benchfs_core.types import ChunkIndex, InodeId
from tests.support.faults import FaultPlan, FaultyDriver, FaultyIO, Rule

CHUNK_SIZE = 64 * 1024
INODE = InodeId(5)
FIRST = ChunkIndex(0)
SECOND = ChunkIndex(1)


@asynccontextmanager
async def open_store(
    base: Path, *rules: Rule, durable: bool = True, max_handles: int = 8, io: ChunkIO | None = None
) -> AsyncIterator[tuple[ChunkFiles, FaultyIO]]:
    faulty = FaultyIO(io or ThreadIO(8), FaultPlan(rules=rules))
    with trio.fail_after(30):
        store = ChunkFiles(str(base), chunk_size=CHUNK_SIZE, durable_writes=durable, max_handles=max_handles, io=faulty)
        try:
            yield store, faulty
        finally:
            await store.close_all()
            await faulty.aclose()


async def test_chunks_are_files_named_in_decimal(tmp_path: Path) -> None:
    async with open_store(tmp_path) as (store, _):
        await store.write_chunk(INODE, ChunkIndex(42), 3, b"abc")
        file = tmp_path / "5" / "42"
        assert file.read_bytes() == b"\0\0\0abc"
        assert file.stat().st_mode & 0o777 == 0o600
        assert file.parent.stat().st_mode & 0o777 == 0o700


async def test_one_handle_serves_reads_and_writes(tmp_path: Path) -> None:
    async with open_store(tmp_path) as (store, io):
        await store.write_chunk(INODE, FIRST, 0, b"x")
        opens = io.plan.calls["open"]
        await store.read_chunk(INODE, FIRST, 0, 1)
        await store.write_chunk(INODE, FIRST, 0, b"y")
        await store.read_chunk(INODE, FIRST, 0, 1)
        assert io.plan.calls["open"] == opens
        assert store.handles.high_water == 1


async def test_a_durable_write_flushes_each_new_entry_once(tmp_path: Path) -> None:
    async with open_store(tmp_path) as (store, io):
        calls = io.plan.calls
        await store.write_chunk(INODE, FIRST, 0, b"x")
        assert calls["fsync"] == 2, "the inode's directory and the base"
        await store.write_chunk(INODE, FIRST, 0, b"y")
        assert calls["fsync"] == 2
        await store.write_chunk(INODE, SECOND, 0, b"x")
        assert calls["fsync"] == 3, "the inode's directory"
        await store.fsync_entries(INODE)
        await store.fsync_deletions()
        assert (calls["fsync"], calls["fdatasync"]) == (3, 0)


async def test_an_evicted_chunk_of_a_clean_directory_needs_no_flush(tmp_path: Path) -> None:
    async with open_store(tmp_path, max_handles=1) as (store, io):
        await store.write_chunk(INODE, FIRST, 0, b"x")
        await store.write_chunk(INODE, SECOND, 0, b"x")
        flushes = io.plan.calls["fsync"]
        await store.write_chunk(INODE, FIRST, 0, b"y")
        assert io.plan.calls["fsync"] == flushes


async def test_entries_found_at_start_are_not_taken_for_durable(tmp_path: Path) -> None:
    async with open_store(tmp_path) as (store, _):
        await store.write_chunk(INODE, FIRST, 0, b"x")
    async with open_store(tmp_path) as (store, io):
        await store.write_chunk(INODE, FIRST, 0, b"y")
        assert io.plan.calls["fsync"] == 2
        await store.write_chunk(INODE, FIRST, 0, b"z")
        assert io.plan.calls["fsync"] == 2


async def test_deferred_writes_flush_on_request(tmp_path: Path) -> None:
    async with open_store(tmp_path, durable=False) as (store, io):
        calls = io.plan.calls
        await store.write_chunk(INODE, FIRST, 0, b"x")
        assert (calls["fsync"], calls["fdatasync"]) == (0, 0)
        await store.fsync_chunk(INODE, FIRST)
        assert (calls["fsync"], calls["fdatasync"]) == (2, 1)
        await store.fsync_chunk(INODE, FIRST)
        assert (calls["fsync"], calls["fdatasync"]) == (2, 2)
        await store.fsync_chunk(INODE, SECOND)
        assert (calls["fsync"], calls["fdatasync"]) == (2, 2), "an absent chunk is durable"
        await store.delete_chunk(INODE, FIRST)
        await store.fsync_entries(INODE)
        assert calls["fsync"] == 3


async def test_an_entry_made_during_a_flush_is_not_covered_by_it(tmp_path: Path) -> None:
    async with open_store(tmp_path, durable=False) as (store, io):
        await store.write_chunk(INODE, FIRST, 0, b"x")
        io.hold("fsync")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.fsync_entries, INODE)
            while not io.plan.calls["fsync"]:
                await trio.lowlevel.checkpoint()
            await store.write_chunk(INODE, SECOND, 0, b"x")
            io.release("fsync")
        flushes = io.plan.calls["fsync"]
        await store.fsync_chunk(INODE, SECOND)
        assert io.plan.calls["fsync"] == flushes + 1


async def test_callers_share_the_flush_of_a_directory(tmp_path: Path) -> None:
    async with open_store(tmp_path, max_handles=40) as (store, io):
        await store.write_chunk(INODE, ChunkIndex(99), 0, b"x")
        io.hold("fsync")
        before = io.plan.calls["fsync"]
        async with trio.open_nursery() as nursery:
            for number in range(30):
                nursery.start_soon(store.write_chunk, INODE, ChunkIndex(number), 0, b"x")
            while sum(1 for _ in (tmp_path / "5").iterdir()) < 31 or store.handles.open_count < 31:
                await trio.lowlevel.checkpoint()
            await wait_all_tasks_blocked()
            io.release("fsync")
        assert io.plan.calls["fsync"] - before <= 10, "far fewer flushes than writers"


@pytest.mark.parametrize("operation", ["fsync", "write"])
@pytest.mark.parametrize("after", [False, True])
async def test_a_failed_first_write_is_not_durable(tmp_path: Path, operation: str, after: bool) -> None:
    async with open_store(tmp_path, Rule(operation, 1, errno.EIO, after=after)) as (store, io):
        with pytest.raises(OSError, match="Input/output"):
            await store.write_chunk(INODE, FIRST, 0, b"x")
        failed = io.plan.calls["fsync"]
        await store.write_chunk(INODE, FIRST, 0, b"x")
        assert io.plan.calls["fsync"] == failed + 2


@pytest.mark.parametrize("held", ["open", "write", "fsync"])
@pytest.mark.parametrize("evict", [False, True])
async def test_a_cancelled_first_write_is_not_durable(tmp_path: Path, held: str, evict: bool) -> None:
    async with open_store(tmp_path, max_handles=1) as (store, io):
        io.hold(held)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.write_chunk, INODE, FIRST, 0, b"x")
            await wait_all_tasks_blocked()
            while not io.plan.calls[held]:
                await trio.lowlevel.checkpoint()
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        io.release(held)
        if evict:
            await store.read_chunk(INODE, FIRST, 0, 1)
            (tmp_path / "6").mkdir()
            (tmp_path / "6" / "0").touch()
            await store.read_chunk(InodeId(6), FIRST, 0, 1)
            assert store.handles.pin_cached(INODE, FIRST) is None
        flushes = io.plan.calls["fsync"]
        await store.write_chunk(INODE, FIRST, 0, b"x")
        assert io.plan.calls["fsync"] == flushes + 2


async def test_a_failed_flush_reaches_the_caller_and_is_done_again(tmp_path: Path) -> None:
    rules = (Rule("fdatasync", 1, errno.EIO), Rule("fsync", 1, errno.EIO))
    async with open_store(tmp_path, *rules, durable=False) as (store, io):
        await store.write_chunk(INODE, FIRST, 0, b"x")
        for _ in range(2):
            with pytest.raises(OSError, match="Input/output"):
                await store.fsync_chunk(INODE, FIRST)
        await store.fsync_chunk(INODE, FIRST)
        assert (io.plan.calls["fdatasync"], io.plan.calls["fsync"]) == (3, 3)


async def test_a_full_disk_is_told(tmp_path: Path) -> None:
    async with open_store(tmp_path, Rule("mkdir", 1, errno.ENOSPC), Rule("write", 2, errno.ENOSPC)) as (store, _):
        with pytest.raises(OSError, match="No space"):
            await store.write_chunk(INODE, FIRST, 0, b"x")
        await store.write_chunk(INODE, FIRST, 0, b"x")
        with pytest.raises(OSError, match="No space"):
            await store.write_chunk(INODE, FIRST, 0, b"y")
        assert await store.delete_file_chunks(INODE) == 1


async def test_out_of_descriptors_is_survived(tmp_path: Path) -> None:
    """Whatever open it hits, of a chunk or a directory, handles that nobody uses make room."""
    async with open_store(tmp_path, max_handles=100) as (store, io):
        for number in range(20):
            await store.write_chunk(INODE, ChunkIndex(number), 0, b"x")
        for nth in range(1, 8):
            io.plan.rules = [Rule("open", io.plan.calls["open"] + nth, errno.EMFILE)]
            await store.write_chunk(InodeId(100 + nth), FIRST, 0, b"x")
        assert len(io.plan.fired) == 6, "a first write opens six times"


async def test_deleting_frees_the_space(tmp_path: Path) -> None:
    async with open_store(tmp_path) as (store, _):
        for number in range(3):
            await store.write_chunk(INODE, ChunkIndex(number), 0, bytes(CHUNK_SIZE))
        watcher = os.open(tmp_path / "5" / "0", os.O_RDONLY)
        await store.delete_chunk(INODE, FIRST)
        assert os.fstat(watcher).st_nlink == 0
        os.close(watcher)
        assert store.handles.open_count == 2, "no handle keeps the space of a deleted chunk"
        await store.delete_file_chunks(INODE)
        assert store.handles.open_count == 0
        assert os.listdir(tmp_path) == []


async def test_foreign_names_are_left_alone(tmp_path: Path) -> None:
    async with open_store(tmp_path) as (store, io):
        await store.write_chunk(INODE, FIRST, 0, b"x")
        names = ["007", "7~", "+7", "x", "٣"]
        for name in names:
            (tmp_path / "5" / name).touch()
        assert [info.chunk_index for info in await store.list_chunks(INODE)] == [0]
        flushes = io.plan.calls["fsync"]
        assert await store.delete_file_chunks(INODE) == 1
        assert io.plan.calls["fsync"] > flushes, "the directory stays, so its flush cannot wait"
        assert sorted(os.listdir(tmp_path / "5")) == sorted(names)


async def test_a_chunk_file_that_is_too_long_is_corrupt(tmp_path: Path) -> None:
    async with open_store(tmp_path) as (store, _):
        (tmp_path / "5").mkdir()
        (tmp_path / "5" / "0").write_bytes(bytes(CHUNK_SIZE + 1))
        with pytest.raises(CorruptChunk):
            await store.list_chunks(INODE)
        with pytest.raises(CorruptChunk):
            await store.stat_chunks(INODE, [FIRST])
        await store.write_chunk(InodeId(6), FIRST, 0, b"x")
        corrupt, sound = await store.list_files([INODE, InodeId(6)])
        assert isinstance(corrupt, CorruptChunk)
        assert isinstance(sound, list)
        assert [chunk.length for chunk in sound] == [1]


async def test_many_files_are_listed_in_few_crossings_to_a_thread(tmp_path: Path) -> None:
    async with open_store(tmp_path) as (store, io):
        assert await store.list_files([InodeId(number) for number in range(1000)]) == [[]] * 1000
        assert io.plan.calls["run"] <= 40
        assert await store.find_inodes(range(4096)) == []
        assert io.plan.calls["run"] <= 50


async def test_a_failure_while_many_files_are_listed_is_told_as_itself(tmp_path: Path) -> None:
    async with open_store(tmp_path, Rule("run", nth=3, error=errno.EIO)) as (store, io):
        with pytest.raises(OSError, match=os.strerror(errno.EIO)):
            await store.list_files([InodeId(number) for number in range(1000)])
        assert io.plan.calls["run"] < 20, "it went on after the failure"


async def test_a_large_directory_is_deleted_whole(tmp_path: Path) -> None:
    async with open_store(tmp_path) as (store, _):
        (tmp_path / "5").mkdir()
        for number in range(3000):
            (tmp_path / "5" / str(number)).touch()
        assert len(await store.list_chunks(INODE)) == 3000
        assert await store.delete_file_chunks(INODE) == 3000
        assert not (tmp_path / "5").exists()


async def test_concurrent_first_writes_of_one_inode_race_for_its_directory(tmp_path: Path) -> None:
    async with open_store(tmp_path, max_handles=20) as (store, io):
        io.hold("mkdir")
        async with trio.open_nursery() as nursery:
            for number in range(8):
                nursery.start_soon(store.write_chunk, INODE, ChunkIndex(number), 0, b"x")
            while io.plan.calls["mkdir"] < 8:
                await trio.lowlevel.checkpoint()
            io.release("mkdir")
        assert len(await store.list_chunks(INODE)) == 8


@pytest.mark.skipif(io_uring_available() is not None, reason=str(io_uring_available()))
async def test_the_same_faults_through_the_ring(tmp_path: Path) -> None:
    async with RingIO.open_ring(4) as ring_io, open_store(tmp_path, Rule("fsync", 1, errno.EIO), io=ring_io) as opened:
        store, io = opened
        with pytest.raises(OSError, match="Input/output"):
            await store.write_chunk(INODE, FIRST, 0, b"x")
        await store.write_chunk(INODE, FIRST, 0, b"x")
        assert io.plan.calls["fsync"] == 3


@pytest.mark.skipif(io_uring_available() is not None, reason=str(io_uring_available()))
@pytest.mark.parametrize("durable", [True, False])
async def test_durable_writes_ask_the_kernel_for_it(tmp_path: Path, durable: bool) -> None:
    driver = FaultyDriver(UringDriver(8), FaultPlan())
    async with (
        Ring.open(4, driver) as ring,
        open_store(tmp_path, durable=durable, io=RingIO(ring, page_cache=False)) as (store, _),
    ):
        await store.write_chunk(INODE, FIRST, 0, b"x")
    assert driver.rw_flags == [os.RWF_DSYNC if durable else 0]


@pytest.mark.skipif(io_uring_available() is not None, reason=str(io_uring_available()))
async def test_large_writes_leave_the_page_cache_below_alone_where_that_can_be_had(tmp_path: Path) -> None:
    large = b"x" * LARGE_BYTES
    driver = FaultyDriver(UringDriver(8), FaultPlan(0, [Rule("write", 2, errno.EOPNOTSUPP)]))
    async with Ring.open(4, driver) as ring:
        io = RingIO(ring)
        descriptor = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
        await io.write(descriptor, 0, large[1:], durable=False)
        for _ in range(2):  # as if by a filesystem that does not know the flag
            await io.write(descriptor, 0, large, durable=True)
        os.close(descriptor)
    uncached = os.RWF_DSYNC | RWF_DONTCACHE
    assert driver.rw_flags == [0, uncached, os.RWF_DSYNC, os.RWF_DSYNC]
    assert (tmp_path / "file").read_bytes() == large


async def test_worker_threads_are_not_abandoned(tmp_path: Path) -> None:
    """A cancelled call that has begun ends before its caller goes on."""
    io = ThreadIO(2)
    reader, writer = os.pipe()
    ended: list[bytes] = []
    scope = trio.CancelScope()
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:

            async def call() -> None:
                with scope:
                    ended.append(await io.run(partial(os.read, reader, 1)))

            nursery.start_soon(call)
            await wait_all_tasks_blocked()
            scope.cancel()
            nursery.start_soon(io.aclose)
            await wait_all_tasks_blocked()
            assert ended == []
            os.write(writer, b"x")
    assert ended == [b"x"]
    os.close(reader)
    os.close(writer)
