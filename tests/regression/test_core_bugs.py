"""Bugs of this code base, each found by a test or a reading: what failed before it was mended."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from benchfs_core.errors import FlushFailed, InvalidArgument, VolumeError
from benchfs_core.types import ROOT_INODE, AttributeChange, InodeId, SyncMode
from tests.support.faults import FaultPlan, FaultyIO, Rule
from tests.support.recording import Rig
from tests.support.volumes import (
    CHUNK_SIZE,
    OWNER,
    crash_copy,
    findings,
    listing,
    open_test_volume,
    read_file,
    used_chunks,
    write_file,
)


async def test_fsync_after_a_rename_that_changed_nothing(tmp_path: Path) -> None:
    """Two names of one inode stay as they are; fsync waited for a transaction without changes (AssertionError)."""
    async with open_test_volume(tmp_path / "v") as volume:
        fs = volume.filesystem
        handle, made = await fs.create(ROOT_INODE, b"a", 0o644, OWNER)
        await fs.link(made.inode, ROOT_INODE, b"b")
        await fs.sync()
        await fs.rename(ROOT_INODE, b"a", ROOT_INODE, b"b")
        await fs.exchange(ROOT_INODE, b"a", ROOT_INODE, b"b")
        await fs.fsync(handle)
        assert set(await listing(fs)) == {b"a", b"b"}


@pytest.mark.parametrize("sync", SyncMode)
async def test_fsync_makes_the_name_durable_that_the_file_was_opened_by(tmp_path: Path, sync: SyncMode) -> None:
    """A clean file was renamed into a new directory, opened and fsynced (or, with sync=write, written to)."""
    async with open_test_volume(tmp_path / "v", sync) as volume:
        fs = volume.filesystem
        inode = await write_file(fs, b"old", b"data")
        await fs.sync()
        directory = await fs.mkdir(ROOT_INODE, b"d", 0o755, OWNER)
        await fs.rename(ROOT_INODE, b"old", directory.inode, b"new")
        handle = await fs.open(inode)
        if sync is SyncMode.WRITE:
            await fs.write(handle, 0, b"DATA")
        else:
            await fs.fsync(handle)
        crash_copy(tmp_path / "v", tmp_path / "crashed")
    async with open_test_volume(tmp_path / "crashed", sync) as volume:
        fs = volume.filesystem
        directory = await fs.lookup(ROOT_INODE, b"d")
        assert (await fs.lookup(directory.inode, b"new")).inode == inode


@pytest.mark.parametrize("sync", SyncMode)
async def test_a_size_that_ends_in_a_hole_survives_once_the_cut_is_made(tmp_path: Path, sync: SyncMode) -> None:
    """Clearing the recorded cut forgot the size: only chunk files told it, and none reaches into the hole."""
    size = 2 * CHUNK_SIZE + 10
    async with open_test_volume(tmp_path / "v", sync) as volume:
        fs = volume.filesystem
        inode = await write_file(fs, b"f", b"x" * 100)
        await write_file(fs, b"f", b"y", offset=3 * CHUNK_SIZE)
        await fs.setattr(inode, AttributeChange(), size)
        handle = await fs.open(inode)
        await fs.fsync(handle)
        crash_copy(tmp_path / "v", tmp_path / "crashed")
    assert findings(tmp_path / "crashed") == []
    async with open_test_volume(tmp_path / "crashed", sync) as volume:
        assert await read_file(volume.filesystem, b"f") == b"x" * 100 + bytes(size - 100)


async def test_nothing_is_written_beyond_a_cut_that_could_not_be_flushed() -> None:
    """sync=write: the first write beyond the cut failed; the second was acknowledged, and a crash would have cut it."""
    async with Rig(SyncMode.WRITE) as rig:
        node = await rig.file()
        await rig.io.write(node, 0, b"x" * 100)
        await rig.io.truncate(node, 50)
        rig.store.fail("fsync_chunk", errno.EIO)
        for offset in (60, 70):
            with pytest.raises(FlushFailed):
                await rig.io.write(node, offset, b"y")
        assert rig.recorded_cut(node) == 50
        assert bytes(await rig.io.read(node, 0, 100)) == b"x" * 50


async def test_no_other_writer_slips_beyond_a_cut_while_its_record_is_removed() -> None:
    """sync=write: while one writer flushed the cut, another found none in its way and was acknowledged."""
    async with Rig(SyncMode.WRITE) as rig:
        node = await rig.file()
        await rig.io.write(node, 0, b"x" * 100)
        await rig.io.truncate(node, 50)
        rig.store.hold("fsync_chunk")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.io.write, node, 60, b"y")
            await wait_all_tasks_blocked()
            nursery.start_soon(rig.io.write, node, 70, b"z")
            await wait_all_tasks_blocked()
            assert "write 0+70" not in rig.events
            assert rig.recorded_cut(node) == 50
            rig.store.release("fsync_chunk")
        assert rig.recorded_cut(node) is None


async def test_reading_needs_no_space_and_no_writable_database(tmp_path: Path) -> None:
    """Moving atime failed readdir and readlink once the database had failed."""
    plan = FaultPlan()
    with pytest.raises(VolumeError):  # noqa: PT012 - the whole block is what ends so
        async with open_test_volume(tmp_path / "v", wrap_io=lambda io: FaultyIO(io, plan)) as volume:
            fs = volume.filesystem
            link = await fs.symlink(ROOT_INODE, b"l", b"target", OWNER)
            handle = await fs.opendir(ROOT_INODE)
            plan.rules.append(Rule("fdatasync", error=errno.EIO))
            with pytest.raises(Exception, match="flush of the WAL failed"):
                await fs.fsync_directory(handle)
            assert set(await listing(fs)) == {b"l"}
            assert await fs.readlink(link.inode) == b"target"


async def test_one_file_that_cannot_be_flushed_keeps_no_other_from_disk(tmp_path: Path) -> None:
    """sync and unmount stopped at the first file whose flush had failed, and did not even commit."""
    plan = FaultPlan()
    with pytest.raises(VolumeError):  # noqa: PT012 - the whole block is what ends so
        async with open_test_volume(tmp_path / "v", SyncMode.FSYNC, wrap_io=lambda io: FaultyIO(io, plan)) as volume:
            fs = volume.filesystem
            handle, _ = await fs.create(ROOT_INODE, b"bad", 0o644, OWNER)
            await fs.write(handle, 0, b"bad")
            plan.rules.append(Rule("fdatasync", nth=plan.calls["fdatasync"] + 1, error=errno.EIO))
            with pytest.raises(Exception, match="flush of chunk 0 failed"):
                await fs.fsync(handle)
            await write_file(fs, b"good", b"good")
            await fs.mkdir(ROOT_INODE, b"directory", 0o755, OWNER)
    async with open_test_volume(tmp_path / "v", SyncMode.FSYNC) as volume:
        assert await read_file(volume.filesystem, b"good") == b"good"
        assert b"directory" in await listing(volume.filesystem)


async def test_a_write_of_nothing_changes_nothing(tmp_path: Path) -> None:
    """It lengthened the file, in memory only (write(2): no other results)."""
    async with open_test_volume(tmp_path / "v") as volume:
        fs = volume.filesystem
        handle, made = await fs.create(ROOT_INODE, b"f", 0o644, OWNER)
        before = await fs.getattr(made.inode)
        assert await fs.write(handle, 1000, b"") == 0
        assert await fs.getattr(made.inode) == before


@pytest.mark.parametrize("dots", [b".", b".."])
async def test_dots_are_no_names_to_rename(tmp_path: Path, dots: bytes) -> None:
    """A directory got a second name, or lost its inode, by way of its `.` (the kernel never asks for it)."""
    async with open_test_volume(tmp_path / "v") as volume:
        fs = volume.filesystem
        one = (await fs.mkdir(ROOT_INODE, b"one", 0o755, OWNER)).inode
        inner = (await fs.mkdir(one, b"inner", 0o755, OWNER)).inode
        await fs.mkdir(ROOT_INODE, b"other", 0o755, OWNER)
        named, dotted = (ROOT_INODE, b"other"), (inner, dots)
        for source, target in ((named, dotted), (dotted, named), (dotted, (ROOT_INODE, b"new"))):
            with pytest.raises(InvalidArgument):
                await fs.rename(*source, *target)
            with pytest.raises(InvalidArgument):
                await fs.exchange(*source, *target)
    assert findings(tmp_path / "v") == []


async def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    """A symbolic link could be opened and written to: a dirty mark on what has no chunks."""
    async with open_test_volume(tmp_path / "v") as volume:
        link = await volume.filesystem.symlink(ROOT_INODE, b"l", b"target", OWNER)
        with pytest.raises(InvalidArgument):
            await volume.filesystem.open(link.inode)


async def test_blocks_are_right_when_the_file_becomes_clean_while_they_are_asked_for() -> None:
    """The chunks were counted twice: as changed, and in the rows that mark_clean had just written."""
    async with Rig(SyncMode.FSYNC) as rig:
        node = await rig.file()
        await rig.io.write(node, 0, b"x" * 1024)
        rig.store.hold("stat_chunks", 1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.io.refresh_blocks, node)
            await wait_all_tasks_blocked()
            assert await rig.durability.clean(node)
            rig.store.release("stat_chunks")
        assert node.blocks == 2


async def test_a_failed_write_during_the_flush_keeps_the_file_dirty() -> None:
    """It may have stored a part; not counted as a write, it let the file pass as flushed and clean."""
    async with Rig(SyncMode.FSYNC) as rig:
        node = await rig.file()
        await rig.io.truncate(node, 1000)
        await rig.io.write(node, 0, b"x" * 10)
        rig.store.hold("fsync_chunk", 1)
        cleaned: list[bool] = []

        async def clean() -> None:
            cleaned.append(await rig.durability.clean(node))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(clean)
            await wait_all_tasks_blocked()
            rig.store.fail("write_chunk", errno.EIO, after=True)
            with pytest.raises(OSError):
                await rig.io.write(node, 20, b"y" * 10)
            rig.store.release("fsync_chunk")
        assert cleaned == [False]
        assert node.dirty


async def test_deletion_after_the_last_close_though_forget_came_first(tmp_path: Path) -> None:
    """Nobody told the reaper that the last handle of a forgotten orphan had been closed."""
    source = tmp_path / "v"
    async with open_test_volume(source) as volume:
        fs = volume.filesystem
        handle, made = await fs.create(ROOT_INODE, b"f", 0o644, OWNER)
        await fs.write(handle, 0, b"x")
        await fs.unlink(ROOT_INODE, b"f")
        await fs.forget(made.inode, 1)
        chunk = source / "chunks" / str(made.inode)
        assert chunk.exists()
        await fs.release(handle)
        with trio.fail_after(30):
            while chunk.exists():
                await trio.lowlevel.checkpoint()


async def test_an_inode_deleted_while_it_is_made_clean_leaves_no_rows() -> None:
    """mark_clean wrote chunk rows for an inode that the reaper had deleted meanwhile."""
    async with Rig(SyncMode.FSYNC) as rig:
        node = await rig.file(b"f")
        await rig.io.write(node, 0, b"x" * 10)
        rig.metadata.unlink(ROOT_INODE, b"f", 1)
        rig.store.hold("stat_chunks", 1, after=True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.durability.clean, node)
            await wait_all_tasks_blocked()
            await rig.maintenance.delete_waiting_orphans()
            rig.store.release("stat_chunks")
        assert rig.metadata.marks.chunk_rows(InodeId(node.inode)) == []
        assert rig.rule_breaches() == []


@pytest.mark.parametrize("sync", SyncMode)
async def test_fsync_after_a_cut_that_touched_no_chunk(sync: SyncMode) -> None:
    """It went round for ever (found by the machine): with nothing to flush, the cut never counted as flushed."""
    async with Rig(sync) as rig:
        node = await rig.file()
        await rig.io.truncate(node, 3 * CHUNK_SIZE)
        await rig.io.truncate(node, CHUNK_SIZE)
        with trio.fail_after(10):
            await rig.io.fsync(node, datasync=False)
        assert rig.recorded_cut(node) is None
        assert rig.metadata.get(node.inode).size == CHUNK_SIZE


@pytest.mark.parametrize("sync", SyncMode)
async def test_a_truncate_answers_with_the_space_that_is_left(tmp_path: Path, sync: SyncMode) -> None:
    """It answered with the space before, which the kernel then showed for as long as it knew the file."""
    async with open_test_volume(tmp_path / "v", sync) as volume:
        fs = volume.filesystem
        inode = await write_file(fs, b"file", bytes(3 * CHUNK_SIZE))
        for size in (2 * CHUNK_SIZE + 5000, 2 * CHUNK_SIZE, 4096, 0):
            attributes = await fs.setattr(inode, AttributeChange(), size)
            assert attributes.blocks * 512 == -(-size // 4096) * 4096
            await fs.sync()
            assert (await fs.getattr(inode)).blocks == attributes.blocks


@pytest.mark.parametrize("told", [(300, 300), (300, 900)], ids=["overtaken", "with a newer mtime"])
async def test_times_that_the_kernel_tells_late_do_not_go_back(tmp_path: Path, told: tuple[int, int]) -> None:
    """Between a truncate and its reply the kernel may tell the times of an earlier write, and no others later."""
    ctime_ns, mtime_ns = told
    async with open_test_volume(tmp_path, SyncMode.FSYNC) as volume:
        fs = volume.filesystem
        handle, made = await fs.create(ROOT_INODE, b"f", 0o600, OWNER)
        base = made.ctime_ns
        change = AttributeChange(ctime_ns=base + 500, mtime_ns=base + 500)
        await fs.setattr(made.inode, change, 0, late_times=True)
        change = AttributeChange(ctime_ns=base + ctime_ns, mtime_ns=base + mtime_ns)
        await fs.setattr(made.inode, change, late_times=True)
        after = await fs.getattr(made.inode)
        assert (after.ctime_ns, after.mtime_ns) == (base + 500, base + max(500, mtime_ns))
        change = AttributeChange(ctime_ns=base - 3600 * 10**9, mtime_ns=base - 3600 * 10**9)
        after = await fs.setattr(made.inode, change, late_times=True)  # a clock that was set back
        assert (after.ctime_ns, after.mtime_ns) == (change.ctime_ns, change.mtime_ns)
        await fs.release(handle)


async def test_an_orderly_end_with_an_unlinked_file_open_is_no_unclean_one(tmp_path: Path) -> None:
    """Its dirty mark and its chunks were left to the next mount, which then told of an unclean end."""
    async with open_test_volume(tmp_path, SyncMode.FSYNC) as volume:
        fs = volume.filesystem
        handle, _ = await fs.create(ROOT_INODE, b"f", 0o644, OWNER)
        await fs.write(handle, 0, b"x")
        await fs.unlink(ROOT_INODE, b"f")
    assert used_chunks(tmp_path) == []
    async with open_test_volume(tmp_path, SyncMode.FSYNC) as volume:
        assert not volume.recovered.unclean
