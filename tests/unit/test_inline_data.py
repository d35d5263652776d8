"""Small files in rows: when they move into chunks and back, in which order, and what a crash in between leaves.

``wal`` in ``events`` means that all metadata changes so far are durable.
"""

from __future__ import annotations

import errno
import sqlite3
from pathlib import Path

import pytest

from benchfs_core.inodes import ActiveInode
from benchfs_core.metadata.schema import INLINE_TABLE, SCHEMA_VERSION
from benchfs_core.superblock import DATABASE
from benchfs_core.types import ROOT_INODE, AttributeChange, StoreKind, SyncMode
from tests.support.recording import Rig
from tests.support.volumes import (
    OWNER,
    Abandoned,
    crash_copy,
    findings,
    open_test_volume,
    read_file,
    read_inode,
    used_chunks,
    write_file,
)

LIMIT = 1000
OLD_COLUMNS = "inode, mode, link_count, uid, gid, rdev, size, blocks, atime_ns, mtime_ns, ctime_ns, parent"
both_modes = pytest.mark.parametrize("sync", SyncMode)


def inline_row(rig: Rig, node: ActiveInode) -> bytes | None:
    return rig.metadata.contents.load(node.inode)[0]


async def content(rig: Rig, node: ActiveInode) -> bytes:
    return bytes(await rig.io.read(node, 0, node.size + 1))


async def test_a_small_write_touches_no_chunk_and_costs_one_flush_with_sync_write() -> None:
    async with Rig(SyncMode.WRITE, inline_bytes=LIMIT) as rig:
        node = await rig.file()
        await rig.io.write(node, 0, b"x" * LIMIT)
        assert rig.events == ["wal"]
        assert not node.dirty


async def test_a_small_write_costs_no_flush_with_sync_fsync_and_its_fsync_one() -> None:
    async with Rig(SyncMode.FSYNC, inline_bytes=LIMIT) as rig:
        node = await rig.file()
        await rig.io.write(node, 3, b"x")
        await rig.io.write(node, 6, b"yz")
        assert rig.events == []
        assert await content(rig, node) == b"\0\0\0x\0\0yz"
        await rig.io.fsync(node, datasync=False)
        assert rig.events == ["wal"]
        assert inline_row(rig, node) == b"\0\0\0x\0\0yz"
        assert rig.rule_breaches() == []


@both_modes
async def test_a_first_write_beyond_the_limit_goes_to_chunks_without_a_flush_before(sync: SyncMode) -> None:
    async with Rig(sync, inline_bytes=LIMIT) as rig:
        node = await rig.file()
        await rig.io.write(node, 0, b"x" * (LIMIT + 1))
        assert rig.events[0] == "write 0+0"
        assert inline_row(rig, node) is None


async def test_what_outgrows_the_limit_keeps_its_row_until_the_chunk_is_flushed() -> None:
    async with Rig(SyncMode.FSYNC, inline_bytes=LIMIT) as rig:
        node = await rig.file()
        await rig.io.write(node, 0, b"a" * LIMIT)
        await rig.io.fsync(node, datasync=False)
        rig.events.clear()
        await rig.io.write(node, LIMIT, b"b")
        assert rig.events == ["wal", f"write 0+{0}", f"write 0+{LIMIT}"]  # the dirty mark, the move, the write
        assert inline_row(rig, node) == b"a" * LIMIT
        assert await content(rig, node) == b"a" * LIMIT + b"b"
        rig.events.clear()
        await rig.io.fsync(node, datasync=False)
        assert rig.events == ["fsync 0", "wal"]
        assert inline_row(rig, node) is None
        assert rig.rule_breaches() == []


async def test_what_was_never_committed_moves_without_leaving_a_row() -> None:
    async with Rig(SyncMode.FSYNC, inline_bytes=LIMIT) as rig:
        node = await rig.file()
        await rig.io.write(node, 0, b"a" * LIMIT)
        await rig.io.write(node, LIMIT, b"b")
        assert rig.events == ["write 0+0", f"write 0+{LIMIT}"]
        assert inline_row(rig, node) is None
        assert not node.cut.recorded


async def test_with_sync_write_the_move_is_durable_before_the_write_is_acknowledged() -> None:
    async with Rig(SyncMode.WRITE, inline_bytes=LIMIT) as rig:
        node = await rig.file()
        await rig.io.write(node, 0, b"a" * LIMIT)
        rig.events.clear()
        await rig.io.write(node, LIMIT, b"b")
        assert rig.events[-1] == "wal"
        assert rig.events.index("write 0+0") < rig.events.index(f"write 0+{LIMIT}")
        assert inline_row(rig, node) is None


@both_modes
async def test_a_move_that_fails_leaves_the_file_as_it_was(sync: SyncMode) -> None:
    async with Rig(sync, inline_bytes=LIMIT) as rig:
        node = await rig.file()
        await rig.io.write(node, 0, b"a" * LIMIT)
        rig.store.fail("write_chunk", errno.ENOSPC, after=True)
        with pytest.raises(OSError, match="space"):
            await rig.io.write(node, LIMIT, b"b")
        assert await content(rig, node) == b"a" * LIMIT
        await rig.io.write(node, 0, b"c")
        await rig.io.write(node, LIMIT, b"d" * LIMIT)
        assert await content(rig, node) == b"c" + b"a" * (LIMIT - 1) + b"d" * LIMIT
        await rig.io.fsync(node, datasync=False)
        assert await rig.durability.clean(node)
        assert rig.rule_breaches() == []


@both_modes
async def test_a_file_that_was_emptied_is_inline_again_and_waits_for_no_cut(sync: SyncMode) -> None:
    async with Rig(sync, inline_bytes=LIMIT) as rig:
        node = await rig.file()
        await rig.io.write(node, 0, b"a" * 5000)
        await rig.io.truncate(node, 0)
        rig.events.clear()
        await rig.io.write(node, 0, b"new")
        await rig.io.fsync(node, datasync=False)
        assert set(rig.events) == {"wal"}
        assert node.cut.pending == 0
        await rig.durability.make_cut(node)
        assert await content(rig, node) == b"new"
        assert await rig.durability.clean(node)
        assert inline_row(rig, node) == b"new"
        assert rig.rule_breaches() == []
        assert rig.metadata.get(node.inode).blocks == node.blocks == 8


async def test_truncating_what_has_just_moved_ends_the_move_first() -> None:
    async with Rig(SyncMode.FSYNC, inline_bytes=LIMIT) as rig:
        node = await rig.file()
        await rig.io.write(node, 0, b"a" * LIMIT)
        await rig.io.fsync(node, datasync=False)
        await rig.io.write(node, LIMIT, b"b")
        await rig.io.truncate(node, 10)
        assert inline_row(rig, node) is None
        assert await content(rig, node) == b"a" * 10


@both_modes
async def test_truncates_of_inline_files(sync: SyncMode) -> None:
    async with Rig(sync, inline_bytes=LIMIT) as rig:
        node = await rig.file()
        await rig.io.write(node, 0, b"abcdef")
        await rig.io.truncate(node, 3)
        await rig.io.truncate(node, 10**9)
        await rig.io.write(node, 5, b"g")
        assert bytes(await rig.io.read(node, 0, 8)) == b"abc\0\0g\0\0"
        assert bytes(await rig.io.read(node, 10**9 - 2, 8)) == b"\0\0"
        assert inline_row(rig, node) == b"abc\0\0g"
        await rig.io.truncate(node, 0)
        assert inline_row(rig, node) is None
        assert rig.rule_breaches() == []


@both_modes
async def test_a_crash_before_the_chunk_is_flushed_takes_back_what_the_row_has(sync: SyncMode, tmp_path: Path) -> None:
    async def crashed() -> None:
        async with open_test_volume(tmp_path / "v", sync, StoreKind.FILE, inline_bytes=LIMIT) as volume:
            fs = volume.filesystem
            inode = await write_file(fs, b"f", b"a" * LIMIT)
            await fs.sync()
            handle = await fs.open(inode)
            await fs.write(handle, LIMIT, b"b" * 10)
            crash_copy(tmp_path / "v", tmp_path / "c")
            raise Abandoned

    with pytest.raises(Abandoned):
        await crashed()
    assert used_chunks(tmp_path / "c")
    assert findings(tmp_path / "c") == []
    async with open_test_volume(tmp_path / "c", sync, StoreKind.FILE, inline_bytes=LIMIT) as volume:
        found = await read_file(volume.filesystem, b"f")
        assert found == b"a" * LIMIT + (b"b" * 10 if sync is SyncMode.WRITE else b"")
    assert findings(tmp_path / "c") == []
    assert bool(used_chunks(tmp_path / "c")) is (sync is SyncMode.WRITE)


async def test_inline_files_outlive_mounts_that_begin_none(tmp_path: Path) -> None:
    async with open_test_volume(tmp_path, inline_bytes=LIMIT) as volume:
        inode = await write_file(volume.filesystem, b"f", b"abc")
    assert used_chunks(tmp_path) == []
    async with open_test_volume(tmp_path, inline_bytes=0) as volume:
        fs = volume.filesystem
        assert await read_file(fs, b"f") == b"abc"
        await write_file(fs, b"f", b"X", 1)
        assert await read_file(fs, b"f") == b"aXc"
    assert used_chunks(tmp_path) == [f"{inode}/0"]
    assert findings(tmp_path) == []


async def test_a_volume_of_the_schema_before_inline_files_is_brought_up_to_date(tmp_path: Path) -> None:
    async with open_test_volume(tmp_path) as volume:
        await write_file(volume.filesystem, b"old", b"o" * 100)
    database = sqlite3.connect(tmp_path / DATABASE)
    database.executescript(f"""
        DROP TABLE inline;
        ALTER TABLE inode RENAME TO newer;
        CREATE TABLE inode (
            inode INTEGER PRIMARY KEY, mode INTEGER NOT NULL, link_count INTEGER NOT NULL, uid INTEGER NOT NULL,
            gid INTEGER NOT NULL, rdev INTEGER NOT NULL, size INTEGER NOT NULL, blocks INTEGER NOT NULL,
            atime_ns INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, ctime_ns INTEGER NOT NULL,
            parent INTEGER  -- the last column
                            -- Rule: and what is said of it
        ) STRICT;
        INSERT INTO inode SELECT {OLD_COLUMNS} FROM newer;
        DROP TABLE newer;
        PRAGMA user_version = 1""")
    database.close()
    assert "CREATE TABLE inline" in INLINE_TABLE
    async with open_test_volume(tmp_path, inline_bytes=LIMIT) as volume:
        assert await read_file(volume.filesystem, b"old") == b"o" * 100
        await write_file(volume.filesystem, b"new", b"n")
        assert volume.database.first_row("PRAGMA user_version") == (SCHEMA_VERSION,)
    assert findings(tmp_path) == []


async def test_a_file_is_read_through_every_handle_while_it_moves(tmp_path: Path) -> None:
    async with open_test_volume(tmp_path, SyncMode.FSYNC, inline_bytes=LIMIT) as volume:
        fs = volume.filesystem
        one, attributes = await fs.create(ROOT_INODE, b"f", 0o644, OWNER)
        two = await fs.open(attributes.inode)
        for step in range(0, 3 * LIMIT, 100):
            await fs.write(one if step % 200 else two, step, bytes([step // 100]) * 100)
            assert (await fs.getattr(attributes.inode)).size == step + 100
        expected = b"".join(bytes([step]) * 100 for step in range(30))
        assert await read_inode(fs, attributes.inode) == expected
        await fs.setattr(attributes.inode, AttributeChange(), 0)
        await fs.write(two, 0, b"small")
        assert await read_inode(fs, attributes.inode) == b"small"


@both_modes
async def test_dead_chunks_stay_dead_when_the_row_that_said_so_goes(sync: SyncMode, tmp_path: Path) -> None:
    """Found by reading: emptied after a move that failed, or after recovery, a crash showed what was before."""
    async with Rig(sync, inline_bytes=LIMIT) as rig:
        node = await rig.file()
        await rig.io.write(node, 0, b"a" * LIMIT)
        rig.store.fail("write_chunk", errno.ENOSPC, after=True)
        with pytest.raises(OSError, match="space"):
            await rig.io.write(node, LIMIT, b"b")
        rig.store.hold("delete_chunk")
        node.cut.shorten(0)  # as recovery finds it: chunks are there, and the row is what counts
        await rig.io.truncate(node, 0)
        assert rig.recorded_cut(node) == 0
        rig.store.release("delete_chunk")
        await rig.io.write(node, 0, b"c" * 3 * LIMIT)
        await rig.io.fsync(node, datasync=False)
        assert rig.recorded_cut(node) is None
        assert await content(rig, node) == b"c" * 3 * LIMIT
        assert rig.rule_breaches() == []
