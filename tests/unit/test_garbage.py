"""gc removes what is provably nobody's, old enough, and on a volume in use only what no row knows."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest
import trio

from benchfs_core.dump import dump_lines, restore
from benchfs_core.errors import DamagedVolume
from benchfs_core.garbage import Garbage, collect
from benchfs_core.metadata.rows import salvage
from benchfs_core.rebuild import new_database
from benchfs_core.superblock import DATABASE
from benchfs_core.types import ROOT_INODE, InodeId
from tests.support.damage import Damaged, left, read_everything, repair, run_sql
from tests.support.volumes import CHUNK_SIZE, Abandoned, open_test_volume, write_file

OLD_S = 7200.0


@pytest.fixture
def volume(tmp_path: Path) -> Damaged:
    volume = Damaged(tmp_path / "volume")
    trio.run(volume.make)
    return volume


def gc(source: Path, *, dry_run: bool = False, older_than_s: float = 3600) -> list[Garbage]:
    return list(collect(source, older_than_s=older_than_s, now_s=time.time(), dry_run=dry_run))


def nobodys(source: Path, number: int, *, age_s: float = OLD_S) -> Path:
    """A chunk directory of which no row knows."""
    directory = source / "chunks" / str(number)
    directory.mkdir()
    (directory / "0").write_bytes(b"x" * 5000)
    then_s = time.time() - age_s
    for path in (directory / "0", directory):
        os.utime(path, (then_s, then_s))
    return directory


def test_a_sound_volume_has_no_garbage(volume: Damaged) -> None:
    before = trio.run(read_everything, volume.source)
    assert gc(volume.source, older_than_s=0) == []
    assert trio.run(read_everything, volume.source) == before


def test_chunk_files_that_no_row_knows_are_removed_once_they_are_old(volume: Damaged) -> None:
    old, young = nobodys(volume.source, 3), nobodys(volume.source, 4, age_s=60)
    (told,) = [garbage for garbage in gc(volume.source, dry_run=True) if not garbage.note]
    assert (told.kind, told.inode, told.files, told.size > 4096, told.removed) == ("unowned", 3, 1, True, False)
    assert old.exists()
    assert {(garbage.inode, garbage.removed, garbage.note) for garbage in gc(volume.source)} == {
        (3, True, ""),
        (4, False, "too young"),
    }
    assert not old.exists()
    assert young.exists()


@pytest.mark.parametrize("table", ["xattr", "symlink", "dirty", "chunk", "inline", "orphan", "dentry", "inode"])
def test_a_number_that_any_row_has_is_somebodys(volume: Damaged, table: str) -> None:
    values = {
        "xattr": "(3, x'757365722e78', x'31')", "symlink": "(3, x'31')", "dirty": "(3, NULL)",
        "chunk": "(3, 0, 5000, 16)", "orphan": "(3)", "dentry": "(1, 100000, x'61', 3)",
        "inode": "(3, 33152, 1, 0, 0, 0, 5000, 16, 0, 0, 0, NULL, 0, 0)", "inline": "(3, x'31')",
    }  # fmt: skip
    directory = nobodys(volume.source, 3)
    run_sql(volume.source, f"INSERT INTO {table} VALUES {values[table]}")
    if table == "orphan":
        assert [(garbage.kind, garbage.removed) for garbage in gc(volume.source)] == [("orphan", True)]
        assert left(volume.source) == []
    else:
        with pytest.raises(DamagedVolume, match="fsck"):
            gc(volume.source)
        assert directory.exists()


async def test_a_volume_in_use_keeps_its_orphans_and_what_it_makes(volume: Damaged) -> None:
    old = nobodys(volume.source, 3)
    async with open_test_volume(volume.source) as opened:
        fs = opened.filesystem
        gone = await write_file(fs, b"gone", b"x" * 100)
        held = await fs.open(gone)
        await fs.unlink(ROOT_INODE, b"gone")
        new = await write_file(fs, b"new", b"y" * 100)
        await fs.fsync_directory(await fs.opendir(ROOT_INODE))
        uncommitted = await write_file(fs, b"uncommitted", b"z" * 100)
        notes = {garbage.inode: garbage.note for garbage in gc(volume.source, older_than_s=0)}
        assert notes == {3: "", gone: "the mount deletes it"}
        assert not old.exists()
        assert all((volume.source / "chunks" / str(inode) / "0").exists() for inode in (gone, new, uncommitted))
        assert bytes(await fs.read(held, 0, 100)) == b"x" * 100
        await fs.release(held)


async def abandoned_orphan(source: Path) -> InodeId:
    """Unlink an open file and crash."""
    gone = InodeId(0)
    try:
        async with open_test_volume(source) as opened:
            fs = opened.filesystem
            gone = await write_file(fs, b"gone", b"x" * 100)
            await fs.open(gone)
            await fs.unlink(ROOT_INODE, b"gone")
            await fs.fsync_directory(await fs.opendir(ROOT_INODE))
            raise Abandoned
    except Abandoned:
        return gone


async def test_orphans_of_a_crash_are_removed_as_the_next_mount_would(volume: Damaged) -> None:
    gone = await abandoned_orphan(volume.source)
    assert [(garbage.inode, garbage.kind, garbage.note) for garbage in gc(volume.source)] == [
        (gone, "orphan", "too young")
    ]
    (garbage,) = gc(volume.source, older_than_s=0)
    assert (garbage.removed, (volume.source / "chunks" / str(gone)).exists()) == (True, False)
    assert gc(volume.source, older_than_s=0) == []
    assert left(volume.source) == []


def test_after_restoring_an_old_dump_nothing_is_collected_before_a_repair(volume: Damaged) -> None:
    """What the dump does not know are files that are younger than it: gc took them for nobody's."""
    lines = list(dump_lines(volume.source))

    async def go_on() -> InodeId:
        async with open_test_volume(volume.source) as opened:
            return await write_file(opened.filesystem, b"young", b"younger" * CHUNK_SIZE)

    young = trio.run(go_on)
    shutil.rmtree(volume.source / "meta")
    restore(lines, volume.source)
    for dry_run in (True, False):
        with pytest.raises(DamagedVolume, match="run benchfs fsck --repair first"):
            gc(volume.source, older_than_s=-1, dry_run=dry_run)
    trio.run(read_everything, volume.source)  # mounting makes it no better
    with pytest.raises(DamagedVolume, match="run benchfs fsck --repair first"):
        gc(volume.source, older_than_s=-1)
    assert (volume.source / "chunks" / str(young) / "0").exists()
    assert repair(volume.source).left == []
    assert gc(volume.source, older_than_s=-1) == []
    assert trio.run(read_everything, volume.source)[f"/lost+found/#{young}"] == b"younger" * CHUNK_SIZE


def test_a_database_that_a_repair_made_anew_is_not_trusted_before_the_repair_has_ended(volume: Damaged) -> None:
    with new_database(volume.source) as writer:  # and killed
        salvage(volume.source / DATABASE, writer, lambda _: None)
    with pytest.raises(DamagedVolume, match="run benchfs fsck --repair first"):
        gc(volume.source)
    assert repair(volume.source).left == []
    assert gc(volume.source) == []
