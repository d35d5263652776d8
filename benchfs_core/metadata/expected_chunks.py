"""What the rows say about the chunk files of each inode, for those who compare them with what is there.

SQL lives here as in the rest of ``benchfs_core.metadata``. Reads only. Each answer is of one instant.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from benchfs_core.metadata.database import Database
from benchfs_core.metadata.numbers import MAX_NUMBER
from benchfs_core.types import ROOT_INODE, ChunkIndex, ChunkInfo, InodeId

_REGULAR = stat.S_IFREG

_MAX_DEPTH = 4096
"""Longest path told; a longer one may be a cycle."""


@contextmanager
def snapshot(database: Database) -> Iterator[None]:
    """Read in one read transaction: everything as it was at one instant, whatever a live mount does meanwhile."""
    database.execute("BEGIN")
    try:
        yield
    finally:
        database.execute("ROLLBACK")


@dataclass(frozen=True, slots=True)
class Expected:
    """What the database says, at one instant, about the chunk files of a number."""

    exists: bool
    """Whether there is an inode of this number."""
    is_regular: bool
    is_orphan: bool
    """Whether its chunk files are to be deleted."""
    is_settled: bool
    """Whether chunk files must match rows: no dirty mark, no orphan, not left to the next mount."""
    rows: dict[ChunkIndex, ChunkInfo]
    """The chunk rows by index."""


class ChunkExpectation:
    """What the database says about the chunk files of each inode, and by which path to find it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def of(self, inode: InodeId) -> Expected:
        """What must be there for one number."""
        with snapshot(self._database):
            dirty, orphan, reserved = self._database.first_row(
                "SELECT EXISTS (SELECT 1 FROM dirty WHERE inode = ?1), EXISTS (SELECT 1 FROM orphan WHERE inode = ?1),"
                " EXISTS (SELECT 1 FROM number WHERE ?1 >= low AND ?1 < high)",
                (inode,),
            )
            row = self._database.execute("SELECT mode FROM inode WHERE inode = ?", (inode,)).fetchone()
            chunks = self._database.execute("SELECT chunk_index, length, blocks FROM chunk WHERE inode = ?", (inode,))
            rows = {ChunkIndex(index): ChunkInfo(index, length, blocks) for index, length, blocks in chunks}
        settled = not (dirty or orphan or (reserved and row is None))
        is_regular = row is not None and row[0] & 0xF000 == _REGULAR
        return Expected(row is not None, is_regular, bool(orphan), settled, rows)

    def inodes_with_chunks(self) -> Iterator[InodeId]:
        """Every inode that has chunk rows; no read transaction is open between one and the next."""
        after = -MAX_NUMBER * 2
        while page := self._database.rows(
            "SELECT DISTINCT inode FROM chunk WHERE inode > ? ORDER BY inode LIMIT 1000", (after,)
        ):
            for (after,) in page:
                yield InodeId(after)

    def count(self) -> int:
        """How many inodes there are."""
        return int(self._database.first_row("SELECT count(*) FROM inode")[0])

    def path(self, inode: InodeId) -> str | None:
        """A path that leads to the inode, from the volume's root; None if none does."""
        parts: list[bytes] = []
        while inode != ROOT_INODE:
            row = self._database.execute("SELECT parent, name FROM dentry WHERE inode = ?", (inode,)).fetchone()
            if row is None or len(parts) >= _MAX_DEPTH:
                return None
            inode, name = row
            parts.append(name)
        return "/" + b"/".join(reversed(parts)).decode(errors="surrogateescape")

    def clean_size(self, inode: InodeId) -> int | None:
        """The size of a clean file; None of anything else."""
        row = self._database.execute(
            "SELECT size FROM inode WHERE inode = ?1 AND mode & 0xF000 = ?2 AND ?1 NOT IN (SELECT inode FROM dirty)",
            (inode, _REGULAR),
        ).fetchone()
        return None if row is None else int(row[0])

    def chunk_size_bounds(self) -> tuple[int, int | None]:
        """The least and the largest chunk size, in bytes, that the rows of clean files agree with; None: no largest."""
        least, largest = self._database.first_row(
            """SELECT ifnull(max(c.length), 0),
                 min(CASE WHEN c.chunk_index > 0 THEN (i.size - c.length) / c.chunk_index END)
               FROM chunk c JOIN inode i USING (inode)
               WHERE c.length > 0 AND i.inode NOT IN (SELECT inode FROM dirty)"""
        )
        return int(least), largest
