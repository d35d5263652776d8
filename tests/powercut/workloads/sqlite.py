"""A SQLite database: rows that were committed are there, and SQLite's own check finds nothing.

``synchronous`` is what SQLite promises durability with: FULL with a WAL, EXTRA with a rollback journal.
"""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
from collections.abc import Sequence
from pathlib import Path

from benchfs_core.types import SyncMode
from tests.powercut.record import Judge, Settled, Teller
from tests.powercut.workloads.base import Workload

KEPT = 300
"""Rows in the table at most; older ones are deleted."""


def payload(number: int, length: int) -> bytes:
    """The row's content."""
    return (hashlib.sha256(str(number).encode()).digest() * (length // 32 + 1))[:length]


class SQLiteJudge:
    """See ``record.Judge``."""

    def __init__(self) -> None:
        self.settled = Settled()
        self._committed = self._begun = 0
        self._lengths: dict[int, int] = {}

    def begin(self, operation: Sequence[object]) -> None:
        match operation:
            case ["insert", int(number), int(length)]:
                self._begun = number
                self._lengths[number] = length

    def done(self, operation: Sequence[object], result: object, at_ns: int) -> None:
        match operation:
            case ["insert", int(number), int(length)]:
                self._committed = number
                self.settled.add(at_ns, length)

    def problems(self, directory: Path) -> list[str]:
        path = directory / "database"
        if not self._committed and not path.exists():
            return []
        with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=rw", uri=True)) as database:
            said = [row[0] for row in database.execute("PRAGMA integrity_check")]
            if said != ["ok"]:
                return [f"integrity_check: {said}"]
            if not self._committed and not database.execute("SELECT 1 FROM sqlite_master").fetchall():
                return []
            rows = dict(database.execute("SELECT number, payload FROM rows ORDER BY number"))
        newest = max(rows, default=0)
        if not self._committed <= newest <= self._begun:
            return [f"the newest row is {newest}; {self._committed} was committed, {self._begun} begun"]
        if rows and (list(rows) != list(range(min(rows), newest + 1)) or min(rows) > max(1, newest - KEPT + 1)):
            return [f"rows are missing between {min(rows)} and {newest}"]
        return [
            f"row {number} is wrong"
            for number, found in rows.items()
            if found != payload(number, self._lengths[number])
        ]


class SQLite(Workload):
    """See the module."""

    @staticmethod
    def judge(sync: SyncMode) -> Judge:
        return SQLiteJudge()

    def work(self, directory: Path, tell: Teller) -> None:
        journal, synchronous = self.random.choice((("WAL", "FULL"), ("DELETE", "EXTRA"), ("TRUNCATE", "EXTRA")))
        with contextlib.closing(sqlite3.connect(directory / "database", isolation_level=None)) as database:
            database.execute(f"PRAGMA journal_mode={journal}")
            database.execute(f"PRAGMA synchronous={synchronous}")
            database.execute("CREATE TABLE rows (number INTEGER PRIMARY KEY, payload BLOB)")
            for number in range(1, 1 << 60):
                length = self.random.choice((10, 100, 5000, 40_000))
                tell.begin(("insert", number, length))
                database.execute("BEGIN")
                database.execute("INSERT INTO rows VALUES (?, ?)", (number, payload(number, length)))
                database.execute("DELETE FROM rows WHERE number <= ?", (number - KEPT,))
                database.execute("COMMIT")
                tell.done()
