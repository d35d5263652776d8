"""Background work and small tables: cleaning, orphans, lookup counts, numbers, limits of options."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from benchfs_core.config import FormatOptions, VolumeOptions
from benchfs_core.errors import NoSuchEntry, OptionError
from benchfs_core.inodes import InodeTable
from benchfs_core.metadata.database import IN_MEMORY
from benchfs_core.metadata.numbers import FIRST_NUMBER, RESERVATION, Numbers
from benchfs_core.superblock import create_database
from benchfs_core.types import ROOT_INODE, AttributeChange, InodeId, SyncMode
from tests.support.recording import Rig
from tests.support.volumes import CHUNK_SIZE, OWNER, crash_copy, findings, open_test_volume, write_file


async def test_many_dirty_files_share_one_flush() -> None:
    async with Rig(SyncMode.FSYNC) as rig:
        nodes = [await rig.file(b"%d" % number) for number in range(20)]
        for node in nodes:
            await rig.io.write(node, 0, b"x")
        rig.events.clear()
        await rig.maintenance.sync()
        assert rig.events == ["fsync all", "wal"]
        assert not any(node.dirty for node in nodes)
        assert rig.inodes.active == {}
        assert rig.rule_breaches() == []


async def test_one_file_whose_cut_fails_does_not_keep_others_dirty() -> None:
    async with Rig(SyncMode.FSYNC) as rig:
        nodes = [await rig.file(b"%d" % number) for number in range(20)]
        for node in nodes:
            await rig.io.write(node, 0, b"x" * 10)
        await rig.io.truncate(nodes[3], 5)
        rig.store.fail("truncate_chunk", errno.EIO)
        await rig.maintenance.sync()
        assert not any(node.dirty for node in nodes), "tried again, one by one"
        assert rig.rule_breaches() == []


async def test_sync_says_what_could_not_be_flushed() -> None:
    async with Rig(SyncMode.FSYNC) as rig:
        one, two = await rig.file(b"1"), await rig.file(b"2")
        for node in (one, two):
            await rig.io.write(node, 0, b"x")
        rig.store.fail("fsync_chunk", errno.EIO)
        with pytest.raises(Exception, match="flush of chunk 0 failed"):
            await rig.maintenance.sync()
        assert (one.dirty, two.dirty) == (True, False)


async def test_a_record_of_an_orphan_with_many_chunks_goes_in_pieces() -> None:
    async with Rig(SyncMode.FSYNC) as rig:
        node = await rig.file()
        await rig.io.write(node, 0, b"x")
        assert await rig.durability.clean(node)
        with rig.database.change():
            rig.database.execute(
                "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2500)"
                " INSERT INTO chunk SELECT ?, i, 1, 1 FROM n",
                (node.inode,),
            )
        rig.metadata.unlink(ROOT_INODE, b"f", 1)
        await rig.maintenance.delete_waiting_orphans()
        assert rig.metadata.marks.chunk_rows(node.inode) == []
        with pytest.raises(NoSuchEntry):
            rig.metadata.get(node.inode)
        assert rig.rule_breaches() == []


async def test_a_killed_deletion_goes_on_at_the_next_mount(tmp_path: Path) -> None:
    """The unlink is durable, some chunks are gone, some are there."""
    async with open_test_volume(tmp_path / "v") as volume:
        fs = volume.filesystem
        inode = await write_file(fs, b"f", b"x" * (4 * CHUNK_SIZE))
        await fs.sync()
        held = await fs.open(inode)
        await fs.unlink(ROOT_INODE, b"f")
        await fs.fsync(held)
        crash_copy(tmp_path / "v", tmp_path / "crashed")
    chunks = tmp_path / "crashed" / "chunks" / str(inode)
    (chunks / "1").unlink()
    assert findings(tmp_path / "crashed") == []
    async with open_test_volume(tmp_path / "crashed"):
        with trio.fail_after(60):
            while chunks.exists():
                await trio.lowlevel.checkpoint()
    assert findings(tmp_path / "crashed") == []


async def test_a_removed_directory_goes_from_the_database(tmp_path: Path) -> None:
    async with open_test_volume(tmp_path / "v") as volume:
        fs = volume.filesystem
        made = await fs.mkdir(ROOT_INODE, b"d", 0o755, OWNER)
        await fs.xattrs.set(made.inode, b"user.x", b"1")
        await fs.rmdir(ROOT_INODE, b"d")
        assert (await fs.getattr(made.inode)).link_count == 0
        await fs.forget(made.inode, 1)
    async with open_test_volume(tmp_path / "v") as volume:
        with pytest.raises(NoSuchEntry):
            await volume.filesystem.setattr(made.inode, AttributeChange(mode=0o700))
    assert findings(tmp_path / "v") == []


def test_lookups_are_counted() -> None:
    table, inode = InodeTable(), InodeId(5)
    for _ in range(3):
        table.remember(inode)
    table.forget(inode, 2)
    assert table.in_use(inode)
    assert not table.orphaned(inode)
    table.forget(inode, 1)
    assert table.released(inode), "an orphan whose last use ended"
    assert not table.released(inode), "said once"
    table.forget(InodeId(6), 1)


def test_numbers_go_up_over_restarts_and_crashes() -> None:
    database = create_database(IN_MEMORY, (0, 0), 1)
    first = Numbers(database)
    with pytest.raises(AssertionError):
        first.take()
    first.confirm(first.reserve())
    taken = [first.take() for _ in range(10)]
    assert taken == list(range(FIRST_NUMBER, FIRST_NUMBER + 10))
    after_crash = Numbers(database)
    assert after_crash.unsettled == range(FIRST_NUMBER, FIRST_NUMBER + RESERVATION)
    after_crash.confirm(after_crash.reserve())
    assert after_crash.take() == FIRST_NUMBER + RESERVATION
    after_crash.settle()
    after_close = Numbers(database)
    assert (len(after_close.unsettled), after_close.remaining) == (0, 0)
    after_close.confirm(after_close.reserve())
    assert after_close.take() == FIRST_NUMBER + RESERVATION + 1
    database.close()


def test_a_reservation_that_is_not_durable_is_not_used() -> None:
    database = create_database(IN_MEMORY, (0, 0), 1)
    numbers = Numbers(database)
    numbers.reserve()
    assert numbers.remaining == 0
    database.close()


@pytest.mark.parametrize(
    "make",
    [
        lambda: FormatOptions(0),
        lambda: FormatOptions(3 << 20),
        lambda: FormatOptions(128 << 20),
        lambda: VolumeOptions(commit_interval_s=float("nan")),
        lambda: VolumeOptions(commit_interval_s=301),
        lambda: VolumeOptions(queue_depth=0),
        lambda: VolumeOptions(max_handles=1_000_001),
    ],
    ids=range(7),
)
def test_options_out_of_range(make: Callable[[], object]) -> None:
    with pytest.raises(OptionError):
        make()


async def test_a_file_without_a_name_is_not_flushed_to_become_clean() -> None:
    async with Rig(SyncMode.FSYNC) as rig:
        node = await rig.file()
        await rig.io.write(node, 0, b"x")
        rig.metadata.unlink(ROOT_INODE, b"f", 1)
        assert rig.inodes.orphaned(node.inode)
        await rig.maintenance.sync()
        assert "fsync 0" not in rig.events
        assert node.dirty
