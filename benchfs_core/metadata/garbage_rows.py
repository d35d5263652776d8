"""What the rows say about garbage: which numbers are nobody's, which rows belong to no inode.

SQL lives here as in the rest of ``benchfs_core.metadata``. Each answer is of one instant.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator

from benchfs_core.metadata.database import Database
from benchfs_core.metadata.schema import UNREPAIRED
from benchfs_core.types import InodeId

_TABLES = ("symlink", "xattr", "dirty", "chunk", "inline")


class Claim(enum.Enum):
    """Whether chunk files of a number may belong to somebody."""

    NOBODYS = enum.auto()
    """The number is settled, and no row of any table has it."""
    SOMEBODYS = enum.auto()


class GarbageRows:
    """The rows of one database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        tables = ("inode", "orphan", *_TABLES)
        anywhere = " OR ".join(f"EXISTS (SELECT 1 FROM {table} WHERE inode = ?1)" for table in tables)
        self._claimed = (
            f"SELECT ?1 >= (SELECT min(low) FROM number) OR {anywhere}"
            " OR EXISTS (SELECT 1 FROM dentry WHERE parent = ?1) OR EXISTS (SELECT 1 FROM dentry WHERE inode = ?1)"
        )

    @property
    def may_be_incomplete(self) -> bool:
        """Whether the rows were restored or rebuilt, and not compared with the chunk files since."""
        return bool(self._database.first_row("PRAGMA application_id")[0] == UNREPAIRED)

    def claim(self, inode: InodeId) -> Claim:
        """Whether chunk files of this number may belong to somebody; in one query, so that no change comes between."""
        (claimed,) = self._database.first_row(self._claimed, (inode,))
        return Claim.SOMEBODYS if claimed in (1, None) else Claim.NOBODYS

    def orphans(self) -> Iterator[tuple[InodeId, float]]:
        """Orphans without a name, and when they were unlinked if that is known, seconds since 1970."""
        query = """SELECT o.inode, ifnull(i.ctime_ns, 0) / 1e9 FROM orphan o LEFT JOIN inode i USING (inode)
                   WHERE ifnull(i.link_count, 0) = 0 AND o.inode NOT IN (SELECT inode FROM dentry)
                     AND o.inode NOT IN (SELECT parent FROM dentry) AND o.inode != 1"""
        for inode, changed_s in self._database.rows(query):
            yield InodeId(inode), changed_s

    def pointless(self) -> Iterator[tuple[InodeId, int]]:
        """Numbers that have rows but neither an inode, nor a name, nor are orphans; and how many rows."""
        rows = " UNION ALL ".join(f"SELECT inode FROM {table}" for table in _TABLES)
        query = f"""SELECT inode, count(*) FROM ({rows}) WHERE inode NOT IN (SELECT inode FROM inode)
                    AND inode NOT IN (SELECT inode FROM orphan) AND inode NOT IN (SELECT inode FROM dentry)
                    AND inode < (SELECT min(low) FROM number) GROUP BY inode"""
        for inode, count in self._database.rows(query):
            yield InodeId(inode), count

    def forget(self, inode: InodeId) -> None:
        """Drop every row of a number; durable if the database flushes at each commit."""
        with self._database.change():
            for table in ("orphan", "inode", *_TABLES):
                self._database.execute(f"DELETE FROM {table} WHERE inode = ?", (inode,))
        self._database.commit()
