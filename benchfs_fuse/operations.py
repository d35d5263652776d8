"""One handler for each FUSE request: convert, one call into ``FileSystem``, convert back.

Imports pyfuse3, ``translate`` and the core's ``filesystem`` and ``types``. Invariant: no handler raises anything but
FUSEError, which ``handler`` sees to. ``flush`` has none on purpose: nothing is due at close, and the kernel, told
ENOSYS once, saves that round trip from then on.
"""

from __future__ import annotations

import functools
import os
import stat
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any, Concatenate, ParamSpec, TypeVar

import pyfuse3

from benchfs_core.acl import ACCESS
from benchfs_core.errors import InvalidArgument, NoSuchEntry
from benchfs_core.filesystem import FileSystem
from benchfs_core.types import MAX_NAME_BYTES, AttributeChange, Attributes, HandleId, InodeId
from benchfs_fuse.translate import no_entry, to_change, to_credentials, to_entry, to_errno, to_statvfs

P = ParamSpec("P")
R = TypeVar("R")

_DOT, _DOT_DOT = 1, 2
"""Cookies of `.` and `..`, below those of any entry."""


def handler(
    method: Callable[Concatenate[BenchFSOperations, P], Coroutine[Any, Any, R]],
) -> Callable[Concatenate[BenchFSOperations, P], Coroutine[Any, Any, R]]:
    """Count the request, and turn whatever goes wrong into an errno."""
    name = method.__name__

    @functools.wraps(method)
    async def answer(self: BenchFSOperations, /, *args: P.args, **kwargs: P.kwargs) -> R:
        self.requests[name] += 1
        try:
            return await method(self, *args, **kwargs)
        except pyfuse3.FUSEError:
            raise
        except Exception as error:
            raise pyfuse3.FUSEError(to_errno(error, name)) from error

    return answer


class BenchFSOperations(pyfuse3.Operations):
    """The requests of one mount."""

    supports_dot_lookup = True

    def __init__(self, filesystem: FileSystem, *, writeback_cache: bool, acl: bool) -> None:
        super().__init__()
        self.enable_acl = acl
        self.enable_writeback_cache = writeback_cache
        self.requests: Counter[str] = Counter()
        """How many requests of each kind arrived."""
        self._fs = filesystem

    # Names

    @handler
    async def lookup(self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        """LOOKUP. That there is no such name is an answer, too: the kernel keeps it."""
        try:
            return to_entry(await self._fs.lookup(InodeId(parent_inode), name))
        except NoSuchEntry:
            return no_entry()

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        """FORGET; has no answer."""
        self.requests["forget"] += 1
        for inode, count in inode_list:
            await self._fs.forget(InodeId(inode), count)

    @handler
    async def readlink(self, inode: int, ctx: pyfuse3.RequestContext) -> bytes:
        """READLINK."""
        return await self._fs.readlink(InodeId(inode))

    @handler
    async def mknod(
        self, parent_inode: int, name: bytes, mode: int, rdev: int, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        """MKNOD."""
        return to_entry(await self._fs.mknod(InodeId(parent_inode), name, mode, to_credentials(ctx), rdev))

    @handler
    async def mkdir(
        self, parent_inode: int, name: bytes, mode: int, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        """MKDIR."""
        return to_entry(await self._fs.mkdir(InodeId(parent_inode), name, mode, to_credentials(ctx)))

    @handler
    async def symlink(
        self, parent_inode: int, name: bytes, target: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        """SYMLINK."""
        return to_entry(await self._fs.symlink(InodeId(parent_inode), name, target, to_credentials(ctx)))

    @handler
    async def link(
        self, inode: int, new_parent_inode: int, new_name: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        """LINK."""
        return to_entry(await self._fs.link(InodeId(inode), InodeId(new_parent_inode), new_name))

    @handler
    async def unlink(self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        """UNLINK."""
        await self._fs.unlink(InodeId(parent_inode), name)

    @handler
    async def rmdir(self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        """RMDIR."""
        await self._fs.rmdir(InodeId(parent_inode), name)

    @handler
    async def rename(
        self,
        parent_inode_old: int,
        name_old: bytes,
        parent_inode_new: int,
        name_new: bytes,
        flags: int,
        ctx: pyfuse3.RequestContext,
    ) -> None:
        """RENAME and RENAME2; RENAME_WHITEOUT is for filesystems below overlayfs, which FUSE cannot be in full."""
        old, new = InodeId(parent_inode_old), InodeId(parent_inode_new)
        if flags == pyfuse3.RENAME_EXCHANGE:
            await self._fs.exchange(old, name_old, new, name_new)
        elif flags in (0, pyfuse3.RENAME_NOREPLACE):
            await self._fs.rename(old, name_old, new, name_new, overwrite=not flags)
        else:
            raise InvalidArgument(f"rename with flags {flags:#x}")

    # Attributes

    @handler
    async def getattr(self, inode: int, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        """GETATTR."""
        return to_entry(await self._fs.getattr(InodeId(inode)))

    @handler
    async def setattr(
        self,
        inode: int,
        attr: pyfuse3.EntryAttributes,
        fields: pyfuse3.SetattrFields,
        fh: int | None,
        ctx: pyfuse3.RequestContext,
    ) -> pyfuse3.EntryAttributes:
        """SETATTR. A truncate by a user takes privileges away, of which the kernel sees to some (``_unprivileged``)."""
        change = to_change(attr, fields)
        if not fields.update_size:
            late = self.enable_writeback_cache
            return to_entry(await self._fs.setattr(InodeId(inode), change, late_times=late))
        if (kept := await self._unprivileged(InodeId(inode), ctx)) is not None:
            change = replace(change, mode=kept)
        return to_entry(await self._fs.setattr(InodeId(inode), change, attr.st_size))

    @handler
    async def statfs(self, ctx: pyfuse3.RequestContext) -> pyfuse3.StatvfsData:
        """STATFS."""
        return to_statvfs(await self._fs.statfs(), MAX_NAME_BYTES)

    @handler
    async def getxattr(self, inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> bytes:
        """GETXATTR; pyfuse3 sees to size queries and ERANGE."""
        return await self._fs.xattrs.get(InodeId(inode), name)

    @handler
    async def setxattr(self, inode: int, name: bytes, value: bytes, ctx: pyfuse3.RequestContext) -> None:
        """SETXATTR; pyfuse3 sees to XATTR_CREATE and XATTR_REPLACE.

        An access ACL sets the mode, and takes setgid away as chmod(2) would; that is not the kernel's here.
        """
        outsider = name == ACCESS and not await self._is_member(InodeId(inode), ctx)
        await self._fs.xattrs.set(InodeId(inode), name, value, drop_setgid=outsider)

    @handler
    async def listxattr(self, inode: int, ctx: pyfuse3.RequestContext) -> list[bytes]:
        """LISTXATTR. Names in ``trusted.`` are for the privileged only (xattr(7))."""
        names = await self._fs.xattrs.names(InodeId(inode))
        return names if ctx.uid == 0 else [name for name in names if not name.startswith(b"trusted.")]

    @handler
    async def removexattr(self, inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        """REMOVEXATTR."""
        await self._fs.xattrs.remove(InodeId(inode), name)

    # Files

    @handler
    async def create(
        self, parent_inode: int, name: bytes, mode: int, flags: int, ctx: pyfuse3.RequestContext
    ) -> tuple[pyfuse3.FileInfo, pyfuse3.EntryAttributes]:
        """CREATE."""
        handle, attributes = await self._fs.create(
            InodeId(parent_inode), name, mode, to_credentials(ctx), noatime=not _reads(flags)
        )
        return _file_info(handle), to_entry(attributes)

    @handler
    async def open(self, inode: int, flags: int, ctx: pyfuse3.RequestContext) -> pyfuse3.FileInfo:
        """OPEN, which may carry O_TRUNC. Access modes and O_APPEND are the kernel's.

        So is it that a change by a user takes setuid and setgid away (open(2), write(2)), but not with O_TRUNC.
        """
        truncate = bool(flags & os.O_TRUNC)
        if truncate and (kept := await self._unprivileged(InodeId(inode), ctx)) is not None:
            await self._fs.setattr(InodeId(inode), AttributeChange(mode=kept), size=0)
            truncate = False
        handle = await self._fs.open(InodeId(inode), truncate=truncate, noatime=not _reads(flags))
        return _file_info(handle, keep_cache=not self._fs.reading_moves_atime(handle))

    @handler
    async def read(self, fh: int, off: int, size: int) -> bytes:
        """READ. The reply may be any buffer, whatever pyfuse3's annotation says."""
        return await self._fs.read(HandleId(fh), off, size)  # type: ignore[return-value]

    @handler
    async def write(self, fh: int, off: int, buf: bytes) -> int:
        """WRITE. With a write-back cache the kernel keeps the times; it may have told them before this arrives."""
        return await self._fs.write(HandleId(fh), off, buf, keep_times=self.enable_writeback_cache)

    @handler
    async def fsync(self, fh: int, datasync: bool) -> None:
        """FSYNC."""
        await self._fs.fsync(HandleId(fh), datasync=datasync)

    @handler
    async def release(self, fh: int) -> None:
        """RELEASE: the last close."""
        await self._fs.release(HandleId(fh))

    # Directories

    @handler
    async def opendir(self, inode: int, ctx: pyfuse3.RequestContext) -> int:
        """OPENDIR."""
        return await self._fs.opendir(InodeId(inode))

    @handler
    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        """READDIRPLUS: entries with their attributes, which saves the kernel a lookup each."""
        handle = HandleId(fh)
        if start_id < _DOT_DOT and not await self._reply_dots(handle, start_id, token):
            return
        for entry in await self._fs.readdir(handle, 0 if start_id <= _DOT_DOT else start_id):
            inode = entry.attributes.inode
            known = (
                to_entry(entry.attributes)
                if self._fs.blocks_are_current(inode)
                else to_entry(entry.attributes, timeout_s=0)
            )
            if not pyfuse3.readdir_reply(token, entry.name, known, entry.cookie):
                return
            self._fs.remember(inode)

    @handler
    async def releasedir(self, fh: int) -> None:
        """RELEASEDIR."""
        await self._fs.releasedir(HandleId(fh))

    @handler
    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        """FSYNCDIR."""
        await self._fs.fsync_directory(HandleId(fh))

    async def _unprivileged(self, inode: InodeId, ctx: pyfuse3.RequestContext) -> int | None:
        """The mode that a file has when the caller has changed its content; None if it keeps the one it has.

        Root takes nothing away. Others take setuid, and setgid where the group may execute the file or they are not in
        the group: what Linux has done since 6.2, and inode(7) says.
        """
        if ctx.uid == 0:
            return None
        mode = (await self._fs.getattr(inode)).mode
        if not stat.S_ISREG(mode) or not mode & (stat.S_ISUID | stat.S_ISGID):
            return None
        lost = stat.S_ISUID
        if mode & stat.S_IXGRP or not await self._is_member(inode, ctx):
            lost |= stat.S_ISGID
        return mode & ~lost if mode & lost else None

    async def _is_member(self, inode: InodeId, ctx: pyfuse3.RequestContext) -> bool:
        """Whether the caller is root or in the group of the inode."""
        if ctx.uid == 0:
            return True
        group = (await self._fs.getattr(inode)).gid
        if group == ctx.gid:
            return True
        try:
            return group in pyfuse3.get_sup_groups(ctx.pid)
        except OSError:  # the process has ended, or /proc does not show it
            return False

    async def _reply_dots(self, handle: HandleId, start_id: int, token: pyfuse3.ReaddirToken) -> bool:
        """Reply `.` and `..`, from ``start_id`` on; they are not counted as lookups. Whether there was room."""
        directory, parent = await self._fs.directory_and_parent(handle)
        dots: list[tuple[bytes, Attributes, int]] = []
        if start_id < _DOT:
            dots.append((b".", await self._fs.getattr(directory), _DOT))
        dots.append((b"..", await self._fs.getattr(parent), _DOT_DOT))
        return all(
            pyfuse3.readdir_reply(token, name, to_entry(attributes), cookie) for name, attributes, cookie in dots
        )


def _reads(flags: int) -> bool:
    """Whether what is read through a handle counts as read by somebody.

    With a write-back cache the kernel reads, through a handle for writing, pages that are to be written in part.
    """
    return flags & os.O_ACCMODE != os.O_WRONLY and not flags & os.O_NOATIME


def _file_info(handle: HandleId, *, keep_cache: bool = True) -> pyfuse3.FileInfo:
    """The kernel may keep what it has of the file, for nobody else changes it, unless a read has to come here."""
    return pyfuse3.FileInfo(fh=handle, keep_cache=keep_cache)
