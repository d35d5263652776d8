"""All rows of all tables, as they are: for dumps, restoring and saving what a damaged database still has.

SQL lives here as in the rest of ``benchfs_core.metadata``; the tables and their columns are those of ``schema``.
Memory is bounded: rows come one by one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import apsw

from benchfs_core.metadata.database import IN_MEMORY, Database
from benchfs_core.metadata.schema import SCHEMA_VERSION, UNREPAIRED

Row = tuple[int | bytes | None, ...]
"""The values of one row, in the order of the table's columns."""

_PROBES = 4096
"""How often to try again behind a place in a table that cannot be read."""


@dataclass(frozen=True, slots=True)
class Table:
    """One table of the schema."""

    name: str
    columns: tuple[str, ...]
    blobs: tuple[bool, ...]
    """Which columns hold bytes; the others hold integers, or NULL."""
    key: tuple[str, ...]
    """Columns of the primary key; empty if there is none."""


def schema_tables() -> tuple[Table, ...]:
    """The tables of this release's schema, by name."""
    database = Database.create(IN_MEMORY, ())
    try:
        names = [name for (name,) in database.execute("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY 1")]
        return tuple(_table(database, name) for name in names)
    finally:
        database.close()


def read_rows(database: Database, table: Table) -> Iterator[Row]:
    """Every row, by rising key."""
    yield from database.execute(f"SELECT {', '.join(table.columns)} FROM {table.name} {_order(table)}")


class RowWriter:
    """Fills a new database at ``path``, whose directory exists; it is there whole once ``close`` has returned.

    It is marked as one that fsck has yet to compare with the chunk files.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._database = Database.create(path, ())
        self._database.execute(f"PRAGMA application_id = {UNREPAIRED}")
        self._database.execute("BEGIN")

    def add(self, table: Table, row: Row) -> bool:
        """Add a row; whether there was room for it: not for a second one of one key, nor for values that cannot be."""
        places = ", ".join("?" * len(table.columns))
        try:
            self._database.execute(f"INSERT OR IGNORE INTO {table.name} VALUES ({places})", row)
        except Exception as error:
            if isinstance(error.__cause__, (apsw.ConstraintError, apsw.MismatchError)):
                return False
            raise
        return bool(self._database.first_row("SELECT changes()")[0])

    def execute(self, sql: str, values: Row = ()) -> None:
        """Change a row."""
        self._database.execute(sql, values)

    def highest(self) -> tuple[int, int]:
        """``low`` and ``high`` of the numbers; zeros without."""
        row = self._database.execute("SELECT low, high FROM number").fetchone()
        return (0, 0) if row is None else (row[0], row[1])

    def has_inode(self, number: int) -> bool:
        """Whether there is an inode of this number."""
        return self._database.execute("SELECT 1 FROM inode WHERE inode = ?", (number,)).fetchone() is not None

    def close(self) -> None:
        """Commit and close; durable on return, but for the name."""
        self._database.execute("COMMIT")
        self._database.close()
        descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def abandon(self) -> None:
        """Close without committing."""
        self._database.close()


def clear_unrepaired(database: Database) -> None:
    """Take the mark off a database that fsck has compared with the chunk files and repaired."""
    if database.first_row("PRAGMA application_id")[0] == UNREPAIRED:
        database.execute("PRAGMA application_id = 0")


def salvage(damaged: Path, writer: RowWriter, tell: Callable[[str], None]) -> None:
    """Copy every row that can still be read from a damaged database.

    Each table is read from both ends, then from the middle of what is left, and so on.
    """
    connection = apsw.Connection(str(damaged), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        for table in schema_tables():
            copied = _Salvage(connection, table, writer)
            copied.run()
            tell(f"table {table.name}: {copied.count} rows read{'' if copied.is_whole else ', and some not readable'}")
    finally:
        connection.close()


class _Salvage:
    """Copies one table."""

    def __init__(self, connection: apsw.Connection, table: Table, writer: RowWriter) -> None:
        self._connection = connection
        self._table = table
        self._writer = writer
        self._probes = 0
        self.count = 0
        self.is_whole = True

    def run(self) -> None:
        low, complete = self._read("", (), descending=False)
        if complete:
            return
        self.is_whole = False
        if self._table.key:
            high, _ = self._read("", (), descending=True)
            gaps = [(-(1 << 62) if low is None else low, 1 << 62 if high is None else high)]
            while gaps and self._probes < _PROBES:
                self._probes += 1
                low, high = gaps.pop(0)
                middle = (low + high) // 2
                if high - low < 2:
                    continue
                upward, _ = self._read(f"WHERE {self._table.key[0]} BETWEEN ? AND ?", (middle, high), descending=False)
                downward, _ = self._read(f"WHERE {self._table.key[0]} BETWEEN ? AND ?", (low, middle), descending=True)
                gaps += [
                    (low, middle if downward is None else downward),
                    (middle if upward is None else upward, high),
                ]

    def _read(self, where: str, values: tuple[int, ...], *, descending: bool) -> tuple[int | None, bool]:
        """Copy until an error; the first key column of the last row read, and whether there was no error."""
        last: int | None = None
        columns = ", ".join(self._table.columns)
        with suppress(apsw.Error):
            query = f"SELECT {columns} FROM {self._table.name} {where} {_order(self._table, descending=descending)}"
            for row in self._connection.execute(query, values):
                if self._writer.add(self._table, row):
                    self.count += 1
                if self._table.key and isinstance(row[self._table.columns.index(self._table.key[0])], int):
                    last = row[self._table.columns.index(self._table.key[0])]
            return values[0 if descending else 1] if values else last, True
        return last, False


def check_schema(version: object) -> bool:
    """Whether rows of a database of this schema version are rows of this release's."""
    return version == SCHEMA_VERSION


def _table(database: Database, name: str) -> Table:
    columns = database.rows(f"SELECT name, type, pk FROM pragma_table_info('{name}')")
    key = sorted((place, column) for column, _, place in columns if place)
    return Table(
        name,
        tuple(column for column, _, _ in columns),
        tuple(kind == "BLOB" for _, kind, _ in columns),
        tuple(column for _, column in key),
    )


def _order(table: Table, *, descending: bool = False) -> str:
    if not table.key:
        return ""
    return "ORDER BY " + ", ".join(f"{column} DESC" if descending else column for column in table.key)
