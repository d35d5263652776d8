"""What replies on /dev/fuse look like, and their encoding. Pure: imports struct, ``protocol`` and the core's ``types``.

Layouts are those of <linux/fuse.h>, named as there. Invariant: the length in a reply's header is the reply's.
"""

from __future__ import annotations

import struct

from benchfs_core.types import Attributes
from benchfs_fuse.plane.protocol import OUT_HEADER

CACHE_S = 24 * 3600
"""How long the kernel may keep names and attributes: nothing changes but through it."""

BLOCK_SIZE = 4096
"""``st_blksize``: what programs take as a good size for I/O; as ext4."""

_ATTR = "QQQqqqIIIIIIIIII"
"""``fuse_attr`` (88): ino, size, blocks, atime, mtime, ctime, atimensec, mtimensec, ctimensec, mode, nlink, uid, gid,
rdev, blksize, flags."""
ATTR_OUT = struct.Struct("<QI4x" + _ATTR)
"""``fuse_attr_out`` (104): attr_valid, attr_valid_nsec, attr."""
STATX_OUT = struct.Struct("<QII16x" + "IIQIIIH2xQQQQ" + "qI4x" * 4 + "IIII112x")
"""``fuse_statx_out`` (288; minor version 39): attr_valid, attr_valid_nsec, flags, and of ``fuse_statx`` (256) mask,
blksize, attributes, nlink, uid, gid, mode, ino, size, blocks, attributes_mask, atime, btime, ctime, mtime, rdev_major,
rdev_minor, dev_major, dev_minor."""
ENTRY_OUT = struct.Struct("<QQQQII" + _ATTR)
"""``fuse_entry_out`` (128): nodeid, generation, entry_valid, attr_valid, entry_valid_nsec, attr_valid_nsec, attr."""
OPEN_OUT = struct.Struct("<QI4x")
"""``fuse_open_out`` (16): fh, open_flags."""
WRITE_OUT = struct.Struct("<I4x")
"""``fuse_write_out`` (8): size."""
LSEEK_OUT = struct.Struct("<Q")
"""``fuse_lseek_out`` (8): offset; ``fuse_copy_file_range_out`` (Linux 6.18) is the same with bytes_copied."""
STATFS_OUT = struct.Struct("<QQQQQIII4x24x")
"""``fuse_statfs_out`` (80): blocks, bfree, bavail, files, ffree, bsize, namelen, frsize."""
IOCTL_OUT = struct.Struct("<iIII")
"""``fuse_ioctl_out`` (16): result, flags, in_iovs, out_iovs; then the data."""
GETXATTR_OUT = struct.Struct("<I4x")
"""``fuse_getxattr_out`` (8): size."""
DIRENT = struct.Struct("<QQII")
"""``fuse_dirent`` (24, then the name): ino, off, namelen, type."""

INVAL_INODE_OUT = struct.Struct("<Qqq")
"""``fuse_notify_inval_inode_out`` (24): ino, off, len."""

DIRECT_IO, KEEP_CACHE, CACHE_DIR = 1 << 0, 1 << 1, 1 << 3
"""``FOPEN_DIRECT_IO``, ``FOPEN_KEEP_CACHE`` and ``FOPEN_CACHE_DIR``."""

_NOTIFY_INVAL_INODE = 2
"""``FUSE_NOTIFY_INVAL_INODE``, in the place of the errno."""

STATX_BASIC_STATS, STATX_BTIME = 0x7FF, 0x800
STATX_ATTRIBUTES = 0x70
"""STATX_ATTR_IMMUTABLE, _APPEND and _NODUMP, of the same values as the flags."""
"""Of <linux/stat.h>."""

_SECOND_NS = 10**9
_NO_ENTRY = ENTRY_OUT.pack(0, 0, CACHE_S, 0, 0, 0, *(0,) * 16)


def attr_out(attributes: Attributes, *, valid_s: int = CACHE_S) -> bytes:
    """Of GETATTR and SETATTR."""
    return ATTR_OUT.pack(valid_s, 0, *_fields(attributes))


def statx_out(attributes: Attributes, *, valid_s: int = CACHE_S) -> bytes:
    """Of STATX: everything that ``attr_out`` tells, and when the inode was made where that is known."""
    a, rdev = attributes, attributes.rdev
    times_ns = a.atime_ns, a.birth_ns, a.ctime_ns, a.mtime_ns
    return STATX_OUT.pack(
        *(valid_s, 0, 0, STATX_BASIC_STATS | (STATX_BTIME if a.birth_ns else 0), BLOCK_SIZE),
        *(a.flags & STATX_ATTRIBUTES, a.link_count, a.uid, a.gid, a.mode, a.inode, a.size, a.blocks, STATX_ATTRIBUTES),
        *(part for time_ns in times_ns for part in divmod(time_ns, _SECOND_NS)),
        *(rdev >> 8 & 0xFFF, rdev & 0xFF | rdev >> 12 & 0xFFF00, 0, 0),  # as new_encode_dev has packed it in MKNOD
    )


def entry_out(attributes: Attributes, *, valid_s: int = CACHE_S) -> bytes:
    """Of everything that hands out an inode; ``valid_s`` is for the attributes, the name may be kept for long."""
    return ENTRY_OUT.pack(attributes.inode, 0, CACHE_S, valid_s, 0, 0, *_fields(attributes))


def no_entry() -> bytes:
    """That there is no such name, for the kernel to remember."""
    return _NO_ENTRY


def open_out(handle: int, flags: int) -> bytes:
    """Of OPEN, OPENDIR and, after the entry, CREATE."""
    return OPEN_OUT.pack(handle, flags)


def write_out(length: int) -> bytes:
    """Of WRITE and COPY_FILE_RANGE."""
    return WRITE_OUT.pack(length)


def xattr_size_out(length: int) -> bytes:
    """Of GETXATTR and LISTXATTR that ask for the size only."""
    return GETXATTR_OUT.pack(length)


def ioctl_out(data: bytes = b"") -> bytes:
    """Of IOCTL that succeeded, with what it has to tell."""
    return IOCTL_OUT.pack(0, 0, 0, 0) + data


class Listing:
    """The reply to READDIR or READDIRPLUS, as long as the kernel asked for."""

    __slots__ = ("_left", "_parts", "_plus")

    def __init__(self, size: int, *, plus: bool) -> None:
        """At most ``size`` bytes; with ``plus`` each entry brings its attributes."""
        self._left = size
        self._plus = plus
        self._parts: list[bytes] = []

    def add(self, name: bytes, attributes: Attributes, cookie: int, *, valid_s: int = CACHE_S) -> bool:
        """Add an entry; whether there was room."""
        length = DIRENT.size + len(name)
        padding = -length % 8
        needed = length + padding + (ENTRY_OUT.size if self._plus else 0)
        if needed > self._left:
            return False
        self._left -= needed
        if self._plus:
            self._parts.append(entry_out(attributes, valid_s=valid_s))
        self._parts.append(DIRENT.pack(attributes.inode, cookie, len(name), attributes.mode >> 12 & 0xF))
        self._parts.append(name + bytes(padding))
        return True

    def encode(self) -> bytes:
        """The reply's body; empty at the end of the directory."""
        return b"".join(self._parts)


def head(unique: int, length: int) -> bytes:
    """The header of a reply that tells success, and is followed by ``length`` bytes."""
    return OUT_HEADER.pack(OUT_HEADER.size + length, 0, unique)


def attributes_changed(inode: int) -> bytes:
    """A message that is no reply: what the kernel has of an inode's attributes does not hold any more."""
    return _invalidation(inode, -1)  # an offset below 0: of its content everything holds


def content_changed(inode: int) -> bytes:
    """A message that is no reply: nothing that the kernel has of an inode holds any more, its content neither."""
    return _invalidation(inode, 0)


def _invalidation(inode: int, offset: int) -> bytes:
    body = INVAL_INODE_OUT.pack(inode, offset, 0)
    return OUT_HEADER.pack(OUT_HEADER.size + len(body), _NOTIFY_INVAL_INODE, 0) + body


def failure(unique: int, number: int) -> bytes:
    """A reply that tells an errno."""
    return OUT_HEADER.pack(OUT_HEADER.size, -number, unique)


def _fields(attributes: Attributes) -> tuple[int, ...]:
    atime_s, atime_ns = divmod(attributes.atime_ns, _SECOND_NS)
    mtime_s, mtime_ns = divmod(attributes.mtime_ns, _SECOND_NS)
    ctime_s, ctime_ns = divmod(attributes.ctime_ns, _SECOND_NS)
    return (
        *(attributes.inode, attributes.size, attributes.blocks),
        *(atime_s, mtime_s, ctime_s, atime_ns, mtime_ns, ctime_ns),
        *(attributes.mode, attributes.link_count, attributes.uid, attributes.gid),
        *(attributes.rdev & 0xFFFF_FFFF, BLOCK_SIZE, 0),  # as the kernel told it in MKNOD
    )
