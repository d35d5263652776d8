"""``MetadataManager``: names, attributes and directories.

The package ``benchfs_core.metadata`` is the only place with SQL. Nothing here awaits, so each call is atomic between
trio checkpoints; each change is whole or not at all, and part of the open transaction (``GroupCommit`` says when that
is durable). Keeps the rules of ``schema``: names lead to inodes, link counts count names, directories know their
parent. Permission is not checked here: the kernel does (``default_permissions``). What flags say of names is, for
of flags the kernel knows nothing.
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
from benchfs_core.flags import check_mutable, check_unprotected
from benchfs_core.metadata.acls import Acls
from benchfs_core.metadata.contents import Contents
from benchfs_core.metadata.database import Database
from benchfs_core.metadata.entries import Entries, check_no_dots
from benchfs_core.metadata.inode_rows import InodeRows, new_attributes
from benchfs_core.metadata.marks import Marks
from benchfs_core.metadata.numbers import Numbers
from benchfs_core.metadata.xattrs import Xattrs
from benchfs_core.types import (
    MAX_LINK_COUNT,
    MAX_NAME_BYTES,
    MAX_SYMLINK_BYTES,
    AttributeChange,
    Attributes,
    Credentials,
    DirectoryEntry,
    InodeId,
)


class MetadataManager:
    """The namespace of one volume; ``marks``, ``contents``, ``xattrs`` and ``acls`` are its other tables."""

    def __init__(self, database: Database, numbers: Numbers, *, acl: bool = False) -> None:
        self._database = database
        self._execute = database.execute
        self._numbers = numbers
        self._inodes = InodeRows(database)
        self._entries = Entries(database, self._inodes, numbers)
        self.marks = Marks(database, self._inodes)
        self.contents = Contents(database, self._inodes)
        self.xattrs = Xattrs(database, self._inodes)
        self.acls = Acls(database, self._inodes, self.xattrs, enabled=acl)

    # Reading

    def get(self, inode: InodeId) -> Attributes:
        """The attributes stored for ``inode``; NoSuchEntry if there is none."""
        return self._inodes.get(inode)

    def lookup(self, parent: InodeId, name: bytes) -> Attributes:
        """The inode that ``name`` leads to in ``parent``; `.` and `..` work as names.

        Raises:
            NoSuchEntry: no dentry of that name.
            NotADirectory: ``parent`` is not a directory.
            NameTooLong: over 255 bytes.
        """
        found = self._entries.find(parent, name)
        if found is not None:
            return found
        if len(name) > MAX_NAME_BYTES:
            raise NameTooLong(f"name of {len(name)} bytes")
        directory = self._entries.directory(parent)
        if name == b".":
            return directory
        if name == b"..":
            return self.get(self._inodes.parent(parent))
        raise NoSuchEntry(f"{name!r} in inode {parent}")

    def readdir(self, directory: InodeId, after_cookie: int) -> Iterator[DirectoryEntry]:
        """Entries of ``directory`` whose cookie is above ``after_cookie``, by rising cookie, without `.` and `..`.

        Take what is wanted before the next checkpoint, then drop the iterator.
        """
        return self._entries.list(directory, after_cookie)

    def parent(self, directory: InodeId) -> InodeId:
        """The directory that ``directory`` lies in; the root's is itself."""
        return self._inodes.parent(directory)

    def readlink(self, inode: InodeId) -> bytes:
        """The target of a symbolic link.

        Raises:
            InvalidArgument: not a symbolic link (readlink(2), EINVAL).
        """
        row = self._execute("SELECT target FROM symlink WHERE inode = ?", (inode,)).fetchone()
        if row is None:
            raise InvalidArgument(f"inode {inode} is not a symbolic link")
        return bytes(row[0])

    # Making

    def create(
        self, parent: InodeId, name: bytes, mode: int, owner: Credentials, now_ns: int, rdev: int = 0
    ) -> Attributes:
        """Make an inode of any type but symlink, with its type in ``mode``, and name it.

        Its permissions are those of ``mode`` less the owner's umask, or what the parent's default ACL makes of them.
        """
        if not stat.S_ISDIR(mode) and not self.acls.enabled:  # one statement
            return self._make(parent, name, mode, owner, now_ns, rdev=rdev)
        with self._database.change():
            return self._make(parent, name, mode, owner, now_ns, rdev=rdev)

    def create_nameless(self, directory: InodeId, mode: int, owner: Credentials, now_ns: int) -> Attributes:
        """Make a regular file without a name: an orphan, which ``link`` may give one. Begins as ``create`` has it.

        Raises:
            NotPermitted: the directory was removed (as on ext4), or is immutable.
        """
        parent = self._entries.directory(directory)
        check_mutable(parent)
        if parent.link_count == 0:
            raise NotPermitted(f"directory inode {directory} was removed")
        with self._database.change():
            attributes, lists = self._new(parent, stat.S_IFREG | mode, owner, now_ns)
            attributes = attributes._replace(link_count=0)
            self._insert(attributes, parent, lists)
        return attributes

    def symlink(self, parent: InodeId, name: bytes, target: bytes, owner: Credentials, now_ns: int) -> Attributes:
        """Make a symbolic link to ``target``, 1 to 4095 bytes."""
        if len(target) > MAX_SYMLINK_BYTES:
            raise NameTooLong(f"symlink target of {len(target)} bytes")
        if not target:
            raise NoSuchEntry("empty symlink target")
        with self._database.change():
            attributes = self._make(parent, name, stat.S_IFLNK | 0o777, owner, now_ns, size=len(target))
            self._execute("INSERT INTO symlink (inode, target) VALUES (?, ?)", (attributes.inode, target))
        return attributes

    def link(
        self, inode: InodeId, parent: InodeId, name: bytes, now_ns: int, *, was_nameless: bool = False
    ) -> Attributes:
        """Give ``inode`` one more name; with ``was_nameless`` also its first, after which it is an orphan no more.

        Raises:
            NotPermitted: a directory, or an inode that is immutable or append-only.
            NoSuchEntry: the inode has no name left.
            EntryExists: the name is taken.
            TooManyLinks: the link count is at its limit.
        """
        attributes = self.get(inode)
        if stat.S_ISDIR(attributes.mode):
            raise NotPermitted("hard link to a directory")
        if attributes.link_count == 0 and not was_nameless:
            raise NoSuchEntry(f"inode {inode} was unlinked")
        if attributes.link_count >= MAX_LINK_COUNT:
            raise TooManyLinks(f"inode {inode} has {attributes.link_count} names")
        self._entries.directory_for_new(parent, name, flags=attributes.flags)
        check_unprotected(attributes)
        with self._database.change():
            self._entries.add(parent, name, inode)
            self._inodes.touch_directory(parent, 0, now_ns)
            if attributes.link_count == 0:
                self._execute("DELETE FROM orphan WHERE inode = ?", (inode,))
            return self._inodes.add_links(inode, 1, now_ns)

    # Removing and moving

    def unlink(self, parent: InodeId, name: bytes, now_ns: int) -> Attributes:
        """Remove a name that is not a directory's; return the inode as it is then. Without a name left it is an orphan.

        Raises:
            NoSuchEntry: no dentry of that name.
            IsADirectory: it is a directory.
        """
        attributes = self.lookup(parent, name)
        self._entries.check_removable(parent, attributes)
        if stat.S_ISDIR(attributes.mode):
            raise IsADirectory(f"{name!r} in inode {parent}")
        self._entries.remove(parent, name)
        self._inodes.touch_directory(parent, 0, now_ns)
        return self._drop_link(attributes, now_ns)

    def rmdir(self, parent: InodeId, name: bytes, now_ns: int) -> Attributes:
        """Remove an empty directory; return it as it is then, an orphan.

        Raises:
            NoSuchEntry: no dentry of that name.
            NotADirectory: not a directory.
            DirectoryNotEmpty: it has entries.
            InvalidArgument: the name is `.` (rmdir(2)).
        """
        if name == b".":
            raise InvalidArgument("rmdir of .")
        if name == b"..":
            raise DirectoryNotEmpty("rmdir of ..")
        attributes = self.lookup(parent, name)
        self._entries.check_removable(parent, attributes)
        if not stat.S_ISDIR(attributes.mode):
            raise NotADirectory(f"{name!r} in inode {parent}")
        self._entries.check_empty(attributes.inode)
        self._entries.remove(parent, name)
        self._inodes.touch_directory(parent, -1, now_ns)
        return self._drop_link(attributes, now_ns)

    def rename(
        self, parent: InodeId, name: bytes, new_parent: InodeId, new_name: bytes, now_ns: int, *, overwrite: bool = True
    ) -> tuple[Attributes, Attributes | None]:
        """Move an entry; return the moved inode and the one whose name was taken over, as they are then.

        Two names of one inode stay as they are (rename(2)).

        Raises:
            NoSuchEntry: no dentry of the old name.
            EntryExists: the new name is taken and ``overwrite`` is false.
            IsADirectory, NotADirectory, DirectoryNotEmpty: the new name's inode cannot be replaced by the moved one.
            InvalidArgument: a directory would come to lie in itself, or a name is `.` or `..`.
        """
        check_no_dots(name, new_name)
        moved = self.lookup(parent, name)
        target = self._entries.find(new_parent, new_name)
        directory = self._entries.directory_for_name(new_parent, new_name) if target is None else None
        if target is not None and not overwrite:
            raise EntryExists(f"{new_name!r} in inode {new_parent}")
        is_directory = stat.S_ISDIR(moved.mode)
        if is_directory:
            self._entries.check_not_below(new_parent, moved.inode)
        if target is not None and target.inode == moved.inode:
            return moved, None
        self._entries.check_removable(parent, moved)
        if target is not None:
            self._entries.check_removable(new_parent, target)
            self._entries.check_replaceable(moved, target)
        if directory is not None:
            check_mutable(directory)
        if directory is not None and is_directory and parent != new_parent:
            self._entries.check_room(directory)
        if target is None and parent == new_parent:  # keeps its place in readdir
            self._entries.rename(parent, name, new_name)
            self._inodes.touch_directory(parent, 0, now_ns)
            return self._inodes.add_links(moved.inode, 0, now_ns), None
        with self._database.change():
            self._entries.remove(parent, name)
            if target is None:
                self._entries.add(new_parent, new_name, moved.inode)
            else:
                self._entries.point(new_parent, new_name, moved.inode)
                self._drop_link(target, now_ns)
            self._touch_after_move(parent, new_parent, is_directory, target is not None, now_ns)
            self._after_move(moved, new_parent, now_ns)
        return self.get(moved.inode), None if target is None else self.get(target.inode)

    def exchange(
        self, parent: InodeId, name: bytes, new_parent: InodeId, new_name: bytes, now_ns: int
    ) -> tuple[Attributes, Attributes]:
        """Swap what two names lead to (rename(2), RENAME_EXCHANGE), of any types; return the two as they were.

        Raises:
            NoSuchEntry: one of the names is missing.
            InvalidArgument: a directory would come to lie in itself, or a name is `.` or `..`.
        """
        check_no_dots(name, new_name)
        one, other = self.lookup(parent, name), self.lookup(new_parent, new_name)
        if one.inode == other.inode:
            return one, other
        self._entries.check_removable(parent, one)
        self._entries.check_removable(new_parent, other)
        if stat.S_ISDIR(one.mode):
            self._entries.check_not_below(new_parent, one.inode)
        if stat.S_ISDIR(other.mode):
            self._entries.check_not_below(parent, other.inode)
        balance = stat.S_ISDIR(other.mode) - stat.S_ISDIR(one.mode)
        with self._database.change():
            self._entries.point(parent, name, other.inode)
            self._entries.point(new_parent, new_name, one.inode)
            self._inodes.touch_directory(parent, balance, now_ns)
            self._inodes.touch_directory(new_parent, -balance, now_ns)
            self._after_move(one, new_parent, now_ns)
            self._after_move(other, parent, now_ns)
        return one, other

    def set_attributes(self, inode: InodeId, change: AttributeChange) -> Attributes:
        """Change mode, owner or times, the access ACL in step with the mode; return the result.

        Raises:
            NoSuchEntry: no such inode.
        """
        attributes = self._inodes.get(inode).changed(change)
        self._database.change_kept_back()
        if change.mode is not None:
            self.acls.follow_mode(inode, change.mode)
        self._inodes.put(attributes)
        return attributes

    def set_flags(self, inode: InodeId, flags: int, now_ns: int) -> None:
        """Set all of an inode's flags (``benchfs_core.flags``); ctime moves."""
        attributes = self._inodes.get(inode)
        self._database.change_kept_back()
        self._inodes.put(attributes._replace(flags=flags, ctime_ns=now_ns))

    # Rules

    def _make(
        self, parent: InodeId, name: bytes, mode: int, owner: Credentials, now_ns: int, *, rdev: int = 0, size: int = 0
    ) -> Attributes:
        directory = self._entries.directory_for_new(parent, name)
        is_directory = stat.S_ISDIR(mode)
        if is_directory:
            self._entries.check_room(directory)
        attributes, lists = self._new(directory, mode, owner, now_ns, rdev, size)
        self._entries.add(parent, name, attributes.inode)
        self._insert(attributes, directory, lists)
        self._inodes.touch_directory(parent, 1 if is_directory else 0, now_ns)
        return attributes

    def _new(
        self, directory: Attributes, mode: int, owner: Credentials, now_ns: int, rdev: int = 0, size: int = 0
    ) -> tuple[Attributes, list[tuple[bytes, bytes]]]:
        """A new inode with what it inherits from ``directory``, and the ACLs that it starts with, as xattrs."""
        lists: list[tuple[bytes, bytes]] = []
        if not stat.S_ISLNK(mode):
            mode, lists = self.acls.starting_mode(directory, mode, owner.umask)
        return new_attributes(self._numbers.take(), mode, owner, directory, now_ns, rdev, size), lists

    def _insert(self, attributes: Attributes, directory: Attributes, lists: list[tuple[bytes, bytes]]) -> None:
        """Add what ``_new`` made; as part of a change, unless it is no directory and has no ACLs."""
        self._inodes.insert(attributes, directory.inode if stat.S_ISDIR(attributes.mode) else None)
        for xattr, value in lists:
            self.xattrs.put(attributes.inode, xattr, value)

    def _drop_link(self, attributes: Attributes, now_ns: int) -> Attributes:
        """Take one name from an inode; without one it is an orphan. A removed directory loses its `.` as well."""
        names = attributes.link_count if stat.S_ISDIR(attributes.mode) else 1
        return self._inodes.add_links(attributes.inode, -names, now_ns)

    def _touch_after_move(
        self, parent: InodeId, new_parent: InodeId, is_directory: bool, replaces: bool, now_ns: int
    ) -> None:
        """Note in both directories that an entry moved; a directory that took another's place is one less in all."""
        left = -1 if is_directory else 0
        came = 1 if is_directory and not replaces else 0
        if parent == new_parent:
            self._inodes.touch_directory(parent, left + came, now_ns)
        else:
            self._inodes.touch_directory(parent, left, now_ns)
            self._inodes.touch_directory(new_parent, came, now_ns)

    def _after_move(self, attributes: Attributes, parent: InodeId, now_ns: int) -> None:
        self._inodes.add_links(attributes.inode, 0, now_ns)
        if stat.S_ISDIR(attributes.mode):
            self._inodes.set_parent(attributes.inode, parent)
