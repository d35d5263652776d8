"""Dumps: whole and of one instant, restored exactly, and only where nothing healthy would be replaced."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from pathlib import Path

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from benchfs_core.dump import dump_lines, restore, write_dump
from benchfs_core.errors import DamagedVolume, FileSystemError, MetadataFailed, NotAVolume, OptionError, UnknownFormat
from benchfs_core.filesystem import FileSystem
from benchfs_core.superblock import DATABASE, SUPERBLOCK
from benchfs_core.types import ROOT_INODE, InodeId
from tests.support.damage import Damaged, left, read_everything, repair
from tests.support.volumes import OWNER, listing, open_test_volume, write_file


@pytest.fixture
def volume(tmp_path: Path) -> Damaged:
    volume = Damaged(tmp_path / "volume")
    trio.run(volume.make)
    return volume


NAMES = st.binary(min_size=1, max_size=20).filter(lambda name: name not in (b".", b"..") and not {0, 47} & set(name))
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["mkdir", "file", "symlink", "link", "xattr", "unlink", "flags"]),
        NAMES,
        st.binary(max_size=300),
    ),
    max_size=12,
)


async def build(fs: FileSystem, steps: list[tuple[str, bytes, bytes]]) -> None:
    """A volume of whatever the steps make; those that cannot be are left out."""
    for kind, name, data in steps:
        try:
            match kind:
                case "mkdir":
                    await fs.mkdir(ROOT_INODE, name, 0o755, OWNER)
                case "file":
                    await write_file(fs, name, data)
                case "symlink":
                    await fs.symlink(ROOT_INODE, name, data.replace(b"\0", b"") or b"x", OWNER)
                case "link":
                    await fs.link(await _any_inode(fs), ROOT_INODE, name)
                case "xattr":
                    await fs.xattrs.set(await _any_inode(fs), b"user." + name, data)
                case "flags":
                    await fs.flags.set(await _any_inode(fs), len(data) & 0xF0)
                case "unlink":
                    await fs.unlink(ROOT_INODE, name)
        except FileSystemError:
            continue


async def _any_inode(fs: FileSystem) -> InodeId:
    entries = await listing(fs)
    return min((entry.attributes.inode for entry in entries.values()), default=ROOT_INODE)


@settings(max_examples=30, deadline=None, derandomize=True, database=None)
@given(STEPS)
def test_a_dump_brings_everything_back(steps: list[tuple[str, bytes, bytes]]) -> None:
    with tempfile.TemporaryDirectory(prefix="benchfs-dump-") as place:
        source, other = Path(place) / "volume", Path(place) / "other"

        async def make() -> list[bytes]:
            async with open_test_volume(source, inline_bytes=100) as volume:
                await build(volume.filesystem, steps)
                await volume.filesystem.sync()
                return list(dump_lines(source))  # while it is open

        live = trio.run(make)
        assert json.loads(live[-1])["rows"]["inode"] >= 1
        lines, before = list(dump_lines(source)), trio.run(read_everything, source)
        lines = list(dump_lines(source))
        shutil.rmtree(source / "meta")
        restore(lines, source)
        assert list(dump_lines(source)) == lines
        other.mkdir()
        shutil.copytree(source / "chunks", other / "chunks")
        restore(lines, other)
        for each in (source, other):
            assert left(each) == []
            assert trio.run(read_everything, each) == before


def test_the_form_is_as_documented(volume: Damaged, tmp_path: Path) -> None:
    count = write_dump(volume.source, tmp_path / "dump")
    lines = (tmp_path / "dump").read_bytes().splitlines(keepends=True)
    header, *rows, trailer = map(json.loads, lines)
    assert header["benchfs_dump"] == 1
    assert f'uuid = "{header["uuid"]}"' in (volume.source / SUPERBLOCK).read_text()
    assert trailer["sha256"] == hashlib.sha256(b"".join(lines[:-1])).hexdigest()
    assert count == len(rows) == sum(trailer["rows"].values())
    assert ["symlink", volume.inodes["symlink"], "dGFyZ2V0"] in rows
    assert rows == sorted(rows, key=lambda row: (row[0],))


def test_a_healthy_database_is_not_replaced(volume: Damaged) -> None:
    lines = list(dump_lines(volume.source))
    with pytest.raises(NotAVolume, match="healthy"):
        restore(lines, volume.source)
    assert list(dump_lines(volume.source)) == lines


def test_a_damaged_database_is_replaced_and_kept(volume: Damaged) -> None:
    lines, before = list(dump_lines(volume.source)), trio.run(read_everything, volume.source)
    (volume.source / DATABASE).write_bytes(b"no database")
    (volume.source / SUPERBLOCK).unlink()
    restore(lines, volume.source)
    assert left(volume.source) == []
    assert trio.run(read_everything, volume.source) == before
    assert (volume.source / "lost+found" / "meta" / "benchfs.db").read_bytes() == b"no database"


async def test_a_volume_in_use_or_of_another_uuid_is_refused(volume: Damaged, tmp_path: Path) -> None:
    lines = list(dump_lines(volume.source))
    async with open_test_volume(tmp_path / "other"):
        pass
    (tmp_path / "other" / DATABASE).unlink()
    with pytest.raises(NotAVolume, match="is volume"):
        restore(lines, tmp_path / "other")
    (tmp_path / "strange").mkdir()
    (tmp_path / "strange" / "file").touch()
    with pytest.raises(NotAVolume, match="neither empty"):
        restore(lines, tmp_path / "strange")


def _cut(lines: list[bytes]) -> list[bytes]:
    return lines[:-1]


def _row_lost(lines: list[bytes]) -> list[bytes]:
    return lines[:3] + lines[4:]


def _row_changed(lines: list[bytes]) -> list[bytes]:
    return [line.replace(b"33188", b"33189") for line in lines]


def _row_doubled(lines: list[bytes]) -> list[bytes]:
    return [*lines[:3], lines[2], *lines[3:]]


def _no_json(lines: list[bytes]) -> list[bytes]:
    return [*lines[:2], b"\xff\n", *lines[2:]]


def _unknown_table(lines: list[bytes]) -> list[bytes]:
    return [lines[0], b'["sqlite_schema",1]\n', *lines[1:]]


def _short_row(lines: list[bytes]) -> list[bytes]:
    return [lines[0], b'["orphan"]\n', *lines[1:]]


def _no_base64(lines: list[bytes]) -> list[bytes]:
    return [lines[0], b'["symlink",5,"?"]\n', *lines[1:]]


def _more(lines: list[bytes]) -> list[bytes]:
    return [*lines, lines[-1]]


def _no_header(lines: list[bytes]) -> list[bytes]:
    return lines[1:]


DAMAGES = (
    _cut, _row_lost, _row_changed, _row_doubled, _no_json, _unknown_table, _short_row, _no_base64, _more, _no_header
)  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_dump_changes_nothing(volume: Damaged, tmp_path: Path, damage: object) -> None:
    lines = list(dump_lines(volume.source))
    assert callable(damage)
    (tmp_path / "empty").mkdir()
    with pytest.raises(OptionError):
        restore(damage(lines), tmp_path / "empty")
    restore(lines, tmp_path / "empty")
    assert list(dump_lines(tmp_path / "empty")) == lines


def test_a_dump_of_a_later_release_is_refused(volume: Damaged, tmp_path: Path) -> None:
    lines = list(dump_lines(volume.source))
    lines[0] = lines[0].replace(b'"benchfs_dump":1', b'"benchfs_dump":2')
    (tmp_path / "empty").mkdir()
    with pytest.raises(UnknownFormat):
        restore(lines, tmp_path / "empty")


def test_numbers_of_chunk_files_younger_than_the_dump_are_not_used_again(volume: Damaged) -> None:
    lines = list(dump_lines(volume.source))

    async def go_on(name: bytes) -> InodeId:
        async with open_test_volume(volume.source) as opened:
            return await write_file(opened.filesystem, name, b"younger")

    young = trio.run(go_on, b"young")
    shutil.rmtree(volume.source / "meta")
    assert restore(lines, volume.source).unknown == 1
    assert repair(volume.source).left == []
    assert trio.run(go_on, b"next") > young
    assert trio.run(read_everything, volume.source)[f"/lost+found/#{young}"] == b"younger"


def test_what_cannot_be_dumped_says_so(volume: Damaged, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(NotAVolume):
        write_dump(tmp_path / "empty", tmp_path / "dump")
    content = bytearray((volume.source / DATABASE).read_bytes())
    content[4096:] = b"\xa5" * (len(content) - 4096)
    (volume.source / DATABASE).write_bytes(content)
    (tmp_path / "dump").write_bytes(b"older")
    with pytest.raises((MetadataFailed, DamagedVolume)):
        write_dump(volume.source, tmp_path / "dump")
    assert (tmp_path / "dump").read_bytes() == b"older"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dump", "empty", "volume"]
