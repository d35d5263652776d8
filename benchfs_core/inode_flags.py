"""Asking for the flags of inodes, and setting them (ioctl_iflags(2)).

Imports the layers below it. Part of ``FileSystem``, which hands it out as ``flags``. Who may set them is the front
end's matter (in FUSE the kernel's); what they forbid is in ``flags``, and is seen to wherever that is done. What was
written through an older handle, and acknowledged to its writer, is taken by an immutable file as well: it is not lost.
"""

from __future__ import annotations

import stat

from benchfs_core import flags as rules
from benchfs_core.changes import Changes
from benchfs_core.errors import NotSupported
from benchfs_core.inodes import InodeTable
from benchfs_core.metadata.manager import MetadataManager
from benchfs_core.types import InodeId


class InodeFlags:
    """The flags of one mounted volume's files and directories."""

    def __init__(self, metadata: MetadataManager, changes: Changes, inodes: InodeTable) -> None:
        self._metadata = metadata
        self._changes = changes
        self._inodes = inodes

    async def get(self, inode: InodeId) -> int:
        """All flags of an inode. NoSuchEntry."""
        return self._metadata.get(inode).flags

    async def set(self, inode: InodeId, flags: int) -> None:
        """Have an inode have exactly these; ctime moves. As durable as a chmod(2).

        Raises:
            NotSupported: a flag that there is not, or not for an inode of its type.
            NotPermitted: it is immutable, and would stay so with other flags than it has.
        """
        if flags & ~rules.SUPPORTED:
            raise NotSupported(f"flags {flags:#x}")
        await self._changes.allowed(frees=not flags & rules.PROTECTING)  # else it could not be deleted from a full disk
        attributes = self._metadata.get(inode)
        if flags & rules.PROTECTING and not (stat.S_ISREG(attributes.mode) or stat.S_ISDIR(attributes.mode)):
            raise NotSupported(f"inode {inode} is neither file nor directory")
        rules.check_setting(attributes, flags)
        now_ns = self._changes.now_ns()
        self._metadata.set_flags(inode, flags, now_ns)
        self._changes.made(inode, now_ns)
        if (node := self._inodes.find(inode)) is not None:
            node.flags = flags

    def check_truncate(self, inode: InodeId) -> None:
        """NotPermitted: the file is immutable or append-only, and opening it with O_TRUNC must change nothing of it."""
        rules.check_unprotected(self._metadata.get(inode))
