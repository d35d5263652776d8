"""Repairs of names: after it every inode has its names, every directory one, and the root leads to all of them.

SQL lives here as in the rest of ``benchfs_core.metadata``. Invariant: what has no name, or cannot be reached, comes to
lie in the directory ``lost+found`` of the root, as ``#<inode>``; no inode is dropped.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Sequence

from benchfs_core.metadata.database import Database
from benchfs_core.metadata.repairs import BAD_ENTRY, Repairs
from benchfs_core.types import ROOT_INODE, InodeId

LOST_AND_FOUND = b"lost+found"

_ENTRIES = (
    ("entries that lead nowhere, or out of nowhere", f"DELETE FROM dentry WHERE {BAD_ENTRY}"),
    (
        "further entries of directories",
        """DELETE FROM dentry WHERE (parent, cookie) IN (
             SELECT parent, cookie FROM (
               SELECT d.parent, d.cookie, row_number() OVER (
                 PARTITION BY d.inode ORDER BY d.parent = i.parent DESC, d.parent, d.cookie) AS place
               FROM dentry d JOIN inode i USING (inode) WHERE i.mode & 0xF000 = :directory)
             WHERE place > 1)""",
    ),
    (
        "orphans that are none",
        """DELETE FROM orphan WHERE inode IN (SELECT inode FROM inode WHERE link_count != 0)
             OR inode IN (SELECT inode FROM dentry) OR inode IN (SELECT parent FROM dentry)""",
    ),
)

_COUNTS = (
    (
        "parents",
        """UPDATE inode SET parent = NULL WHERE parent IS NOT NULL AND mode & 0xF000 != :directory""",
    ),
    (
        "parents",
        """UPDATE inode SET parent = d.parent FROM dentry d
           WHERE d.inode = inode.inode AND mode & 0xF000 = :directory AND inode.parent IS NOT d.parent""",
    ),
    (
        "link counts",
        """UPDATE inode SET link_count = n.names FROM (SELECT inode, count(*) AS names FROM dentry GROUP BY inode) n
           WHERE n.inode = inode.inode AND mode & 0xF000 != :directory AND link_count != n.names""",
    ),
    (
        "link counts",
        """UPDATE inode SET link_count = n.names FROM (
             SELECT i.inode AS number, 2 + count(c.inode) AS names
             FROM inode i LEFT JOIN dentry d ON d.parent = i.inode
                  LEFT JOIN inode c ON c.inode = d.inode AND c.mode & 0xF000 = :directory
             WHERE i.mode & 0xF000 = :directory GROUP BY i.inode) n
           WHERE n.number = inode.inode AND inode.link_count != n.names
             AND inode.inode NOT IN (SELECT inode FROM orphan)""",
    ),
)

_UNREACHED = """
    WITH RECURSIVE reached (inode) AS (
      VALUES (1) UNION SELECT d.inode FROM reached r JOIN dentry d ON d.parent = r.inode)
    SELECT i.inode FROM inode i
    WHERE mode & 0xF000 = 0x4000
      AND inode NOT IN (SELECT inode FROM reached) AND inode NOT IN (SELECT inode FROM orphan)
    ORDER BY inode"""

_NAMELESS = """
    SELECT inode FROM inode WHERE mode & 0xF000 != 0x4000 AND inode NOT IN (SELECT inode FROM dentry)
      AND inode NOT IN (SELECT inode FROM orphan) ORDER BY inode"""


def repair_rows(
    database: Database,
    chunk_size: int,
    now_ns: int,
    *,
    unowned: Sequence[InodeId],
    tell: Callable[[str], None],
) -> None:
    """Put every row right, in one transaction; durable on return if the database flushes at each commit.

    Args:
        database: open for writing.
        chunk_size: of the volume.
        now_ns: the time that new inodes get.
        unowned: numbers that have chunk files and no inode row.
        tell: hears what was done.
    """
    with database.change():
        repairs = Repairs(database, chunk_size, now_ns, tell)
        repairs.numbers(unowned)
        repairs.values()
        repairs.make_lost_inodes(unowned)
        repairs.root()
        repairs.rows()
        _repair_tree(repairs)
    database.commit()


def _repair_tree(repairs: Repairs) -> None:
    execute = repairs.database.execute
    repairs.steps(_ENTRIES, "removed")
    lost = _LostAndFound(repairs)
    unreached = [number for (number,) in repairs.database.rows(_UNREACHED)]
    for number in _tops(repairs.database, unreached):
        execute("DELETE FROM dentry WHERE inode = ?", (number,))
        lost.attach(number)
    for (number,) in repairs.database.rows(_NAMELESS):
        lost.attach(number)
    repairs.steps(_COUNTS, "corrected")


def _tops(database: Database, unreached: Sequence[int]) -> list[int]:
    """Of directories that cannot be reached, those from which all of them can: without an entry, or one of a cycle."""
    wanted = set(unreached)
    above: dict[int, int] = {}
    if wanted:
        for parent, number in database.execute("SELECT parent, inode FROM dentry"):
            if number in wanted:
                above[number] = parent
    tops, seen = [], set()
    for number in unreached:
        path = []
        while number in above and number not in seen:
            seen.add(number)
            path.append(number)
            number = above[number]
        if number not in seen:
            seen.add(number)
            tops.append(number)
        elif number in path:  # a cycle, entered here for the first time
            tops.append(min(path[path.index(number) :]))
    return tops


class _LostAndFound:
    """The directory of what has no name; made when something needs it."""

    def __init__(self, repairs: Repairs) -> None:
        self._repairs = repairs
        self._directory: int | None = None

    def attach(self, number: int) -> None:
        """Name an inode in it."""
        if self._directory is None:
            self._directory = self._find() or self._make()
        name = self._add(self._directory, b"#%d" % number, number)
        self._repairs.tell(f"inode {number} is named /{LOST_AND_FOUND.decode()}/{name.decode()}")

    def _find(self) -> int | None:
        row = self._repairs.database.execute(
            "SELECT inode FROM dentry JOIN inode USING (inode) WHERE dentry.parent = 1 AND name = ?"
            " AND mode & 0xF000 = ?",
            (LOST_AND_FOUND, stat.S_IFDIR),
        ).fetchone()
        return None if row is None else int(row[0])

    def _make(self) -> int:
        number = self._repairs.make_directory(0o700, ROOT_INODE)
        self._add(ROOT_INODE, LOST_AND_FOUND, number)
        return number

    def _add(self, parent: int, wanted: bytes, number: int) -> bytes:
        """Add an entry under the wanted name, or that with a suffix; the name."""
        execute = self._repairs.database.execute
        name, tries = wanted, 0
        while execute("SELECT 1 FROM dentry WHERE parent = ? AND name = ?", (parent, name)).fetchone() is not None:
            tries += 1
            name = b"%s.%d" % (wanted, tries)
        execute("INSERT INTO dentry VALUES (?, ?, ?, ?)", (parent, self._repairs.take_number(), name, number))
        return name
