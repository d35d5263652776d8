"""Access control lists of inodes, kept in the table ``xattr``, and the mode that goes with them.

Nothing awaits; each change is part of the open transaction. Invariant: an access list and the permission bits of its
inode say the same (acl(5)), whether the mount enforces lists or not; a list that the bits can say is not kept.
"""

from __future__ import annotations

import stat

from benchfs_core import acl
from benchfs_core.acl import Acl
from benchfs_core.errors import InvalidArgument, NoSuchAttribute, NotADirectory
from benchfs_core.metadata.database import Database
from benchfs_core.metadata.inode_rows import InodeRows
from benchfs_core.metadata.xattrs import Xattrs
from benchfs_core.types import AttributeChange, Attributes, InodeId


class Acls:
    """The lists of one volume; ``enabled`` says whether new inodes inherit."""

    def __init__(self, database: Database, inodes: InodeRows, xattrs: Xattrs, *, enabled: bool) -> None:
        self._database = database
        self._inodes = inodes
        self._xattrs = xattrs
        self.enabled = enabled

    def set_access(self, inode: InodeId, value: bytes, now_ns: int, *, drop_setgid: bool) -> None:
        """Set the access list and with it the mode; ctime moves. One without entries takes the list away.

        Raises:
            InvalidArgument: malformed.
            AttributeTooLarge: the list of xattr names is full.
        """
        access = acl.from_xattr(value)
        if access is None:
            self.remove(inode, acl.ACCESS, now_ns)
            return
        attributes = self._inodes.get(inode)
        mode = attributes.mode & ~acl.PERMISSION_BITS | access.mode
        if drop_setgid:
            mode &= ~stat.S_ISGID
        self._xattrs.check_room(inode, acl.ACCESS)
        with self._database.change():
            self._keep(inode, access)
            self._inodes.put(attributes.changed(AttributeChange(ctime_ns=now_ns, mode=mode)))

    def set_default(self, directory: InodeId, value: bytes, now_ns: int) -> None:
        """Set what children start with; ctime moves. A list without entries takes it away.

        Raises:
            InvalidArgument: malformed.
            NotADirectory: nothing is made in ``directory``.
        """
        default = acl.from_xattr(value)
        if not stat.S_ISDIR(self._inodes.get(directory).mode):
            raise NotADirectory(f"default ACL of inode {directory}")
        if default is None:
            self.remove(directory, acl.DEFAULT, now_ns)
        else:
            self._xattrs.set(directory, acl.DEFAULT, default.to_xattr(), now_ns)

    def remove(self, inode: InodeId, name: bytes, now_ns: int) -> None:
        """Take a list away; the mode stays. That there is none is no error."""
        try:
            self._xattrs.remove(inode, name, now_ns)
        except NoSuchAttribute:
            return

    def follow_mode(self, inode: InodeId, mode: int) -> None:
        """After a change of mode: bring the access list in step, if there is one."""
        if (access := self._find(inode, acl.ACCESS)) is not None:
            with self._database.change():
                self._keep(inode, access.with_mode(mode))

    def starting_mode(self, directory: Attributes, mode: int, umask: int) -> tuple[int, list[tuple[bytes, bytes]]]:
        """The mode of what is made in ``directory`` with ``mode``, and the lists it starts with, as xattrs.

        The umask counts only where the directory has no default list (acl(5), OBJECT CREATION AND DEFAULT ACLs).
        """
        default = self._find(directory.inode, acl.DEFAULT) if self.enabled else None
        if default is None:
            return mode & ~(umask & acl.PERMISSION_BITS), []
        mode, access = acl.inherited(default, mode)
        lists = [] if access is None else [(acl.ACCESS, access.to_xattr())]
        if stat.S_ISDIR(mode):
            lists.append((acl.DEFAULT, default.to_xattr()))
        return mode, lists

    def _find(self, inode: InodeId, name: bytes) -> Acl | None:
        try:
            return acl.from_xattr(self._xattrs.get(inode, name))
        except NoSuchAttribute:
            return None
        except InvalidArgument:  # damage, which fsck finds; the mode alone counts
            return None

    def _keep(self, inode: InodeId, access: Acl) -> None:
        if access.is_mode:
            self._xattrs.drop(inode, acl.ACCESS)
        else:
            self._xattrs.put(inode, acl.ACCESS, access.to_xattr())
