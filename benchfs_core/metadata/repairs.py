"""Repairs of a volume's rows: whatever ``checks`` may find in the database is put right in one transaction.

SQL lives here as in the rest of ``benchfs_core.metadata``. Invariants: the transaction makes every rule of ``checks``
hold, whatever the rows were; nothing that leads to bytes is dropped while anything can still lead to it: an inode whose
row is lost is made again from the other rows, and what has no name is named in lost+found (``tree_repairs``).
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterable, Sequence

from benchfs_core import acl
from benchfs_core.errors import InvalidArgument
from benchfs_core.flags import PROTECTING, SUPPORTED
from benchfs_core.metadata.checks import (
    ALLOCATED,
    BAD_CHUNK,
    BAD_FLAGS,
    BAD_NAME,
    BAD_TARGET,
    BAD_TYPE,
    BAD_XATTR,
    CONTESTED,
    bindings,
)
from benchfs_core.metadata.database import Database
from benchfs_core.metadata.numbers import FIRST_NUMBER, MAX_NUMBER, MAX_RESERVATION
from benchfs_core.types import ROOT_INODE, ChunkInfo, InodeId

_NUMBERED = ("symlink", "xattr", "dirty", "chunk", "inline", "orphan")
"""Tables beside ``inode`` and ``dentry`` whose rows belong to an inode."""

_NO_INODE = "NOT EXISTS (SELECT 1 FROM inode i WHERE i.inode = {})"
_POSSIBLE = f"BETWEEN {FIRST_NUMBER} AND {MAX_NUMBER - 1}"

_TYPES = (
    # What other rows say, where the mode says nothing or they contradict it.
    (
        "types of directories",
        f"""UPDATE inode SET mode = mode & 4095 | :directory WHERE (({BAD_TYPE}) OR mode & 0xF000 != :directory)
            AND (parent IS NOT NULL OR ({BAD_TYPE})) AND inode IN (SELECT parent FROM dentry)""",
    ),
    (
        "types of directories",
        f"UPDATE inode SET mode = mode & 4095 | :directory WHERE ({BAD_TYPE}) AND parent IS NOT NULL",
    ),
    (
        "types of symbolic links",
        f"""UPDATE inode SET mode = mode & 4095 | :symlink WHERE mode & 0xF000 != :symlink AND parent IS NULL
            AND inode NOT IN (SELECT inode FROM chunk UNION SELECT inode FROM inline)
            AND inode NOT IN (SELECT parent FROM dentry)
            AND EXISTS (SELECT 1 FROM symlink s WHERE s.inode = inode.inode AND NOT ({BAD_TARGET})
                        AND (length(s.target) = inode.size OR {BAD_TYPE}))""",
    ),
    (
        "types of files",
        f"""UPDATE inode SET mode = mode & 4095 | :regular WHERE ({BAD_TYPE}) OR (inode != :root
            AND mode & 0xF000 IN (:directory, :symlink) AND parent IS NULL
            AND inode IN (SELECT inode FROM chunk UNION SELECT inode FROM inline)
            AND inode NOT IN (SELECT parent FROM dentry) AND inode NOT IN (SELECT inode FROM symlink))""",
    ),
)

_ROWS = (
    (
        "targets of what is no symbolic link",
        "DELETE FROM symlink WHERE inode NOT IN (SELECT inode FROM inode WHERE mode & 0xF000 = :symlink)",
    ),
    ("impossible targets", f"DELETE FROM symlink WHERE {BAD_TARGET}"),
    (
        "entries of symbolic links without target",
        """DELETE FROM dentry WHERE inode IN (
             SELECT inode FROM inode WHERE mode & 0xF000 = :symlink AND inode NOT IN (SELECT inode FROM symlink))""",
    ),
    (
        "symbolic links without target",
        "DELETE FROM inode WHERE mode & 0xF000 = :symlink AND inode NOT IN (SELECT inode FROM symlink)",
    ),
    ("impossible extended attributes", f"DELETE FROM xattr WHERE {BAD_XATTR}"),
    ("extended attributes of no inode", f"DELETE FROM xattr WHERE {_NO_INODE.format('xattr.inode')}"),
    (
        "dirty marks of no regular file",
        "DELETE FROM dirty WHERE inode NOT IN (SELECT inode FROM inode WHERE mode & 0xF000 = :regular)",
    ),
    ("impossible cuts", "UPDATE dirty SET cut = NULL WHERE cut NOT BETWEEN 0 AND :max_file"),
    (
        "chunk rows of no regular file",
        "DELETE FROM chunk WHERE inode NOT IN (SELECT inode FROM inode WHERE mode & 0xF000 = :regular)",
    ),
    ("impossible chunk rows", f"DELETE FROM chunk WHERE {BAD_CHUNK}"),
    (
        "inline content of no regular file",
        "DELETE FROM inline WHERE inode NOT IN (SELECT inode FROM inode WHERE mode & 0xF000 = :regular)",
    ),
    ("inline content without a byte", "DELETE FROM inline WHERE length(data) = 0"),
    (
        "what is beyond the longest inline content",
        "UPDATE inline SET data = substr(data, 1, :max_inline) WHERE length(data) > :max_inline",
    ),
)

_SIZES = (
    (
        "sizes",
        """UPDATE inode SET size = 0 WHERE size NOT BETWEEN 0 AND :max_file
           OR (size != 0 AND mode & 0xF000 NOT IN (:regular, :symlink))""",
    ),
    (
        "sizes",
        """UPDATE inode SET size = length(s.target) FROM symlink s
           WHERE s.inode = inode.inode AND size != length(s.target)""",
    ),
    (
        "sizes",
        """UPDATE inode SET size = c.reach FROM (
             SELECT inode, max(chunk_index * :chunk_size + length) AS reach FROM chunk
             WHERE length > 0 GROUP BY inode) c
           WHERE c.inode = inode.inode AND size < c.reach
             AND NOT EXISTS (SELECT 1 FROM dirty d WHERE d.inode = c.inode)""",
    ),
    (
        "sizes",
        "UPDATE inode SET size = length(c.data) FROM inline c WHERE c.inode = inode.inode AND size < length(c.data)",
    ),
    (
        "blocks",
        """UPDATE inode SET blocks = 0 WHERE blocks < 0 OR (blocks != 0 AND (mode & 0xF000 != :regular
             OR (inode NOT IN (SELECT inode FROM chunk UNION SELECT inode FROM inline)
                 AND inode NOT IN (SELECT inode FROM dirty))))""",
    ),
    (
        "blocks",
        f"""UPDATE inode SET blocks = c.total FROM (
             SELECT inode, sum(blocks) AS total FROM ({ALLOCATED}) GROUP BY inode) c
           WHERE c.inode = inode.inode AND blocks != c.total
             AND NOT EXISTS (SELECT 1 FROM dirty d WHERE d.inode = c.inode)""",
    ),
)


class Repairs:
    """Changes rows of one database; ``run`` of ``tree_repairs`` puts the steps together."""

    def __init__(self, database: Database, chunk_size: int, now_ns: int, tell: Callable[[str], None]) -> None:
        self.database = database
        self.now_ns = now_ns
        self.tell = tell
        self._chunk_size = chunk_size

    def steps(self, steps: Iterable[tuple[str, str]], verb: str) -> None:
        """Run statements; tell what they did to how many rows."""
        for what, sql in steps:
            self.database.execute(sql, bindings(sql, self._chunk_size))
            (count,) = self.database.first_row("SELECT changes()")
            if count:
                self.tell(f"{verb} {what}: {count}")

    def numbers(self, seen: Sequence[InodeId]) -> None:
        """See to it that numbers are handed out above every one in use, ``seen`` among the chunk files included."""
        execute = self.database.execute
        rows = self.database.rows("SELECT low, high FROM number")
        used = [FIRST_NUMBER - 1, *(number for number in seen if number < MAX_NUMBER)]
        columns = [("inode", "inode"), ("dentry", "inode"), ("dentry", "parent"), ("dentry", "cookie")]
        for table, column in (*columns, *((table, "inode") for table in _NUMBERED)):
            row = self.database.first_row(f"SELECT max({column}) FROM {table} WHERE {column} < ?", (MAX_NUMBER,))
            used.append(row[0] or 0)
        highs = [high for low, high in rows if FIRST_NUMBER <= low <= high < min(MAX_NUMBER, low + MAX_RESERVATION + 1)]
        high = max(max(used) + 1, *highs, FIRST_NUMBER)
        if rows != [(high, high)]:
            execute("DELETE FROM number")
            execute("INSERT INTO number VALUES (?, ?)", (high, high))
        self._renumber()

    def take_number(self) -> int:
        """A number that was never used."""
        (number,) = self.database.first_row("SELECT high FROM number")
        self.database.execute("UPDATE number SET low = high + 1, high = high + 1")
        return int(number)

    def values(self) -> None:
        """Types and owners that cannot be."""
        self.steps(_TYPES, "corrected")
        root = self.database.execute("SELECT uid, gid FROM inode WHERE inode = 1").fetchone() or (0, 0)
        uid, gid = (number if 0 <= number < 1 << 32 else 0 for number in root)
        for column, value in (("uid", uid), ("gid", gid)):
            bad = f"{column} NOT BETWEEN 0 AND 0xFFFFFFFF"
            self.steps([("owners", f"UPDATE inode SET {column} = {value} WHERE {bad}")], "corrected")
        self.steps([("devices", "UPDATE inode SET rdev = 0 WHERE rdev < 0")], "corrected")
        known = f"flags & ({SUPPORTED} - {PROTECTING} * (mode & 0xF000 NOT IN (:regular, :directory)))"
        self.steps([("flags", f"UPDATE inode SET flags = {known} WHERE {BAD_FLAGS}")], "corrected")

    def root(self) -> None:
        """Make the root directory what it must be."""
        execute = self.database.execute
        if execute("SELECT 1 FROM inode WHERE inode = 1").fetchone() is None:
            self._make_inode(ROOT_INODE, stat.S_IFDIR | 0o755, ROOT_INODE, 0)
            self.tell("made a root directory")
        execute(
            "UPDATE inode SET mode = ? WHERE inode = 1 AND mode & 0xF000 != ?", (stat.S_IFDIR | 0o755, stat.S_IFDIR)
        )
        execute("UPDATE inode SET parent = 1, link_count = max(link_count, 2) WHERE inode = 1")
        execute("DELETE FROM orphan WHERE inode = 1")

    def make_lost_inodes(self, unowned: Sequence[InodeId]) -> None:
        """Make again every inode that has no row any more but of which something else is known.

        Args:
            unowned: numbers that have chunk files and no row.
        """
        missing = _NO_INODE
        queries = (
            (stat.S_IFDIR | 0o700, f"SELECT DISTINCT parent FROM dentry WHERE {missing.format('parent')}"),
            (
                stat.S_IFLNK | 0o777,
                f"SELECT inode FROM symlink s WHERE {missing.format('s.inode')} AND NOT ({BAD_TARGET})"
                " AND (inode IN (SELECT inode FROM dentry) OR inode NOT IN (SELECT inode FROM orphan))",
            ),
            (
                stat.S_IFREG | 0o600,
                "SELECT DISTINCT inode FROM (SELECT inode FROM chunk UNION SELECT inode FROM inline) c"
                f" WHERE {missing.format('c.inode')}"
                " AND (inode IN (SELECT inode FROM dentry) OR inode NOT IN (SELECT inode FROM orphan))",
            ),
        )
        for mode, query in queries:
            lost = self.database.rows(query, bindings(query, self._chunk_size))
            for (number,) in lost:
                self._make_lost(number, mode)
        for number in unowned:
            self._make_lost(number, stat.S_IFREG | 0o600)

    def rows(self) -> None:
        """Rows that belong to nothing, or say what cannot be."""
        self.steps(_ROWS, "removed")
        self._part_contents()
        self.acls()
        self.steps(_SIZES, "corrected")

    def _part_contents(self) -> None:
        """Content that is both inline and in chunks: the chunks stay, the other becomes a file of its own."""
        for (number,) in self.database.rows(f"SELECT inode FROM inline WHERE {CONTESTED}"):
            new = self.take_number()
            self._make_inode(new, stat.S_IFREG | 0o600, None, 0)
            self.database.execute("UPDATE inline SET inode = ? WHERE inode = ?", (new, number))
            self.tell(f"inode {number} had content twice: what was inline is inode {new} now")

    def acls(self) -> None:
        """Access lists follow the mode; those that are none are removed."""
        lists = self.database.rows(
            "SELECT x.inode, x.name, x.value, i.mode FROM xattr x JOIN inode i USING (inode) WHERE x.name IN (?, ?)",
            (acl.ACCESS, acl.DEFAULT),
        )
        count = 0
        for inode, name, value, mode in lists:
            wanted = _repaired_acl(name, value, mode)
            if wanted == value:
                continue
            count += 1
            if wanted is None:
                self.database.execute("DELETE FROM xattr WHERE inode = ? AND name = ?", (inode, name))
            else:
                self.database.execute("UPDATE xattr SET value = ? WHERE inode = ? AND name = ?", (wanted, inode, name))
        if count:
            self.tell(f"corrected or removed ACLs: {count}")

    def _make_lost(self, number: int, mode: int) -> None:
        found = self.database.execute("SELECT 1 FROM inode WHERE inode = ?", (number,)).fetchone()
        if found is None and FIRST_NUMBER <= number < MAX_NUMBER:
            self._make_inode(number, mode, ROOT_INODE if stat.S_ISDIR(mode) else None, 0)
            self.database.execute("DELETE FROM orphan WHERE inode = ?", (number,))
            self.tell(f"made lost inode {number} again")

    def _make_inode(self, number: int, mode: int, parent: int | None, links: int) -> None:
        owner = self.database.execute("SELECT uid, gid FROM inode WHERE inode = 1").fetchone() or (0, 0)
        times = (self.now_ns,) * 3
        self.database.execute(
            "INSERT INTO inode VALUES (?, ?, ?, ?, ?, 0, 0, 0, ?, ?, ?, ?, 0, 0)",
            (number, mode, links, *owner, *times, parent),
        )

    def make_directory(self, mode: int, parent: int) -> int:
        """A new directory without a name yet; its number."""
        number = self.take_number()
        self._make_inode(number, stat.S_IFDIR | mode, parent, 2)
        return number

    def _renumber(self) -> None:
        """Give a new number to what has an impossible one."""
        execute = self.database.execute
        bad = self.database.rows("SELECT inode FROM inode WHERE inode NOT BETWEEN 1 AND ?", (MAX_NUMBER - 1,))
        for (number,) in bad:
            new = self.take_number()
            self.tell(f"inode {number} is {new} now")
            columns = [("inode", "inode"), ("inode", "parent"), ("dentry", "inode"), ("dentry", "parent")]
            for table, column in (*columns, *((table, "inode") for table in _NUMBERED)):
                execute(f"UPDATE {table} SET {column} = ? WHERE {column} = ?", (new, number))
        execute("DELETE FROM orphan WHERE inode NOT BETWEEN 1 AND ?", (MAX_NUMBER - 1,))
        cookies = self.database.rows(f"SELECT parent, cookie FROM dentry WHERE cookie NOT {_POSSIBLE}")
        for parent, cookie in cookies:
            execute(
                "UPDATE dentry SET cookie = ? WHERE parent = ? AND cookie = ?", (self.take_number(), parent, cookie)
            )


def replace_chunk_rows(
    database: Database, found: Iterable[tuple[InodeId, Sequence[ChunkInfo]]], chunk_size: int
) -> None:
    """Have the chunk rows of clean files say what their chunk files are, in one transaction; sizes grow as needed."""
    execute = database.execute
    with database.change():
        for inode, chunks in found:
            execute("DELETE FROM chunk WHERE inode = ?", (inode,))
            for chunk in chunks:
                execute("INSERT INTO chunk VALUES (?, ?, ?, ?)", (inode, chunk.chunk_index, chunk.length, chunk.blocks))
            end = max((chunk.chunk_index * chunk_size + chunk.length for chunk in chunks if chunk.length), default=0)
            execute("UPDATE inode SET size = max(size, ?) WHERE inode = ?", (end, inode))
            execute(
                f"UPDATE inode SET blocks = (SELECT ifnull(sum(blocks), 0) FROM ({ALLOCATED}) WHERE inode = ?1)"
                " WHERE inode = ?1",
                (inode,),
            )
    database.commit()


def _repaired_acl(name: bytes, value: bytes, mode: int) -> bytes | None:
    try:
        found = acl.from_xattr(value)
    except InvalidArgument:
        return None
    if found is None or (name == acl.DEFAULT and not stat.S_ISDIR(mode)):
        return None
    if name == acl.ACCESS and found.mode != mode & acl.PERMISSION_BITS:
        found = found.with_mode(mode)
        return None if found.is_mode else found.to_xattr()
    return value


BAD_ENTRY = f"""{BAD_NAME} OR inode = parent OR inode = :root
              OR inode NOT IN (SELECT inode FROM inode)
              OR parent NOT IN (SELECT inode FROM inode WHERE mode & 0xF000 = :directory)"""
"""A condition on ``dentry``: nothing can come of it."""
