"""A superblock or a database that is missing or damaged: found, rebuilt from what is left, and nothing thrown away."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from benchfs_core.errors import DamagedVolume, NotAVolume, UnknownFormat
from benchfs_core.fsck import check_volume
from benchfs_core.rebuild import fitting_chunk_sizes
from benchfs_core.superblock import DATABASE, SUPERBLOCK, read_superblock
from benchfs_core.types import ROOT_INODE
from tests.support.damage import UUID, Damaged, left, read_everything, repair, run_sql
from tests.support.volumes import CHUNK_SIZE, OWNER, codes, listing, open_test_volume

PAGE = 4096


@pytest.fixture
def volume(tmp_path: Path) -> Damaged:
    volume = Damaged(tmp_path / "volume")
    trio.run(volume.make)
    return volume


def _remove(superblock: Path) -> None:
    superblock.unlink()


def _empty(superblock: Path) -> None:
    superblock.write_bytes(b"")


def _garbage(superblock: Path) -> None:
    superblock.write_bytes(bytes(range(256)))


def _other_chunk_size(superblock: Path) -> None:
    superblock.write_text(superblock.read_text().replace(f"chunk_size = {CHUNK_SIZE}", "chunk_size = 5"))


DAMAGES = (_remove, _empty, _garbage, _other_chunk_size)


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_superblock_is_made_again(volume: Damaged, damage: Callable[[Path], None]) -> None:
    before, superblock = trio.run(read_everything, volume.source), volume.source / SUPERBLOCK
    was = read_superblock(volume.source)
    assert was is not None
    damage(superblock)
    kept = superblock.read_bytes() if superblock.exists() else None
    with pytest.raises(DamagedVolume, match="fsck --repair"):
        trio.run(read_everything, volume.source)
    assert codes(volume.source) == {"superblock"}
    assert repair(volume.source).left == []
    found = read_superblock(volume.source)
    assert found is not None
    assert (found.chunk_size, found.uuid) == (CHUNK_SIZE, was.uuid if damage is _other_chunk_size else UUID)
    old = volume.source / "lost+found" / SUPERBLOCK
    assert (old.read_bytes() if old.exists() else None) == kept
    assert trio.run(read_everything, volume.source) == before


def test_a_chunk_size_that_cannot_be_told_is_not_guessed(volume: Damaged) -> None:
    run_sql(volume.source, "UPDATE inode SET size = size * 4 WHERE inode = ?", (volume.inodes["file"],))
    (volume.source / SUPERBLOCK).unlink()
    (_, finding) = check_volume(volume.source)
    assert "may be 65536 or 131072 or 262144" in finding.text
    assert {finding.code for finding in repair(volume.source).left} == {"superblock"}
    assert not (volume.source / SUPERBLOCK).exists()


@pytest.mark.parametrize(
    ("least", "largest", "fitting"),
    [(0, 1 << 16, [1 << 16]), (65537, 300_000, [1 << 17, 1 << 18]), (1 << 26, None, [1 << 26]), (1 << 27, None, [])],
)
def test_which_chunk_sizes_fit(least: int, largest: int | None, fitting: list[int]) -> None:
    assert fitting_chunk_sizes(least, largest) == fitting


def test_a_superblock_of_a_later_release_is_left_alone(volume: Damaged) -> None:
    superblock = volume.source / SUPERBLOCK
    text = superblock.read_text().replace("format_version = 1", "format_version = 2")
    for damaged in (text, text + "cut = "):
        superblock.write_text(damaged)
        with pytest.raises(UnknownFormat):
            repair(volume.source)
        assert superblock.read_text() == damaged


def test_names_without_a_superblock_are_not_formatted_over(tmp_path: Path) -> None:
    async def make() -> None:
        async with open_test_volume(tmp_path / "v") as volume:
            await volume.filesystem.mkdir(ROOT_INODE, b"only a name", 0o755, OWNER)

    async def read() -> set[bytes]:
        async with open_test_volume(tmp_path / "v") as volume:
            return set(await listing(volume.filesystem))

    trio.run(make)
    text = (tmp_path / "v" / SUPERBLOCK).read_text()
    (tmp_path / "v" / SUPERBLOCK).write_text(text.partition("created")[0])
    assert codes(tmp_path / "v") == {"superblock"}
    (tmp_path / "v" / SUPERBLOCK).unlink()
    with pytest.raises(DamagedVolume, match="files but no"):
        trio.run(read)
    (tmp_path / "v" / SUPERBLOCK).write_text(text.partition("created")[0])
    assert repair(tmp_path / "v").left == []
    assert trio.run(read) == {b"only a name"}


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A volume whose tables have many pages."""
    source = tmp_path_factory.mktemp("large") / "volume"

    async def make() -> None:
        async with open_test_volume(source) as volume:
            fs = volume.filesystem
            for name in range(2000):
                attributes = await fs.mknod(ROOT_INODE, b"%04d" % name + b"." * 50, 0o100644, OWNER)
                await fs.forget(attributes.inode, 1)
            await fs.mkdir(ROOT_INODE, b"directory", 0o755, OWNER)

    trio.run(make)
    return source


@pytest.mark.parametrize("page", range(8, 60, 7))
def test_a_broken_page_costs_no_more_than_its_rows(large: Path, tmp_path: Path, page: int) -> None:
    source = Path(shutil.copytree(large, tmp_path / "copy"))
    database = source / DATABASE
    content = bytearray(database.read_bytes())
    assert len(content) > 80 * PAGE
    content[page * PAGE : (page + 1) * PAGE] = b"\xa5" * PAGE
    database.write_bytes(content)
    if not codes(source):
        assert len(trio.run(read_everything, source)) == 2001  # the page is not in use
        return
    assert codes(source) == {"database"}
    told: list[str] = []
    result = repair(source, told=told)
    assert result.left == [], told
    assert (source / "lost+found" / "meta" / "benchfs.db").read_bytes()[: len(content)] == bytes(content)
    names = trio.run(read_everything, source)
    assert left(source) == []
    assert len(names) > 1800, told


def test_a_database_that_is_none_is_left_for_a_dump(volume: Damaged) -> None:
    database = volume.source / DATABASE
    database.write_bytes(b"no database" * 1000)
    assert codes(volume.source) == {"database-unreadable"}
    assert {finding.code for finding in repair(volume.source).left} == {"database-unreadable"}
    assert database.read_bytes() == b"no database" * 1000
    database.unlink()
    assert codes(volume.source) == {"database-unreadable"}


def test_without_chunks_nothing_is_made_a_hole(volume: Damaged) -> None:
    (volume.source / "chunks").rename(volume.source / "elsewhere")
    assert codes(volume.source) == {"chunks-missing"}
    assert {finding.code for finding in repair(volume.source).left} == {"chunks-missing"}
    (volume.source / "elsewhere").rename(volume.source / "chunks")
    assert left(volume.source) == []


def test_an_interrupted_exchange_is_completed(volume: Damaged) -> None:
    before = trio.run(read_everything, volume.source)
    (volume.source / "meta").rename(volume.source / "meta.new")
    with pytest.raises(DamagedVolume):
        trio.run(read_everything, volume.source)
    assert codes(volume.source) == {"database-unreadable"}
    assert repair(volume.source).left == []
    assert trio.run(read_everything, volume.source) == before


def test_other_directories_are_no_volumes(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(NotAVolume):
        repair(tmp_path)
