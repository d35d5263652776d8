"""The order of effects on chunks and WAL, as docs/durability.md promises it: every flush counted, none too late.

``wal`` in ``events`` means that all metadata changes so far are durable.
"""

from __future__ import annotations

import errno

import pytest
import trio
import trio.testing
from trio.testing import wait_all_tasks_blocked

from benchfs_core.errors import FlushFailed, NotBegun
from benchfs_core.types import ROOT_INODE, SyncMode
from tests.support.recording import Rig
from tests.support.volumes import CHUNK_SIZE

both_modes = pytest.mark.parametrize("sync", SyncMode)


@both_modes
async def test_the_dirty_mark_is_durable_before_the_first_write_to_a_clean_file(sync: SyncMode) -> None:
    async with Rig(sync) as rig:
        node = await rig.file(clean=True)
        await rig.io.write(node, 0, b"x")
        assert rig.events == ["wal", "write 0+0"]
        assert [mark.inode for mark in rig.metadata.marks.dirty()] == [node.inode]


@both_modes
async def test_no_writer_overtakes_the_dirty_mark(sync: SyncMode) -> None:
    async with Rig(sync) as rig:
        node = await rig.file(clean=True)
        rig.wal_gate = trio.Event()
        async with trio.open_nursery() as nursery:
            for offset in (0, CHUNK_SIZE):
                nursery.start_soon(rig.io.write, node, offset, b"x")
            await wait_all_tasks_blocked()
            assert rig.events == []
            rig.wal_gate.set()
        assert rig.events[0] == "wal"
        assert rig.events.count("wal") == 1


async def test_a_fresh_file_is_written_without_a_flush_before() -> None:
    async with Rig(SyncMode.FSYNC) as rig:
        node = await rig.file()
        await rig.io.write(node, 0, b"x")
        assert rig.events == ["write 0+0"]


async def test_a_fresh_file_with_sync_write_gets_its_name_flushed_after_its_data() -> None:
    async with Rig(SyncMode.WRITE) as rig:
        node = await rig.file()
        await rig.io.write(node, 0, b"x")
        assert rig.events == ["write 0+0", "wal"]


async def test_extending_a_dirty_file_with_sync_write_costs_no_flush_of_the_wal() -> None:
    """The store's write is durable by itself: one data flush, and nothing else."""
    async with Rig(SyncMode.WRITE) as rig:
        node = await rig.file()
        await rig.io.write(node, 0, b"x")
        rig.events.clear()
        for number in range(1, 4):
            await rig.io.write(node, number * CHUNK_SIZE, b"x" * number)
        assert rig.events == ["write 1+0", "write 2+0", "write 3+0"]


@both_modes
async def test_a_cut_is_durable_before_any_chunk_is_touched(sync: SyncMode) -> None:
    async with Rig(sync) as rig:
        node = await rig.file()
        for number in range(3):
            await rig.io.write(node, number * CHUNK_SIZE, b"x" * 100)
        rig.events.clear()
        await rig.io.truncate(node, 10)
        assert rig.events == (["wal"] if sync is SyncMode.WRITE else [])
        await rig.durability.make_cut(node)
        assert rig.events[:4] == ["wal", "cut 0@10", "delete 1", "delete 2"]


@both_modes
async def test_growing_makes_a_pending_cut_first(sync: SyncMode) -> None:
    async with Rig(sync) as rig:
        node = await rig.file()
        await rig.io.write(node, 0, b"x" * 100)
        await rig.io.truncate(node, 10)
        rig.events.clear()
        await rig.io.truncate(node, 50)
        assert rig.events[: rig.events.index("cut 0@10")] == ([] if sync is SyncMode.WRITE else ["wal"])
        assert bytes(await rig.io.read(node, 0, 100)) == b"x" * 10 + bytes(40)


async def test_with_sync_write_the_record_of_a_cut_is_durably_gone_before_bytes_beyond_it_are_written() -> None:
    async with Rig(SyncMode.WRITE) as rig:
        node = await rig.file()
        await rig.io.write(node, 0, b"x" * 100)
        await rig.io.truncate(node, 10)
        rig.events.clear()
        await rig.io.write(node, 20, b"y")
        assert rig.events == ["cut 0@10", "fsync 0", "wal", "write 0+20"]
        assert rig.recorded_cut(node) is None


async def test_with_sync_fsync_a_write_beyond_a_cut_waits_for_the_cut_only() -> None:
    async with Rig(SyncMode.FSYNC) as rig:
        node = await rig.file()
        await rig.io.write(node, 0, b"x" * 100)
        await rig.io.truncate(node, 10)
        rig.events.clear()
        await rig.io.write(node, 20, b"y")
        assert rig.events == ["wal", "cut 0@10", "write 0+20"]
        assert rig.recorded_cut(node) == 10


async def test_a_write_below_a_pending_cut_does_not_wait_for_it() -> None:
    async with Rig(SyncMode.FSYNC) as rig:
        node = await rig.file()
        await rig.io.write(node, 0, b"x" * 100)
        await rig.io.truncate(node, 50)
        rig.events.clear()
        await rig.io.write(node, 0, b"y" * 50)
        assert rig.events == ["write 0+0"]


async def test_fsync_flushes_the_data_then_the_wal_if_the_metadata_changed() -> None:
    async with Rig(SyncMode.FSYNC) as rig:
        node = await rig.file()
        await rig.io.write(node, 0, b"x")
        rig.events.clear()
        await rig.io.fsync(node, datasync=False)
        assert rig.events == ["fsync 0", "wal"]
        rig.events.clear()
        await rig.io.fsync(node, datasync=False)
        assert rig.events == [], "nothing changed since"
        await rig.io.write(node, 0, b"y")
        rig.events.clear()
        await rig.io.fsync(node, datasync=True)
        assert rig.events == ["fsync 0"], "only times changed, which fdatasync leaves"
        await rig.io.fsync(node, datasync=False)
        assert rig.events == ["fsync 0", "wal"], "fsync does not"


async def test_fsync_removes_the_record_of_a_cut_after_the_data_and_before_the_wal() -> None:
    """Else a crash would cut what was fsynced."""
    async with Rig(SyncMode.FSYNC) as rig:
        node = await rig.file()
        await rig.io.write(node, 0, b"x" * 100)
        await rig.io.truncate(node, 10)
        await rig.io.write(node, 20, b"y")
        rig.events.clear()
        rig.store.hold("fsync_chunk")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: rig.io.fsync(node, datasync=True))
            await wait_all_tasks_blocked()
            assert rig.recorded_cut(node) == 10
            rig.store.release("fsync_chunk")
        assert rig.events == ["fsync 0", "wal"]
        assert rig.recorded_cut(node) is None


async def test_fsync_flushes_which_chunks_were_deleted() -> None:
    async with Rig(SyncMode.FSYNC) as rig:
        node = await rig.file()
        await rig.io.write(node, 0, b"x" * (2 * CHUNK_SIZE))
        await rig.io.truncate(node, CHUNK_SIZE)
        rig.events.clear()
        await rig.io.fsync(node, datasync=True)
        assert rig.events == ["wal", "delete 1", "entries", "fsync 0", "wal"]


async def test_concurrent_fsyncs_of_one_file_both_wait_for_the_flush() -> None:
    async with Rig(SyncMode.FSYNC) as rig:
        node = await rig.file()
        await rig.io.write(node, 0, b"x")
        rig.store.hold("fsync_chunk")
        done: list[int] = []

        async def fsync(number: int) -> None:
            await rig.io.fsync(node, datasync=True)
            done.append(number)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(fsync, 1)
            nursery.start_soon(fsync, 2)
            await wait_all_tasks_blocked()
            assert done == []
            rig.store.release("fsync_chunk")
        assert sorted(done) == [1, 2]
        assert rig.events.count("fsync 0") == 1


async def test_an_fsync_with_nothing_to_flush_waits_for_nothing_although_there_was_once() -> None:
    async with Rig(SyncMode.FSYNC) as rig:
        node = await rig.file()
        await rig.io.write(node, 0, b"x")
        await rig.io.fsync(node, datasync=True)
        with trio.testing.assert_no_checkpoints():
            await rig.io.fsync(node, datasync=True)
        await rig.io.write(node, 0, b"y")
        rig.events.clear()
        await rig.io.fsync(node, datasync=True)
        assert rig.events == ["fsync 0"]


async def test_a_failed_flush_is_reported_to_every_fsync_from_then_on() -> None:
    async with Rig(SyncMode.FSYNC) as rig:
        node, other = await rig.file(), await rig.file(b"other")
        await rig.io.write(node, 0, b"x")
        await rig.io.write(other, 0, b"x")
        rig.store.fail("fsync_chunk", errno.EIO)
        for _ in range(3):
            with pytest.raises(FlushFailed):
                await rig.io.fsync(node, datasync=False)
        assert not await rig.durability.clean(node)
        await rig.io.fsync(other, datasync=False)


@both_modes
async def test_clean_flushes_before_it_drops_the_mark(sync: SyncMode) -> None:
    async with Rig(sync) as rig:
        node = await rig.file()
        await rig.io.write(node, 0, b"x" * 700)
        rig.events.clear()
        assert await rig.durability.clean(node)
        assert rig.events == ([] if sync is SyncMode.WRITE else ["fsync 0"])
        (row,) = rig.metadata.marks.chunk_rows(node.inode)
        assert (row.length, rig.metadata.get(node.inode).size) == (700, 700)
        assert not list(rig.metadata.marks.dirty())
        assert rig.rule_breaches() == []


@pytest.mark.parametrize("operation", ["fsync_chunk", "stat_chunks"])
async def test_clean_leaves_dirty_what_was_written_to_meanwhile(operation: str) -> None:
    async with Rig(SyncMode.FSYNC) as rig:
        node = await rig.file()
        await rig.io.write(node, 0, b"x")
        rig.store.hold(operation, 1)
        results: list[bool] = []

        async def clean() -> None:
            results.append(await rig.durability.clean(node))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(clean)
            await wait_all_tasks_blocked()
            await rig.io.write(node, CHUNK_SIZE, b"y")
            rig.store.release(operation)
        assert results == [False]
        assert node.dirty
        assert await rig.durability.clean(node)
        assert len(rig.metadata.marks.chunk_rows(node.inode)) == 2


async def test_chunks_of_an_orphan_go_after_the_unlink_is_durable_and_rows_after_the_chunks() -> None:
    async with Rig(SyncMode.FSYNC) as rig:
        node = await rig.file()
        await rig.io.write(node, 0, b"x")
        rig.metadata.unlink(ROOT_INODE, b"f", 1)
        rig.events.clear()
        rig.store.hold("fsync_deletions")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.maintenance.delete_waiting_orphans)
            await wait_all_tasks_blocked()
            assert rig.events == ["wal", "delete all"]
            assert rig.metadata.marks.orphans(0, 9) == [node.inode]
            rig.store.release("fsync_deletions")
        assert rig.metadata.marks.orphans(0, 9) == []
        assert not rig.metadata.marks.inode_exists(node.inode)


async def test_a_chunk_that_cannot_be_deleted_keeps_its_orphan_for_the_next_mount() -> None:
    async with Rig(SyncMode.FSYNC) as rig:
        node, other = await rig.file(), await rig.file(b"other")
        for each in (node, other):
            await rig.io.write(each, 0, b"x")
        for name in (b"f", b"other"):
            rig.metadata.unlink(ROOT_INODE, name, 1)
        rig.store.fail("delete_file_chunks", errno.EIO)
        await rig.maintenance.delete_waiting_orphans()
        assert len(rig.metadata.marks.orphans(0, 9)) == 1
        await rig.maintenance.delete_waiting_orphans()
        assert len(rig.metadata.marks.orphans(0, 9)) == 1, "not tried over and over"
        assert node.inode != other.inode


async def test_fsync_does_not_clear_the_record_of_a_cut_that_came_while_it_flushed() -> None:
    """It makes and flushes that cut as well, or leaves its record; it never removes the record of a cut not made."""
    async with Rig(SyncMode.FSYNC) as rig:
        node = await rig.file()
        await rig.io.write(node, 0, b"x" * 100)
        await rig.io.truncate(node, 50)
        rig.store.hold("fsync_chunk", 1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: rig.io.fsync(node, datasync=True))
            await wait_all_tasks_blocked()
            await rig.io.truncate(node, 20)
            rig.events.clear()
            rig.store.release("fsync_chunk")
        assert rig.events == ["fsync 0", "wal", "cut 0@20", "fsync 0", "wal"]
        assert (rig.recorded_cut(node), node.cut.pending) == (None, None)


async def test_a_cut_that_was_made_is_forgotten_though_other_data_was_lost() -> None:
    """Emptied and written anew: with the record left in force the next mount would empty the file once more."""
    async with Rig(SyncMode.FSYNC) as rig:
        node = await rig.file()
        await rig.io.write(node, 0, b"x" * 100)
        await rig.io.fsync(node, datasync=True)
        await rig.io.truncate(node, 0)
        await rig.io.write(node, 0, b"y" * (2 * CHUNK_SIZE))
        rig.store.fail("fsync_chunk", errno.EIO)
        with pytest.raises(FlushFailed):
            await rig.io.fsync(node, datasync=True)
        assert rig.events.index("entries") > rig.events.index("delete 0")
        assert rig.recorded_cut(node) is None
        assert node.lost.remains(node.size)


@pytest.mark.parametrize("operation", ["fsync_entries", "fsync_chunk"])
async def test_a_cut_stays_on_record_while_it_is_in_doubt_itself(operation: str) -> None:
    """Its chunk directory, or the chunk that it shortened, could not be flushed; a later success says nothing."""
    async with Rig(SyncMode.FSYNC) as rig:
        node = await rig.file()
        await rig.io.write(node, 0, b"x" * (2 * CHUNK_SIZE))
        await rig.io.fsync(node, datasync=True)
        await rig.io.truncate(node, 10)
        await rig.io.write(node, 5, b"y" * 100)
        rig.store.fail(operation, errno.EIO)
        for _ in range(3):
            with pytest.raises(FlushFailed):
                await rig.io.fsync(node, datasync=True)
            assert rig.recorded_cut(node) == 10
        await rig.io.write(node, 0, b"z" * 105)
        if operation == "fsync_entries":
            with pytest.raises(FlushFailed):
                await rig.io.fsync(node, datasync=True)
            assert rig.recorded_cut(node) == 10
        else:
            await rig.io.fsync(node, datasync=True)
            assert rig.recorded_cut(node) is None


async def test_a_cut_stays_on_record_while_data_below_it_could_not_begin_to_be_flushed() -> None:
    """Else a crash would show zeros up to a size that nobody asked to be durable."""
    async with Rig(SyncMode.FSYNC) as rig:
        node = await rig.file()
        await rig.io.write(node, 0, b"x" * (2 * CHUNK_SIZE))
        await rig.io.truncate(node, CHUNK_SIZE)
        rig.store.fail("fsync_chunk", NotBegun(errno.EMFILE, "too many"))
        with pytest.raises(FlushFailed):
            await rig.io.fsync(node, datasync=True)
        assert rig.recorded_cut(node) == CHUNK_SIZE
        await rig.io.fsync(node, datasync=True)
        assert rig.recorded_cut(node) is None
