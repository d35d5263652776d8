"""Handlers of what directories list, and of moving entries between them.

Imports ``protocol``, ``replies``, ``answering``, ``listings``, ``requests`` and the core. Invariants as in
``handlers``, which takes these in. The kernel keeps what a directory lists until it is told of a change (``listings``).
"""

from __future__ import annotations

import os

from benchfs_core.filesystem import FileSystem
from benchfs_core.types import HandleId, InodeId
from benchfs_fuse.plane import protocol, replies
from benchfs_fuse.plane.answering import Handler, Reply
from benchfs_fuse.plane.listings import Listings
from benchfs_fuse.plane.protocol import Opcode, Request, fixed, names
from benchfs_fuse.requests import Requests


class DirectoryHandlers:
    """Some handlers of one mount, by opcode."""

    def __init__(self, filesystem: FileSystem, requests: Requests, listings: Listings) -> None:
        self._fs = filesystem
        self._requests = requests
        self._listings = listings
        self.table: dict[Opcode, Handler] = {
            Opcode.OPENDIR: self.opendir,
            Opcode.READDIR: self.readdir,
            Opcode.READDIRPLUS: self.readdir,
            Opcode.RELEASEDIR: self.releasedir,
            Opcode.FSYNCDIR: self.fsyncdir,
            Opcode.RENAME: self.rename,
            Opcode.RENAME2: self.rename2,
        }

    async def opendir(self, request: Request) -> Reply:
        """OPENDIR. What is listed is kept by the kernel, unless listing moves atime.

        Nor is what is listed with O_NOATIME: others would be answered from that, and not move atime when they must.
        """
        flags, _ = fixed(protocol.OPEN_IN, request.body)
        inode, noatime = InodeId(request.inode), bool(flags & os.O_NOATIME)
        handle = await self._fs.opendir(inode, noatime=noatime)
        keeps = not noatime and not self._fs.access_times.move_with_reading(inode)
        return replies.open_out(handle, replies.KEEP_CACHE | replies.CACHE_DIR if keeps else 0)

    async def readdir(self, request: Request) -> Reply:
        """READDIR, and READDIRPLUS: entries with their attributes, which saves the kernel a lookup each."""
        handle, after, size, *_ = fixed(protocol.READ_IN, request.body)
        plus = request.opcode == Opcode.READDIRPLUS
        listing = replies.Listing(min(size, protocol.MAX_WRITE_BYTES), plus=plus)
        for entry in await self._requests.listing(HandleId(handle), after):
            valid_s = replies.CACHE_S if entry.is_current else 0
            if not listing.add(entry.name, entry.attributes, entry.cookie, valid_s=valid_s):
                break
            if plus and entry.is_counted:
                self._fs.remember(entry.attributes.inode)
        self._listings.note(request.inode)
        return listing.encode()

    async def releasedir(self, request: Request) -> Reply:
        """RELEASEDIR."""
        handle, *_ = fixed(protocol.RELEASE_IN, request.body)
        await self._fs.releasedir(HandleId(handle))
        return b""

    async def fsyncdir(self, request: Request) -> Reply:
        """FSYNCDIR."""
        handle, _ = fixed(protocol.FSYNC_IN, request.body)
        await self._fs.fsync_directory(HandleId(handle))
        return b""

    async def rename(self, request: Request) -> Reply:
        """RENAME."""
        (target,) = fixed(protocol.RENAME_IN, request.body)
        return await self._rename(request, target, 0, protocol.RENAME_IN.size)

    async def rename2(self, request: Request) -> Reply:
        """RENAME2."""
        target, flags = fixed(protocol.RENAME2_IN, request.body)
        return await self._rename(request, target, flags, protocol.RENAME2_IN.size)

    async def _rename(self, request: Request, target: int, flags: int, start: int) -> Reply:
        old, new = names(request.body, start, 2)
        try:
            moved = await self._requests.rename(InodeId(request.inode), old, InodeId(target), new, flags)
        finally:
            self._listings.changed(request.inode)
            self._listings.changed(target)
        for directory in moved:
            self._listings.changed(directory)
        return b""
