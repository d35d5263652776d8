"""Handlers of what pyfuse3 has none for: STATX, which tells when an inode was made.

Imports ``protocol``, ``replies``, ``answering`` and the core. Invariants as in ``handlers``, which takes these in.
"""

from __future__ import annotations

from benchfs_core.filesystem import FileSystem
from benchfs_core.types import InodeId
from benchfs_fuse.plane import protocol, replies
from benchfs_fuse.plane.answering import Handler, Reply
from benchfs_fuse.plane.protocol import Opcode, Request, fixed


class AttributeHandlers:
    """Some handlers of one mount, by opcode."""

    def __init__(self, filesystem: FileSystem) -> None:
        self._fs = filesystem
        self.table: dict[Opcode, Handler] = {Opcode.STATX: self.statx}

    async def statx(self, request: Request) -> Reply:
        """STATX, which the kernel sends for statx(2) with STATX_BTIME, and keeps the answer of."""
        fixed(protocol.STATX_IN, request.body)
        return replies.statx_out(await self._fs.getattr(InodeId(request.inode)))
