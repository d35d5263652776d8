"""The schema of ``meta/benchfs.db``: the canonical reference for what the metadata means.

Imports nothing. Names are BLOBs (any byte but ``/`` and NUL), numbers 64-bit signed, times nanoseconds since 1970.
``docs/on-disk-format.md`` explains it in prose; ``fsck`` checks each rule marked with "Rule".
"""

from __future__ import annotations

SCHEMA_VERSION = 2
"""Kept in SQLite's user_version."""

UNREPAIRED = 0x42667352
"""SQLite's application_id of a database that was restored from a dump or rebuilt, until fsck has repaired the volume.

It may not know files whose chunks are there. The application_id of others is 0."""

INLINE_TABLE = """
-- Content of small regular files. A row is the file's content; what is beyond it, up to inode.size, reads as zeros.
-- Chunk files of that inode are dead, whatever its dirty mark says: a crash came while they took over, or before they
-- were cut away. Rule: the inode is a regular file, without chunk rows unless it has a dirty mark; the content ends
-- within inode.size.
CREATE TABLE inline (
    inode       INTEGER PRIMARY KEY,
    data        BLOB    NOT NULL      -- 1 to 65,536 bytes
) STRICT;
"""

UPGRADES = {
    1: INLINE_TABLE
    + """
ALTER TABLE inode ADD COLUMN birth_ns INTEGER NOT NULL DEFAULT 0;
ALTER TABLE inode ADD COLUMN flags INTEGER NOT NULL DEFAULT 0;
""",
}
"""What makes a database of each older schema one of the next: done, whole, when it is opened for writing."""

DDL = (
    """
-- One row for each inode. The root directory is number 1.
CREATE TABLE inode (
    inode       INTEGER PRIMARY KEY,  -- its number; from `number`, never reused. Rule: below number.high
    mode        INTEGER NOT NULL,     -- st_mode: type and permission bits (inode(7))
    link_count  INTEGER NOT NULL,     -- st_nlink. Rule: dentries that lead here; a directory: 2 + its subdirectories;
                                      --   0 only for an orphan
    uid         INTEGER NOT NULL,
    gid         INTEGER NOT NULL,
    rdev        INTEGER NOT NULL,     -- st_rdev of a device node, else 0
    size        INTEGER NOT NULL,     -- bytes. A regular file without dirty mark: its size. With one: the least size
                                      --   it may have after recovery. A symlink: the length of its target. Else 0
    blocks      INTEGER NOT NULL,     -- units of 512 bytes allocated to its chunks when it was last clean.
                                      --   Rule: without dirty mark the sum of its chunk rows; of an inline file
                                      --   8 for each 4096 bytes begun
    atime_ns    INTEGER NOT NULL,
    mtime_ns    INTEGER NOT NULL,
    ctime_ns    INTEGER NOT NULL,
    parent      INTEGER,              -- a directory's own parent (the root's is itself), for `..`; else NULL.
                                      --   Rule: equal to the parent of its one dentry
    birth_ns    INTEGER NOT NULL DEFAULT 0,  -- when it was made; 0: not known
    flags       INTEGER NOT NULL DEFAULT 0   -- FS_*_FL of linux/fs.h (ioctl_iflags(2)): 0x10 immutable, 0x20
                                      --   append-only, 0x40 no dump, 0x80 no atime. Rule: no others; the first two of
                                      --   regular files and directories only
) STRICT;

-- One row for each name. Rule: parent and inode exist, the parent is a directory; no two of one parent have one name.
CREATE TABLE dentry (
    parent      INTEGER NOT NULL,
    cookie      INTEGER NOT NULL,     -- its place in readdir; from `number`, so that no two entries ever share one
    name        BLOB    NOT NULL,     -- 1 to 255 bytes, neither `/` nor NUL, not `.` or `..`
    inode       INTEGER NOT NULL,
    PRIMARY KEY (parent, cookie)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX dentry_name ON dentry (parent, name);

-- Target of each symbolic link. Rule: one row for each inode of that type, and for no other.
CREATE TABLE symlink (
    inode       INTEGER PRIMARY KEY,
    target      BLOB    NOT NULL      -- 1 to 4095 bytes
) STRICT;

-- Extended attributes, ACLs among them (linux/posix_acl_xattr.h). Rule: the inode exists. Rule: an ACL is valid, an
-- access ACL and the permission bits of its inode say the same, only directories have a default ACL.
CREATE TABLE xattr (
    inode       INTEGER NOT NULL,
    name        BLOB    NOT NULL,     -- with its namespace, "user.x"; 1 to 255 bytes
    value       BLOB    NOT NULL,     -- up to 64 KiB
    PRIMARY KEY (inode, name)
) STRICT, WITHOUT ROWID;

-- The dirty mark of a regular file: its chunk files may be ahead of its rows. Durable before the first write to a clean
-- inode, gone once everything is flushed and the rows say so. At mount, size = max(inode.size, end of the last chunk
-- or, if that is less, the cut).
CREATE TABLE dirty (
    inode       INTEGER PRIMARY KEY,  -- Rule: an inode row of a regular file
    cut         INTEGER               -- NULL, or: chunk bytes from this file offset on are dead and must be cut away
                                      --   before anything else is done to them
) STRICT;

-- Chunk files as they were when their inode was last clean. A chunk without a row is a hole.
-- Rule: without dirty mark, one row for each chunk file, of this length.
CREATE TABLE chunk (
    inode       INTEGER NOT NULL,
    chunk_index INTEGER NOT NULL,     -- file offset / chunk size
    length      INTEGER NOT NULL,     -- bytes, 0 to the chunk size
    blocks      INTEGER NOT NULL,     -- units of 512 bytes allocated
    PRIMARY KEY (inode, chunk_index)
) STRICT, WITHOUT ROWID;

-- Numbers whose chunk files are to be deleted: inodes without a name (while open they still work, and those that never
-- had one may get it, and go from here), and numbers that a crash left with chunk files but without an inode row. The
-- background reaper empties it; it starts anew at each mount.
CREATE TABLE orphan (
    inode       INTEGER PRIMARY KEY   -- Rule: if there is an inode row, its link_count is 0
) STRICT;

-- The one row from which inode numbers and cookies come. Numbers below `low` are settled: used in a row here, or never.
-- Numbers from `low` to `high` may have been handed out by a process that crashed before it committed: at mount, chunk
-- directories in that range without an inode row become orphans, and handing out goes on at `high`.
CREATE TABLE number (
    low         INTEGER NOT NULL,
    high        INTEGER NOT NULL      -- Rule: low <= high; above every number in use
) STRICT;
"""
    + INLINE_TABLE
)

PRAGMAS = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = NORMAL",  # the WAL is flushed by group_commit.py, WAL checkpoints by SQLite
    "PRAGMA wal_autocheckpoint = 0",
    "PRAGMA locking_mode = NORMAL",
    "PRAGMA temp_store = MEMORY",
    "PRAGMA cache_size = -32768",  # KiB: the bound on memory
    "PRAGMA foreign_keys = OFF",
)
