"""Whether changes of metadata may be made, and noting that one was.

Imports the layers below it. Every change of names, attributes and xattrs goes through ``allowed`` before and, for an
inode that may be held in memory, ``made`` after it, without a checkpoint in between.
"""

from __future__ import annotations

from collections.abc import Callable

from benchfs_core.errors import VolumeReadOnly
from benchfs_core.inodes import ActiveInode, InodeTable
from benchfs_core.metadata.group_commit import GroupCommit
from benchfs_core.types import AttributeChange, InodeId


class Changes:
    """The gate of one mount for changes of metadata."""

    def __init__(self, commit: GroupCommit, inodes: InodeTable, now_ns: Callable[[], int], *, read_only: bool) -> None:
        self._commit = commit
        self._inodes = inodes
        self._read_only = read_only
        self.now_ns = now_ns
        """The wall clock, nanoseconds since 1970."""

    @property
    def are_over(self) -> bool:
        """Whether none can be made any more, or never could."""
        return self._read_only or self._commit.failed

    async def allowed(self, *, frees: bool = False) -> None:
        """Wait until a change may be made; ``frees`` says that it gives space back, and may use the reserve.

        Raises:
            VolumeReadOnly, MetadataFailed, NoSpace: it may not.
        """
        if self._read_only:
            raise VolumeReadOnly("mounted read-only")
        await self._commit.writable(frees=frees)

    def found(self, node: ActiveInode) -> None:
        """The file was found by names that were made until now: what is made durable of it includes them."""
        node.changed_sequence = self._commit.last_change

    def made(self, inode: InodeId, ctime_ns: int) -> None:
        """The inode was changed at ``ctime_ns``: its next fsync makes that durable."""
        if (node := self._inodes.find(inode)) is not None:
            node.changed_sequence = self._commit.last_change
            node.ctime_ns = max(node.ctime_ns, ctime_ns)

    def made_by(self, inode: InodeId, change: AttributeChange) -> None:
        """As ``made``, of a change of attributes: the times that it sets hold, later or not."""
        if (node := self._inodes.find(inode)) is not None:
            node.atime_ns = node.atime_ns if change.atime_ns is None else change.atime_ns
            node.mtime_ns = node.mtime_ns if change.mtime_ns is None else change.mtime_ns
            node.ctime_ns = change.ctime_ns or node.ctime_ns
            node.changed_sequence = self._commit.sequence
