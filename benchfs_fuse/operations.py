"""One handler for each FUSE request: convert, one call into ``FileSystem``, convert back.

Imports pyfuse3, ``translate``, ``requests`` and the core. Invariant: no handler raises anything but
FUSEError, which ``handler`` sees to. ``flush`` has none on purpose: nothing is due at close, and the kernel, told
ENOSYS once, saves that round trip from then on.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Concatenate, ParamSpec, TypeVar

import pyfuse3

from benchfs_core.errors import NoSuchEntry
from benchfs_core.filesystem import FileSystem
from benchfs_core.profile import Profile
from benchfs_core.types import MAX_NAME_BYTES, HandleId, InodeId
from benchfs_fuse.requests import Requests, timed_filesystem
from benchfs_fuse.translate import no_entry, to_caller, to_change, to_entry, to_errno, to_statvfs

P = ParamSpec("P")
R = TypeVar("R")


def handler(
    method: Callable[Concatenate[BenchFSOperations, P], Coroutine[Any, Any, R]],
) -> Callable[Concatenate[BenchFSOperations, P], Coroutine[Any, Any, R]]:
    """Count the request, and turn whatever goes wrong into an errno.

    It counts as arrived when this begins, and as answered when it ends: what pyfuse3 does before and after is not seen.
    """
    name = method.__name__
    moved = _MOVED.get(name, _nothing)

    @functools.wraps(method)
    async def answer(self: BenchFSOperations, /, *args: P.args, **kwargs: P.kwargs) -> R:
        operation, arrived_ns = self.profile.operation(name), self.profile.meter.now_ns()
        timing, size = operation.begin(arrived_ns), 0
        try:
            if timing is None:
                result = await method(self, *args, **kwargs)
            else:
                result = await self.profile.meter.follow(timing, method(self.timed, *args, **kwargs))
            size = moved(result)
            return result
        except pyfuse3.FUSEError:
            operation.errors += 1
            raise
        except Exception as error:
            operation.errors += 1
            raise pyfuse3.FUSEError(to_errno(error, name)) from error
        finally:
            operation.end(arrived_ns, size, timing)

    return answer


def _nothing(_: Any) -> int:
    return 0


_MOVED: dict[str, Callable[[Any], int]] = {"read": len, "write": int}
"""How many bytes of files a request has moved, by what its handler returned."""


class BenchFSOperations(pyfuse3.Operations):
    """The requests of one mount."""

    supports_dot_lookup = True

    def __init__(
        self, filesystem: FileSystem, *, writeback_cache: bool, acl: bool, profile: Profile | None = None
    ) -> None:
        """``profile``: where requests are counted; None: in one of its own."""
        super().__init__()
        self.profile = profile or Profile()
        self.enable_acl = acl
        self.enable_writeback_cache = writeback_cache
        self._serve(filesystem)
        self.timed = copy.copy(self)
        """The same, for requests of which it is found out where their time goes."""
        self.timed._serve(timed_filesystem(filesystem, self.profile.meter))

    def _serve(self, filesystem: FileSystem) -> None:
        self._fs = filesystem
        self._requests = Requests(filesystem, writeback_cache=self.enable_writeback_cache)

    # Names

    @handler
    async def lookup(self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        """LOOKUP. That there is no such name is an answer, too: the kernel keeps it."""
        try:
            return to_entry(await self._fs.lookup(InodeId(parent_inode), name))
        except NoSuchEntry:
            return no_entry()

    @handler
    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        """FORGET; has no answer, and forgetting fails with nothing."""
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
        return to_entry(await self._fs.mknod(InodeId(parent_inode), name, mode, to_caller(ctx).credentials, rdev))

    @handler
    async def mkdir(
        self, parent_inode: int, name: bytes, mode: int, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        """MKDIR."""
        return to_entry(await self._fs.mkdir(InodeId(parent_inode), name, mode, to_caller(ctx).credentials))

    @handler
    async def symlink(
        self, parent_inode: int, name: bytes, target: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        """SYMLINK."""
        return to_entry(await self._fs.symlink(InodeId(parent_inode), name, target, to_caller(ctx).credentials))

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
        """RENAME and RENAME2."""
        await self._requests.rename(InodeId(parent_inode_old), name_old, InodeId(parent_inode_new), name_new, flags)

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
        """SETATTR. A truncate by a user takes privileges away, of which the kernel sees to some."""
        change, size = to_change(attr, fields), attr.st_size if fields.update_size else None
        drops, by_handle = ctx.uid != 0, fh is not None
        changed = await self._requests.setattr(
            InodeId(inode), change, size, to_caller(ctx), drops=drops, by_handle=by_handle
        )
        return to_entry(changed)

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
        """SETXATTR; pyfuse3 sees to XATTR_CREATE and XATTR_REPLACE."""
        await self._requests.setxattr(InodeId(inode), name, value, to_caller(ctx))

    @handler
    async def listxattr(self, inode: int, ctx: pyfuse3.RequestContext) -> list[bytes]:
        """LISTXATTR."""
        return await self._requests.listxattr(InodeId(inode), to_caller(ctx))

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
        handle, attributes = await self._requests.create(InodeId(parent_inode), name, mode, flags, to_caller(ctx))
        return _file_info(handle), to_entry(attributes)

    @handler
    async def open(self, inode: int, flags: int, ctx: pyfuse3.RequestContext) -> pyfuse3.FileInfo:
        """OPEN, which may carry O_TRUNC. That a later change takes privileges away is the kernel's, but not then."""
        opened = await self._requests.open(InodeId(inode), flags, to_caller(ctx), drops=ctx.uid != 0)
        return _file_info(opened.handle, keep_cache=opened.keeps_cache, direct_io=opened.is_direct)

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
        for entry in await self._requests.listing(HandleId(fh), start_id):
            known = to_entry(entry.attributes) if entry.is_current else to_entry(entry.attributes, timeout_s=0)
            if not pyfuse3.readdir_reply(token, entry.name, known, entry.cookie):
                return
            if entry.is_counted:
                self._fs.remember(entry.attributes.inode)

    @handler
    async def releasedir(self, fh: int) -> None:
        """RELEASEDIR."""
        await self._fs.releasedir(HandleId(fh))

    @handler
    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        """FSYNCDIR."""
        await self._fs.fsync_directory(HandleId(fh))


def _file_info(handle: HandleId, *, keep_cache: bool = True, direct_io: bool = False) -> pyfuse3.FileInfo:
    """The kernel may keep what it has of the file, for nobody else changes it, unless a read has to come here."""
    return pyfuse3.FileInfo(fh=handle, keep_cache=keep_cache, direct_io=direct_io)
