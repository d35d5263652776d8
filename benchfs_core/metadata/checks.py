"""The rules of ``schema``, checked against a database: one query for each.

SQL lives here as in the rest of ``benchfs_core.metadata``. Reads only. A query returns one row per breach: the
inode it concerns and a text.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator

from benchfs_core import acl, flags
from benchfs_core.errors import InvalidArgument
from benchfs_core.metadata.contents import INLINE_BLOCKS, MAX_INLINE_BYTES
from benchfs_core.metadata.database import Database
from benchfs_core.metadata.numbers import FIRST_NUMBER, MAX_NUMBER, MAX_RESERVATION
from benchfs_core.metadata.xattrs import MAX_VALUE_BYTES
from benchfs_core.types import MAX_FILE_BYTES, MAX_SYMLINK_BYTES, ROOT_INODE, InodeId

TYPES = (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK)
_DIRECTORY, _REGULAR, _SYMLINK = stat.S_IFDIR, stat.S_IFREG, stat.S_IFLNK

MAX_BLOCKS = 1 << 40
"""More blocks than a chunk or, summed up, a file can have without making sums overflow."""

VALUES = {
    "root": ROOT_INODE,
    "first": FIRST_NUMBER,
    "reservation": MAX_RESERVATION,
    "max_number": MAX_NUMBER,
    "max_blocks": MAX_BLOCKS,
    "max_file": MAX_FILE_BYTES,
    "max_target": MAX_SYMLINK_BYTES,
    "max_inline": MAX_INLINE_BYTES,
    "directory": _DIRECTORY,
    "regular": _REGULAR,
    "symlink": _SYMLINK,
}
"""What the names in rules and repairs stand for; ``chunk_size`` is each volume's own."""

BAD_TYPE = f"mode NOT BETWEEN 0 AND 65535 OR mode & 0xF000 NOT IN ({', '.join(str(kind) for kind in TYPES)})"
"""A condition on ``inode``: no type that there is."""

BAD_FLAGS = f"""flags & ~{flags.SUPPORTED}
              OR (flags & {flags.PROTECTING} AND mode & 0xF000 NOT IN (:regular, :directory))"""
"""A condition on ``inode``: flags that cannot be set."""

BAD_NAME = """length(name) NOT BETWEEN 1 AND 255 OR instr(name, x'2f') OR instr(name, x'00')
              OR name IN (x'2e', x'2e2e')"""
"""A condition on ``dentry``."""

BAD_TARGET = "length(target) NOT BETWEEN 1 AND :max_target OR instr(target, x'00')"
"""A condition on ``symlink``."""

BAD_XATTR = f"""length(value) > {MAX_VALUE_BYTES} OR length(name) > 255 OR instr(name, x'00')
              OR (substr(name, 1, instr(name, x'2e')) NOT IN (x'{b"user.".hex()}', x'{b"trusted.".hex()}',
                  x'{b"security.".hex()}') AND name NOT IN (x'{acl.ACCESS.hex()}', x'{acl.DEFAULT.hex()}'))
              OR length(name) = instr(name, x'2e')"""
"""A condition on ``xattr``: more than can be set, or a namespace that there is not."""

ALLOCATED = f"SELECT inode, blocks FROM chunk UNION ALL SELECT inode, {INLINE_BLOCKS} FROM inline"
"""What ``inode.blocks`` is the sum of."""

CONTESTED = "inode IN (SELECT inode FROM chunk) AND inode NOT IN (SELECT inode FROM dirty)"
"""A condition on ``inline``: chunks have the content as well."""

BAD_CHUNK = """chunk_index NOT BETWEEN 0 AND :max_file / :chunk_size - 1 OR length NOT BETWEEN 0 AND :chunk_size
              OR blocks NOT BETWEEN 0 AND :max_blocks"""
"""A condition on ``chunk``."""

_RULES: tuple[tuple[str, str], ...] = (
    (
        "root-missing",
        """SELECT :root, 'no root directory' WHERE NOT EXISTS (
             SELECT 1 FROM inode WHERE inode = :root AND mode & 0xF000 = :directory AND parent = :root)""",
    ),
    (
        "root-missing",
        """SELECT :root, 'the root directory is removed, or has a name' WHERE
             EXISTS (SELECT 1 FROM inode WHERE inode = :root AND link_count = 0)
             OR EXISTS (SELECT 1 FROM orphan WHERE inode = :root)
             OR EXISTS (SELECT 1 FROM dentry WHERE inode = :root)""",
    ),
    (
        "dentry-parent",
        """SELECT d.parent, 'entry ' || quote(d.name) || ' in something that is no directory'
           FROM dentry d LEFT JOIN inode i ON i.inode = d.parent
           WHERE i.inode IS NULL OR i.mode & 0xF000 != :directory""",
    ),
    (
        "dentry-parent",
        """SELECT d.parent, 'entry ' || quote(d.name) || ' in a directory that is removed'
           FROM dentry d JOIN inode i ON i.inode = d.parent WHERE i.mode & 0xF000 = :directory AND i.link_count = 0""",
    ),
    (
        "dentry-dangling",
        """SELECT parent, 'entry ' || quote(name) || ' leads to inode ' || d.inode || ', which does not exist'
           FROM dentry d WHERE NOT EXISTS (SELECT 1 FROM inode i WHERE i.inode = d.inode)""",
    ),
    (
        "dentry-name",
        f"SELECT parent, 'entry with the impossible name ' || quote(name) FROM dentry WHERE {BAD_NAME}",
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
        "link-count",
        """SELECT DISTINCT i.inode, 'link count 0, but a name' FROM inode i JOIN dentry d USING (inode)
           WHERE i.mode & 0xF000 = :directory AND i.link_count = 0""",
    ),
    (
        "unnamed",
        """SELECT inode, 'no name, and not an orphan' FROM inode i
           WHERE link_count = 0 AND NOT EXISTS (SELECT 1 FROM orphan o WHERE o.inode = i.inode)""",
    ),
    (
        "directory-parent",
        """SELECT i.inode, 'directory whose one entry is not in its parent ' || ifnull(i.parent, 'NULL')
           FROM inode i LEFT JOIN dentry d ON d.inode = i.inode
           WHERE i.mode & 0xF000 = :directory AND i.inode != :root AND i.link_count != 0
           GROUP BY i.inode HAVING count(d.name) != 1 OR max(d.parent) IS NOT i.parent""",
    ),
    (
        "directory-parent",
        """SELECT inode, 'parent of something that is no directory' FROM inode
           WHERE mode & 0xF000 != :directory AND parent IS NOT NULL""",
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
        f"""SELECT i.inode, 'symbolic link without a target of its size' FROM inode i LEFT JOIN symlink s USING (inode)
           WHERE i.mode & 0xF000 = :symlink AND (s.target IS NULL OR length(s.target) != i.size OR {BAD_TARGET})""",
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
        "xattr",
        f"""SELECT inode, 'impossible attribute ' || quote(substr(name, 1, 255)) || ' of ' || length(value) || ' bytes'
           FROM xattr WHERE {BAD_XATTR}""",
    ),
    ("attributes", f"SELECT inode, printf('mode %o: no type that there is', mode) FROM inode WHERE {BAD_TYPE}"),
    (
        "attributes",
        """SELECT inode, 'owner ' || uid || ':' || gid || ', device ' || rdev || ': impossible' FROM inode
           WHERE uid NOT BETWEEN 0 AND 0xFFFFFFFF OR gid NOT BETWEEN 0 AND 0xFFFFFFFF OR rdev < 0""",
    ),
    ("attributes", f"SELECT inode, printf('flags %#x: impossible', flags) FROM inode WHERE {BAD_FLAGS}"),
    (
        "dirty-cut",
        "SELECT inode, 'cut at offset ' || cut FROM dirty WHERE cut NOT BETWEEN 0 AND :max_file",
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
        f"""SELECT inode, 'chunk ' || chunk_index || ' of ' || length || ' bytes is impossible' FROM chunk
           WHERE {BAD_CHUNK}""",
    ),
    (
        "inline-owner",
        """SELECT c.inode, 'inline content of something that is no regular file'
           FROM inline c LEFT JOIN inode i USING (inode) WHERE i.inode IS NULL OR i.mode & 0xF000 != :regular""",
    ),
    (
        "inline",
        """SELECT inode, 'inline content of ' || length(data) || ' bytes is impossible' FROM inline
           WHERE length(data) NOT BETWEEN 1 AND :max_inline""",
    ),
    ("inline", f"SELECT inode, 'content both inline and in chunks' FROM inline WHERE {CONTESTED}"),
    (
        "size",
        """SELECT i.inode, 'size ' || i.size || ', but its inline content has ' || length(c.data)
           FROM inode i JOIN inline c USING (inode) WHERE length(c.data) > i.size""",
    ),
    (
        "size",
        """SELECT i.inode, 'size ' || i.size || ', but its chunks reach ' || max(c.chunk_index * :chunk_size + c.length)
           FROM inode i JOIN chunk c USING (inode)
           WHERE i.link_count != 0 AND c.length > 0 AND NOT EXISTS (SELECT 1 FROM dirty d WHERE d.inode = i.inode)
           GROUP BY i.inode HAVING max(c.chunk_index * :chunk_size + c.length) > i.size""",
    ),
    ("size", "SELECT inode, 'impossible size ' || size FROM inode WHERE size NOT BETWEEN 0 AND :max_file"),
    (
        "size",
        """SELECT inode, 'size ' || size || ' of something that has none' FROM inode
           WHERE mode & 0xF000 NOT IN (:regular, :symlink) AND size != 0""",
    ),
    (
        "blocks",
        """SELECT inode, 'impossible blocks ' || blocks FROM inode
           WHERE blocks < 0 OR (mode & 0xF000 != :regular AND blocks != 0)""",
    ),
    (
        "blocks",
        f"""SELECT i.inode,
             'blocks ' || i.blocks || ', but its content has ' || ifnull(sum(min(c.blocks, :max_blocks)), 0)
           FROM inode i LEFT JOIN ({ALLOCATED}) c USING (inode)
           WHERE i.mode & 0xF000 = :regular AND i.link_count != 0
             AND NOT EXISTS (SELECT 1 FROM dirty d WHERE d.inode = i.inode)
           GROUP BY i.inode HAVING i.blocks != ifnull(sum(min(c.blocks, :max_blocks)), 0)""",
    ),
    (
        "number",
        """SELECT 0, 'numbers from ' || low || ' to ' || high FROM number
           WHERE low > high OR low < :first OR high >= :max_number OR high - low > :reservation""",
    ),
    (
        "number",
        """SELECT inode, 'impossible number' FROM inode WHERE inode NOT BETWEEN :root AND :max_number
           UNION SELECT inode, 'orphan of an impossible number' FROM orphan
                 WHERE inode NOT BETWEEN :root AND :max_number""",
    ),
    (
        "number",
        """SELECT parent, 'entry with the impossible cookie ' || cookie FROM dentry
           WHERE cookie NOT BETWEEN :first AND :max_number""",
    ),
    (
        "number",
        """SELECT inode, 'number at or above the limit' FROM inode WHERE inode >= (SELECT max(high) FROM number)
           UNION SELECT inode, 'orphan at or above the limit' FROM orphan
                 WHERE inode >= (SELECT max(high) FROM number)""",
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
    for code, query in _RULES:
        for inode, text in database.execute(query, bindings(query, chunk_size)):
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
        elif name == acl.DEFAULT and mode & 0xF000 != _DIRECTORY:
            yield "acl", inode, "default ACL of something that is no directory"


def bindings(query: str, chunk_size: int) -> dict[str, int]:
    """Values for the names in a rule or repair."""
    values = {**VALUES, "chunk_size": chunk_size}
    return {name: values[name] for name in values if re.search(f":{name}\\b", query)}
