"""Handlers of what pyfuse3 has none for: FALLOCATE, LSEEK and COPY_FILE_RANGE.

Imports ``protocol``, ``replies``, ``answering`` and the core. Invariants as in ``handlers``, which takes these in.

The kernel does not write back what it holds of a file before LSEEK, and tells no size. So while a handle may write,
what would be told as a hole is first written back (``settle``). Where that cannot be had, LSEEK is not known any more:
the kernel then answers as for files without holes, for the rest of the mount.
"""

from __future__ import annotations

import errno
import logging
import os
from functools import partial

from benchfs_core.errors import InvalidArgument, NotSupported
from benchfs_core.filesystem import FileSystem
from benchfs_core.types import HandleId, InodeId
from benchfs_fuse.plane import protocol, replies
from benchfs_fuse.plane.answering import Handler, Refused, Reply, caller_of
from benchfs_fuse.plane.protocol import Opcode, Request, fixed
from benchfs_fuse.plane.write_back import CannotWriteBack, WriteBack
from benchfs_fuse.requests import Requests

log = logging.getLogger(__name__)

_KEEP_SIZE, _PUNCH_HOLE, _ZERO_RANGE = 0x01, 0x02, 0x10
"""``FALLOC_FL_…`` of <linux/falloc.h>; the kernel passes no others on."""


class RangeHandlers:
    """Some handlers of one mount, by opcode."""

    def __init__(
        self, filesystem: FileSystem, requests: Requests, write_back: WriteBack, *, writeback_cache: bool
    ) -> None:
        """``writeback_cache``: whether the kernel keeps sizes and times of what it writes."""
        self._ranges = filesystem.ranges
        self._requests = requests
        self._write_back = write_back
        self._writeback_cache = writeback_cache
        self._seeks = True
        self.table: dict[Opcode, Handler] = {
            Opcode.FALLOCATE: self.fallocate,
            Opcode.LSEEK: self.lseek,
            Opcode.COPY_FILE_RANGE: self.copy_file_range,
            Opcode.COPY_FILE_RANGE_64: self.copy_file_range,
        }

    async def fallocate(self, request: Request) -> Reply:
        """FALLOCATE. What the kernel holds of the range is gone when it arrives; so are capabilities, not setuid."""
        number, offset, length, mode = fixed(protocol.FALLOCATE_IN, request.body)
        await self._drop_privileges(InodeId(request.inode), request)
        handle, keep_times = HandleId(number), self._writeback_cache
        keep_size = bool(mode & _KEEP_SIZE)
        if mode & ~_KEEP_SIZE == 0:
            await self._ranges.allocate(handle, offset, length, keep_size=keep_size, keep_times=keep_times)
        elif mode == _PUNCH_HOLE | _KEEP_SIZE:
            await self._ranges.punch(handle, offset, length, keep_times=keep_times)
        elif mode & ~_KEEP_SIZE == _ZERO_RANGE:
            await self._ranges.zero(handle, offset, length, keep_size=keep_size, keep_times=keep_times)
        else:
            raise NotSupported(f"fallocate with mode {mode:#x}")
        return b""

    async def lseek(self, request: Request) -> Reply:
        """LSEEK: SEEK_DATA and SEEK_HOLE; all else the kernel does by itself."""
        number, offset, whence = fixed(protocol.LSEEK_IN, request.body)
        if whence not in (os.SEEK_DATA, os.SEEK_HOLE):
            raise InvalidArgument(f"lseek with whence {whence}")
        if not self._seeks:
            raise Refused(errno.ENOSYS)
        settle = partial(self._write_back, InodeId(request.inode))
        try:
            found = await self._ranges.seek(HandleId(number), offset, data=whence == os.SEEK_DATA, settle=settle)
        except CannotWriteBack as error:
            log.warning("no holes are told any more: what the kernel holds cannot be had written back: %s", error)
            self._seeks = False
            raise Refused(errno.ENOSYS) from error
        return replies.LSEEK_OUT.pack(found)

    async def copy_file_range(self, request: Request) -> Reply:
        """COPY_FILE_RANGE, and what Linux 6.18 asks for instead, which differs in the reply.

        What the kernel held of both ranges has been written by then; of the source's size it may know better.
        """
        source, source_offset, inode, target, target_offset, length, flags = fixed(
            protocol.COPY_FILE_RANGE_IN, request.body
        )
        if flags:
            raise InvalidArgument(f"copy_file_range with flags {flags:#x}")
        await self._drop_privileges(InodeId(inode), request)
        copied = await self._ranges.copy(
            HandleId(source),
            source_offset,
            HandleId(target),
            target_offset,
            length,
            keep_times=self._writeback_cache,
            beyond_is_hole=self._writeback_cache,
        )
        if request.opcode == Opcode.COPY_FILE_RANGE:
            return replies.write_out(copied)
        return replies.LSEEK_OUT.pack(copied)

    async def _drop_privileges(self, inode: InodeId, request: Request) -> None:
        """Nothing in these requests tells who keeps them, as WRITE does; root does."""
        caller = caller_of(request)
        if caller.uid:
            await self._requests.drop_privileges(inode, caller)
