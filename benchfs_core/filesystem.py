"""``FileSystem``: what POSIX says of files and directories, by inode. The one interface that front ends call.

Imports the layers below it and no front end; usable and tested without FUSE. Permission is the front end's matter (in
FUSE the kernel's). Every method is async; one that changes something waits first until changes may be made
(``Changes.allowed``) and then makes its change without a checkpoint in between, so that changes are atomic to
every other task. Errors are those of ``errors``, and OSError where the filesystem below failed.

Durable on return: with ``sync=write`` what ``write`` and ``truncate`` did; in both modes what ``fsync``,
``fsync_directory`` and ``sync`` were asked for; otherwise what the last commit interval took along.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator

from benchfs_core.access_times import AccessTimes
from benchfs_core.attribute_changes import AttributeChanges, check_regular
from benchfs_core.changes import Changes
from benchfs_core.errors import InvalidArgument, NotADirectory, VolumeReadOnly
from benchfs_core.extended_attributes import ExtendedAttributes
from benchfs_core.file_io import FileIO
from benchfs_core.flags import PROTECTING, check_opening, check_writing
from benchfs_core.inode_flags import InodeFlags
from benchfs_core.inodes import ActiveInode, InodeTable
from benchfs_core.maintenance import Maintenance
from benchfs_core.metadata.group_commit import GroupCommit
from benchfs_core.metadata.manager import MetadataManager
from benchfs_core.mounting import Mounting
from benchfs_core.open_files import OpenFiles
from benchfs_core.ranges import Ranges
from benchfs_core.types import (
    AttributeChange,
    Attributes,
    Buffer,
    Credentials,
    DirectoryEntry,
    HandleId,
    InodeId,
)


class FileSystem:
    """One mounted volume. Inodes given out by ``lookup`` and the makers are counted until ``forget`` (as in FUSE)."""

    def __init__(
        self,
        metadata: MetadataManager,
        commit: GroupCommit,
        file_io: FileIO,
        inodes: InodeTable,
        maintenance: Maintenance,
        mounting: Mounting,
        now_ns: Callable[[], int],
    ) -> None:
        self._metadata = metadata
        self._commit = commit
        self._file_io = file_io
        self._inodes = inodes
        self._maintenance = maintenance
        self._mounting = mounting
        self._now_ns = now_ns
        self._changes = Changes(commit, inodes, now_ns, read_only=mounting.read_only)
        self.xattrs = ExtendedAttributes(metadata, self._changes, acl_enabled=mounting.acl)
        """Extended attributes and ACLs."""
        self.flags = InodeFlags(metadata, self._changes, inodes)
        """Immutable, append-only, and the like."""
        self.attribute_changes = AttributeChanges(metadata, self._changes, file_io, inodes, maintenance)
        self.access_times = AccessTimes(metadata, self._changes, mounting)
        """When reading moves atime."""
        self._open_files = OpenFiles()
        self.ranges = Ranges(file_io, commit, self._open_files, mounting)
        """Parts of open files: allocation, holes, copies."""

    @property
    def open_handles(self) -> int:
        """How many files and directories are open."""
        return len(self._open_files)

    # Names

    async def lookup(self, parent: InodeId, name: bytes) -> Attributes:
        """The inode of a name, counted once more. NoSuchEntry, NotADirectory, NameTooLong."""
        attributes = await self._current(self._metadata.lookup(parent, name))
        self._inodes.remember(attributes.inode)
        return attributes

    async def forget(self, inode: InodeId, count: int) -> bool:
        """Drop ``count`` lookups; an orphan without use is deleted in the background. Whether no lookup is left."""
        forgotten = self._inodes.forget(inode, count)
        if self._inodes.released(inode):
            self._maintenance.delete_orphans_soon()
        return forgotten

    async def mknod(self, parent: InodeId, name: bytes, mode: int, owner: Credentials, rdev: int = 0) -> Attributes:
        """Make a regular file, fifo, socket or device node, by the type in ``mode`` (mknod(2)); counted."""
        if stat.S_ISDIR(mode) or stat.S_ISLNK(mode):
            raise InvalidArgument(f"mknod with mode {mode:o}")
        return await self._make(parent, name, mode, owner, rdev)

    async def mkdir(self, parent: InodeId, name: bytes, mode: int, owner: Credentials) -> Attributes:
        """Make a directory (mkdir(2)); counted."""
        return await self._make(parent, name, stat.S_IFDIR | stat.S_IMODE(mode), owner, 0)

    async def symlink(self, parent: InodeId, name: bytes, target: bytes, owner: Credentials) -> Attributes:
        """Make a symbolic link (symlink(2)); counted."""
        await self._changes.allowed()
        attributes = self._metadata.symlink(parent, name, target, owner, self._now_ns())
        self._inodes.remember(attributes.inode)
        return attributes

    async def link(self, inode: InodeId, parent: InodeId, name: bytes) -> Attributes:
        """Give the inode one more name (link(2)), or its first if it is ``create_nameless``'s and in use; counted."""
        await self._changes.allowed()
        linkable = self._inodes.is_linkable(inode)
        attributes = self._metadata.link(inode, parent, name, now_ns := self._now_ns(), was_nameless=linkable)
        self._inodes.named(inode)
        self._changes.made(attributes.inode, now_ns)
        self._inodes.remember(inode)
        return await self._current(attributes)

    async def unlink(self, parent: InodeId, name: bytes) -> None:
        """Remove a name (unlink(2)). The content goes with the last name and the last use."""
        await self._changes.allowed(frees=True)
        self._after_removal(self._metadata.unlink(parent, name, now_ns := self._now_ns()), now_ns)

    async def rmdir(self, parent: InodeId, name: bytes) -> None:
        """Remove an empty directory (rmdir(2))."""
        await self._changes.allowed(frees=True)
        self._after_removal(self._metadata.rmdir(parent, name, now_ns := self._now_ns()), now_ns)

    async def rename(
        self, parent: InodeId, name: bytes, new_parent: InodeId, new_name: bytes, *, overwrite: bool = True
    ) -> list[Attributes]:
        """Move an entry, replacing what has the new name unless ``overwrite`` is false (rename(2)); what moved."""
        await self._changes.allowed()
        now_ns = self._now_ns()
        moved, replaced = self._metadata.rename(parent, name, new_parent, new_name, now_ns, overwrite=overwrite)
        self._changes.made(moved.inode, now_ns)
        if replaced is not None:
            self._after_removal(replaced, now_ns)
        return [moved]

    async def exchange(self, parent: InodeId, name: bytes, new_parent: InodeId, new_name: bytes) -> list[Attributes]:
        """Swap two entries (rename(2), RENAME_EXCHANGE); what moved."""
        await self._changes.allowed()
        moved = [*self._metadata.exchange(parent, name, new_parent, new_name, now_ns := self._now_ns())]
        for one in moved:
            self._changes.made(one.inode, now_ns)
        return moved

    async def readlink(self, inode: InodeId) -> bytes:
        """The target of a symbolic link (readlink(2))."""
        target = self._metadata.readlink(inode)
        await self.access_times.read(inode)
        return target

    # Attributes

    async def getattr(self, inode: InodeId) -> Attributes:
        """What stat(2) shows. NoSuchEntry."""
        return await self._current(self._metadata.get(inode))

    async def setattr(
        self,
        inode: InodeId,
        change: AttributeChange,
        size: int | None = None,
        *,
        late_times: bool = False,
        touches: bool = False,
        by_writer: bool = False,
    ) -> Attributes:
        """Change size, then mode, owner and times; return the result.

        As truncate(2), chmod(2), chown(2) and utimensat(2). With ``late_times`` the caller keeps mtime and ctime
        itself and tells them when it likes: they do not undo what was changed since. What flags forbid is done for who
        ``touches``, sets both times to now (an append-only file), or tells the times of a write, ``by_writer``.
        """
        stored = await self.attribute_changes.set(
            inode, change, size, late_times=late_times, touches=touches, by_writer=by_writer
        )
        return await self._current(stored, blocks=not (late_times and by_writer))  # the kernel ignores that answer

    def blocks_are_current(self, inode: InodeId) -> bool:
        """Whether attributes that ``readdir`` lists may be kept: not while the allocation has to be asked for."""
        node = self._inodes.find(inode)
        return node is None or node.blocks_at_write == node.writes

    async def statfs(self) -> os.statvfs_result:
        """Space and inodes of the filesystem below (statvfs(3))."""
        return self._mounting.statvfs()

    # Files

    async def create(
        self,
        parent: InodeId,
        name: bytes,
        mode: int,
        owner: Credentials,
        *,
        noatime: bool = False,
        writes: bool = True,
    ) -> tuple[HandleId, Attributes]:
        """Make a regular file and open it (open(2), O_CREAT | O_EXCL); counted."""
        attributes = await self._make(parent, name, stat.S_IFREG | stat.S_IMODE(mode), owner, 0)
        self._inodes.add(ActiveInode.fresh(attributes, self._commit.sequence))
        return self._open(attributes, noatime=noatime, writes=writes), attributes

    async def create_nameless(
        self, directory: InodeId, mode: int, owner: Credentials, *, linkable: bool, noatime: bool = False
    ) -> tuple[HandleId, Attributes]:
        """Make a regular file without a name and open it (open(2), O_TMPFILE); counted.

        It goes with its last use, or with a crash. If it is ``linkable`` (no O_EXCL), ``link`` may name it before.
        """
        await self._maintenance.room()
        await self._changes.allowed()
        attributes = self._metadata.create_nameless(directory, stat.S_IMODE(mode), owner, self._now_ns())
        self._inodes.remember(attributes.inode)
        self._inodes.add(ActiveInode.fresh(attributes, self._commit.sequence))
        self._inodes.made_nameless(attributes.inode, linkable=linkable)
        return self._open(attributes, noatime=noatime, writes=True), attributes

    async def open(
        self,
        inode: InodeId,
        *,
        truncate: bool = False,
        noatime: bool = False,
        writes: bool = True,
        appends: bool = False,
    ) -> HandleId:
        """Open a regular file for everything; ``truncate`` empties it first (open(2), O_TRUNC).

        With ``noatime`` reading through the handle moves no atime (open(2), O_NOATIME). Without ``writes`` nobody will
        write through it, which is believed. Where writes go is the front end's matter: it knows the size that its
        callers see (in FUSE the kernel does); of ``writes`` and ``appends`` the file's flags are asked.
        """
        await self._maintenance.room()
        if truncate:
            await self._changes.allowed(frees=True)
            await self.attribute_changes.truncate(inode, 0)
        attributes = self._metadata.get(inode)
        check_regular(attributes)
        check_opening(attributes, writes=writes, appends=appends)
        return self._open(attributes, noatime=noatime, writes=writes)

    def is_append_only(self, handle: HandleId) -> bool:
        """Whether writes through the handle must append; a front end that can tell must then let each one come here."""
        return self._open_files.file(handle).append_only

    async def read(self, handle: HandleId, offset: int, length: int) -> Buffer:
        """Up to ``length`` bytes from ``offset``, fewer only at the end of the file (pread(2))."""
        file = self._open_files.file(handle)
        node = file.node
        data = await self._file_io.read(node, offset, length)
        if not file.noatime and self.access_times.move_with(node):
            node.atime_ns = self._now_ns()
            node.times_moved = True
        return data

    def reading_moves_atime(self, handle: HandleId) -> bool:
        """Whether the next read would; a front end that answers reads from a cache must then let it come here."""
        file = self._open_files.file(handle)
        return not file.noatime and self.access_times.move_with(file.node)

    async def write(
        self,
        handle: HandleId,
        offset: int,
        data: Buffer,
        *,
        keep_times: bool = False,
        appends: bool = True,
        is_late: bool = False,
    ) -> int:
        """Write all of ``data`` at ``offset``; return its length (pwrite(2)). Durable on return with ``sync=write``.

        With ``keep_times`` mtime and ctime stay: for a front end that keeps them itself and tells them by ``setattr``.
        What ``is_late`` was acknowledged to its writer before, and is taken whatever the file's flags say. ``appends``:
        for all that is known it goes where the file ends.
        """
        file = self._open_files.file(handle)
        node = file.node
        if node.flags & PROTECTING and not is_late:
            check_writing(node.inode, node.flags, appends=appends or not file.append_only)
        if self._mounting.read_only:
            raise VolumeReadOnly("mounted read-only")
        self._commit.raise_if_failed()
        return await self._file_io.write(node, offset, data, keep_times=keep_times)

    async def fsync(self, handle: HandleId, *, datasync: bool = False) -> None:
        """Make the file durable, with the names it has (fsync(2)).

        Raises:
            FlushFailed: data was lost: since the handle was opened, which each handle is told once; or at any time and
                not written again since, which it is told each time.
            MetadataFailed: the metadata could not be made durable.
        """
        file = self._open_files.file(handle)
        if self._mounting.read_only:
            return
        try:
            await self._file_io.fsync(file.node, datasync=datasync)
        finally:
            told, file.failures_told = file.failures_told, file.node.lost.failures
        if told != file.failures_told:
            raise file.node.lost.failure

    async def release(self, handle: HandleId) -> None:
        """Close a file."""
        node = self._open_files.drop_file(handle)
        if node.open_count == 0:
            self._maintenance.closed(node)
            if self._inodes.released(node.inode):
                self._maintenance.delete_orphans_soon()

    # Directories

    async def opendir(self, inode: InodeId, *, noatime: bool = False) -> HandleId:
        """Open a directory; with ``noatime`` listing it moves no atime (open(2), O_NOATIME). NotADirectory."""
        if not stat.S_ISDIR(self._metadata.get(inode).mode):
            raise NotADirectory(f"inode {inode}")
        return self._open_files.add_directory(inode, noatime=noatime)

    async def readdir(self, handle: HandleId, after_cookie: int) -> Iterator[DirectoryEntry]:
        """Entries after ``after_cookie`` (0: all), without `.` and `..`; take them before the next checkpoint.

        An entry that is there throughout is listed once, whatever else happens to the directory meanwhile (readdir(3)).
        Entries are not counted: ``remember`` those that were passed on.
        """
        directory = self._open_files.directory(handle)
        if not directory.noatime:
            await self.access_times.read(directory.inode)
        return self._entries(directory.inode, after_cookie)

    def remember(self, inode: InodeId) -> None:
        """Count an inode once more, as ``lookup`` does."""
        self._inodes.remember(inode)

    async def directory_and_parent(self, handle: HandleId) -> tuple[InodeId, InodeId]:
        """What `.` and `..` of an open directory are."""
        directory = self._open_files.directory(handle).inode
        return directory, self._metadata.parent(directory)

    async def releasedir(self, handle: HandleId) -> None:
        """Close a directory."""
        self._open_files.drop_directory(handle)

    async def fsync_directory(self, handle: HandleId) -> None:
        """Make every change of names so far durable (fsync(2) of a directory)."""
        self._open_files.directory(handle)
        if not self._mounting.read_only:
            await self._commit.commit()

    async def sync(self) -> None:
        """Make everything durable (syncfs(2))."""
        if not self._mounting.read_only:
            await self._maintenance.sync()

    # Between the methods above

    async def _make(self, parent: InodeId, name: bytes, mode: int, owner: Credentials, rdev: int) -> Attributes:
        await self._maintenance.room()
        await self._changes.allowed()
        attributes = self._metadata.create(parent, name, mode, owner, self._now_ns(), rdev)
        self._inodes.remember(attributes.inode)
        return attributes

    def _open(self, attributes: Attributes, *, noatime: bool, writes: bool) -> HandleId:
        node = self._inodes.activate(attributes)
        node.changed_sequence = self._commit.last_change  # fsync makes the name durable that led here
        return self._open_files.add_file(node, noatime=noatime, writes=writes)

    async def _current(self, stored: Attributes, *, blocks: bool = True) -> Attributes:
        node = self._inodes.find(stored.inode)
        if node is None:
            return stored
        if blocks and node.blocks_at_write != node.writes:
            await self._file_io.refresh_blocks(node)
            stored = self._metadata.get(stored.inode)
        return node.overlay(stored)

    def _entries(self, directory: InodeId, after_cookie: int) -> Iterator[DirectoryEntry]:
        find = self._inodes.find
        for entry in self._metadata.readdir(directory, after_cookie):
            node = find(entry.attributes.inode)
            yield entry if node is None else entry._replace(attributes=node.overlay(entry.attributes))

    def _after_removal(self, attributes: Attributes, ctime_ns: int) -> None:
        self._changes.made(attributes.inode, ctime_ns)
        if attributes.link_count == 0 and self._inodes.orphaned(attributes.inode):
            self._maintenance.delete_orphans_soon()
