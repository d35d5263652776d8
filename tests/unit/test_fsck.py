"""fsck finds each damage, under the right code; one row of the table for each. A sound volume has no findings."""

from __future__ import annotations

import sqlite3
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from benchfs_core.errors import NotAVolume
from benchfs_core.fsck import check_volume
from benchfs_core.superblock import DATABASE
from benchfs_core.types import ROOT_INODE, InodeId
from tests.support.volumes import CHUNK_SIZE, OWNER, codes, findings, open_test_volume, write_file


class Damaged:
    """A closed volume with a directory, a file in it, a file with two chunks and a hole, a symlink and an xattr."""

    def __init__(self, source: Path) -> None:
        self.source = source
        self.inodes: dict[str, InodeId] = {}

    async def make(self) -> None:
        async with open_test_volume(self.source) as volume:
            fs = volume.filesystem
            inodes = self.inodes
            inodes["directory"] = (await fs.mkdir(ROOT_INODE, b"directory", 0o755, OWNER)).inode
            inodes["inner"] = (await fs.mkdir(inodes["directory"], b"inner", 0o755, OWNER)).inode
            inodes["file"] = await write_file(fs, b"file", b"x" * 100)
            await write_file(fs, b"file", b"y" * 10, offset=2 * CHUNK_SIZE)
            inodes["empty"] = (await fs.mknod(inodes["inner"], b"empty", 0o100644, OWNER)).inode
            inodes["symlink"] = (await fs.symlink(ROOT_INODE, b"symlink", b"target", OWNER)).inode
            await fs.xattrs.set(inodes["file"], b"user.x", b"1")

    def sql(self, statement: str) -> None:
        """Change the database; names in braces stand for inode numbers."""
        connection = sqlite3.connect(self.source / DATABASE)
        assert connection.execute(statement.format(**self.inodes)).rowcount > 0
        connection.commit()
        connection.close()

    def chunk(self, index: int = 0, inode: str = "file") -> Path:
        return self.source / "chunks" / str(self.inodes[inode]) / str(index)


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
]  # fmt: skip


@pytest.mark.parametrize(
    ("statement", "expected"), [row[1:] for row in IN_THE_DATABASE], ids=[r[0] for r in IN_THE_DATABASE]
)
def test_damage_in_the_database(volume: Damaged, statement: str, expected: set[str]) -> None:
    volume.sql(statement)
    assert codes(volume.source) == expected


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


def test_a_broken_page_of_the_database_is_a_finding(volume: Damaged) -> None:
    path = volume.source / DATABASE
    content = bytearray(path.read_bytes())
    content[4096 * 3 : 4096 * 4] = b"\xa5" * 4096
    path.write_bytes(content)
    assert "database" in codes(volume.source)


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
