"""Rows of inodes in memory: which statements changes take, and that what is kept back is there whole or not at all."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from benchfs_core import errors
from benchfs_core.metadata import inode_rows
from benchfs_core.metadata.checks import check_rules
from benchfs_core.metadata.contents import FileState
from benchfs_core.metadata.database import Database
from benchfs_core.metadata.manager import MetadataManager
from benchfs_core.metadata.numbers import Numbers
from benchfs_core.superblock import create_database
from benchfs_core.types import ROOT_INODE, AttributeChange, InodeId
from tests.support.volumes import CHUNK_SIZE, OWNER

FILE, DIRECTORY = stat.S_IFREG | 0o644, stat.S_IFDIR | 0o755
TIMES = AttributeChange(ctime_ns=7, mtime_ns=6)


class Traced:
    """A database on disk and its manager, with every statement that SQLite runs."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.database = create_database(path, (0, 0), 1)
        self.numbers = Numbers(self.database)
        self.numbers.confirm(self.numbers.reserve())
        self.database.commit()
        self.database.hold_snapshot()
        self.manager = MetadataManager(self.database, self.numbers)
        self.statements: list[str] = []
        self.database._connection.exec_trace = self._trace

    def _trace(self, _cursor: apsw.Cursor, sql: str, _bindings: object) -> bool:
        self.statements.append(sql)
        return True

    def take(self) -> list[str]:
        """First words of what was run since the last call, but for the beginning of a transaction."""
        taken = [sql.split()[0] for sql in self.statements if sql != "BEGIN"]
        self.statements.clear()
        return taken

    def make(self, name: bytes, mode: int = FILE) -> InodeId:
        return self.manager.create(ROOT_INODE, name, mode, OWNER, 5).inode

    def committed(self) -> Database:
        """What another connection sees."""
        return Database.open(self.path, read_only=True)

    def check(self) -> None:
        """No rule is broken in what others see."""
        database = self.committed()
        assert list(check_rules(database, CHUNK_SIZE)) == []
        database.close()


@pytest.fixture
def traced(tmp_path: Path) -> Iterator[Traced]:
    traced = Traced(tmp_path / "benchfs.db")
    traced.make(b"first")  # whatever is asked once for all
    traced.manager.set_attributes(ROOT_INODE, AttributeChange(ctime_ns=1, mode=DIRECTORY))
    traced.take()
    yield traced
    traced.database.commit()
    traced.check()
    traced.database.close()


def test_statements_of_each_change(traced: Traced) -> None:
    manager = traced.manager
    file = traced.make(b"f")
    assert traced.take() == ["INSERT"]
    manager.contents.store(file, b"x", FileState(1, 5, 5, 5))
    assert traced.take() == ["INSERT"]
    manager.set_attributes(file, TIMES)
    manager.set_attributes(file, TIMES._replace(mode=FILE))
    manager.marks.set_times(file, 8, 8, 8)
    manager.get(file)
    assert traced.take() == []
    assert manager.lookup(ROOT_INODE, b"f").inode == file
    assert traced.take() == ["SELECT"]
    manager.rename(ROOT_INODE, b"f", ROOT_INODE, b"g", 9)
    assert traced.take() == ["SELECT", "SELECT", "UPDATE"]
    manager.unlink(ROOT_INODE, b"g", 10)
    assert traced.take() == ["SELECT", "DELETE"]


def test_extended_attributes_that_no_file_has_are_not_looked_for(traced: Traced) -> None:
    file = traced.make(b"f")
    traced.take()
    with pytest.raises(errors.NoSuchAttribute):
        traced.manager.xattrs.get(file, b"user.x")
    assert traced.manager.xattrs.names(file) == []
    assert traced.take() == []
    traced.manager.xattrs.set(file, b"user.x", b"value", 5)
    assert traced.manager.xattrs.get(file, b"user.x") == b"value"
    again = MetadataManager(traced.database, traced.numbers)
    assert again.xattrs.names(file) == [b"user.x"]


def test_rows_are_written_once_with_the_commit(traced: Traced) -> None:
    files = [traced.make(b"f%d" % number) for number in range(3)]
    for file in files:
        traced.manager.set_attributes(file, TIMES)
    traced.take()
    traced.database.commit()
    assert traced.take() == ["INSERT"] * 4 + ["UPDATE", "COMMIT"]  # the fixture's file, and the root
    other = traced.committed()
    assert other.rows("SELECT mtime_ns, ctime_ns FROM inode WHERE inode = ?", (files[0],)) == [(6, 7)]
    other.close()
    traced.database.commit()
    assert traced.take() == []


def test_an_attribute_alone_is_a_change_to_be_committed(traced: Traced) -> None:
    traced.database.commit()
    traced.database.end_snapshot()
    before = traced.database.sequence
    traced.manager.set_attributes(ROOT_INODE, TIMES)
    assert traced.database.has_changes
    assert traced.database.commit() == before
    other = traced.committed()
    assert other.rows("SELECT mtime_ns FROM inode WHERE inode = 1") == [(6,)]
    other.close()


def test_an_unlinked_file_is_an_orphan_in_the_same_transaction(traced: Traced) -> None:
    file = traced.make(b"f")
    traced.manager.unlink(ROOT_INODE, b"f", 6)
    assert traced.manager.marks.orphans(0, 10) == [file]
    traced.manager.marks.forget_orphans([file])
    with pytest.raises(errors.NoSuchEntry):
        traced.manager.get(file)
    traced.manager.marks.set_times(file, 8, 8, 8)  # told too late
    traced.database.commit()
    assert traced.database.rows("SELECT inode FROM inode WHERE inode = ?", (file,)) == []


def test_a_change_that_fails_takes_back_rows_in_memory(traced: Traced) -> None:
    known, unwritten = traced.make(b"known"), traced.make(b"other")
    traced.database.commit()
    traced.manager.set_attributes(unwritten, TIMES)
    before = [traced.manager.get(inode) for inode in (ROOT_INODE, known, unwritten)]
    made: list[InodeId] = []

    def fail_halfway() -> None:
        with traced.database.change():
            made.extend((traced.make(b"new"), traced.make(b"directory", DIRECTORY)))
            assert traced.manager.get(made[1]).link_count == 2
            traced.manager.unlink(ROOT_INODE, b"known", 20)
            traced.manager.set_attributes(unwritten, AttributeChange(ctime_ns=30, uid=4))
            traced.manager.marks.forget_orphans([known])
            raise ValueError("halfway")

    with pytest.raises(ValueError, match="halfway"):
        fail_halfway()
    assert [traced.manager.get(inode) for inode in (ROOT_INODE, known, unwritten)] == before
    for inode in made:
        with pytest.raises(errors.NoSuchEntry):
            traced.manager.get(inode)
    traced.database.commit()
    again = MetadataManager(traced.database, traced.numbers)
    assert [again.get(inode) for inode in (ROOT_INODE, known, unwritten)] == before


def test_a_name_that_is_taken_changes_nothing(traced: Traced) -> None:
    file = traced.make(b"f")
    before = traced.manager.get(ROOT_INODE)
    for mode in (FILE, DIRECTORY):
        with pytest.raises(errors.EntryExists):
            traced.make(b"f", mode)
    with pytest.raises(errors.EntryExists):
        traced.manager.symlink(ROOT_INODE, b"f", b"target", OWNER, 9)
    assert traced.manager.get(ROOT_INODE) == before
    assert traced.manager.lookup(ROOT_INODE, b"f").inode == file


def test_a_protected_file_is_told_first_that_the_name_is_taken(traced: Traced) -> None:
    file = traced.make(b"f")
    traced.manager.set_flags(file, 0x10, 6)
    with pytest.raises(errors.EntryExists):
        traced.manager.link(file, ROOT_INODE, b"first", 7)
    with pytest.raises(errors.NotPermitted):
        traced.manager.link(file, ROOT_INODE, b"g", 7)
    traced.manager.set_flags(file, 0, 8)


def test_a_transaction_that_is_lost_is_forgotten(traced: Traced) -> None:
    traced.database.commit()
    before = traced.manager.get(ROOT_INODE)
    lost = traced.make(b"lost")
    traced.database._connection.set_commit_hook(lambda: True)  # has SQLite roll back
    with pytest.raises(errors.MetadataFailed):
        traced.database.commit()
    assert traced.manager.get(ROOT_INODE) == before
    with pytest.raises(errors.NoSuchEntry):
        traced.manager.get(lost)


def test_what_is_known_is_bounded(traced: Traced, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inode_rows, "MAX_KNOWN", 4)
    files = [traced.make(b"f%d" % number) for number in range(9)]
    rows = traced.manager._inodes
    assert len(rows._known) >= 9  # what is kept back stays
    traced.database.commit()
    assert len(rows._known) <= 4
    for file in files:
        assert traced.manager.get(file).ctime_ns == 5
    assert len(rows._known) <= 4
