"""Bugs that a review of the core found: what failed before it was mended."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from benchfs_core.errors import CorruptChunk, DamagedVolume, FlushFailed, MetadataFailed
from benchfs_core.types import ROOT_INODE, SyncMode
from tests.support.recording import Rig
from tests.support.volumes import CHUNK_SIZE, open_test_volume, write_file


@pytest.mark.parametrize("sync", SyncMode)
async def test_fsync_of_a_cut_that_touches_no_chunk_returns(sync: SyncMode) -> None:
    """A file of nothing but hole, cut at a chunk boundary: no flush counted the cut, and fsync never ended."""
    async with Rig(sync) as rig:
        node = await rig.file()
        await rig.io.truncate(node, 4 * CHUNK_SIZE)
        await rig.io.truncate(node, CHUNK_SIZE)
        await rig.io.fsync(node, datasync=False)
        assert rig.recorded_cut(node) is None


async def test_a_failed_flush_of_everything_is_asked_of_each_file() -> None:
    """syncfs(2) tells of an error once; the next pass took its success for that of files that were never written."""
    async with Rig(SyncMode.FSYNC) as rig:
        nodes = [await rig.file(b"%d" % number) for number in range(20)]
        for node in nodes:
            await rig.io.write(node, 0, b"x")
        rig.store.fail("fsync_all", errno.EIO)
        rig.store.fail("fsync_chunk", errno.EIO)
        with pytest.raises(FlushFailed):
            await rig.maintenance.sync()
        assert rig.events.count("fsync 0") == len(nodes)
        bad = [node for node in nodes if node.lost.failures]
        assert len(bad) == 1
        assert bad[0].dirty
        with pytest.raises(FlushFailed):
            await rig.io.fsync(bad[0], datasync=False)


async def test_after_a_failed_durable_write_fsync_fails_too() -> None:
    """sync=write: RWF_DSYNC failed with the bytes in the page cache; a later flush succeeds without writing them."""
    async with Rig(SyncMode.WRITE) as rig:
        node = await rig.file()
        await rig.io.write(node, 0, b"x" * 10)
        rig.store.fail("write_chunk", errno.EIO, after=True)
        with pytest.raises(OSError):
            await rig.io.write(node, 0, b"y" * 10)
        with pytest.raises(FlushFailed):
            await rig.io.fsync(node, datasync=False)
        assert not await rig.durability.clean(node)


async def test_bytes_that_a_durable_write_could_not_get_space_for_are_in_doubt_until_written_again() -> None:
    """sync=write: ENOSPC inside RWF_DSYNC left new bytes in the page cache, and fsync said that they were safe."""
    async with Rig(SyncMode.WRITE) as rig:
        node = await rig.file()
        await rig.io.write(node, 0, b"x" * 10)
        rig.store.fail("write_chunk", errno.ENOSPC, after=True)
        with pytest.raises(OSError):
            await rig.io.write(node, 0, b"y" * 5)
        with pytest.raises(FlushFailed, match="No space left"):
            await rig.io.fsync(node, datasync=True)
        await rig.io.write(node, 0, b"y" * 5)
        await rig.io.fsync(node, datasync=True)


async def test_an_append_that_found_no_space_is_cut_off_and_held_against_nobody() -> None:
    async with Rig(SyncMode.WRITE) as rig:
        node = await rig.file()
        await rig.io.write(node, 0, b"x" * 10)
        rig.store.fail("write_chunk", errno.ENOSPC, after=True)
        with pytest.raises(OSError):
            await rig.io.write(node, 10, b"y" * 5)
        await rig.io.fsync(node, datasync=True)
        await rig.io.truncate(node, 100)
        await rig.io.fsync(node, datasync=True)
        assert bytes(await rig.io.read(node, 0, 100)) == b"x" * 10 + bytes(90)


async def test_a_durable_write_that_a_failure_came_in_between_of_is_made_again() -> None:
    """The kernel tells of a failed write-back once for a descriptor: of two writers sharing it one heard nothing."""
    async with Rig(SyncMode.WRITE) as rig:
        node = await rig.file()
        await rig.io.write(node, 0, b"x" * 10)
        rig.events.clear()
        rig.store.hold("write_chunk")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.io.write, node, 0, b"y")
            await wait_all_tasks_blocked()
            node.lost.note(0, CHUNK_SIZE, FlushFailed("another write failed"))
            rig.store.release("write_chunk")
        assert rig.events.count("write 0+0") == 2
        assert node.lost.remains(node.size)
        assert not node.lost.doubts(0, 1)


async def test_data_lost_in_one_place_lets_others_be_written_after_a_truncate() -> None:
    """sync=write: any doubt about the file kept a cut elsewhere in force, and writes beyond it failed."""
    async with Rig(SyncMode.WRITE) as rig:
        node = await rig.file()
        await rig.io.write(node, 0, b"x" * (2 * CHUNK_SIZE))
        rig.store.fail("write_chunk", errno.EIO, after=True)
        with pytest.raises(OSError):
            await rig.io.write(node, 0, b"y")
        await rig.io.truncate(node, CHUNK_SIZE + 100)
        await rig.io.write(node, CHUNK_SIZE + 200, b"z")
        with pytest.raises(FlushFailed):
            await rig.io.fsync(node, datasync=True)


async def test_nobody_waits_for_room_that_cannot_come() -> None:
    """Without background work (read-only), or after the metadata failed, opening waited for cleaning for ever."""
    async with Rig(SyncMode.FSYNC, max_active=1) as rig:
        await rig.file()
        await rig.maintenance.room()  # nothing runs that would clean
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.maintenance.run)
            await wait_all_tasks_blocked()
            rig.database.fail("for this test")
            await rig.maintenance.room()
            nursery.cancel_scope.cancel()


async def test_a_file_that_stays_dirty_does_not_stop_others_from_being_opened() -> None:
    """Cleaning failed again and again, and whoever opened a file waited for it to succeed."""
    async with Rig(SyncMode.FSYNC, max_active=1) as rig:
        node = await rig.file()
        await rig.io.write(node, 0, b"x")
        rig.store.fail("stat_chunks", errno.EIO)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.maintenance.run)
            await wait_all_tasks_blocked()
            await rig.maintenance.room()
            nursery.cancel_scope.cancel()
        assert node.dirty


async def test_a_volume_without_its_chunks_is_refused(tmp_path: Path) -> None:
    """It was mounted, and every file read as zeros."""
    source = tmp_path / "v"
    async with open_test_volume(source) as volume:
        await write_file(volume.filesystem, b"f", b"data")
    (source / "chunks").rename(tmp_path / "away")
    before = sorted(path.name for path in source.iterdir())
    with pytest.raises(DamagedVolume, match="chunks: missing"):
        async with open_test_volume(source):
            pass
    assert sorted(path.name for path in source.iterdir()) == before


async def test_a_failure_to_read_metadata_turns_the_volume_read_only() -> None:
    """SQLite's own exception ended the background work, and with it the mount."""
    async with Rig(SyncMode.WRITE) as rig:
        with pytest.raises(MetadataFailed):
            rig.database.execute("SELECT * FROM table_that_is_gone")
        assert rig.commit.failed


async def test_a_bug_in_background_work_ends_neither_it_nor_the_mount(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    """Only expected failures were caught."""
    async with Rig(SyncMode.WRITE) as rig, trio.open_nursery() as nursery:
        nursery.start_soon(rig.maintenance.run)
        await rig.io.write(await rig.file(b"a"), 0, b"x")
        rig.metadata.unlink(ROOT_INODE, b"a", 1)
        rig.store.fail("delete_file_chunks", RuntimeError("a bug"))
        await wait_all_tasks_blocked()
        rig.maintenance.delete_orphans_soon()
        await trio.sleep(1)  # of the test's own clock
        assert "internal error" in caplog.text
        rig.maintenance.delete_orphans_soon()
        await trio.sleep(1)
        assert rig.events.count("delete all") == 1
        nursery.cancel_scope.cancel()


async def test_a_write_that_fails_says_why_though_trimming_fails_as_well() -> None:
    """ENOSPC became the error of cutting off what the write had left."""
    async with Rig(SyncMode.FSYNC) as rig:
        node = await rig.file()
        await rig.io.write(node, 0, b"x" * 10)
        rig.store.fail("write_chunk", errno.ENOSPC)
        rig.store.fail("truncate_chunk", CorruptChunk("for this test"))
        with pytest.raises(OSError, match="No space"):
            await rig.io.write(node, 5, b"y" * 100)
        assert node.size == 10
