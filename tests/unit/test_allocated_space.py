"""Chunk files of no length hold space that was asked for beyond the end of a file: nobody takes it for size."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchfs_core.superblock import SUPERBLOCK, read_superblock
from benchfs_core.types import ROOT_INODE, InodeId, SyncMode
from tests.support.damage import Damaged, left, read_everything, repair, run_sql
from tests.support.volumes import CHUNK_SIZE, crash_copy, findings, open_test_volume, read_inode, write_file


async def with_space_beyond(source: Path, *, crashed: Path | None = None, sync: SyncMode = SyncMode.FSYNC) -> InodeId:
    """A volume with a file of ten bytes and room for five chunks; a crash of it as well."""
    async with open_test_volume(source, sync) as volume:
        fs = volume.filesystem
        inode = await write_file(fs, b"roomy", b"d" * 10)
        handle = await fs.open(inode)
        await fs.ranges.allocate(handle, 0, 5 * CHUNK_SIZE, keep_size=True)
        await fs.fsync(handle)
        if crashed is not None:
            crash_copy(source, crashed)
        await fs.release(handle)
    return inode


@pytest.mark.parametrize("sync", SyncMode)
async def test_a_crash_and_a_remount_leave_the_size(tmp_path: Path, sync: SyncMode) -> None:
    inode = await with_space_beyond(tmp_path / "volume", crashed=tmp_path / "crashed", sync=sync)
    for source in (tmp_path / "volume", tmp_path / "crashed"):
        assert findings(source) == []
        async with open_test_volume(source, sync) as volume:
            attributes = await volume.filesystem.getattr(inode)
            assert attributes.size == 10
            if source.name == "volume":  # a copy of it has not its space
                assert attributes.blocks == 5 * CHUNK_SIZE // 512
            assert await read_inode(volume.filesystem, inode) == b"d" * 10
        assert findings(source) == []


async def test_repairs_leave_the_size(tmp_path: Path) -> None:
    volume = Damaged(tmp_path / "volume")
    await volume.make()
    inode = await with_space_beyond(volume.source)
    before = await read_everything(volume.source)
    run_sql(volume.source, "UPDATE chunk SET blocks = 1, length = 0 WHERE inode = ?", (inode,))
    assert left(volume.source)
    assert repair(volume.source).left == []
    assert await read_everything(volume.source) == before


async def test_a_chunk_size_is_told_from_chunks_that_hold_something(tmp_path: Path) -> None:
    volume = Damaged(tmp_path / "volume")
    await volume.make()
    await with_space_beyond(volume.source)
    before = await read_everything(volume.source)
    (volume.source / SUPERBLOCK).unlink()
    assert repair(volume.source).left == []
    superblock = read_superblock(volume.source)
    assert superblock is not None
    assert superblock.chunk_size == CHUNK_SIZE
    assert await read_everything(volume.source) == before


async def test_an_unlinked_file_gives_its_space_back(tmp_path: Path) -> None:
    inode = await with_space_beyond(tmp_path / "volume")
    async with open_test_volume(tmp_path / "volume", SyncMode.FSYNC) as volume:
        await volume.filesystem.unlink(ROOT_INODE, b"roomy")
    assert not (tmp_path / "volume" / "chunks" / str(inode)).exists()
