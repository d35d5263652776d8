"""When reading moves atime, and moving it (mount(8), relatime; ioctl_iflags(2), FS_NOATIME_FL).

Imports the layers below it. Part of ``FileSystem``. Invariant: reading never fails for the sake of atime.
"""

from __future__ import annotations

import time
from contextlib import suppress

from benchfs_core.changes import Changes
from benchfs_core.errors import FileSystemError
from benchfs_core.flags import NOATIME
from benchfs_core.inodes import ActiveInode
from benchfs_core.metadata.manager import MetadataManager
from benchfs_core.mounting import Mounting
from benchfs_core.types import InodeId


class AccessTimes:
    """The access times of one mounted volume. Whether one is a day old any clock tells."""

    def __init__(self, metadata: MetadataManager, changes: Changes, mounting: Mounting) -> None:
        self._metadata = metadata
        self._changes = changes
        self._mounting = mounting

    def move_with(self, node: ActiveInode) -> bool:
        """Whether the next read of a file moves its atime."""
        if node.flags & NOATIME:
            return False
        return self._mounting.moves_atime(node.atime_ns, node.mtime_ns, node.ctime_ns, time.time_ns)

    def move_with_reading(self, inode: InodeId) -> bool:
        """Whether reading a directory or symbolic link moves its atime: who has it cached must then read it here.

        Raises:
            NoSuchEntry: there is no such inode.
        """
        stored = self._metadata.get(inode)
        if stored.flags & NOATIME:
            return False
        return self._mounting.moves_atime(stored.atime_ns, stored.mtime_ns, stored.ctime_ns, time.time_ns)

    async def read(self, inode: InodeId) -> None:
        """A directory or symbolic link was read: move its atime, if the mount's rule says so."""
        if self.move_with_reading(inode):
            with suppress(FileSystemError):
                await self._changes.allowed()
                stored = self._metadata.get(inode)
                self._metadata.marks.set_times(inode, self._changes.now_ns(), stored.mtime_ns, stored.ctime_ns)
