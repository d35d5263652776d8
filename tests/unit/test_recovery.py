"""What a mount does about an unclean end, on copies of what a killed process would leave."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from benchfs_core.chunks import range_calls
from benchfs_core.errors import NoSuchEntry, VolumeError
from benchfs_core.filesystem import FileSystem
from benchfs_core.types import ROOT_INODE, AttributeChange, InodeId, SyncMode
from tests.support.volumes import (
    CHUNK_SIZE,
    OWNER,
    Abandoned,
    crash_copy,
    findings,
    listing,
    open_test_volume,
    read_file,
    used_chunks,
    write_file,
)
from tests.unit.test_volume import tree


async def busy_volume(fs: FileSystem) -> dict[str, InodeId]:
    """Files in every state that a crash may find them in."""
    made = {name: await write_file(fs, name.encode(), b"x" * 3 * CHUNK_SIZE) for name in ("clean", "cut", "gone")}
    await fs.sync()
    made["dirty"] = await write_file(fs, b"dirty", b"y" * 1000, offset=CHUNK_SIZE)
    await fs.setattr(made["cut"], AttributeChange(), CHUNK_SIZE + 1)
    held = await fs.open(made["gone"])
    await fs.unlink(ROOT_INODE, b"gone")
    await fs.fsync_directory(await fs.opendir(ROOT_INODE))
    made["lost"] = await write_file(fs, b"lost", b"z" * 10)
    assert held
    return made


CONTENT = {
    b"clean": b"x" * 3 * CHUNK_SIZE,
    b"cut": b"x" * (CHUNK_SIZE + 1),
    b"dirty": bytes(CHUNK_SIZE) + b"y" * 1000,
}


@pytest.fixture
async def crashed(tmp_path: Path) -> tuple[Path, dict[str, InodeId]]:
    """A copy of a volume that was in use, and the inodes in it."""
    async with open_test_volume(tmp_path / "v", SyncMode.FSYNC) as volume:
        made = await busy_volume(volume.filesystem)
        return crash_copy(tmp_path / "v", tmp_path / "crashed"), made


async def check_content(fs: FileSystem) -> None:
    assert set(await listing(fs)) == set(CONTENT)
    for name, content in CONTENT.items():
        assert await read_file(fs, name) == content


async def test_fsck_finds_nothing_that_recovery_will_put_in_order(crashed: tuple[Path, dict[str, InodeId]]) -> None:
    assert findings(crashed[0]) == []


async def test_names_and_sizes_are_as_before(crashed: tuple[Path, dict[str, InodeId]]) -> None:
    source, made = crashed
    async with open_test_volume(source) as volume:
        assert (volume.recovered.dirty, volume.recovered.unclaimed) == (2, 1)
        await check_content(volume.filesystem)
    assert findings(source) == []
    assert {name.partition("/")[0] for name in used_chunks(source)} == {
        str(made[name]) for name in ("clean", "cut", "dirty")
    }
    async with open_test_volume(source) as volume:
        assert not volume.recovered.unclean
        await check_content(volume.filesystem)


async def test_orphans_of_the_last_run_are_deleted(crashed: tuple[Path, dict[str, InodeId]]) -> None:
    source, made = crashed
    chunks = source / "chunks"
    assert (chunks / str(made["gone"])).exists()
    async with open_test_volume(source) as volume:
        with trio.fail_after(60):
            while (chunks / str(made["gone"])).exists() or (chunks / str(made["lost"])).exists():
                await trio.lowlevel.checkpoint()
        with pytest.raises(NoSuchEntry):
            await volume.filesystem.getattr(made["lost"])


async def test_numbers_of_what_was_never_committed_are_not_used_again(crashed: tuple[Path, dict[str, InodeId]]) -> None:
    source, made = crashed
    for _ in range(3):
        async with open_test_volume(source) as volume:
            attributes = await volume.filesystem.mknod(ROOT_INODE, b"new", 0o100644, OWNER)
            assert attributes.inode > max(made.values())
            made["new"] = attributes.inode
            await volume.filesystem.unlink(ROOT_INODE, b"new")


@pytest.mark.parametrize("runs", [1, 2, 3])
async def test_recovering_again_and_again_gives_the_same(crashed: tuple[Path, dict[str, InodeId]], runs: int) -> None:
    source, _ = crashed
    for _ in range(runs):
        async with open_test_volume(source, SyncMode.FSYNC) as volume:
            assert volume.recovered.dirty == 2
            await check_content(volume.filesystem)
            source = crash_copy(source, source.with_name(source.name + "+"))
        assert findings(source) == []
    async with open_test_volume(source) as volume:
        await check_content(volume.filesystem)
    assert findings(source) == []


async def test_a_process_that_fails_leaves_what_recovery_can_mend(tmp_path: Path) -> None:
    with pytest.raises(Abandoned):  # noqa: PT012 - the whole block is what ends so
        async with open_test_volume(tmp_path / "v") as volume:
            await write_file(volume.filesystem, b"f", b"content")
            raise Abandoned
    async with open_test_volume(tmp_path / "v") as volume:
        assert await read_file(volume.filesystem, b"f") == b"content"
    assert findings(tmp_path / "v") == []


async def test_opening_a_crashed_volume_read_only_changes_nothing(crashed: tuple[Path, dict[str, InodeId]]) -> None:
    source, _ = crashed
    before = tree(source)
    for _ in range(2):
        async with open_test_volume(source, read_only=True) as volume:
            assert volume.recovered.dirty == 2
            await check_content(volume.filesystem)
        assert tree(source) == before


async def test_a_chunk_file_that_is_too_long_spoils_only_its_own_file(crashed: tuple[Path, dict[str, InodeId]]) -> None:
    source, made = crashed
    with (source / "chunks" / str(made["dirty"]) / "1").open("r+b") as chunk:
        chunk.truncate(CHUNK_SIZE + 1)
    with pytest.raises(VolumeError, match="run benchfs fsck"):  # noqa: PT012 - the whole block is what ends so
        async with open_test_volume(source) as volume:
            assert await read_file(volume.filesystem, b"cut") == CONTENT[b"cut"]
            assert await write_file(volume.filesystem, b"new", b"x")
    assert "chunk-length" in findings(source)[0]


async def test_bytes_beyond_a_recorded_cut_are_zeros_from_the_first_read_on(tmp_path: Path) -> None:
    """The file grew again after the cut, so its size is no help; read-only, the cut is never made at all."""
    async with open_test_volume(tmp_path / "v", SyncMode.FSYNC) as volume:
        fs = volume.filesystem
        inode = await write_file(fs, b"f", b"x" * 100)
        for size in (10, 50):
            await fs.setattr(inode, AttributeChange(), size)
        await write_file(fs, b"f", b"y", offset=30)
        await fs.fsync_directory(await fs.opendir(ROOT_INODE))
        crash_copy(tmp_path / "v", tmp_path / "crashed")
    for read_only in (True, False, False):
        async with open_test_volume(tmp_path / "crashed", SyncMode.FSYNC, read_only=read_only) as volume:
            assert await read_file(volume.filesystem, b"f") == b"x" * 10 + bytes(40)
    assert findings(tmp_path / "crashed") == []


async def test_a_cut_beyond_the_end_that_is_left_makes_no_chunk_longer_than_its_file(tmp_path: Path) -> None:
    """Found by a power cut: space was allocated beyond the end, and what had been written up to the cut was lost."""
    async with open_test_volume(tmp_path / "v", SyncMode.FSYNC) as volume:
        fs = volume.filesystem
        inode = await write_file(fs, b"file", b"x" * 1000)
        await fs.sync()
        handle = await fs.open(inode)
        await fs.ranges.allocate(handle, 0, 60000, keep_size=True)
        await fs.write(handle, 0, b"y" * 50000)
        await fs.setattr(inode, AttributeChange(), 44032)
        await fs.fsync_directory(await fs.opendir(ROOT_INODE))
        source = crash_copy(tmp_path / "v", tmp_path / "crashed")
    chunk = source / "chunks" / str(inode) / "0"
    with chunk.open("r+b") as file:
        file.truncate(1000)
        range_calls.allocate(file.fileno(), 0, 60000)
    async with open_test_volume(source, SyncMode.FSYNC) as volume:
        assert (await volume.filesystem.getattr(inode)).size == 1000
    assert findings(source) == []
