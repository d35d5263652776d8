"""Rows of the table ``dentry``: found, listed, made, moved; and which entries there may be.

SQL lives here as in the rest of ``benchfs_core.metadata``. Nothing awaits; a change is part of the caller's savepoint,
and what it must keep (link counts, the times of directories) is the caller's matter.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator

from benchfs_core.errors import (
    DirectoryNotEmpty,
    EntryExists,
    InvalidArgument,
    IsADirectory,
    NameTooLong,
    NoSuchEntry,
    NotADirectory,
    NotPermitted,
    TooManyLinks,
)
from benchfs_core.flags import PROTECTING, check_mutable
from benchfs_core.metadata.database import Database
from benchfs_core.metadata.inode_rows import COLUMNS, InodeRows
from benchfs_core.metadata.numbers import Numbers
from benchfs_core.types import (
    MAX_LINK_COUNT,
    MAX_NAME_BYTES,
    ROOT_INODE,
    Attributes,
    DirectoryEntry,
    InodeId,
)

_FIND = "SELECT inode FROM dentry WHERE parent = ? AND name = ?"
_ADD = "INSERT INTO dentry (parent, cookie, name, inode) VALUES (?, ?, ?, ?) ON CONFLICT (parent, name) DO NOTHING"
_READDIR = (
    f"SELECT cookie, name, {COLUMNS} FROM dentry JOIN inode USING (inode)"
    " WHERE dentry.parent = ? AND cookie > ? ORDER BY cookie"
)


class Entries:
    """The table ``dentry``."""

    def __init__(self, database: Database, inodes: InodeRows, numbers: Numbers) -> None:
        self._database = database
        self._execute = database.execute
        self._inodes = inodes
        self._numbers = numbers

    def list(self, directory: InodeId, after_cookie: int) -> Iterator[DirectoryEntry]:
        """Entries whose cookie is above ``after_cookie``, by rising cookie. Drop the iterator before a checkpoint."""
        self._database.write_kept_back()
        cursor = self._execute(_READDIR, (directory, after_cookie))
        try:
            for cookie, name, *columns in cursor:
                yield DirectoryEntry(cookie, name, Attributes._make(columns))
        finally:
            cursor.close()

    def directory(self, inode: InodeId) -> Attributes:
        """The attributes of a directory. NoSuchEntry, NotADirectory."""
        attributes = self._inodes.get(inode)
        if not stat.S_ISDIR(attributes.mode):
            raise NotADirectory(f"inode {inode}")
        return attributes

    def directory_for_new(self, parent: InodeId, name: bytes, *, flags: int = 0) -> Attributes:
        """The directory, if a new entry may be made in it; whether the name is taken, ``add`` will tell in most cases.

        What else is wrong with the directory, or may be with an inode of these ``flags``, counts only for a name that
        is not taken.
        """
        directory = self.directory_for_name(parent, name)
        if name in (b".", b".."):
            raise EntryExists(f"{name!r} in inode {parent}")
        if (directory.flags or flags or directory.link_count >= MAX_LINK_COUNT) and self.find(parent, name) is not None:
            raise EntryExists(f"{name!r} in inode {parent}")
        check_mutable(directory)
        return directory

    def directory_for_name(self, parent: InodeId, name: bytes) -> Attributes:
        """The directory, if a new entry may have this name, whether it is taken or not."""
        if len(name) > MAX_NAME_BYTES:
            raise NameTooLong(f"name of {len(name)} bytes")
        directory = self.directory(parent)
        if directory.link_count == 0:
            raise NoSuchEntry(f"directory inode {parent} was removed")
        if not name or b"/" in name or b"\0" in name:
            raise InvalidArgument(f"{name!r} cannot be a name")
        return directory

    def find(self, parent: InodeId, name: bytes) -> Attributes | None:
        """What an entry leads to; None if there is none of that name."""
        row = self._execute(_FIND, (parent, name)).fetchone()
        return None if row is None else self._inodes.find(row[0])

    def check_removable(self, parent: InodeId, entry: Attributes) -> None:
        """NotPermitted: by its own flags or its directory's, what an entry leads to keeps this name."""
        if (entry.flags | self._inodes.get(parent).flags) & PROTECTING:
            raise NotPermitted(f"inode {entry.inode}, or its directory {parent}, is immutable or append-only")

    def check_empty(self, directory: InodeId) -> None:
        """DirectoryNotEmpty: it has entries."""
        if self._execute("SELECT 1 FROM dentry WHERE parent = ? LIMIT 1", (directory,)).fetchone() is not None:
            raise DirectoryNotEmpty(f"inode {directory}")

    def check_room(self, directory: Attributes) -> None:
        """TooManyLinks: one more subdirectory would pass the limit of links."""
        if directory.link_count >= MAX_LINK_COUNT:
            raise TooManyLinks(f"directory inode {directory.inode} has {directory.link_count - 2} subdirectories")

    def check_replaceable(self, moved: Attributes, target: Attributes) -> None:
        """Whether ``moved`` may take the name of ``target``. IsADirectory, NotADirectory, DirectoryNotEmpty."""
        if stat.S_ISDIR(target.mode):
            if not stat.S_ISDIR(moved.mode):
                raise IsADirectory(f"inode {target.inode}")
            self.check_empty(target.inode)
        elif stat.S_ISDIR(moved.mode):
            raise NotADirectory(f"inode {target.inode}")

    def check_not_below(self, directory: InodeId, ancestor: InodeId) -> None:
        """A directory must not come to lie in itself, at any depth."""
        step = directory
        while step != ROOT_INODE:
            if step == ancestor:
                raise InvalidArgument(f"directory inode {ancestor} would lie in itself")
            step = self._inodes.parent(step)

    def add(self, parent: InodeId, name: bytes, inode: InodeId) -> None:
        """Add an entry; its place in readdir is behind all others. EntryExists: the name is taken.

        As part of the caller's change, or all of it but for rows that are kept back.
        """
        if not self._database.insert_at_once(_ADD, (parent, self._numbers.take(), name, inode)):
            raise EntryExists(f"{name!r} in inode {parent}")

    def remove(self, parent: InodeId, name: bytes) -> None:
        """Remove an entry, as part of the caller's change, or all of it but for rows that are kept back."""
        self._database.change_at_once("DELETE FROM dentry WHERE parent = ? AND name = ?", (parent, name))

    def rename(self, parent: InodeId, name: bytes, new_name: bytes) -> None:
        """Give an entry another name in its directory; its place in readdir stays. Part of a change as ``remove``."""
        sql = "UPDATE dentry SET name = ? WHERE parent = ? AND name = ?"
        self._database.change_at_once(sql, (new_name, parent, name))

    def point(self, parent: InodeId, name: bytes, inode: InodeId) -> None:
        """Have an entry lead to another inode, as part of the caller's change."""
        self._execute("UPDATE dentry SET inode = ? WHERE parent = ? AND name = ?", (inode, parent, name))


def check_no_dots(*names: bytes) -> None:
    """`.` and `..` can be looked up, but not moved: no dentry is called so."""
    if b"." in names or b".." in names:
        raise InvalidArgument("rename of . or ..")
