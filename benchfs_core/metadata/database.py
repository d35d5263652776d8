"""One SQLite connection with one open transaction: savepoints, commits, and errors in BenchFS's own words.

May import apsw, as all of ``benchfs_core.metadata`` may. Invariants: every change happens in a savepoint of the open
transaction, so that it is there whole or not at all; the transaction's number, ``sequence``, rises by one at each
commit that had changes; once the database has failed nothing is changed any more.

Nothing here awaits: between two trio checkpoints each call is atomic. The database file is opened by SQLite only:
opening it by other means and closing it again would drop SQLite's POSIX locks.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apsw

from benchfs_core.errors import BenchFSError, DamagedVolume, MetadataFailed, NoSpace, VolumeReadOnly
from benchfs_core.metadata.schema import DDL, PRAGMAS, SCHEMA_VERSION

log = logging.getLogger(__name__)

DatabaseError = apsw.Error
"""What reading raises where the file is damaged."""

PAGE_BYTES = 4096
_WAL_FRAME_BYTES = PAGE_BYTES + 24
"""A page and its frame header (https://www.sqlite.org/fileformat2.html#walformat)."""

IN_MEMORY = Path(":memory:")
"""Path of a database that lives and dies with its connection."""


class Database:
    """The connection that makes every change, and the number of its open transaction."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        """Open an existing database, recovering its WAL.

        Raises:
            DamagedVolume: not a database, or not one of this schema.
        """
        self.path = path
        self.sequence = 1
        """Number of the open transaction; what is changed now is durable once this one is."""
        self.failure: str | None = None
        """Why nothing can be changed any more, or None."""
        self.wal_bytes = 0
        """Length of the WAL's used part after the last commit."""
        self._read_only = read_only
        self._changed = False
        try:
            flags = apsw.SQLITE_OPEN_READONLY if read_only else apsw.SQLITE_OPEN_READWRITE
            self._connection = apsw.Connection(str(path), flags=flags)
            if not read_only:
                _apply_pragmas(self._connection)
            version = self._connection.pragma("user_version")
        except apsw.Error as error:
            raise DamagedVolume(f"{path}: {error}: restore it from a backup") from error
        if version != SCHEMA_VERSION:
            self._connection.close()
            raise DamagedVolume(f"{path}: schema version {version}, this release knows {SCHEMA_VERSION}")
        self.execute: Callable[..., apsw.Cursor] = self._connection.execute
        """Run one statement; for reads, and inside ``change`` for writes."""
        self._connection.set_wal_hook(self._note_wal)

    @classmethod
    def create(cls, path: Path, statements: tuple[tuple[str, tuple[object, ...]], ...]) -> Database:
        """Make a new database with the schema and the given first rows, and open it."""
        connection = apsw.Connection(str(path))
        _apply_pragmas(connection)
        with connection:
            connection.execute(DDL)
            for sql, bindings in statements:
                connection.execute(sql, bindings)
            connection.pragma("user_version", SCHEMA_VERSION)
        if path != IN_MEMORY:
            connection.close()
            return cls(path)
        database = cls.__new__(cls)
        database._adopt(connection, path)
        return database

    def _adopt(self, connection: apsw.Connection, path: Path) -> None:
        self.path, self.sequence, self.failure, self.wal_bytes = path, 1, None, 0
        self._read_only, self._changed, self._connection = False, False, connection
        self.execute = connection.execute

    @property
    def has_changes(self) -> bool:
        """Whether the open transaction changed anything."""
        return self._changed

    @property
    def in_memory(self) -> bool:
        """Whether there is no file to flush."""
        return self.path == IN_MEMORY

    @contextmanager
    def change(self) -> Iterator[None]:
        """Make the block's changes whole or not at all, in the open transaction.

        Raises:
            VolumeReadOnly: opened read-only, or failed before.
            NoSpace: the filesystem below is full; the block changed nothing.
            MetadataFailed: SQLite failed; the database changes nothing from now on.
        """
        if self._read_only or self.failure is not None:
            raise VolumeReadOnly(self.failure or "mounted read-only")
        execute = self.execute
        try:
            if not self._connection.in_transaction:
                execute("BEGIN IMMEDIATE")
            execute("SAVEPOINT s")
            try:
                yield
            except BaseException:
                if self._connection.in_transaction:
                    execute("ROLLBACK TO s")
                    execute("RELEASE s")
                raise
            execute("RELEASE s")
            self._changed = True
        except apsw.Error as error:
            raise self._translated(error) from error

    def commit(self) -> int:
        """Append the open transaction to the WAL; return the number of the last transaction that was.

        Not durable before the WAL is flushed.

        Raises:
            MetadataFailed: SQLite failed and threw the transaction away; the database changes nothing from now on.
        """
        if self._connection.in_transaction:
            try:
                self.execute("COMMIT")
            except apsw.Error as error:
                raise self._translated(error) from error
            if self._changed:
                self._changed = False
                self.sequence += 1
        return self.sequence - 1

    def fail(self, reason: str) -> None:
        """Change nothing from now on; the first reason given is kept and logged."""
        if self.failure is None:
            self.failure = reason
            log.critical("%s: %s: the mount is read-only from now on", self.path, reason)

    def first_row(self, sql: str, bindings: tuple[object, ...] = ()) -> tuple[Any, ...]:
        """The first row of a query that always has one."""
        row: tuple[Any, ...] | None = self.execute(sql, bindings).fetchone()
        assert row is not None
        return row

    def close(self) -> None:
        """Close; SQLite then checkpoints and removes the WAL if this is the last connection."""
        self._connection.close()

    def _translated(self, error: apsw.Error) -> BenchFSError:
        if isinstance(error, apsw.FullError) and self._connection.in_transaction:
            return NoSpace(f"{self.path}: no space for metadata")
        if isinstance(error, apsw.FullError) and not self._changed:
            return NoSpace(f"{self.path}: no space for metadata")
        self.fail(f"metadata database failed: {error}")
        return MetadataFailed(f"{self.path}: {error}")

    def _note_wal(self, _connection: apsw.Connection, _name: str, pages: int) -> int:
        self.wal_bytes = 32 + pages * _WAL_FRAME_BYTES
        return apsw.SQLITE_OK


class WalCheckpointer:
    """A second connection that copies the WAL into the database file, for use in a worker thread."""

    def __init__(self, path: Path) -> None:
        self._connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
        self._connection.pragma("synchronous", "NORMAL")
        self._connection.pragma("wal_autocheckpoint", 0)

    def run(self) -> bool:
        """Copy and flush what readers allow (a "passive" WAL checkpoint); blocks. Whether all of the WAL was copied.

        Raises:
            OSError: SQLite's error as a number of the operating system: ENOSPC or EIO.
        """
        try:
            total, done = self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        except apsw.FullError as error:
            raise OSError(28, str(error), str(self._connection.filename)) from error
        except apsw.Error as error:
            raise OSError(5, str(error), str(self._connection.filename)) from error
        return total == done

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def open_wal(path: Path) -> int:
    """Open the WAL of the database at ``path`` for flushing; return the descriptor.

    Its name is durable on return. Unlike the database file, the WAL carries no locks that closing would drop.
    """
    descriptor = os.open(f"{path}-wal", os.O_RDWR | os.O_CLOEXEC)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
    return descriptor


def _apply_pragmas(connection: apsw.Connection) -> None:
    connection.pragma("page_size", PAGE_BYTES)
    for pragma in PRAGMAS:
        connection.execute(pragma)
