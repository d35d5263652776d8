"""One handler for each request that the plane answers: decode, one call into ``FileSystem``, encode.

Imports ``protocol``, ``replies``, ``requests`` and the core; nothing of pyfuse3 and nothing of rings. Invariants: a
handler returns the reply's body, or the parts of it; None says that none is due. What it raises becomes an errno in
``translate``. FLUSH has no handler: nothing is due at close, and the kernel, told ENOSYS once, asks no more.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

from benchfs_core.errors import EntryExists, InvalidArgument, NoSuchAttribute, NoSuchEntry
from benchfs_core.extended_attributes import CAPABILITY
from benchfs_core.filesystem import FileSystem
from benchfs_core.types import MAX_NAME_BYTES, AttributeChange, HandleId, InodeId
from benchfs_fuse.plane import protocol, replies
from benchfs_fuse.plane.answering import Handler, Refused, Removals, Reply, caller_of
from benchfs_fuse.plane.attributes import AttributeHandlers
from benchfs_fuse.plane.directories import DirectoryHandlers
from benchfs_fuse.plane.listings import Listings
from benchfs_fuse.plane.protocol import Opcode, Request, SetattrField, fixed, names
from benchfs_fuse.plane.ranges import RangeHandlers
from benchfs_fuse.plane.write_back import WriteBack
from benchfs_fuse.requests import Requests

_XATTR_CREATE, _XATTR_REPLACE = 1, 2
"""Of setxattr(2)."""
_TIME_LIMIT_NS = (1 << 63) - 1


class Handlers:
    """The handlers of one mount, by opcode, with the names under which they are counted."""

    def __init__(
        self,
        filesystem: FileSystem,
        write_back: WriteBack,
        *,
        writeback_cache: bool,
        now_ns: Callable[[], int],
        removals: Removals | None = None,
        listings: Listings | None = None,
    ) -> None:
        """``write_back`` has the kernel do that; ``now_ns``: the wall clock, for UTIME_NOW.

        ``removals``, ``listings``: where other handlers serve the same mount, those of all of them.
        """
        self._fs = filesystem
        self._requests = Requests(filesystem, writeback_cache=writeback_cache)
        self._keep_times = writeback_cache
        self._now_ns = now_ns
        self._removals = Removals() if removals is None else removals
        self._listings = Listings() if listings is None else listings
        self._attributes = AttributeHandlers(filesystem, self._requests, self._listings)
        self._directories = DirectoryHandlers(filesystem, self._requests, self._listings)
        changing = self._listings.changing
        self.table: dict[int, tuple[str, Handler]] = {
            opcode: (
                _COUNTED_AS.get(opcode, opcode.name.lower()),
                changing(handler) if opcode in _CHANGING else handler,
            )
            for opcode, handler in {
                **self._of_names(),
                **self._of_attributes(),
                **self._of_files(),
                **self._attributes.table,
                **self._directories.table,
                **RangeHandlers(filesystem, self._requests, write_back, writeback_cache=writeback_cache).table,
            }.items()
        }

    def connect(self, tell: Callable[[bytes], None]) -> None:
        """From now on messages to the kernel can be sent: with ``tell``, in order before the next reply."""
        self._attributes.connect(tell)
        self._listings.connect(tell)

    def _of_names(self) -> dict[Opcode, Handler]:
        return {
            Opcode.LOOKUP: self.lookup,
            Opcode.FORGET: self.forget,
            Opcode.BATCH_FORGET: self.batch_forget,
            Opcode.READLINK: self.readlink,
            Opcode.SYMLINK: self.symlink,
            Opcode.MKNOD: self.mknod,
            Opcode.MKDIR: self.mkdir,
            Opcode.LINK: self.link,
            Opcode.UNLINK: self.unlink,
            Opcode.RMDIR: self.rmdir,
        }

    def _of_attributes(self) -> dict[Opcode, Handler]:
        return {
            Opcode.GETATTR: self.getattr,
            Opcode.SETATTR: self.setattr,
            Opcode.STATFS: self.statfs,
            Opcode.GETXATTR: self.getxattr,
            Opcode.SETXATTR: self.setxattr,
            Opcode.LISTXATTR: self.listxattr,
            Opcode.REMOVEXATTR: self.removexattr,
        }

    def _of_files(self) -> dict[Opcode, Handler]:
        return {
            Opcode.CREATE: self.create,
            Opcode.OPEN: self.open,
            Opcode.READ: self.read,
            Opcode.WRITE: self.write,
            Opcode.FSYNC: self.fsync,
            Opcode.RELEASE: self.release,
            Opcode.SYNCFS: self.syncfs,
            Opcode.INTERRUPT: self.interrupt,
            Opcode.DESTROY: self.destroy,
        }

    # Names

    async def lookup(self, request: Request) -> Reply:
        """LOOKUP. That there is no such name is an answer, too: the kernel keeps it."""
        (name,) = names(request.body, 0)
        try:
            return replies.entry_out(await self._fs.lookup(InodeId(request.inode), name))
        except NoSuchEntry:
            return replies.no_entry()

    async def forget(self, request: Request) -> Reply:
        """FORGET; has no answer."""
        (count,) = fixed(protocol.FORGET_IN, request.body)
        await self._forget(InodeId(request.inode), count)
        return None

    async def batch_forget(self, request: Request) -> Reply:
        """BATCH_FORGET; has no answer."""
        for inode, count in protocol.forgets(request.body):
            await self._forget(InodeId(inode), count)
        return None

    async def _forget(self, inode: InodeId, count: int) -> None:
        if await self._fs.forget(inode, count):
            self._listings.forget(inode)

    async def readlink(self, request: Request) -> Reply:
        """READLINK."""
        return await self._fs.readlink(InodeId(request.inode))

    async def symlink(self, request: Request) -> Reply:
        """SYMLINK."""
        name, target = names(request.body, 0, 2)
        credentials = caller_of(request).credentials
        return replies.entry_out(await self._fs.symlink(InodeId(request.inode), name, target, credentials))

    async def mknod(self, request: Request) -> Reply:
        """MKNOD."""
        mode, rdev, umask = fixed(protocol.MKNOD_IN, request.body)
        (name,) = names(request.body, protocol.MKNOD_IN.size)
        credentials = caller_of(request, umask).credentials
        return replies.entry_out(await self._fs.mknod(InodeId(request.inode), name, mode, credentials, rdev))

    async def mkdir(self, request: Request) -> Reply:
        """MKDIR."""
        mode, umask = fixed(protocol.MKDIR_IN, request.body)
        (name,) = names(request.body, protocol.MKDIR_IN.size)
        credentials = caller_of(request, umask).credentials
        return replies.entry_out(await self._fs.mkdir(InodeId(request.inode), name, mode, credentials))

    async def link(self, request: Request) -> Reply:
        """LINK."""
        (inode,) = fixed(protocol.LINK_IN, request.body)
        (name,) = names(request.body, protocol.LINK_IN.size)
        return replies.entry_out(await self._fs.link(InodeId(inode), InodeId(request.inode), name))

    async def unlink(self, request: Request) -> Reply:
        """UNLINK."""
        (name,) = names(request.body, 0)
        await self._fs.unlink(InodeId(request.inode), name)
        return b""

    async def rmdir(self, request: Request) -> Reply:
        """RMDIR."""
        (name,) = names(request.body, 0)
        await self._fs.rmdir(InodeId(request.inode), name)
        return b""

    # Attributes

    async def getattr(self, request: Request) -> Reply:
        """GETATTR."""
        return replies.attr_out(await self._fs.getattr(InodeId(request.inode)))

    async def setattr(self, request: Request) -> Reply:
        """SETATTR. With HANDLE_KILLPRIV_V2 privileges are ours to take away.

        A truncate that takes them is told as such, and a change of owner takes them always. What names nothing comes of
        chown(2) with neither owner nor group, and of the kernel's own cleaning before a change of content.
        """
        values = fixed(protocol.SETATTR_IN, request.body)
        valid, _, size, _, atime_s, mtime_s, ctime_s, atime_ns, mtime_ns, ctime_ns, mode, _, uid, gid = values
        inode = InodeId(request.inode)
        if valid & _FIELDS == _KEPT:
            change = AttributeChange(ctime_ns=_nanoseconds(ctime_s, ctime_ns), mtime_ns=_nanoseconds(mtime_s, mtime_ns))
            noted = self._requests.tell_times(inode, change, by_handle=bool(valid & SetattrField.FH))
            if noted is not None:
                return replies.attr_out(noted)
        caller = caller_of(request)
        now_ns = self._now_ns() if valid & _NOW else 0
        change = AttributeChange(
            ctime_ns=_nanoseconds(ctime_s, ctime_ns) if valid & SetattrField.CTIME else None,
            mode=mode if valid & SetattrField.MODE else None,
            uid=uid if valid & SetattrField.UID else None,
            gid=gid if valid & SetattrField.GID else None,
            atime_ns=_time(valid, SetattrField.ATIME, SetattrField.ATIME_NOW, atime_s, atime_ns, now_ns),
            mtime_ns=_time(valid, SetattrField.MTIME, SetattrField.MTIME_NOW, mtime_s, mtime_ns, now_ns),
        )
        chowns = valid & (SetattrField.UID | SetattrField.GID)
        if not valid & _TELLING:
            chowns = await self._takes_by_naming_nothing(request)
        if chowns and change.mode is None:
            kept = await self._requests.unprivileged(inode, caller, of_any_kind=True)
            change = change if kept is None else change._replace(mode=kept)
        drops = bool(valid & SetattrField.KILL_SUIDGID)
        new_size = size if valid & SetattrField.SIZE else None
        told = {"touches": _touches(valid, change), "by_handle": bool(valid & SetattrField.FH)}
        return replies.attr_out(await self._requests.setattr(inode, change, new_size, caller, drops=drops, **told))

    async def _takes_by_naming_nothing(self, request: Request) -> bool:
        """Whether a SETATTR that names nothing takes setuid and setgid.

        Not for somebody else, who may not chown(2); what changes content takes them itself. Nor for root where the
        kernel has just removed the capabilities, as it does before each change of content.
        """
        is_cleaning = self._removals.take(request)
        if request.uid == 0:
            return not is_cleaning
        return (await self._fs.getattr(InodeId(request.inode))).uid == request.uid

    async def statfs(self, request: Request) -> Reply:
        """STATFS."""
        below = await self._fs.statfs()
        return replies.STATFS_OUT.pack(
            *(below.f_blocks, below.f_bfree, below.f_bavail, below.f_files, below.f_ffree),
            *(below.f_bsize, MAX_NAME_BYTES, below.f_frsize),
        )

    async def getxattr(self, request: Request) -> Reply:
        """GETXATTR."""
        (size,) = fixed(protocol.GETXATTR_IN, request.body)
        (name,) = names(request.body, protocol.GETXATTR_IN.size)
        return _sized(await self._fs.xattrs.get(InodeId(request.inode), name), size)

    async def listxattr(self, request: Request) -> Reply:
        """LISTXATTR."""
        (size,) = fixed(protocol.GETXATTR_IN, request.body)
        found = await self._requests.listxattr(InodeId(request.inode), caller_of(request))
        return _sized(b"".join(name + b"\0" for name in found), size)

    async def setxattr(self, request: Request) -> Reply:
        """SETXATTR."""
        name, value, flags = protocol.xattr_of(request.body)
        inode = InodeId(request.inode)
        if flags & ~(_XATTR_CREATE | _XATTR_REPLACE):
            raise InvalidArgument(f"setxattr with flags {flags:#x}")
        if flags:
            try:
                await self._fs.xattrs.get(inode, name)
            except NoSuchAttribute:
                if flags & _XATTR_REPLACE:
                    raise
            else:
                if flags & _XATTR_CREATE:
                    raise EntryExists(f"{name!r} of inode {inode}")
        await self._requests.setxattr(inode, name, value, caller_of(request))
        return b""

    async def removexattr(self, request: Request) -> Reply:
        """REMOVEXATTR."""
        (name,) = names(request.body, 0)
        await self._fs.xattrs.remove(InodeId(request.inode), name)
        if name == CAPABILITY:
            self._removals.note(request)
        return b""

    # Files

    async def create(self, request: Request) -> Reply:
        """CREATE."""
        flags, mode, umask, _ = fixed(protocol.CREATE_IN, request.body)
        (name,) = names(request.body, protocol.CREATE_IN.size)
        caller = caller_of(request, umask)
        handle, attributes = await self._requests.create(InodeId(request.inode), name, mode, flags, caller)
        return replies.entry_out(attributes) + replies.open_out(handle, replies.KEEP_CACHE)

    async def open(self, request: Request) -> Reply:
        """OPEN."""
        flags, open_flags = fixed(protocol.OPEN_IN, request.body)
        drops = bool(open_flags & protocol.OPEN_KILL_SUIDGID)
        opened = await self._requests.open(InodeId(request.inode), flags, caller_of(request), drops=drops)
        answer = replies.KEEP_CACHE if opened.keeps_cache else 0
        return replies.open_out(opened.handle, answer | replies.DIRECT_IO if opened.is_direct else answer)

    async def read(self, request: Request) -> Reply:
        """READ."""
        handle, offset, size, *_ = fixed(protocol.READ_IN, request.body)
        return await self._fs.read(HandleId(handle), offset, min(size, protocol.MAX_WRITE_BYTES))

    async def write(self, request: Request) -> Reply:
        """WRITE. With a write-back cache the kernel keeps the times; it may have told them before this arrives."""
        handle, offset, size, flags, _, open_flags = fixed(protocol.WRITE_IN, request.body)
        if size != len(request.data):
            raise protocol.ProtocolError(f"a write of {len(request.data)} bytes says it has {size}")
        if flags & protocol.WRITE_KILL_SUIDGID:
            await self._requests.drop_privileges(InodeId(request.inode), caller_of(request))
        if open_flags & os.O_APPEND and self._fs.is_append_only(HandleId(handle)):  # nor does the kernel, of direct I/O
            await self._requests.drop_capabilities(InodeId(request.inode))
        await self._fs.write(
            HandleId(handle),
            offset,
            request.data,
            keep_times=self._keep_times,
            appends=bool(open_flags & os.O_APPEND),
            is_late=bool(flags & protocol.WRITE_CACHE),
        )
        return replies.write_out(size)

    async def fsync(self, request: Request) -> Reply:
        """FSYNC."""
        handle, flags = fixed(protocol.FSYNC_IN, request.body)
        await self._fs.fsync(HandleId(handle), datasync=bool(flags & protocol.FSYNC_FDATASYNC))
        return b""

    async def release(self, request: Request) -> Reply:
        """RELEASE: the last close."""
        handle, *_ = fixed(protocol.RELEASE_IN, request.body)
        await self._fs.release(HandleId(handle))
        return b""

    async def syncfs(self, request: Request) -> Reply:
        """SYNCFS, which this kernel sends to virtiofs only."""
        await self._fs.sync()
        return b""

    async def interrupt(self, request: Request) -> Reply:
        """INTERRUPT: the caller got a signal. What it asked for is answered all the same, as after none."""
        fixed(protocol.INTERRUPT_IN, request.body)
        return None

    async def destroy(self, request: Request) -> Reply:
        """DESTROY: the last request. All that is due is done when the device says that nothing follows."""
        return b""


_COUNTED_AS = {Opcode.BATCH_FORGET: "forget", Opcode.READDIRPLUS: "readdir", Opcode.RENAME2: "rename"}
_CHANGING = frozenset(
    {Opcode.MKNOD, Opcode.MKDIR, Opcode.SYMLINK, Opcode.LINK, Opcode.CREATE, Opcode.UNLINK, Opcode.RMDIR}
    | {Opcode.SETATTR, Opcode.SETXATTR, Opcode.REMOVEXATTR}
)
"""Requests that change the inode they name: entries of a directory, or what decides whether listing moves its atime."""
_NOW = SetattrField.ATIME_NOW | SetattrField.MTIME_NOW
_FIELDS = ~SetattrField.FH & ~SetattrField.LOCKOWNER & (1 << 12) - 1
"""All but by whom it is asked."""
_TELLING = ~SetattrField.CTIME & _FIELDS
"""Fields that say what a SETATTR is for."""
_KEPT = SetattrField.MTIME | SetattrField.CTIME
"""What the kernel keeps with a write-back cache, and tells by themselves."""


def _nanoseconds(seconds: int, nanoseconds: int) -> int:
    """Times are stored in 64 bits: 1677 to 2262."""
    return max(-_TIME_LIMIT_NS, min(seconds * 10**9 + nanoseconds, _TIME_LIMIT_NS))


def _time(valid: int, given: int, now: int, seconds: int, nanoseconds: int, now_ns: int) -> int | None:
    """A time that is set: the one given, which for UTIME_NOW is the kernel's; ours where it gives none."""
    if valid & given:
        return _nanoseconds(seconds, nanoseconds)
    return now_ns if valid & now else None


def _touches(valid: int, change: AttributeChange) -> bool:
    """Whether both times are set to now. Where the kernel keeps mtime it tells a moment, which is ctime's as well."""
    if not valid & SetattrField.ATIME_NOW:
        return False
    return bool(valid & SetattrField.MTIME_NOW) or (change.mtime_ns is not None and change.mtime_ns == change.ctime_ns)


def _sized(value: bytes, size: int) -> bytes:
    """A value as GETXATTR and LISTXATTR answer it: with size 0 they ask for its length (xattr(7))."""
    if not size:
        return replies.xattr_size_out(len(value))
    if len(value) > size:
        raise Refused(errno.ERANGE)
    return value
