"""What a FUSE request means beyond one call into ``FileSystem``: the same whichever way it arrives.

Imports the core's ``filesystem`` and ``types`` and os; nothing of pyfuse3 and nothing of the protocol. ``operations``
(through pyfuse3) and ``plane`` (from /dev/fuse) are its two callers. Invariant: no errno and no encoding here.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

from benchfs_core.acl import ACCESS
from benchfs_core.errors import FileSystemError, InvalidArgument
from benchfs_core.extended_attributes import CAPABILITY
from benchfs_core.filesystem import FileSystem
from benchfs_core.meter import Meter, Part, metered
from benchfs_core.types import AttributeChange, Attributes, Credentials, HandleId, InodeId

RENAME_NOREPLACE, RENAME_EXCHANGE = 1, 2
"""Of <linux/fs.h>."""

_DOT, _DOT_DOT = 1, 2
"""Cookies of `.` and `..`, below those of any entry."""


class Caller(NamedTuple):
    """Who asks: effective user and group, thread, and the umask where the request has one."""

    uid: int
    gid: int
    pid: int
    umask: int = 0

    @property
    def credentials(self) -> Credentials:
        """As the core wants them. The kernel may have applied the umask already; once more changes nothing."""
        return Credentials(self.uid, self.gid, self.umask)


class Opened(NamedTuple):
    """A file that was opened."""

    handle: HandleId
    keeps_cache: bool
    """Whether the kernel may keep what it has cached of it."""
    is_direct: bool
    """Whether the kernel must pass on each write at once, and map nothing: the file is append-only, and not to it."""


class Listed(NamedTuple):
    """One entry of a listing."""

    name: bytes
    attributes: Attributes
    cookie: int
    is_current: bool
    """Whether the kernel may keep the attributes."""
    is_counted: bool
    """Whether it counts as a lookup once it was passed on with its attributes: not `.` and `..`."""


class Requests:
    """The requests of one mount that take more than one call."""

    def __init__(self, filesystem: FileSystem, *, writeback_cache: bool) -> None:
        """``writeback_cache``: whether the kernel keeps mtime and ctime of what it writes."""
        self._fs = filesystem
        self._writeback_cache = writeback_cache

    async def rename(self, old: InodeId, old_name: bytes, new: InodeId, new_name: bytes, flags: int) -> list[InodeId]:
        """Rename as renameat2(2); the directories that have another parent now, and so list another `..`.

        RENAME_WHITEOUT is for filesystems below overlayfs, which FUSE cannot be in full.
        """
        if flags == RENAME_EXCHANGE:
            moved = await self._fs.exchange(old, old_name, new, new_name)
        elif flags in (0, RENAME_NOREPLACE):
            moved = await self._fs.rename(old, old_name, new, new_name, overwrite=not flags)
        else:
            raise InvalidArgument(f"rename with flags {flags:#x}")
        return [one.inode for one in moved if old != new and stat.S_ISDIR(one.mode)]

    async def setattr(
        self,
        inode: InodeId,
        change: AttributeChange,
        size: int | None,
        caller: Caller,
        *,
        drops: bool,
        touches: bool = False,
        by_handle: bool = False,
    ) -> Attributes:
        """Change attributes; with ``drops`` a truncate takes privileges away (``unprivileged``).

        ``touches``: both times are set to now, as utimes(2) without times does. ``by_handle``: asked through a handle,
        as the kernel tells the times of what it writes back.
        """
        if size is None:
            return await self._fs.setattr(
                inode, change, late_times=self._writeback_cache, touches=touches, by_writer=by_handle
            )
        if drops and (kept := await self.unprivileged(inode, caller)) is not None:
            change = change._replace(mode=kept)
        return await self._fs.setattr(inode, change, size)

    def tell_times(self, inode: InodeId, told: AttributeChange, *, by_handle: bool) -> Attributes | None:
        """Set mtime and ctime, and nothing else, where that takes no more than noting them; None: ``setattr`` does."""
        return self._fs.attribute_changes.tell(inode, told, by_writer=by_handle) if self._writeback_cache else None

    async def setxattr(self, inode: InodeId, name: bytes, value: bytes, caller: Caller) -> None:
        """Set an attribute. An access ACL sets the mode, and takes setgid away as chmod(2) would."""
        outsider = name == ACCESS and not await self._is_member(inode, caller)
        await self._fs.xattrs.set(inode, name, value, drop_setgid=outsider)

    async def listxattr(self, inode: InodeId, caller: Caller) -> list[bytes]:
        """Names of attributes. Those in ``trusted.`` are for the privileged only (xattr(7))."""
        names = await self._fs.xattrs.names(inode)
        return names if caller.uid == 0 else [name for name in names if not name.startswith(b"trusted.")]

    async def create(
        self, parent: InodeId, name: bytes, mode: int, flags: int, caller: Caller
    ) -> tuple[HandleId, Attributes]:
        """Make and open a file; ``flags`` are those of open(2)."""
        return await self._fs.create(
            parent, name, mode, caller.credentials, noatime=not _reads(flags), writes=_writes(flags)
        )

    async def create_nameless(
        self, directory: InodeId, mode: int, flags: int, caller: Caller
    ) -> tuple[HandleId, Attributes]:
        """Make and open a file without a name (O_TMPFILE), which may get one unless ``flags`` have O_EXCL."""
        return await self._fs.create_nameless(
            directory, mode, caller.credentials, linkable=not flags & os.O_EXCL, noatime=not _reads(flags)
        )

    async def open(self, inode: InodeId, flags: int, caller: Caller, *, drops: bool) -> Opened:
        """Open a file, and empty it with O_TRUNC.

        Access modes and O_APPEND are the kernel's matter, but for what the file's flags say. With ``drops`` emptying
        takes setuid and setgid away, and always the file's capabilities: to the kernel an O_TRUNC that it passes on is
        no change.
        """
        truncate = bool(flags & os.O_TRUNC)
        if truncate:
            self._fs.flags.check_truncate(inode)
            await self.drop_capabilities(inode)
            if drops and (kept := await self.unprivileged(inode, caller)) is not None:
                await self._fs.setattr(inode, AttributeChange(mode=kept), size=0)
                truncate = False
        handle = await self._fs.open(
            inode,
            truncate=truncate,
            noatime=not _reads(flags),
            writes=_writes(flags),
            appends=bool(flags & os.O_APPEND),
        )
        return Opened(handle, not self._fs.reading_moves_atime(handle), self._fs.is_append_only(handle))

    async def listing(self, handle: HandleId, after: int) -> Iterator[Listed]:
        """What follows the cookie ``after`` (0: everything); take it before the next checkpoint.

        ``remember`` in the core what was passed on with attributes and ``is_counted``.
        """
        dots: list[Listed] = []
        if after < _DOT_DOT:
            directory, parent = await self._fs.directory_and_parent(handle)
            if after < _DOT:
                dots.append(Listed(b".", await self._fs.getattr(directory), _DOT, True, False))
            dots.append(Listed(b"..", await self._fs.getattr(parent), _DOT_DOT, True, False))
        entries = await self._fs.readdir(handle, 0 if after <= _DOT_DOT else after)

        def listed() -> Iterator[Listed]:
            yield from dots
            for entry in entries:
                current = self._fs.blocks_are_current(entry.attributes.inode)
                yield Listed(entry.name, entry.attributes, entry.cookie, current, True)

        return listed()

    async def unprivileged(self, inode: InodeId, caller: Caller, *, of_any_kind: bool = False) -> int | None:
        """The mode that a file has when the caller has changed its content or owner; None if it keeps the one it has.

        It loses setuid, and setgid where the group may execute it or the caller is not in the group: what Linux has
        done since 6.2, and inode(7) says. Root takes nothing away by writing, which the front end knows. With
        ``of_any_kind`` not only regular files do, but all that are no directories: for chown(2).
        """
        mode = (await self._fs.getattr(inode)).mode
        if not mode & (stat.S_ISUID | stat.S_ISGID) or stat.S_ISDIR(mode):
            return None
        if not of_any_kind and not stat.S_ISREG(mode):
            return None
        lost = stat.S_ISUID
        if mode & stat.S_IXGRP or not await self._is_member(inode, caller):
            lost |= stat.S_ISGID
        return mode & ~lost if mode & lost else None

    async def drop_privileges(self, inode: InodeId, caller: Caller) -> None:
        """Take from a file what it does not keep when the caller changes its content (``unprivileged``)."""
        if (kept := await self.unprivileged(inode, caller)) is not None:
            await self._fs.setattr(inode, AttributeChange(mode=kept))

    async def drop_capabilities(self, inode: InodeId) -> None:
        """Take the file's capabilities away, which no change of content leaves (capabilities(7))."""
        with suppress(FileSystemError):  # there are none, or they cannot be changed and what follows fails as well
            await self._fs.xattrs.get(inode, CAPABILITY)
            await self._fs.xattrs.remove(inode, CAPABILITY)

    async def _is_member(self, inode: InodeId, caller: Caller) -> bool:
        """Whether the caller is root or in the group of the inode."""
        if caller.uid == 0:
            return True
        group = (await self._fs.getattr(inode)).gid
        return group == caller.gid or group in _groups_of(caller.pid)


def timed_filesystem(filesystem: FileSystem, meter: Meter) -> FileSystem:
    """The same filesystem, which tells the meter what is spent in it, and so not in the front end."""
    return metered(filesystem, meter, Part.CORE, inner=("xattrs", "ranges"))


def _groups_of(pid: int) -> list[int]:
    """Supplementary groups of a thread, from proc(5); none where it has ended or /proc does not show it."""
    with suppress(OSError), open(f"/proc/{pid}/status", "rb") as status:
        for line in status:
            if line.startswith(b"Groups:"):
                return [int(group) for group in line.split()[1:]]
    return []


def _writes(flags: int) -> bool:
    """Whether something may be written through a handle."""
    return flags & os.O_ACCMODE != os.O_RDONLY


def _reads(flags: int) -> bool:
    """Whether what is read through a handle counts as read by somebody.

    With a write-back cache the kernel reads, through a handle for writing, pages that are to be written in part.
    """
    return flags & os.O_ACCMODE != os.O_WRONLY and not flags & os.O_NOATIME
