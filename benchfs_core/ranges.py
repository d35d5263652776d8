"""``Ranges``: what ``FileSystem`` does with parts of open files besides reading and writing them.

Imports the layers below it. The calls are those of fallocate(2), lseek(2) and copy_file_range(2), by handle. Whether a
handle may write is the front end's matter. With ``keep_times`` mtime and ctime stay: for a front end that keeps them.
"""

from __future__ import annotations

from benchfs_core.errors import VolumeReadOnly
from benchfs_core.file_holes import Settle
from benchfs_core.file_io import FileIO
from benchfs_core.flags import check_writing
from benchfs_core.inodes import ActiveInode
from benchfs_core.metadata.group_commit import GroupCommit
from benchfs_core.mounting import Mounting
from benchfs_core.open_files import OpenFiles
from benchfs_core.types import HandleId


class Ranges:
    """The ranges of one mount's open files."""

    def __init__(self, file_io: FileIO, commit: GroupCommit, open_files: OpenFiles, mounting: Mounting) -> None:
        self._file_io = file_io
        self._commit = commit
        self._open_files = open_files
        self._mounting = mounting

    async def allocate(
        self, handle: HandleId, offset: int, length: int, *, keep_size: bool, keep_times: bool = False
    ) -> None:
        """Have space for a part of a file; see ``FileAllocation.allocate``."""
        node = self._writable(handle)
        await self._file_io.allocation.allocate(
            node, offset, length, free_bytes=self._free_bytes(), keep_size=keep_size, keep_times=keep_times
        )

    async def punch(self, handle: HandleId, offset: int, length: int, *, keep_times: bool = False) -> None:
        """Make a part of a file a hole; see ``FileAllocation.punch``."""
        node = self._writable(handle, appends=False)
        await self._file_io.allocation.punch(node, offset, length, keep_times=keep_times)

    async def zero(
        self, handle: HandleId, offset: int, length: int, *, keep_size: bool, keep_times: bool = False
    ) -> None:
        """Make a part of a file zeros, with space; see ``FileAllocation.zero``."""
        node = self._writable(handle, appends=False)
        await self._file_io.allocation.zero(
            node, offset, length, free_bytes=self._free_bytes(), keep_size=keep_size, keep_times=keep_times
        )

    async def seek(self, handle: HandleId, offset: int, *, data: bool, settle: Settle | None = None) -> int:
        """The next data, or hole; see ``FileHoles.seek``. ``settle`` is only asked while somebody may be writing."""
        node = self._open_files.file(handle).node
        return await self._file_io.holes.seek(node, offset, data=data, settle=settle if node.writer_count else None)

    async def copy(
        self,
        source: HandleId,
        source_offset: int,
        target: HandleId,
        target_offset: int,
        length: int,
        *,
        keep_times: bool = False,
        beyond_is_hole: bool = False,
    ) -> int:
        """Copy bytes from file to file; see ``FileCopies.copy``."""
        return await self._file_io.copies.copy(
            self._open_files.file(source).node,
            source_offset,
            self._writable(target),
            target_offset,
            length,
            keep_times=keep_times,
            beyond_is_hole=beyond_is_hole,
        )

    def _writable(self, handle: HandleId, *, appends: bool = True) -> ActiveInode:
        node = self._open_files.file(handle).node
        if self._mounting.read_only:
            raise VolumeReadOnly("mounted read-only")
        self._commit.raise_if_failed()
        check_writing(node.inode, node.flags, appends=appends)
        return node

    def _free_bytes(self) -> int:
        below = self._mounting.statvfs()
        return below.f_bfree * below.f_frsize
