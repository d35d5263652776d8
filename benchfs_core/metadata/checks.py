"""The rules of ``schema``, checked against a database: one query for each.

SQL lives here as in the rest of ``benchfs_core.metadata``. Reads only. A query returns one row per breach: the
inode it concerns and a text.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator

from benchfs_core import acl
from benchfs_core.errors import InvalidArgument
from benchfs_core.metadata.database import Database
from benchfs_core.types import ROOT_INODE, ChunkInfo, InodeId

_DIRECTORY, _REGULAR, _SYMLINK = 0o040000, 0o100000, 0o120000

_RULES: tuple[tuple[str, str], ...] = (
    (
        "root-missing",
        """SELECT :root, 'no root directory' WHERE NOT EXISTS (
             SELECT 1 FROM inode WHERE inode = :root AND mode & 0xF000 = :directory AND parent = :root)""",
    ),
    (
        "dentry-parent",
        """SELECT d.parent, 'entry ' || quote(d.name) || ' in something that is no directory'
           FROM dentry d LEFT JOIN inode i ON i.inode = d.parent
           WHERE i.inode IS NULL OR i.mode & 0xF000 != :directory""",
    ),
    (
        "dentry-dangling",
        """SELECT parent, 'entry ' || quote(name) || ' leads to inode ' || d.inode || ', which does not exist'
           FROM dentry d WHERE NOT EXISTS (SELECT 1 FROM inode i WHERE i.inode = d.inode)""",
    ),
    (
        "dentry-name",
        """SELECT parent, 'entry with the impossible name ' || quote(name) FROM dentry
           WHERE length(name) NOT BETWEEN 1 AND 255 OR instr(name, x'2f') OR instr(name, x'00')
              OR name IN (x'2e', x'2e2e')""",
    ),
    (
        "link-count",
        """SELECT i.inode, 'link count ' || i.link_count || ', but ' || count(d.name) || ' names'
           FROM inode i LEFT JOIN dentry d ON d.inode = i.inode
           WHERE i.mode & 0xF000 != :directory GROUP BY i.inode HAVING i.link_count != count(d.name)""",
    ),
    (
        "link-count",
        """SELECT i.inode, 'link count ' || i.link_count || ', but ' || count(c.inode) || ' subdirectories'
           FROM inode i LEFT JOIN dentry d ON d.parent = i.inode
                LEFT JOIN inode c ON c.inode = d.inode AND c.mode & 0xF000 = :directory
           WHERE i.mode & 0xF000 = :directory AND i.link_count != 0
           GROUP BY i.inode HAVING i.link_count != 2 + count(c.inode)""",
    ),
    (
        "unnamed",
        """SELECT inode, 'no name, and not an orphan' FROM inode i
           WHERE link_count = 0 AND NOT EXISTS (SELECT 1 FROM orphan o WHERE o.inode = i.inode)""",
    ),
    (
        "directory-parent",
        """SELECT i.inode, 'directory whose one entry is not in its parent ' || ifnull(i.parent, 'NULL')
           FROM inode i
           WHERE i.mode & 0xF000 = :directory AND i.inode != :root AND i.link_count != 0
             AND (SELECT group_concat(d.parent) FROM dentry d WHERE d.inode = i.inode) IS NOT CAST(i.parent AS TEXT)""",
    ),
    (
        "unreachable",
        """WITH RECURSIVE reached (inode) AS (
             VALUES (:root)
             UNION SELECT d.inode FROM reached r JOIN dentry d ON d.parent = r.inode)
           SELECT inode, 'directory that no path from the root leads to' FROM inode
           WHERE mode & 0xF000 = :directory AND link_count != 0 AND inode NOT IN (SELECT inode FROM reached)""",
    ),
    (
        "orphan-named",
        """SELECT i.inode, 'orphan with link count ' || i.link_count FROM orphan JOIN inode i USING (inode)
           WHERE i.link_count != 0""",
    ),
    (
        "symlink",
        """SELECT i.inode, 'symbolic link without a target of its size' FROM inode i LEFT JOIN symlink s USING (inode)
           WHERE i.mode & 0xF000 = :symlink
             AND (s.target IS NULL OR length(s.target) != i.size OR i.size NOT BETWEEN 1 AND 4095)""",
    ),
    (
        "symlink",
        """SELECT s.inode, 'link target of something that is no symbolic link'
           FROM symlink s LEFT JOIN inode i USING (inode) WHERE i.inode IS NULL OR i.mode & 0xF000 != :symlink""",
    ),
    (
        "xattr-owner",
        """SELECT DISTINCT x.inode, 'extended attributes of an inode that does not exist' FROM xattr x
           WHERE NOT EXISTS (SELECT 1 FROM inode i WHERE i.inode = x.inode)""",
    ),
    (
        "dirty-owner",
        """SELECT d.inode, 'dirty mark of something that is no regular file'
           FROM dirty d LEFT JOIN inode i USING (inode) WHERE i.inode IS NULL OR i.mode & 0xF000 != :regular""",
    ),
    (
        "chunk-owner",
        """SELECT DISTINCT c.inode, 'chunk rows of something that is no regular file'
           FROM chunk c LEFT JOIN inode i USING (inode) WHERE i.inode IS NULL OR i.mode & 0xF000 != :regular""",
    ),
    (
        "chunk-range",
        """SELECT inode, 'chunk ' || chunk_index || ' of ' || length || ' bytes is impossible' FROM chunk
           WHERE chunk_index < 0 OR length NOT BETWEEN 0 AND :chunk_size""",
    ),
    (
        "size",
        """SELECT i.inode, 'size ' || i.size || ', but its chunks reach ' || max(c.chunk_index * :chunk_size + c.length)
           FROM inode i JOIN chunk c USING (inode)
           WHERE i.link_count != 0 AND NOT EXISTS (SELECT 1 FROM dirty d WHERE d.inode = i.inode)
           GROUP BY i.inode HAVING max(c.chunk_index * :chunk_size + c.length) > i.size""",
    ),
    ("size", "SELECT inode, 'negative size ' || size FROM inode WHERE size < 0"),
    (
        "blocks",
        """SELECT i.inode, 'blocks ' || i.blocks || ', but its chunks have ' || ifnull(sum(c.blocks), 0)
           FROM inode i LEFT JOIN chunk c USING (inode)
           WHERE i.mode & 0xF000 = :regular AND i.link_count != 0
             AND NOT EXISTS (SELECT 1 FROM dirty d WHERE d.inode = i.inode)
           GROUP BY i.inode HAVING i.blocks != ifnull(sum(c.blocks), 0)""",
    ),
    ("number", "SELECT 0, 'numbers from ' || low || ' to ' || high FROM number WHERE low > high"),
    (
        "number",
        "SELECT inode, 'number at or above the limit' FROM inode WHERE inode >= (SELECT max(high) FROM number)",
    ),
    (
        "number",
        """SELECT parent, 'entry cookie ' || cookie || ' at or above the limit' FROM dentry
           WHERE cookie >= (SELECT max(high) FROM number)""",
    ),
)


def check_rules(database: Database, chunk_size: int) -> Iterator[tuple[str, InodeId, str]]:
    """Breaches of the schema's rules: a stable code, the inode concerned (0: none), what is wrong."""
    for (result,) in database.execute("PRAGMA integrity_check(20)"):
        if result != "ok":
            yield "database", InodeId(0), f"SQLite: {result}"
    (count,) = database.first_row("SELECT count(*) FROM number")
    if count != 1:
        yield "number", InodeId(0), f"{count} rows in table number instead of one"
    values = {
        "root": ROOT_INODE,
        "chunk_size": chunk_size,
        "directory": _DIRECTORY,
        "regular": _REGULAR,
        "symlink": _SYMLINK,
    }
    for code, query in _RULES:
        for inode, text in database.execute(query, {name: values[name] for name in values if f":{name}" in query}):
            yield code, InodeId(inode), text
    yield from _check_acls(database)


def _check_acls(database: Database) -> Iterator[tuple[str, InodeId, str]]:
    lists = database.execute(
        "SELECT x.inode, x.name, x.value, i.mode FROM xattr x JOIN inode i USING (inode) WHERE x.name IN (?, ?)",
        (acl.ACCESS, acl.DEFAULT),
    )
    for number, name, value, mode in lists:
        inode = InodeId(number)
        try:
            found = acl.from_xattr(value)
        except InvalidArgument as error:
            yield "acl", inode, f"{name.decode()}: {error}"
            continue
        if found is None:
            yield "acl", inode, f"{name.decode()}: without entries"
        elif name == acl.ACCESS and found.mode != mode & acl.PERMISSION_BITS:
            yield "acl", inode, f"mode {mode & acl.PERMISSION_BITS:o}, but its access ACL says {found.mode:o}"
        elif name == acl.DEFAULT and not stat.S_ISDIR(mode):
            yield "acl", inode, "default ACL of something that is no directory"


class ChunkExpectation:
    """What the database says about the chunk files of each inode."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._low, self._high = database.first_row("SELECT low, high FROM number")

    def is_settled(self, inode: InodeId) -> bool:
        """Whether chunk files must match rows: no dirty mark, no orphan, not left to the next mount."""
        (pending,) = self._database.first_row(
            "SELECT EXISTS (SELECT 1 FROM dirty WHERE inode = ?1) OR EXISTS (SELECT 1 FROM orphan WHERE inode = ?1)",
            (inode,),
        )
        return not pending and not (self._low <= inode < self._high and not self.exists(inode))

    def exists(self, inode: InodeId) -> bool:
        """Whether there is an inode of this number."""
        return self._database.execute("SELECT 1 FROM inode WHERE inode = ?", (inode,)).fetchone() is not None

    def chunks(self, inode: InodeId) -> dict[int, ChunkInfo]:
        """The chunk rows of an inode by index."""
        rows = self._database.execute("SELECT chunk_index, length, blocks FROM chunk WHERE inode = ?", (inode,))
        return {index: ChunkInfo(index, length, blocks) for index, length, blocks in rows}

    def inodes_with_chunks(self) -> Iterator[InodeId]:
        """Every inode that has chunk rows."""
        for (inode,) in self._database.execute("SELECT DISTINCT inode FROM chunk"):
            yield InodeId(inode)

    def path(self, inode: InodeId) -> str | None:
        """A path that leads to the inode, from the volume's root; None if none does."""
        parts: list[bytes] = []
        while inode != ROOT_INODE and len(parts) < 4096:
            row = self._database.execute("SELECT parent, name FROM dentry WHERE inode = ?", (inode,)).fetchone()
            if row is None:
                return None
            inode, name = row
            parts.append(name)
        return "/" + b"/".join(reversed(parts)).decode(errors="surrogateescape")
