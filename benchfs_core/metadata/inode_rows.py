"""Rows of the table ``inode``: read as ``Attributes``, inserted, changed.

SQL lives here as in the rest of ``benchfs_core.metadata``. Nothing awaits; a change is part of the caller's savepoint.
"""

from __future__ import annotations

import stat

from benchfs_core.errors import NoSuchEntry
from benchfs_core.flags import INHERITED
from benchfs_core.metadata.database import Database
from benchfs_core.types import AttributeChange, Attributes, Credentials, InodeId

COLUMNS = (
    "inode.inode, inode.mode, inode.link_count, inode.uid, inode.gid, inode.rdev, inode.size, inode.blocks,"
    " inode.atime_ns, inode.mtime_ns, inode.ctime_ns, inode.birth_ns, inode.flags"
)
"""The columns that make an ``Attributes``, in its order."""

_GET = f"SELECT {COLUMNS} FROM inode WHERE inode = ?"


class InodeRows:
    """The table ``inode``."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._execute = database.execute

    def get(self, inode: InodeId) -> Attributes:
        """The attributes stored for ``inode``.

        Raises:
            NoSuchEntry: no such inode.
        """
        row = self._execute(_GET, (inode,)).fetchone()
        if row is None:
            raise NoSuchEntry(f"inode {inode}")
        return Attributes._make(row)

    def insert(self, attributes: Attributes, parent: InodeId | None) -> None:
        """Add an inode; ``parent`` is the directory that a directory lies in, None for anything else."""
        a = attributes
        self._execute(
            "INSERT INTO inode VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(a.inode, a.mode, a.link_count, a.uid, a.gid, a.rdev, a.size, a.blocks),
                *(a.atime_ns, a.mtime_ns, a.ctime_ns, parent, a.birth_ns, a.flags),
            ),
        )

    def change(self, inode: InodeId, change: AttributeChange) -> Attributes:
        """Change what ``change`` names; the attributes as they are then.

        Raises:
            NoSuchEntry: no such inode.
        """
        given = [(name, value) for name, value in zip(change._fields, change, strict=True) if value is not None]
        assignments = ", ".join([f"{name} = ?" for name, _ in given])
        sql = f"UPDATE inode SET {assignments} WHERE inode = ? RETURNING {COLUMNS}"
        row = self._database.change_at_once(sql, (*[value for _, value in given], inode)).fetchone()
        if row is None:
            raise NoSuchEntry(f"inode {inode}")
        return Attributes._make(row)

    def flags(self, inode: InodeId) -> int:
        """The flags of ``inode``; 0 of what does not exist."""
        row = self._execute("SELECT flags FROM inode WHERE inode = ?", (inode,)).fetchone()
        return 0 if row is None else int(row[0])

    def set_flags(self, inode: InodeId, flags: int, now_ns: int) -> None:
        """Set all flags; ctime moves."""
        self._execute("UPDATE inode SET flags = ?, ctime_ns = ? WHERE inode = ?", (flags, now_ns, inode))

    def add_links(self, inode: InodeId, count: int, now_ns: int) -> None:
        """Add ``count``, which may be negative, to the link count; ctime moves."""
        self._execute(
            "UPDATE inode SET link_count = link_count + ?, ctime_ns = ? WHERE inode = ?", (count, now_ns, inode)
        )

    def touch_directory(self, inode: InodeId, links: int, now_ns: int) -> None:
        """Note that entries of a directory changed: mtime and ctime move, ``links`` subdirectories came or went."""
        self._execute(
            "UPDATE inode SET link_count = link_count + ?, mtime_ns = ?, ctime_ns = ? WHERE inode = ?",
            (links, now_ns, now_ns, inode),
        )

    def parent(self, directory: InodeId) -> InodeId:
        """The directory that ``directory`` lies in; the root's is itself.

        Raises:
            NoSuchEntry: no such inode.
        """
        row = self._execute("SELECT parent FROM inode WHERE inode = ?", (directory,)).fetchone()
        if row is None or row[0] is None:
            raise NoSuchEntry(f"inode {directory} has no parent")
        return InodeId(row[0])

    def set_parent(self, directory: InodeId, parent: InodeId) -> None:
        """Note that ``directory`` moved."""
        self._execute("UPDATE inode SET parent = ? WHERE inode = ?", (parent, directory))


def new_attributes(
    inode: InodeId, mode: int, owner: Credentials, directory: Attributes, now_ns: int, rdev: int = 0, size: int = 0
) -> Attributes:
    """What a new inode in ``directory`` starts with.

    A set-group-ID directory hands on its group, and to directories the bit as well (inode(7), S_ISGID). Some flags are
    handed on, too.
    """
    gid = owner.gid
    if directory.mode & stat.S_ISGID:
        gid = directory.gid
        if stat.S_ISDIR(mode):
            mode |= stat.S_ISGID
    links = 2 if stat.S_ISDIR(mode) else 1
    flags = directory.flags & INHERITED
    return Attributes(inode, mode, links, owner.uid, gid, rdev, size, 0, now_ns, now_ns, now_ns, now_ns, flags)
