"""Extended attributes and POSIX ACLs of inodes, as xattr(7) and acl(5) have them.

Imports the layers below it. Part of ``FileSystem``, which hands it out as ``xattrs``. Who may see or set what is the
front end's matter (in FUSE the kernel's). Invariant: without ACLs enabled none can be seen or set: stored without being
enforced they would promise what is not kept.
"""

from __future__ import annotations

import stat

from benchfs_core import acl
from benchfs_core.changes import Changes
from benchfs_core.errors import InvalidArgument, NoSuchAttribute, NotSupported
from benchfs_core.flags import check_mutable, check_unprotected
from benchfs_core.metadata.manager import MetadataManager
from benchfs_core.types import InodeId

_NAMESPACES = (b"user.", b"trusted.", b"security.")
_ACLS = (acl.ACCESS, acl.DEFAULT)
CAPABILITY = b"security.capability"
"""Where a file's capabilities are (capabilities(7))."""


class ExtendedAttributes:
    """The extended attributes of one mounted volume; ``acl_enabled`` says whether ACLs are among them."""

    def __init__(self, metadata: MetadataManager, changes: Changes, *, acl_enabled: bool) -> None:
        self._metadata = metadata
        self._changes = changes
        self._acl_enabled = acl_enabled

    async def get(self, inode: InodeId, name: bytes) -> bytes:
        """The value of one attribute (getxattr(2)). NoSuchAttribute, NotSupported, InvalidArgument."""
        self._check_namespace(name)
        return self._metadata.xattrs.get(inode, name)

    async def set(self, inode: InodeId, name: bytes, value: bytes, *, drop_setgid: bool = False) -> None:
        """Set or replace an attribute (setxattr(2)); an access ACL changes the mode with it.

        Args:
            inode: whose.
            name: with its namespace.
            value: up to 64 KiB.
            drop_setgid: for an access ACL: that its owner is not in the file's group, and loses S_ISGID (chmod(2)).

        Raises:
            NotSupported: a namespace that there is not.
            InvalidArgument: an ACL that is malformed, a namespace without a name.
            AttributeTooLarge: the value, or the list of names, would pass its limit.
            NotPermitted: the inode is immutable or append-only.
        """
        self._check_namespace(name)
        await self._changes.allowed()
        check_unprotected(self._metadata.get(inode))
        if self._is_already(inode, name, value, drop_setgid=drop_setgid):
            return
        now_ns = self._changes.now_ns()
        if name == acl.ACCESS:
            self._metadata.acls.set_access(inode, value, now_ns, drop_setgid=drop_setgid)
        elif name == acl.DEFAULT:
            self._metadata.acls.set_default(inode, value, now_ns)
        else:
            self._metadata.xattrs.set(inode, name, value, now_ns)
        self._changes.made(inode, now_ns)

    async def names(self, inode: InodeId) -> list[bytes]:
        """Names of all attributes (listxattr(2))."""
        names = self._metadata.xattrs.names(inode)
        return names if self._acl_enabled else [name for name in names if name not in _ACLS]

    async def remove(self, inode: InodeId, name: bytes) -> None:
        """Remove an attribute (removexattr(2)). NoSuchAttribute, but not for ACLs, as on ext4.

        An append-only file keeps all but its capabilities: those go when it is written, and the kernel sees to that.
        """
        self._check_namespace(name)
        await self._changes.allowed()
        attributes = self._metadata.get(inode)
        if name == CAPABILITY:
            check_mutable(attributes)
        else:
            check_unprotected(attributes)
        now_ns = self._changes.now_ns()
        if name in _ACLS:
            if self._find(inode, name) is None:
                return
            self._metadata.acls.remove(inode, name, now_ns)
        else:
            self._metadata.xattrs.remove(inode, name, now_ns)
        self._changes.made(inode, now_ns)

    def _find(self, inode: InodeId, name: bytes) -> bytes | None:
        try:
            return self._metadata.xattrs.get(inode, name)
        except NoSuchAttribute:
            return None

    def _is_already(self, inode: InodeId, name: bytes, value: bytes, *, drop_setgid: bool) -> bool:
        """Whether setting it would change nothing, and so must not move ctime: as on ext4."""
        stored = self._find(inode, name)
        if name not in _ACLS:
            return stored == value
        wanted, mode = acl.from_xattr(value), self._metadata.get(inode).mode
        if wanted is None:
            return stored is None
        if drop_setgid and mode & stat.S_ISGID:
            return False
        if name == acl.ACCESS and wanted.is_mode:
            return stored is None and mode & acl.PERMISSION_BITS == wanted.mode
        return stored == wanted.to_xattr()

    def _check_namespace(self, name: bytes) -> None:
        if not (name.startswith(_NAMESPACES) or (self._acl_enabled and name in _ACLS)):
            raise NotSupported(f"xattr namespace of {name!r}")
        if name in _NAMESPACES:
            raise InvalidArgument(f"{name!r} is a namespace without a name")
