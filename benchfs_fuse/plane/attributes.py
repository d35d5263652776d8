"""Handlers of what pyfuse3 has none for: O_TMPFILE, when an inode was made (STATX), and flags of inodes (IOCTL).

Imports ``protocol``, ``replies``, ``answering``, ``listings``, ``requests`` and the core. Invariants as in
``handlers``, which takes these in; flags are set only where the kernel has seen to it that the caller may, and has the
inode locked.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable

from benchfs_core import flags
from benchfs_core.filesystem import FileSystem
from benchfs_core.types import InodeId
from benchfs_fuse.plane import protocol, replies
from benchfs_fuse.plane.answering import Handler, Refused, Reply, caller_of, not_connected
from benchfs_fuse.plane.listings import Listings
from benchfs_fuse.plane.protocol import Opcode, ProtocolError, Request, fixed
from benchfs_fuse.requests import Requests

FS_IOC_GETFLAGS, FS_IOC_SETFLAGS = 0x8008_6601, 0x4008_6602
FS_IOC_FSGETXATTR, FS_IOC_FSSETXATTR = 0x801C_581F, 0x401C_5820
"""Of <linux/fs.h>."""

_FLAGS = struct.Struct("<I")
_FSXATTR = struct.Struct("<IIIII8x")
"""``fsxattr`` (28): fsx_xflags, fsx_extsize, fsx_nextents, fsx_projid, fsx_cowextsize."""
_XFLAGS = {flags.IMMUTABLE: 0x8, flags.APPEND: 0x10, flags.NOATIME: 0x40, flags.NODUMP: 0x80}
"""``FS_XFLAG_…`` of each flag."""


class AttributeHandlers:
    """Some handlers of one mount, by opcode."""

    def __init__(self, filesystem: FileSystem, requests: Requests, listings: Listings) -> None:
        self._fs = filesystem
        self._requests = requests
        self._listings = listings
        self._tell: Callable[[bytes], None] = not_connected
        self.table: dict[Opcode, Handler] = {
            Opcode.TMPFILE: self.tmpfile,
            Opcode.STATX: self.statx,
            Opcode.IOCTL: self.ioctl,
        }

    def connect(self, tell: Callable[[bytes], None]) -> None:
        """From now on messages to the kernel can be sent: with ``tell``, in order before the next reply."""
        self._tell = tell

    async def statx(self, request: Request) -> Reply:
        """STATX, which the kernel sends for statx(2) with STATX_BTIME, and keeps the answer of."""
        fixed(protocol.STATX_IN, request.body)
        return replies.statx_out(await self._fs.getattr(InodeId(request.inode)))

    async def tmpfile(self, request: Request) -> Reply:
        """TMPFILE: open(2) with O_TMPFILE. It is sent as CREATE is, with a name that means nothing."""
        flags, mode, umask, _ = fixed(protocol.CREATE_IN, request.body)
        caller = caller_of(request, umask)
        handle, attributes = await self._requests.create_nameless(InodeId(request.inode), mode, flags, caller)
        return replies.entry_out(attributes) + replies.open_out(handle, replies.KEEP_CACHE)

    async def ioctl(self, request: Request) -> Reply:
        """IOCTL: the flags of a file or directory; there are no others.

        The kernel asks on its own behalf, without an address of the caller's, once it has seen to who may do that:
        the owner, and for immutable and append-only CAP_LINUX_IMMUTABLE (``vfs_fileattr_set``). With an address it
        has come past that, as it does after a first refusal.
        """
        _, _, command, address, in_size, out_size = fixed(protocol.IOCTL_IN, request.body)
        data, inode = request.body[protocol.IOCTL_IN.size :], InodeId(request.inode)
        if len(data) != in_size:
            raise ProtocolError(f"an ioctl with {len(data)} bytes says it has {in_size}")
        if command not in _COMMANDS:
            raise Refused(errno.ENOTTY)
        if address:
            raise Refused(errno.EOPNOTSUPP)
        if (out_size if command in (FS_IOC_GETFLAGS, FS_IOC_FSGETXATTR) else in_size) != _COMMANDS[command].size:
            raise ProtocolError(f"ioctl {command:#x} with {in_size} and {out_size} bytes")
        if command == FS_IOC_GETFLAGS:
            return replies.ioctl_out(_FLAGS.pack(await self._fs.flags.get(inode)))
        if command == FS_IOC_FSGETXATTR:
            found = await self._fs.flags.get(inode)
            xflags = sum(xflag for flag, xflag in _XFLAGS.items() if found & flag)
            return replies.ioctl_out(_FSXATTR.pack(xflags, 0, 0, 0, 0))
        await self._fs.flags.set(inode, _FLAGS.unpack(data)[0] if command == FS_IOC_SETFLAGS else _flags_of(data))
        self._listings.changed(inode)  # the next one may have to move atime
        self._tell(replies.attributes_changed(inode))  # ctime has moved, which the kernel does not expect of an ioctl
        return replies.ioctl_out()


_COMMANDS = {
    FS_IOC_GETFLAGS: _FLAGS,
    FS_IOC_SETFLAGS: _FLAGS,
    FS_IOC_FSGETXATTR: _FSXATTR,
    FS_IOC_FSSETXATTR: _FSXATTR,
}
"""What each command takes or tells."""


def _flags_of(data: bytes) -> int:
    """The flags that an ``fsxattr`` asks for. There are no projects; hints of sizes mean nothing here (as on ext4)."""
    xflags, _, _, project, _ = _FSXATTR.unpack(data)
    if xflags & ~sum(_XFLAGS.values()) or project:
        raise Refused(errno.EOPNOTSUPP)
    return sum(flag for flag, xflag in _XFLAGS.items() if xflags & xflag)
