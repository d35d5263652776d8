"""One SQLite connection with one open transaction: savepoints, commits, and errors in BenchFS's own words.

May import apsw, as all of ``benchfs_core.metadata`` may. Invariants: every change of more than one statement happens in
a savepoint of the open transaction, so that it is there whole or not at all; rows that are kept back (``KeptBack``) are
written before the transaction is committed, so that they are durable with it; the transaction's number, ``sequence``,
rises by one at each commit that had changes; once the database has failed nothing is changed any more.

Nothing here awaits: between two trio checkpoints each call is atomic. The database file is opened by SQLite only:
opening it by other means and closing it again would drop SQLite's POSIX locks.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, TypeAlias

import apsw

from benchfs_core.errors import BenchFSError, DamagedVolume, MetadataFailed, NoSpace, VolumeReadOnly
from benchfs_core.host import create_overwritable
from benchfs_core.metadata.schema import DDL, PRAGMAS, SCHEMA_VERSION, UPGRADES

log = logging.getLogger(__name__)

Bindings: TypeAlias = Sequence[Any] | Mapping[str, Any]
"""Values for a statement's `?` or `:name`."""

DatabaseError = apsw.Error
"""What reading raises where the file is damaged."""

PAGE_BYTES = 4096
_WAL_FRAME_BYTES = PAGE_BYTES + 24
"""A page and its frame header (https://www.sqlite.org/fileformat2.html#walformat)."""

_BUSY_WAIT_MS = 10_000

_CHANGE_BYTES = 4 * _WAL_FRAME_BYTES
"""What one change adds to the WAL, long values aside: a few pages, of which changes of one place share most."""

ROW_BYTES = 2 * _WAL_FRAME_BYTES
"""What a row that is kept back adds to the WAL, however often it is changed."""

IN_MEMORY = Path(":memory:")
"""Path of a database that lives and dies with its connection."""


class KeptBack(Protocol):
    """Rows that are changed in memory first, and written when the transaction is committed."""

    def write(self) -> None:
        """Write them into the open transaction; not within a change. What cannot be written is kept back still."""

    def keep(self) -> None:
        """A change ends, and what it did stays."""

    def take_back(self) -> None:
        """A change ends, and what it did to them is to be undone."""

    def forget(self) -> None:
        """The open transaction is lost: what the database has is so."""


class Database:
    """The connection that makes every change, and the number of its open transaction."""

    def __init__(
        self,
        connection: apsw.Connection,
        path: Path,
        *,
        read_only: bool = False,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        """Use ``open`` or ``create``; this takes over a connection as they prepared it."""
        self.path = path
        self.sequence = 1
        """Number of the open transaction; what is changed now is durable once this one is."""
        self.failure: str | None = None
        """Why nothing can be changed any more, or None."""
        self.failed_at_s = 0.0
        """When that came about, seconds since 1970."""
        self.wal_bytes = 0
        """Length of the WAL's used part after the last commit."""
        self.wal_saved_bytes = 0
        """How much of that a WAL checkpoint has copied into the database file, all of it at that time."""
        self.pending_bytes = 0
        """About how much the open transaction will add to the WAL; rather too much."""
        self._connection = connection
        self._read_only = read_only
        self._now_s = now_s
        self._changed = False
        self._holds_snapshot = False
        self._change = Change(self)
        self._kept_back: KeptBack | None = None
        connection.set_wal_hook(self._note_wal)

    @classmethod
    def open(cls, path: Path, *, read_only: bool = False, vfs: str | None = None) -> Database:
        """Open an existing database, recovering its WAL; through the SQLite VFS of that name, where one is given.

        Raises:
            DamagedVolume: not a database, or not one of this schema.
        """
        try:
            connection = _connect_read_only(path) if read_only else _connect(path, vfs)
            version = connection.pragma("user_version")
            if not read_only:
                version = _upgrade(connection, version)
        except (apsw.IOError, apsw.FullError) as error:
            raise DamagedVolume(f"{path}: {error}: see whether the disk below is full or failing") from error
        except apsw.Error as error:
            raise DamagedVolume(f"{path}: {error}: restore it from a backup") from error
        if version != SCHEMA_VERSION:
            connection.close()
            if version in UPGRADES:
                raise DamagedVolume(f"{path}: schema version {version} of an older release: mount it writable once")
            raise DamagedVolume(f"{path}: schema version {version}, this release knows {SCHEMA_VERSION}")
        return cls(connection, path, read_only=read_only)

    @classmethod
    def create(cls, path: Path, statements: tuple[tuple[str, tuple[object, ...]], ...]) -> Database:
        """Make a new database with the schema and the given first rows, and open it."""
        if path != IN_MEMORY:  # a WAL checkpoint on a full btrfs would have no space to overwrite it
            create_overwritable(path)
        connection = apsw.Connection(str(path))
        _apply_pragmas(connection)
        with connection:
            connection.execute(DDL)
            for sql, bindings in statements:
                connection.execute(sql, bindings)
            connection.pragma("user_version", SCHEMA_VERSION)
        return cls(connection, path)

    def execute(self, sql: str, bindings: Bindings = ()) -> apsw.Cursor:
        """Run one statement up to its first row; for reads, and inside ``change`` for writes.

        Raises:
            NoSpace: the filesystem below is full; the statement changed nothing.
            MetadataFailed: SQLite failed; the database changes nothing from now on.
        """
        try:
            if self._holds_snapshot and not self._connection.in_transaction:
                self._connection.execute("BEGIN")
            return self._connection.execute(sql, bindings)
        except apsw.Error as error:
            raise self._translated(error) from error

    def execute_many(self, sql: str, bindings: Iterable[Bindings]) -> None:
        """Run one statement that changes something, once for each of the bindings. Errors as ``execute``."""
        try:
            if self._holds_snapshot and not self._connection.in_transaction:
                self._connection.execute("BEGIN")
            self._connection.executemany(sql, bindings)
        except apsw.Error as error:
            raise self._translated(error) from error

    def hold_snapshot(self) -> None:
        """From now on reads are part of the open transaction, which the first of them begins.

        Each would otherwise be one of its own, whose locks cost three times as much as a lookup. Nobody else changes
        the database, so that what is read is what is there.
        """
        self._holds_snapshot = True

    def end_snapshot(self) -> None:
        """End the open transaction if it changed nothing: SQLite reuses the WAL only when nobody reads from it."""
        if self._connection.in_transaction and not self._changed:
            self.execute("COMMIT")

    @property
    def unsaved_bytes(self) -> int:
        """The most that the database file will grow by, for what was changed so far."""
        return self.wal_bytes - self.wal_saved_bytes + self.pending_bytes

    def keep_back(self, rows: KeptBack) -> None:
        """From now on have these rows written when the transaction is committed, and no others: those are now."""
        self.write_kept_back()
        self._kept_back = rows

    def write_kept_back(self) -> None:
        """Write the rows that are kept back, for who reads the tables by SQL. Errors as ``execute``."""
        if self._changed and self._kept_back is not None:
            self._kept_back.write()

    @property
    def in_change(self) -> bool:
        """Whether a change (``change``) is under way, and may yet be taken back."""
        return self._change.is_open

    @property
    def has_changes(self) -> bool:
        """Whether the open transaction changed anything."""
        return self._changed

    def change(self) -> Change:
        """Make the block's changes whole or not at all, in the open transaction; within another change as part of it.

        Raises:
            VolumeReadOnly: opened read-only, or failed before.
            NoSpace: the filesystem below is full; the block changed nothing.
            MetadataFailed: SQLite failed; the database changes nothing from now on.
        """
        return self._change

    def change_at_once(self, sql: str, bindings: Bindings) -> apsw.Cursor:
        """Make a change of a single statement, which needs no savepoint to be made whole or not at all.

        What else belongs to it is changed in rows that are kept back, right after it.

        Raises:
            VolumeReadOnly, NoSpace, MetadataFailed: as ``change``.
        """
        self._begin()
        cursor = self.execute(sql, bindings)
        self._changed = True
        self.pending_bytes += _CHANGE_BYTES
        return cursor

    def insert_at_once(self, sql: str, bindings: Bindings) -> bool:
        """``change_at_once``, of an INSERT with ON CONFLICT DO NOTHING; whether there was no conflict."""
        self.change_at_once(sql, bindings)
        return self._connection.changes() > 0

    def change_kept_back(self) -> None:
        """Before a change of nothing but rows that are kept back. VolumeReadOnly."""
        self._begin()
        self._changed = True

    def begin_change(self) -> None:
        """Called by ``Change``: open a savepoint."""
        self._begin()
        self.execute("SAVEPOINT s")

    def _begin(self) -> None:
        if self._read_only or self.failure is not None:
            raise VolumeReadOnly(self.failure or "mounted read-only")
        if not self._holds_snapshot and not self._connection.in_transaction:
            self.execute("BEGIN IMMEDIATE")

    def end_change(self, *, keep: bool) -> None:
        """Called by ``Change``: keep what was changed since ``begin_change``, or take it back."""
        if keep:
            self.execute("RELEASE s")
            self._changed = True
            self.pending_bytes += _CHANGE_BYTES
            if self._kept_back is not None:
                self._kept_back.keep()
            return
        if self._kept_back is not None:
            self._kept_back.take_back()
        if self._connection.in_transaction:
            self.execute("ROLLBACK TO s")
            self.execute("RELEASE s")

    def commit(self) -> int:
        """Append the open transaction to the WAL; return the number of the last transaction that was.

        Not durable before the WAL is flushed.

        Raises:
            MetadataFailed: SQLite failed and threw the transaction away; the database changes nothing from now on.
        """
        self.write_kept_back()
        if self._connection.in_transaction:
            try:
                self.execute("COMMIT")
            except apsw.Error as error:
                raise self._translated(error) from error
            self.pending_bytes = 0
            if self._changed:
                self._changed = False
                self.sequence += 1
        return self.sequence - 1

    def fail(self, reason: str) -> None:
        """Change nothing from now on; the first reason given is kept and logged."""
        if self.failure is None:
            self.failure = reason
            self.failed_at_s = self._now_s()
            if self._read_only:
                return  # whoever only reads is told by the error
            log.critical("%s: %s: the mount is read-only from now on", self.path, reason)

    def first_row(self, sql: str, bindings: Bindings = ()) -> tuple[Any, ...]:
        """The first row of a query that always has one."""
        row: tuple[Any, ...] | None = self.execute(sql, bindings).fetchone()
        assert row is not None
        return row

    def rows(self, sql: str, bindings: Bindings = ()) -> list[tuple[Any, ...]]:
        """All rows of a query."""
        return list(self.execute(sql, bindings))

    def close(self) -> None:
        """Close; SQLite then checkpoints and removes the WAL if this is the last connection.

        Where it cannot, the WAL stays, and nothing is lost: the next opening takes it up.
        """
        try:
            self._connection.close()
        except apsw.Error as error:
            log.warning("%s: closing: %s: the WAL is left to the next mount", self.path, error)

    def _translated(self, error: apsw.Error) -> BenchFSError:
        if isinstance(error, apsw.FullError) and self._connection.in_transaction:
            return NoSpace(f"{self.path}: no space for metadata")
        if isinstance(error, apsw.FullError) and not self._changed:
            return NoSpace(f"{self.path}: no space for metadata")
        first = self.failure
        self.fail(f"metadata database failed: {error}")
        if self._kept_back is not None and not self._connection.in_transaction:
            self._kept_back.forget()
        return MetadataFailed(f"{self.path}: {first or error}")  # what follows from the first failure explains nothing

    def _note_wal(self, _connection: apsw.Connection, _name: str, pages: int) -> int:
        self.wal_bytes = 32 + pages * _WAL_FRAME_BYTES
        if self.wal_bytes < self.wal_saved_bytes:
            self.wal_saved_bytes = 0  # begun anew
        return apsw.SQLITE_OK


class Change:
    """A block of changes; a class of its own since every request that changes something enters one."""

    __slots__ = ("_database", "_depth")

    def __init__(self, database: Database) -> None:
        self._database = database
        self._depth = 0

    @property
    def is_open(self) -> bool:
        """Whether a block is under way."""
        return self._depth > 0

    def __enter__(self) -> None:
        if not self._depth:
            self._database.begin_change()
        self._depth += 1

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._depth -= 1
        if not self._depth:
            self._database.end_change(keep=kind is None)


def _connect(path: Path, vfs: str | None) -> apsw.Connection:
    _create_wal(path)
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE, vfs=vfs)
    _apply_pragmas(connection)
    return connection


def _create_wal(path: Path) -> None:
    """Have WAL and index as overwritable files, where SQLite would make them, and leave them to the next mount."""
    for kind in ("-wal", "-shm"):  # a full btrfs would refuse to overwrite them, the second by SIGBUS
        with suppress(OSError):  # what is wrong here is wrong for SQLite as well, which tells it
            create_overwritable(Path(f"{path}{kind}"), path)


def _upgrade(connection: apsw.Connection, version: int) -> int:
    """Bring a database of an older release to this one's schema, a version at a time; the version it then has."""
    while (statements := UPGRADES.get(version)) is not None:
        with connection:
            connection.execute(statements)
            connection.pragma("user_version", version + 1)
        version += 1
    return version


def _connect_read_only(path: Path) -> apsw.Connection:
    """Open for reading, also where nothing can be written, not even the index of the WAL that SQLite keeps."""
    _create_wal(path)
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    connection.set_busy_timeout(_BUSY_WAIT_MS)  # while the process that has it mounted recovers or closes it
    try:
        connection.pragma("user_version")
        return connection
    except (apsw.CantOpenError, apsw.ReadOnlyError, apsw.IOError):
        connection.close()
    wal = Path(f"{path}-wal")
    if wal.exists() and wal.stat().st_size:
        raise DamagedVolume(
            f"{path}: was not closed in order, and cannot be recovered read-only: mount it writable once"
        )
    return apsw.Connection(f"{path.as_uri()}?immutable=1", flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI)


def _apply_pragmas(connection: apsw.Connection) -> None:
    # The statements are few and have one good plan each; without this, SQLite plans anew for every value that is bound.
    connection.config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, 1)
    connection.pragma("page_size", PAGE_BYTES)
    for pragma in PRAGMAS:
        connection.execute(pragma)
