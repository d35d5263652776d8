"""fsck finds each damage, under the right code, and repairs it; one row of the table for each."""

from __future__ import annotations

import errno
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from benchfs_core.errors import DamagedVolume, NotAVolume
from benchfs_core.findings import CODES
from benchfs_core.fsck import Options, check_volume
from tests.support.damage import Damaged, left, read_everything, repair
from tests.support.volumes import CHUNK_SIZE, codes, findings, open_test_volume


@pytest.fixture
def volume(tmp_path: Path) -> Damaged:
    volume = Damaged(tmp_path / "volume")
    trio.run(volume.make)
    return volume


IN_THE_DATABASE = [
    ("dentry-gone", "DELETE FROM dentry WHERE name = CAST('file' AS BLOB)", {"link-count"}),
    ("link count", "UPDATE inode SET link_count = 2 WHERE inode = {file}", {"link-count"}),
    ("directory's link count", "UPDATE inode SET link_count = 2 WHERE inode = {directory}", {"link-count"}),
    ("unnamed", "UPDATE inode SET link_count = 0 WHERE inode = {empty}", {"link-count", "unnamed"}),
    ("dangling", "UPDATE dentry SET inode = 9 WHERE inode = {empty}", {"dentry-dangling", "link-count"}),
    ("parent is a file", "UPDATE dentry SET parent = {file} WHERE inode = {empty}", {"dentry-parent"}),
    ("parent is missing", "UPDATE dentry SET parent = 9 WHERE inode = {empty}", {"dentry-parent"}),
    ("wrong parent", "UPDATE inode SET parent = 1 WHERE inode = {inner}", {"directory-parent"}),
    ("cycle", "UPDATE dentry SET parent = {inner} WHERE inode = {directory}",
     {"directory-parent", "unreachable", "link-count"}),
    ("name", "UPDATE dentry SET name = x'612f62' WHERE inode = {empty}", {"dentry-name"}),
    ("name of dots", "UPDATE dentry SET name = x'2e2e' WHERE inode = {empty}", {"dentry-name"}),
    ("orphan with a name", "INSERT INTO orphan VALUES ({file})", {"orphan-named"}),
    ("xattr without inode", "UPDATE xattr SET inode = 9", {"xattr-owner"}),
    ("malformed ACL", "UPDATE xattr SET name = CAST('system.posix_acl_access' AS BLOB)", {"acl"}),
    ("ACL and mode", "INSERT INTO xattr VALUES ({file}, CAST('system.posix_acl_access' AS BLOB),"
     " x'0200000001000700ffffffff04000000ffffffff10000000ffffffff20000000ffffffff')", {"acl"}),
    ("default ACL of a file", "INSERT INTO xattr VALUES ({file}, CAST('system.posix_acl_default' AS BLOB),"
     " x'0200000001000600ffffffff04000400ffffffff20000400ffffffff')", {"acl"}),
    ("symlink's target", "DELETE FROM symlink", {"symlink"}),
    ("symlink's size", "UPDATE inode SET size = 5 WHERE inode = {symlink}", {"symlink"}),
    ("target without symlink", "INSERT INTO symlink VALUES ({file}, x'61')", {"symlink"}),
    ("dirty directory", "INSERT INTO dirty VALUES ({inner}, NULL)", {"dirty-owner"}),
    ("chunks of a directory", "UPDATE chunk SET inode = {inner}",
     {"chunk-owner", "chunk-missing", "chunk-unknown", "blocks", "size"}),
    ("chunk's length", "UPDATE chunk SET length = 99 WHERE chunk_index = 0", {"chunk-length"}),
    ("impossible chunk", "UPDATE chunk SET length = 1 << 40 WHERE chunk_index = 0",
     {"chunk-range", "chunk-length", "size"}),
    ("size", "UPDATE inode SET size = 50 WHERE inode = {file}", {"size"}),
    ("negative size", "UPDATE inode SET size = -1 WHERE inode = {empty}", {"size"}),
    ("blocks", "UPDATE inode SET blocks = blocks + 8 WHERE inode = {file}", {"blocks"}),
    ("number of an inode", "UPDATE number SET low = 16, high = {empty}", {"number"}),
    ("numbers the wrong way", "UPDATE number SET low = high + 1", {"number"}),
    ("two rows of numbers", "INSERT INTO number VALUES (1, 2)", {"number"}),
    ("root", "UPDATE inode SET parent = {inner} WHERE inode = 1", {"root-missing"}),
    ("no root", "DELETE FROM inode WHERE inode = 1", {"root-missing", "dentry-parent"}),
    ("root is an orphan", "INSERT INTO orphan VALUES (1)", {"root-missing", "orphan-named"}),
    ("inode lost", "DELETE FROM inode WHERE inode = {file}",
     {"dentry-dangling", "xattr-owner", "dirty-owner", "chunk-owner", "chunk-unowned"} - {"dirty-owner"}),
    ("symlink's inode lost", "DELETE FROM inode WHERE inode = {symlink}", {"dentry-dangling", "symlink"}),
    ("directory's inode lost", "DELETE FROM inode WHERE inode = {inner}",
     {"dentry-dangling", "dentry-parent", "link-count"}),
    ("removed directory has entries", "UPDATE inode SET link_count = 0 WHERE inode = {inner}",
     {"dentry-parent", "link-count", "unnamed"}),
    ("type", "UPDATE inode SET mode = 420 WHERE inode = {file}",
     {"attributes", "chunk-owner", "size", "blocks"}),
    ("negative mode", "UPDATE inode SET mode = -1 WHERE inode = {file}",
     {"attributes", "chunk-owner", "size", "blocks"}),
    ("owner", "UPDATE inode SET uid = -1 WHERE inode = {file}", {"attributes"}),
    ("unknown flags", "UPDATE inode SET flags = 1 << 40 | 0x50 WHERE inode = {file}", {"attributes"}),
    ("immutable link", "UPDATE inode SET flags = 0xB0 WHERE inode = {symlink}", {"attributes"}),
    ("parent of a file", "UPDATE inode SET parent = 1 WHERE inode = {file}", {"directory-parent"}),
    ("xattr's name", "UPDATE xattr SET name = x'78'", {"xattr"}),
    ("cut", "INSERT INTO dirty VALUES ({file}, -5)", {"dirty-cut"}),
    ("size of a directory", "UPDATE inode SET size = 5 WHERE inode = {inner}", {"size"}),
    ("reservation", "UPDATE number SET high = high + 20000", {"number"}),
    ("impossible inode number", "UPDATE inode SET inode = -7 WHERE inode = {empty}",
     {"number", "dentry-dangling", "link-count"}),
    ("inline content beside chunks", "INSERT INTO inline VALUES ({file}, x'6162')", {"inline", "blocks"}),
    ("inline content beyond the size", "INSERT INTO inline VALUES ({empty}, x'6162')", {"size", "blocks"}),
    ("inline content of a directory", "INSERT INTO inline VALUES ({inner}, x'6162')", {"inline-owner", "size"}),
    ("inline content without inode", "INSERT INTO inline VALUES (9, x'6162')", {"inline-owner"}),
    ("inline content of no length", "INSERT INTO inline VALUES ({empty}, x'')", {"inline"}),
    ("inline content too long", "INSERT INTO inline VALUES ({empty}, zeroblob(70000))", {"inline", "size", "blocks"}),
    ("impossible cookie", "UPDATE dentry SET cookie = 0 WHERE inode = {file}", {"number"}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("statement", "expected"), [row[1:] for row in IN_THE_DATABASE], ids=[r[0] for r in IN_THE_DATABASE]
)
def test_damage_in_the_database(volume: Damaged, statement: str, expected: set[str]) -> None:
    volume.sql(statement)
    assert codes(volume.source) == expected
    assert_repaired(volume, expected)


DAMAGED_SOURCES = [
    ("DELETE FROM number", "has no row"),
    ("INSERT INTO number SELECT low, high FROM number", "has more than one row"),
    ("UPDATE number SET low = high + 1", "which cannot be"),
    ("UPDATE number SET low = 15, high = 15", "which cannot be"),
    ("UPDATE number SET high = high + 20000", "which cannot be"),
    ("UPDATE number SET low = 1 << 62, high = 1 << 62", "which cannot be"),
    ("UPDATE number SET low = 16, high = {empty}", "is in use"),
    ("UPDATE number SET low = 16, high = 16", "is in use"),
    ("INSERT INTO orphan SELECT high FROM number", "is in use"),
]


@pytest.mark.parametrize(("statement", "words"), DAMAGED_SOURCES)
async def test_a_damaged_source_of_numbers_is_refused_by_the_mount_and_nothing_is_touched(
    tmp_path: Path, statement: str, words: str
) -> None:
    """Trusted, it hands out numbers in use, or takes the chunk files of others for leftovers and deletes them."""
    volume = Damaged(tmp_path / "volume")
    await volume.make()
    nobodys = volume.source / "chunks" / str(volume.inodes["symlink"] + 50)  # in the range if high is off
    nobodys.mkdir()
    volume.sql(statement)
    for read_only in (False, True):
        with pytest.raises(DamagedVolume, match=rf"{words}: repair it with benchfs fsck --repair") as raised:
            async with open_test_volume(volume.source, read_only=read_only):
                pass
        assert "\n" not in str(raised.value)
    assert nobodys.is_dir()
    nobodys.rmdir()
    assert repair(volume.source).left == []
    await read_everything(volume.source)


def assert_repaired(volume: Damaged, expected: set[str]) -> dict[str, bytes]:
    """A repair corrects what was found; the volume opens, and what was not damaged is as it was. All that is in it."""
    told: list[str] = []
    repaired = repair(volume.source, told=told)
    assert {finding.code for finding in repaired.findings} == expected
    assert (repaired.left, left(volume.source)) == ([], []), told
    content = trio.run(read_everything, volume.source)
    assert left(volume.source) == []
    assert repair(volume.source).findings == []
    return content


def _shorten(volume: Damaged) -> None:
    volume.chunk().write_bytes(b"x" * 99)


def _lengthen(volume: Damaged) -> None:
    volume.chunk().write_bytes(b"x" * (CHUNK_SIZE + 1))


def _add(volume: Damaged) -> None:
    volume.chunk(1).write_bytes(b"x")


def _add_to_empty(volume: Damaged) -> None:
    volume.chunk(0, "empty").parent.mkdir(exist_ok=True)
    volume.chunk(0, "empty").write_bytes(b"x")


def _remove(volume: Damaged) -> None:
    volume.chunk(2).unlink()


def _remove_all(volume: Damaged) -> None:
    volume.chunk().parent.rename(volume.source / "chunks" / "0")


def _replace_by_directory(volume: Damaged) -> None:
    volume.chunk().unlink()
    volume.chunk().mkdir()


def _foreign_name(volume: Damaged) -> None:
    (volume.chunk().parent / "007").write_bytes(b"")


def _foreign_directory(volume: Damaged) -> None:
    (volume.source / "chunks" / "backup").mkdir()


def _unowned(volume: Damaged) -> None:
    (volume.source / "chunks" / "9").mkdir()


IN_THE_FILES: list[tuple[Callable[[Damaged], None], set[str]]] = [
    (_shorten, {"chunk-length"}),
    (_lengthen, {"chunk-length"}),
    (_add, {"chunk-unknown"}),
    (_add_to_empty, {"chunk-unknown"}),
    (_remove, {"chunk-missing"}),
    (_remove_all, {"chunk-missing", "chunk-unowned"}),
    (_replace_by_directory, {"foreign", "chunk-missing"}),
    (_foreign_name, {"foreign"}),
    (_foreign_directory, {"foreign"}),
    (_unowned, {"chunk-unowned"}),
]


@pytest.mark.parametrize(("damage", "expected"), IN_THE_FILES, ids=[row[0].__name__ for row in IN_THE_FILES])
def test_damage_in_the_files(volume: Damaged, damage: Callable[[Damaged], None], expected: set[str]) -> None:
    damage(volume)
    assert codes(volume.source) == expected
    assert_repaired(volume, expected)


def test_a_sound_volume_has_no_findings(volume: Damaged) -> None:
    assert findings(volume.source) == []


def test_a_dirty_file_may_differ_from_its_rows(volume: Damaged) -> None:
    volume.sql("INSERT INTO dirty VALUES ({file}, NULL)")
    for damage in (_shorten, _add, _remove):
        damage(volume)
    assert findings(volume.source) == []
    _lengthen(volume)
    assert codes(volume.source) == {"chunk-length"}


def test_findings_name_inode_and_path(volume: Damaged) -> None:
    volume.sql("UPDATE inode SET link_count = 2 WHERE inode = {empty}")
    (finding,) = check_volume(volume.source)
    assert (finding.code, finding.inode, finding.path) == (
        "link-count", volume.inodes["empty"], "/directory/inner/empty"
    )  # fmt: skip
    assert str(finding) == f"link-count: inode {finding.inode} (/directory/inner/empty): link count 2, but 1 names"


def test_what_is_no_volume(tmp_path: Path) -> None:
    with pytest.raises(NotAVolume, match="there is no volume to check"):
        findings(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_checking_changes_nothing(volume: Damaged) -> None:
    def state() -> str:
        command = ["sh", "-c", "find . -type f ! -name 'benchfs.db-*' ! -name lock -exec sha256sum {} + | sort"]
        return subprocess.run(command, cwd=volume.source, capture_output=True, text=True, check=True).stdout

    before = state()
    assert findings(volume.source) == []
    assert state() == before


def test_a_repair_keeps_what_is_not_damaged(volume: Damaged) -> None:
    before = trio.run(read_everything, volume.source)
    volume.sql("DELETE FROM inode WHERE inode = {file}")
    volume.sql("DELETE FROM dentry WHERE inode = {empty}")
    volume.sql("DELETE FROM inode WHERE inode = {symlink}")
    after = trio.run(assert_repaired_later, volume)
    lost = f"/lost+found/#{volume.inodes['empty']}"
    assert after == {name: data for name, data in before.items() if not name.endswith("/empty")} | {
        "/lost+found": b"",
        lost: b"",
    }


async def assert_repaired_later(volume: Damaged) -> dict[str, bytes]:
    assert repair(volume.source).left == []
    return await read_everything(volume.source)


def test_chunk_files_without_any_row_come_back_as_a_file(volume: Damaged) -> None:
    before = trio.run(read_everything, volume.source)["/file"]
    for table in ("inode", "dentry", "xattr", "chunk"):
        volume.sql(f"DELETE FROM {table} WHERE inode = {{file}}")
    content = assert_repaired(volume, {"chunk-unowned"})
    assert content[f"/lost+found/#{volume.inodes['file']}"] == before


def test_what_looks_uncommitted_in_a_damaged_volume_is_not_deleted(volume: Damaged) -> None:
    before = trio.run(read_everything, volume.source)["/file"]
    for table in ("inode", "dentry", "xattr", "chunk"):
        volume.sql(f"DELETE FROM {table} WHERE inode = {{file}}")
    volume.sql("UPDATE number SET low = 16")
    volume.sql("UPDATE inode SET link_count = 9 WHERE inode = {empty}")
    content = assert_repaired(volume, {"link-count"})
    assert content[f"/lost+found/#{volume.inodes['file']}"] == before


def test_what_does_not_belong_is_moved_not_deleted(volume: Damaged) -> None:
    _lengthen(volume)
    (volume.chunk().parent / "007").write_bytes(b"foreign")
    (volume.source / "chunks" / "backup").mkdir()
    assert_repaired(volume, {"chunk-length", "foreign"})
    lost = volume.source / "lost+found"
    number = volume.inodes["file"]
    assert sorted(path.name for path in lost.iterdir()) == [f"{number}.0.excess", f"{number}.007", "backup"]
    assert (lost / f"{number}.007").read_bytes() == b"foreign"
    assert (lost / f"{number}.0.excess").read_bytes() == b"x"


def test_a_missing_chunk_becomes_a_hole(volume: Damaged) -> None:
    _remove(volume)
    told: list[str] = []
    repair(volume.source, told=told)
    first, last = 2 * CHUNK_SIZE, 3 * CHUNK_SIZE - 1
    assert told == [f"inode {volume.inodes['file']} (/file): bytes {first} to {last} are a hole now"]
    assert trio.run(read_everything, volume.source)["/file"] == b"x" * 100 + bytes(2 * CHUNK_SIZE - 90)


def test_a_chunk_that_cannot_be_read_is_found_with_data(volume: Damaged) -> None:
    def pread(descriptor: int, length: int, offset: int) -> bytes:
        if os.readlink(f"/proc/self/fd/{descriptor}") == str(volume.chunk(2)):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return os.pread(descriptor, length, offset)

    assert list(check_volume(volume.source, Options(pread=pread))) == []
    (finding,) = check_volume(volume.source, Options(pread=pread, data=True))
    assert str(finding) == (
        f"chunk-unreadable: inode {volume.inodes['file']} (/file): chunk 2 from byte 0: Input/output error"
    )


def test_every_code_is_in_the_manual() -> None:
    manual = (Path(__file__).parents[2] / "docs" / "fsck.md").read_text()
    rows = re.findall(r"^\| `([a-z-]+)` \| (.+?) \| (.+?) \|$", manual, re.MULTILINE)
    assert rows == [(code, about.meaning, about.repair or "none") for code, about in CODES.items()]
