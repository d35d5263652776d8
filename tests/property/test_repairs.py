"""Any damage to any rows: one repair, and fsck finds nothing; the volume opens, and everything in it can be read.

The damage is SQL, at random: rows deleted, values replaced by others of the table or by impossible ones, rows doubled.
Chunk files are removed, cut, lengthened and renamed as well. No byte of a chunk file may be gone afterwards.
"""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from benchfs_core.metadata.rows import schema_tables
from benchfs_core.superblock import DATABASE
from tests.support.damage import Damaged, left, read_everything, repair
from tests.support.volumes import CHUNK_SIZE

TABLES = schema_tables()
INTEGERS = st.one_of(
    st.integers(-2, 40), st.sampled_from([0o40755, 0o100644, 0o120777, 0o10644, CHUNK_SIZE, -(1 << 63), (1 << 63) - 1]),
    st.integers(-(1 << 63), (1 << 63) - 1),
)  # fmt: skip
BYTES = st.one_of(
    st.binary(max_size=12), st.sampled_from([b"", b".", b"..", b"a/b", b"lost+found", b"#17", b"n" * 300, b"user."]),
    st.sampled_from([b"system.posix_acl_access", b"system.posix_acl_default", b"user.y"]),
)  # fmt: skip


@st.composite
def damages(draw: st.DrawFn) -> tuple[str, tuple[object, ...]]:
    """One statement, with its values."""
    table = draw(st.sampled_from(TABLES))
    kind = draw(st.sampled_from(["delete", "update", "update", "update", "copy", "insert"]))
    where = draw(st.sampled_from(["", " WHERE rowid % 2", " WHERE rowid = 17"]))
    if table.name in ("dentry", "chunk", "xattr"):  # tables without rowid
        where = where.replace("rowid", table.key[0])
    if kind == "delete":
        return f"DELETE FROM {table.name}{where}", ()
    column = draw(st.integers(0, len(table.columns) - 1))
    name = table.columns[column]
    if kind == "copy" and not table.blobs[column]:
        numbers = [other for other, blob in zip(table.columns, table.blobs, strict=True) if not blob]
        return f"UPDATE OR REPLACE {table.name} SET {name} = {draw(st.sampled_from(numbers))}{where}", ()
    values = [draw(BYTES if blob else INTEGERS) for blob in table.blobs]
    if kind == "insert":
        places = ", ".join("?" * len(values))
        return f"INSERT OR REPLACE INTO {table.name} VALUES ({places})", tuple(values)
    return f"UPDATE OR REPLACE {table.name} SET {name} = ?{where}", (values[column],)


FILES = st.sampled_from(["remove", "cut", "lengthen", "oversize", "rename", "move", "directory"])


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Damaged]:
    volume = Damaged(tmp_path_factory.mktemp("pristine") / "volume")
    trio.run(volume.make)
    yield volume
    shutil.rmtree(volume.source)


@given(st.lists(damages(), min_size=1, max_size=4), st.lists(FILES, max_size=2))
def test_any_damage_is_repaired(
    pristine: Damaged, statements: list[tuple[str, tuple[object, ...]]], files: list[str]
) -> None:
    with tempfile.TemporaryDirectory(prefix="benchfs-damage-") as place:
        source = Path(shutil.copytree(pristine.source, Path(place) / "volume"))
        connection = sqlite3.connect(source / DATABASE)
        for statement, values in statements:
            with contextlib.suppress(sqlite3.IntegrityError):  # NULL for a number: SQLite keeps that out
                connection.execute(statement, values)
        connection.commit()
        connection.close()
        for damage in files:
            _damage_files(pristine, source, damage)
        bytes_before = _bytes_in(source)
        told: list[str] = []
        repaired = repair(source, told=told)
        assert repaired.left == [], told
        assert left(source) == [], told
        assert not bytes_before - _bytes_in(source), told
        trio.run(read_everything, source)
        assert left(source) == [], told


def _damage_files(volume: Damaged, source: Path, damage: str) -> None:
    directory = source / "chunks" / str(volume.inodes["file"])
    chunk = directory / "0"
    if not chunk.is_file():
        return
    match damage:
        case "remove":
            chunk.unlink()
        case "cut":
            chunk.write_bytes(b"x" * 50)
        case "lengthen":
            chunk.write_bytes(b"x" * 5000)
        case "oversize":
            chunk.write_bytes(b"x" * CHUNK_SIZE + b"z" * 100)
        case "rename":
            chunk.rename(directory / "007")
        case "move":
            directory.rename(source / "chunks" / str(volume.inodes["inner"]))
        case "directory":
            chunk.unlink()
            chunk.mkdir()


def _bytes_in(source: Path) -> Counter[str]:
    """How often each byte is in chunk files and lost+found, other than zero."""
    counts: Counter[str] = Counter()
    for place in ("chunks", "lost+found"):
        for path in (source / place).rglob("*"):
            if path.is_file() and not path.name.startswith("benchfs"):
                counts.update(path.read_bytes().decode("latin-1"))
    return counts
