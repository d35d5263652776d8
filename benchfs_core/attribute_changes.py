"""What changes the attributes of an inode: sizes by truncate(2), modes, owners and times.

Imports the layers below it. Part of ``FileSystem``. Invariants as there: each change is made between ``allowed`` and
the next checkpoint, in the row and, of a file in use, in memory alike.
"""

from __future__ import annotations

import stat

from benchfs_core.changes import Changes
from benchfs_core.errors import InvalidArgument, IsADirectory
from benchfs_core.file_io import FileIO
from benchfs_core.inodes import InodeTable
from benchfs_core.maintenance import Maintenance
from benchfs_core.metadata.manager import MetadataManager
from benchfs_core.types import AttributeChange, Attributes, InodeId, merge_late_times


class AttributeChanges:
    """The attributes of one mounted volume."""

    def __init__(
        self,
        metadata: MetadataManager,
        changes: Changes,
        file_io: FileIO,
        inodes: InodeTable,
        maintenance: Maintenance,
    ) -> None:
        self._metadata = metadata
        self._changes = changes
        self._file_io = file_io
        self._inodes = inodes
        self._maintenance = maintenance

    async def set(self, inode: InodeId, change: AttributeChange, size: int | None, *, late_times: bool) -> None:
        """Change size, then the rest: see ``FileSystem.setattr``."""
        await self._changes.allowed(frees=size is not None)
        if late_times and size is None:
            stored, node = self._metadata.get(inode), self._inodes.find(inode)
            known = stored if node is None else node.overlay(stored)
            change = merge_late_times(change, known)
            if change == AttributeChange(ctime_ns=known.ctime_ns, mtime_ns=known.mtime_ns):
                return  # the kernel tells what it was told
        if size is not None:
            await self.truncate(inode, size)
            await self._changes.allowed(frees=True)
        if change.ctime_ns is None:
            change = change._replace(ctime_ns=self._changes.now_ns())
        if change.mode is not None:
            change = change._replace(mode=stat.S_IFMT(self._metadata.get(inode).mode) | stat.S_IMODE(change.mode))
        if size is None or change.names_something:
            self._metadata.set_attributes(inode, change)
            self._changes.made_by(inode, change)

    async def truncate(self, inode: InodeId, size: int) -> None:
        """Make a regular file ``size`` bytes long (truncate(2)). IsADirectory, InvalidArgument."""
        attributes = self._metadata.get(inode)
        check_regular(attributes)
        if size < 0:
            raise InvalidArgument(f"truncate of inode {inode} to {size} bytes")
        await self._maintenance.room()
        node = self._inodes.activate(self._metadata.get(inode))
        node.open_count += 1  # keeps it active meanwhile
        try:
            await self._file_io.truncate(node, size)
        finally:
            node.open_count -= 1
            if node.open_count == 0:
                self._maintenance.closed(node)


def check_regular(attributes: Attributes) -> None:
    """IsADirectory, InvalidArgument: anything but a regular file."""
    if stat.S_ISDIR(attributes.mode):
        raise IsADirectory(f"inode {attributes.inode}")
    if not stat.S_ISREG(attributes.mode):
        raise InvalidArgument(f"inode {attributes.inode} is not a regular file")
