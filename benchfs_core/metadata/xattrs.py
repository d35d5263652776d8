"""Extended attributes (xattr(7)).

SQL lives here as in the rest of ``benchfs_core.metadata``. Nothing awaits; each change is part of the open transaction.
"""

from __future__ import annotations

from benchfs_core.errors import AttributeTooLarge, NoSuchAttribute
from benchfs_core.metadata.database import Database
from benchfs_core.metadata.inode_rows import InodeRows
from benchfs_core.types import InodeId

MAX_VALUE_BYTES = 64 * 1024
"""Longest value: ``XATTR_SIZE_MAX`` of linux/limits.h."""

MAX_LIST_BYTES = 64 * 1024
"""Longest list of names: ``XATTR_LIST_MAX``; one more would make listxattr(2) fail for all."""


class Xattrs:
    """The table ``xattr``."""

    def __init__(self, database: Database, inodes: InodeRows) -> None:
        self._database = database
        self._inodes = inodes
        self._exist: bool | None = None
        """Whether there may be any at all; None: nobody has asked yet. Where there are none, none is looked for."""

    def get(self, inode: InodeId, name: bytes) -> bytes:
        """The value.

        Raises:
            NoSuchAttribute: no attribute of that name.
        """
        if self._exist or self._look():
            sql = "SELECT value FROM xattr WHERE inode = ? AND name = ?"
            row = self._database.execute(sql, (inode, name)).fetchone()
            if row is not None:
                return bytes(row[0])
        raise NoSuchAttribute(name.decode(errors="replace"))

    def names(self, inode: InodeId) -> list[bytes]:
        """All names, sorted."""
        if not (self._exist or self._look()):
            return []
        rows = self._database.execute("SELECT name FROM xattr WHERE inode = ? ORDER BY name", (inode,))
        return [name for (name,) in rows]

    def set(self, inode: InodeId, name: bytes, value: bytes, now_ns: int) -> None:
        """Set or replace one attribute; ctime moves.

        Raises:
            AttributeTooLarge: the value, or the list of all names, would pass its limit.
        """
        if len(value) > MAX_VALUE_BYTES:
            raise AttributeTooLarge(f"xattr value of {len(value)} bytes, at most {MAX_VALUE_BYTES}")
        self.check_room(inode, name)
        with self._database.change():
            self.put(inode, name, value)
            self._inodes.touch(inode, now_ns)

    def check_room(self, inode: InodeId, name: bytes) -> None:
        """See that the list of names can take one more.

        Raises:
            AttributeTooLarge: it would pass its limit.
        """
        names = self.names(inode)
        if name not in names and sum(len(known) + 1 for known in names) + len(name) + 1 > MAX_LIST_BYTES:
            raise AttributeTooLarge(f"list of xattr names over {MAX_LIST_BYTES} bytes")

    def remove(self, inode: InodeId, name: bytes, now_ns: int) -> None:
        """Remove one attribute; ctime moves.

        Raises:
            NoSuchAttribute: no attribute of that name.
        """
        self.get(inode, name)
        with self._database.change():
            self.drop(inode, name)
            self._inodes.touch(inode, now_ns)

    def put(self, inode: InodeId, name: bytes, value: bytes) -> None:
        """Set one attribute as part of a change that somebody else makes: no limits, no times."""
        self._exist = True
        self._database.execute(
            "INSERT OR REPLACE INTO xattr (inode, name, value) VALUES (?, ?, ?)", (inode, name, value)
        )
        self._database.pending_bytes += len(value)

    def drop(self, inode: InodeId, name: bytes) -> None:
        """Remove one attribute, there or not, as part of a change that somebody else makes."""
        self._database.execute("DELETE FROM xattr WHERE inode = ? AND name = ?", (inode, name))

    def _look(self) -> bool:
        if self._exist is None:
            self._exist = bool(self._database.first_row("SELECT EXISTS (SELECT 1 FROM xattr)")[0])
        return self._exist
