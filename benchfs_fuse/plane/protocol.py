"""What requests on /dev/fuse look like, and their decoding. Pure: imports the standard library's struct and enum.

Layouts are those of <linux/fuse.h> at minor version 38, which libfuse 3.14 negotiates; each struct is named as there,
with its size. Invariant: whatever bytes arrive, decoding returns values within the bounds of their types or raises
``ProtocolError``.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass
from typing import Any


class ProtocolError(Exception):
    """A request that is no request: too short, too long, without its terminating NUL."""


class Opcode(enum.IntEnum):
    """``enum fuse_opcode``: those that are answered here."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    READLINK = 5
    SYMLINK = 6
    MKNOD = 8
    MKDIR = 9
    UNLINK = 10
    RMDIR = 11
    RENAME = 12
    LINK = 13
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    SETXATTR = 21
    GETXATTR = 22
    LISTXATTR = 23
    REMOVEXATTR = 24
    FLUSH = 25
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    FSYNCDIR = 30
    CREATE = 35
    INTERRUPT = 36
    DESTROY = 38
    IOCTL = 39
    BATCH_FORGET = 42
    FALLOCATE = 43
    READDIRPLUS = 44
    RENAME2 = 45
    LSEEK = 46
    COPY_FILE_RANGE = 47
    SYNCFS = 50
    TMPFILE = 51
    STATX = 52
    COPY_FILE_RANGE_64 = 53


IN_HEADER = struct.Struct("<IIQQIIIHH")
"""``fuse_in_header`` (40): len, opcode, unique, nodeid, uid, gid, pid, total_extlen, padding."""
OUT_HEADER = struct.Struct("<IiQ")
"""``fuse_out_header`` (16): len, error, unique."""


GETATTR_IN = struct.Struct("<IIQ")
"""``fuse_getattr_in`` (16): getattr_flags, dummy, fh."""
STATX_IN = struct.Struct("<IIQII")
"""``fuse_statx_in`` (24; minor version 39): getattr_flags, reserved, fh, sx_flags, sx_mask."""
SETATTR_IN = struct.Struct("<I4xQQQqqqIIIIIII4x")
"""``fuse_setattr_in`` (88): valid, fh, size, lock_owner, atime, mtime, ctime, atimensec, mtimensec, ctimensec, mode,
unused4, uid, gid."""
MKNOD_IN = struct.Struct("<III4x")
"""``fuse_mknod_in`` (16): mode, rdev, umask."""
MKDIR_IN = struct.Struct("<II")
"""``fuse_mkdir_in`` (8): mode, umask."""
RENAME_IN = struct.Struct("<Q")
"""``fuse_rename_in`` (8): newdir."""
RENAME2_IN = struct.Struct("<QI4x")
"""``fuse_rename2_in`` (16): newdir, flags."""
LINK_IN = struct.Struct("<Q")
"""``fuse_link_in`` (8): oldnodeid."""
OPEN_IN = struct.Struct("<II")
"""``fuse_open_in`` (8): flags, open_flags."""
CREATE_IN = struct.Struct("<IIII")
"""``fuse_create_in`` (16): flags, mode, umask, open_flags."""
RELEASE_IN = struct.Struct("<QIIQ")
"""``fuse_release_in`` (24): fh, flags, release_flags, lock_owner."""
READ_IN = struct.Struct("<QQIIQI4x")
"""``fuse_read_in`` (40): fh, offset, size, read_flags, lock_owner, flags."""
WRITE_IN = struct.Struct("<QQIIQI4x")
"""``fuse_write_in`` (40): fh, offset, size, write_flags, lock_owner, flags."""
FSYNC_IN = struct.Struct("<QI4x")
"""``fuse_fsync_in`` (16): fh, fsync_flags."""
SETXATTR_IN = struct.Struct("<II")
"""``fuse_setxattr_in`` as it is without SETXATTR_EXT (8): size, flags."""
GETXATTR_IN = struct.Struct("<I4x")
"""``fuse_getxattr_in`` (8): size; LISTXATTR has it, too."""
FALLOCATE_IN = struct.Struct("<QqqI4x")
"""``fuse_fallocate_in`` (32): fh, offset, length, mode."""
LSEEK_IN = struct.Struct("<QqI4x")
"""``fuse_lseek_in`` (24): fh, offset, whence."""
COPY_FILE_RANGE_IN = struct.Struct("<QqQQqQQ")
"""``fuse_copy_file_range_in`` (56): fh_in, off_in, nodeid_out, fh_out, off_out, len, flags."""
IOCTL_IN = struct.Struct("<QIIQII")
"""``fuse_ioctl_in`` (32): fh, flags, cmd, arg, in_size, out_size; then the data."""
FORGET_IN = struct.Struct("<Q")
"""``fuse_forget_in`` (8): nlookup."""
BATCH_FORGET_IN = struct.Struct("<I4x")
"""``fuse_batch_forget_in`` (8): count."""
FORGET_ONE = struct.Struct("<QQ")
"""``fuse_forget_one`` (16): nodeid, nlookup."""
INTERRUPT_IN = struct.Struct("<Q")
"""``fuse_interrupt_in`` (8): unique."""

WRITE_HEAD_BYTES = IN_HEADER.size + WRITE_IN.size
"""Where the data of a WRITE begins."""
MAX_WRITE_BYTES = 1 << 20
"""The largest READ and WRITE: ``max_write`` and ``max_pages`` of INIT."""


class SetattrField:
    """``FATTR_…`` of ``fuse_setattr_in.valid``; plain numbers, as the operators of an IntFlag take 1 µs each."""

    MODE = 1 << 0
    UID = 1 << 1
    GID = 1 << 2
    SIZE = 1 << 3
    ATIME = 1 << 4
    MTIME = 1 << 5
    FH = 1 << 6
    ATIME_NOW = 1 << 7
    MTIME_NOW = 1 << 8
    LOCKOWNER = 1 << 9
    CTIME = 1 << 10
    KILL_SUIDGID = 1 << 11


WRITE_CACHE = 1 << 0
"""``FUSE_WRITE_CACHE``: a delayed write from the page cache."""
WRITE_KILL_SUIDGID = 1 << 2
"""``FUSE_WRITE_KILL_SUIDGID``."""
OPEN_KILL_SUIDGID = 1 << 0
"""``FUSE_OPEN_KILL_SUIDGID``, in ``open_flags`` of OPEN."""
FSYNC_FDATASYNC = 1 << 0
"""``FUSE_FSYNC_FDATASYNC``."""


@dataclass(slots=True)
class Request:
    """One request. ``body`` is what follows the header; of a WRITE, its fixed part, and ``data`` is the rest."""

    opcode: int
    unique: int
    inode: int
    uid: int
    gid: int
    pid: int
    body: bytes
    data: bytes | bytearray = b""


def decode(head: bytearray, tail: bytearray, length: int) -> Request:
    """Take a request out of the two buffers that it was read into, one after the other.

    ``head`` holds ``WRITE_HEAD_BYTES``, ``tail`` ``MAX_WRITE_BYTES``. What is returned refers to neither, but for a
    WRITE that fills ``tail``: its ``data`` is ``tail``.

    Raises:
        ProtocolError: it is no request.
    """
    if length < IN_HEADER.size:
        raise ProtocolError(f"{length} bytes are no request")
    told, opcode, unique, inode, uid, gid, pid, extensions, _ = IN_HEADER.unpack_from(head)
    if told != length or length > WRITE_HEAD_BYTES + len(tail):
        raise ProtocolError(f"a request of {length} bytes says it has {told}")
    end = length - 8 * extensions
    if end < IN_HEADER.size:
        raise ProtocolError(f"extensions of {8 * extensions} bytes in a request of {length}")
    if end <= WRITE_HEAD_BYTES:
        return Request(opcode, unique, inode, uid, gid, pid, bytes(head[IN_HEADER.size : end]))
    rest = end - WRITE_HEAD_BYTES
    if opcode == Opcode.WRITE:
        data = tail if rest == len(tail) else bytes(memoryview(tail)[:rest])
        return Request(opcode, unique, inode, uid, gid, pid, bytes(head[IN_HEADER.size :]), data)
    body = b"".join((head[IN_HEADER.size :], memoryview(tail)[:rest]))
    return Request(opcode, unique, inode, uid, gid, pid, body)


def fixed(layout: struct.Struct, body: bytes) -> tuple[Any, ...]:
    """The fixed part of a body, which may be followed by more. ProtocolError: there is less of it."""
    if len(body) < layout.size:
        raise ProtocolError(f"a body of {len(body)} bytes instead of {layout.size}")
    return layout.unpack_from(body)


def names(body: bytes, start: int, count: int = 1) -> list[bytes]:
    """The ``count`` strings that end a body from ``start`` on, each ended by NUL. ProtocolError: they are not there."""
    parts = body[start:].split(b"\0", count)
    if len(parts) != count + 1 or parts[count]:
        raise ProtocolError(f"not {count} names ended by NUL")
    return parts[:count]


def forgets(body: bytes) -> list[tuple[int, int]]:
    """What a BATCH_FORGET names: inodes and how many lookups each. ProtocolError: its count does not hold."""
    (count,) = fixed(BATCH_FORGET_IN, body)
    if len(body) != BATCH_FORGET_IN.size + count * FORGET_ONE.size:
        raise ProtocolError(f"a batch of {count} in {len(body)} bytes")
    return [(inode, lookups) for inode, lookups in FORGET_ONE.iter_unpack(body[BATCH_FORGET_IN.size :])]


def xattr_of(body: bytes) -> tuple[bytes, bytes, int]:
    """Name, value and flags of a SETXATTR. ProtocolError: they are not there."""
    size, flags = fixed(SETXATTR_IN, body)
    name, ended, value = body[SETXATTR_IN.size :].partition(b"\0")
    if not ended or len(value) != size:
        raise ProtocolError(f"a value of {len(value)} bytes instead of {size}")
    return name, value, flags
