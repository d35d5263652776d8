"""Flags of inodes, as chmod cannot say: ``FS_*_FL`` of <linux/fs.h> (ioctl_iflags(2)), and what they forbid.

Pure: imports ``errors`` and ``types``. The kernel's FUSE client knows nothing of them, so nobody enforces them but us.
What each forbids is what ext4 and the kernel's VFS refuse there (may_delete, may_create, notify_change in Linux 6.18),
always as NotPermitted.
"""

from __future__ import annotations

from benchfs_core.errors import NotPermitted
from benchfs_core.types import Attributes, InodeId

IMMUTABLE = 0x10
"""``FS_IMMUTABLE_FL``: nothing of a file changes, no entry of a directory is made or removed."""
APPEND = 0x20
"""``FS_APPEND_FL``: a file is written at its end only, entries of a directory are made and not removed."""
NODUMP = 0x40
"""``FS_NODUMP_FL``: for dump(8); means nothing here."""
NOATIME = 0x80
"""``FS_NOATIME_FL``: reading moves no atime."""

PROTECTING = IMMUTABLE | APPEND
SUPPORTED = PROTECTING | NODUMP | NOATIME
INHERITED = NODUMP | NOATIME
"""What an inode takes over from the directory that it is made in."""


def check_unprotected(attributes: Attributes) -> None:
    """What neither an immutable nor an append-only inode takes: a link, truncate, chmod, chown, xattrs."""
    if attributes.flags & PROTECTING:
        raise NotPermitted(f"inode {attributes.inode} is immutable or append-only")


def check_mutable(attributes: Attributes) -> None:
    """What no immutable inode takes: new entries, new content, times."""
    if attributes.flags & IMMUTABLE:
        raise NotPermitted(f"inode {attributes.inode} is immutable")


def check_opening(attributes: Attributes, *, writes: bool, appends: bool) -> None:
    """Whether a file may be opened for writing, at its end only (O_APPEND) or anywhere."""
    if writes and attributes.flags & (IMMUTABLE if appends else PROTECTING):
        raise NotPermitted(f"inode {attributes.inode} is immutable or append-only")


def check_writing(inode: InodeId, flags: int, *, appends: bool) -> None:
    """Whether a file with these flags may be written to through a handle, at its end only or anywhere."""
    if flags & (IMMUTABLE if appends else PROTECTING):
        raise NotPermitted(f"inode {inode} is immutable or append-only")


def check_setting(attributes: Attributes, flags: int) -> None:
    """Whether an inode may have these flags: as long as it stays immutable, it keeps those that it has."""
    if attributes.flags & flags & IMMUTABLE and attributes.flags != flags:
        raise NotPermitted(f"inode {attributes.inode} is immutable")
