"""Times that a writer tells, as the kernel does of what it writes back: kept, stored later, no reason for a flush."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
import trio.testing

from benchfs_core.chunks.io import ChunkIO
from benchfs_core.errors import VolumeError, VolumeReadOnly
from benchfs_core.filesystem import FileSystem
from benchfs_core.types import ROOT_INODE, AttributeChange, InodeId, SyncMode
from tests.support.faults import FaultPlan, FaultyIO
from tests.support.volumes import OWNER, open_test_volume


async def tell(fs: FileSystem, inode: InodeId, moment_ns: int, *, by_writer: bool = True) -> None:
    change = AttributeChange(ctime_ns=moment_ns, mtime_ns=moment_ns)
    after = await fs.setattr(inode, change, late_times=True, by_writer=by_writer)
    assert (after.mtime_ns, after.ctime_ns) == (moment_ns, moment_ns)


def flushes(plan: FaultPlan) -> int:
    return plan.calls["fsync"] + plan.calls["fdatasync"]


async def test_a_write_whose_times_are_told_costs_fdatasync_one_flush_and_fsync_two(tmp_path: Path) -> None:
    plan = FaultPlan()

    def counted(io: ChunkIO) -> ChunkIO:
        return FaultyIO(io, plan)

    async with open_test_volume(tmp_path / "v", SyncMode.FSYNC, wrap_io=counted) as volume:
        fs = volume.filesystem
        handle, made = await fs.create(ROOT_INODE, b"f", 0o600, OWNER)
        await fs.write(handle, 0, b"x", keep_times=True)
        await fs.fsync(handle)
        for number, datasync, due in ((1, True, 1), (2, True, 1), (3, False, 2), (4, False, 2)):
            before = flushes(plan)
            await fs.write(handle, 0, b"y", keep_times=True)
            await tell(fs, made.inode, made.ctime_ns + number)
            await fs.fsync(handle, datasync=datasync)
            assert flushes(plan) - before == due
        await fs.release(handle)


async def test_who_tells_the_times_of_a_write_need_not_wait_for_the_blocks_but_who_asks_gets_them(
    tmp_path: Path,
) -> None:
    async with open_test_volume(tmp_path / "v", SyncMode.FSYNC, inline_bytes=0) as volume:
        fs = volume.filesystem
        handle, made = await fs.create(ROOT_INODE, b"f", 0o600, OWNER)
        await fs.write(handle, 0, bytes(8192), keep_times=True)
        with trio.testing.assert_no_checkpoints():
            await tell(fs, made.inode, made.ctime_ns + 1)
        assert (await fs.getattr(made.inode)).blocks == 16
        await fs.release(handle)


async def test_who_sets_times_to_what_they_are_is_told_the_blocks_of_now(tmp_path: Path) -> None:
    async with open_test_volume(tmp_path / "v", SyncMode.FSYNC, inline_bytes=0) as volume:
        fs = volume.filesystem
        handle, made = await fs.create(ROOT_INODE, b"f", 0o600, OWNER)
        await fs.write(handle, 0, bytes(8192), keep_times=True)
        change = AttributeChange(ctime_ns=made.ctime_ns, mtime_ns=made.mtime_ns)
        assert (await fs.setattr(made.inode, change, late_times=True)).blocks == 16
        assert fs.attribute_changes.tell(made.inode, change, by_writer=False) is not None
        await fs.write(handle, 8192, bytes(4096), keep_times=True)
        assert fs.attribute_changes.tell(made.inode, change, by_writer=False) is None
        await fs.release(handle)


async def test_times_that_could_not_be_stored_any_more_are_refused(tmp_path: Path) -> None:
    with pytest.raises(VolumeError, match="not everything could be brought to disk"):  # noqa: PT012 - the whole block is what ends so
        async with open_test_volume(tmp_path / "v", SyncMode.FSYNC) as volume:
            fs = volume.filesystem
            handle, made = await fs.create(ROOT_INODE, b"f", 0o600, OWNER)
            await fs.write(handle, 0, b"x", keep_times=True)
            await tell(fs, made.inode, made.ctime_ns + 1)
            volume.database.fail("of the test")
            await tell(fs, made.inode, made.ctime_ns + 1)  # as they are known
            with pytest.raises(VolumeReadOnly):
                await tell(fs, made.inode, made.ctime_ns + 2)
            await fs.release(handle)


@pytest.mark.parametrize("inline_bytes", [0, 4096])
@pytest.mark.parametrize("by_writer", [True, False])
async def test_times_that_were_told_are_there_after_the_end(tmp_path: Path, inline_bytes: int, by_writer: bool) -> None:
    async with open_test_volume(tmp_path / "v", SyncMode.FSYNC, inline_bytes=inline_bytes) as volume:
        fs = volume.filesystem
        handle, made = await fs.create(ROOT_INODE, b"f", 0o600, OWNER)
        await fs.write(handle, 0, b"x", keep_times=True)
        moment_ns = made.ctime_ns + 1000
        await tell(fs, made.inode, moment_ns, by_writer=by_writer)
        await fs.release(handle)
        directory = await fs.opendir(ROOT_INODE)
        [entry] = await fs.readdir(directory, 0)
        assert (entry.attributes.mtime_ns, entry.attributes.ctime_ns) == (moment_ns, moment_ns)
        await fs.releasedir(directory)
    async with open_test_volume(tmp_path / "v", SyncMode.FSYNC, inline_bytes=inline_bytes) as volume:
        found = await volume.filesystem.lookup(ROOT_INODE, b"f")
        assert (found.mtime_ns, found.ctime_ns) == (moment_ns, moment_ns)
