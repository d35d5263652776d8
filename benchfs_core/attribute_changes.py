"""What changes the attributes of an inode: sizes by truncate(2), modes, owners and times.

Imports the layers below it. Part of ``FileSystem``. Invariants as there: each change is made between ``allowed`` and
the next checkpoint, in the row and, of a file in use, in memory alike.
"""

from __future__ import annotations

import stat

from benchfs_core.changes import Changes
from benchfs_core.errors import InvalidArgument, IsADirectory
from benchfs_core.file_io import FileIO
from benchfs_core.flags import check_mutable, check_unprotected
from benchfs_core.inodes import InodeTable
from benchfs_core.maintenance import Maintenance
from benchfs_core.metadata.manager import MetadataManager
from benchfs_core.types import AttributeChange, Attributes, InodeId, is_late, merge_late_times


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

    def tell(self, inode: InodeId, told: AttributeChange, *, by_writer: bool) -> Attributes | None:
        """Take the times that who keeps them tells, where no more than noting them is to be done; else None: ``set``.

        That is so for those that were known, for a write's (``by_writer``; blocks in the answer may be those before
        it) while changes can be stored, and for a file that nobody will see again. NoSuchEntry. Not a checkpoint;
        durable with the next fsync.
        """
        stored, node = self._metadata.get(inode), self._inodes.find(inode)
        known = stored if node is None else node.overlay(stored)
        if told.ctime_ns == known.ctime_ns and told.mtime_ns == known.mtime_ns:
            is_answered = node is None or by_writer or node.blocks_at_write == node.writes
            return known if is_answered else None
        if node is None:
            return None if stored.link_count or not stat.S_ISREG(stored.mode) else stored
        is_of_a_write = by_writer and told.mtime_ns == told.ctime_ns and (told.ctime_ns or 0) >= known.ctime_ns
        if not is_of_a_write or self._changes.are_over:
            return None
        node.times_told(told)
        return node.overlay(stored)

    async def set(
        self,
        inode: InodeId,
        change: AttributeChange,
        size: int | None,
        *,
        late_times: bool,
        touches: bool,
        by_writer: bool,
    ) -> Attributes:
        """Change size, then the rest: see ``FileSystem.setattr``. The row as it is then."""
        is_telling = late_times and size is None and change.is_telling
        if is_telling and (told := self.tell(inode, change, by_writer=by_writer)) is not None:
            return told
        await self._changes.allowed(frees=size is not None)
        stored, told_late = self._metadata.get(inode), False
        if is_telling:
            node = self._inodes.find(inode)
            known = stored if node is None else node.overlay(stored)
            told_late = is_late(change, known, by_writer=by_writer)
            change = merge_late_times(change, known)
            if change == AttributeChange(ctime_ns=known.ctime_ns, mtime_ns=known.mtime_ns):
                return stored  # overtaken: what it tells is undone
            if told_late and by_writer and node is not None and (change.ctime_ns or 0) >= known.ctime_ns:
                node.times_told(change)
                return stored
        if size is not None:
            await self.truncate(inode, size)
            await self._changes.allowed(frees=True)
        elif not told_late:  # what was written, and acknowledged, before the inode was protected
            _check_protected(stored, change, touches=touches)
        if change.ctime_ns is None:
            change = change._replace(ctime_ns=self._changes.now_ns())
        if change.mode is not None:
            change = change._replace(mode=stat.S_IFMT(stored.mode) | stat.S_IMODE(change.mode))
        if size is None or change.names_something:
            stored = self._metadata.set_attributes(inode, change)
            self._changes.made_by(inode, change)
            return stored
        return self._metadata.get(inode)

    async def truncate(self, inode: InodeId, size: int) -> None:
        """Make a regular file ``size`` bytes long (truncate(2)). IsADirectory, InvalidArgument, NotPermitted."""
        attributes = self._metadata.get(inode)
        check_regular(attributes)
        check_unprotected(attributes)
        if size < 0:
            raise InvalidArgument(f"truncate of inode {inode} to {size} bytes")
        await self._maintenance.room()
        node = self._inodes.activate(self._metadata.get(inode))
        self._changes.found(node)
        node.open_count += 1  # keeps it active meanwhile
        try:
            await self._file_io.truncate(node, size)
        finally:
            node.open_count -= 1
            if node.open_count == 0:
                self._maintenance.closed(node)


def _check_protected(attributes: Attributes, change: AttributeChange, *, touches: bool) -> None:
    """What an append-only inode takes is that its times are set to now; an immutable one takes nothing."""
    if change.names_something and not touches:
        check_unprotected(attributes)
    else:
        check_mutable(attributes)


def check_regular(attributes: Attributes) -> None:
    """IsADirectory, InvalidArgument: anything but a regular file."""
    if stat.S_ISDIR(attributes.mode):
        raise IsADirectory(f"inode {attributes.inode}")
    if not stat.S_ISREG(attributes.mode):
        raise InvalidArgument(f"inode {attributes.inode} is not a regular file")
