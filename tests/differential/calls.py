"""System calls by path, each as the kernel has it: run in one tree by the worker, which has set credentials and root.

Imports the standard library only. Invariants: a call takes paths as bytes, relative to the tree's top, which is the
root directory of the process meanwhile; it returns values that can be compared, or raises OSError. What Python's own
functions would change on the way (flags, sizes, both times at once) goes to libc directly.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import struct
from collections.abc import Callable
from typing import NamedTuple

AT_FDCWD = -100
AT_SYMLINK_NOFOLLOW = 0x100
AT_EACCESS = 0x200
AT_SYMLINK_FOLLOW = 0x400
AT_EMPTY_PATH = 0x1000
RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2
UTIME_NOW = (1 << 30) - 1
UTIME_OMIT = (1 << 30) - 2
IMMUTABLE, APPEND, NODUMP, NOATIME = 0x10, 0x20, 0x40, 0x80
"""Flags of inodes (ioctl_iflags(2))."""
KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 1, 2, 16
NOW, OMIT = "now", "omit"
Moment = int | str
"""Nanoseconds since 1970, or ``NOW`` or ``OMIT``."""

_libc = ctypes.CDLL(None, use_errno=True)


class Birth(NamedTuple):
    """When an inode was made, nanoseconds since 1970."""

    birth_ns: int


class Status(NamedTuple):
    """What stat(2) says of one inode."""

    mode: int
    uid: int
    gid: int
    links: int
    size: int
    rdev: int
    blocks: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    inode: int

    @classmethod
    def of(cls, status: os.stat_result) -> Status:
        return cls(
            status.st_mode,
            status.st_uid,
            status.st_gid,
            status.st_nlink,
            status.st_size,
            status.st_rdev,
            status.st_blocks,
            status.st_atime_ns,
            status.st_mtime_ns,
            status.st_ctime_ns,
            status.st_ino,
        )


def checked(result: int) -> int:
    """The result of a call to libc; OSError where it is negative."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def stat(path: bytes) -> Status:
    return Status.of(os.stat(path))


def lstat(path: bytes) -> Status:
    return Status.of(os.lstat(path))


def statfs(path: bytes) -> int:
    return os.statvfs(path).f_namemax


def access(path: bytes, mode: int, flags: int) -> None:
    checked(_libc.faccessat(AT_FDCWD, path, mode, flags))


def chmod(path: bytes, mode: int) -> None:
    os.chmod(path, mode)


def chown(path: bytes, uid: int, gid: int) -> None:
    os.chown(path, uid, gid)


def lchown(path: bytes, uid: int, gid: int) -> None:
    os.lchown(path, uid, gid)


def timespecs(atime: Moment, mtime: Moment) -> ctypes.Array[ctypes.c_long]:
    """As utimensat(2) takes them."""
    words: list[int] = []
    for moment in (atime, mtime):
        if isinstance(moment, int):
            words += divmod(moment, 10**9)
        else:
            words += (0, UTIME_NOW if moment == NOW else UTIME_OMIT)
    return (ctypes.c_long * 4)(*words)


def utimensat(path: bytes, times: tuple[Moment, Moment] | None, flags: int) -> None:
    checked(_libc.utimensat(AT_FDCWD, path, timespecs(*times) if times else None, flags))


def futimens(handle: int, times: tuple[Moment, Moment] | None) -> None:
    checked(_libc.futimens(handle, timespecs(*times) if times else None))


def fallocate(handle: int, mode: int, offset: int, length: int) -> None:
    checked(_libc.fallocate(handle, mode, ctypes.c_long(offset), ctypes.c_long(length)))


def truncate(path: bytes, size: int) -> None:
    os.truncate(path, size)


def mkdir(path: bytes, mode: int) -> None:
    os.mkdir(path, mode)


def rmdir(path: bytes) -> None:
    os.rmdir(path)


def unlink(path: bytes) -> None:
    os.unlink(path)


def link(old: bytes, new: bytes, flags: int) -> None:
    checked(_libc.linkat(AT_FDCWD, old, AT_FDCWD, new, flags))


def link_open(handle: int, new: bytes) -> None:
    checked(_libc.linkat(handle, b"", AT_FDCWD, new, AT_EMPTY_PATH))


def symlink(target: bytes, path: bytes) -> None:
    os.symlink(target, path)


def readlink(path: bytes) -> bytes:
    return os.readlink(path)


def rename(old: bytes, new: bytes) -> None:
    os.rename(old, new)


def renameat2(old: bytes, new: bytes, flags: int) -> None:
    checked(_libc.renameat2(AT_FDCWD, old, AT_FDCWD, new, flags))


def mknod(path: bytes, mode: int, device: int) -> None:
    os.mknod(path, mode, device)


def setxattr(path: bytes, name: bytes, value: bytes, flags: int, follow: bool) -> None:
    os.setxattr(path, name, value, flags, follow_symlinks=follow)


def getxattr(path: bytes, name: bytes, size: int, follow: bool) -> tuple[int, bytes]:
    buffer = ctypes.create_string_buffer(size + 1)
    function = _libc.getxattr if follow else _libc.lgetxattr
    length = checked(function(path, name, buffer, ctypes.c_size_t(size)))
    return length, buffer.raw[: min(length, size)]


def listxattr(path: bytes, size: int, follow: bool) -> tuple[int, list[bytes]]:
    buffer = ctypes.create_string_buffer(size + 1)
    function = _libc.listxattr if follow else _libc.llistxattr
    length = checked(function(path, buffer, ctypes.c_size_t(size)))
    return length, sorted(buffer.raw[: min(length, size)].split(b"\0"))


def removexattr(path: bytes, name: bytes, follow: bool) -> None:
    os.removexattr(path, name, follow_symlinks=follow)


def birth(path: bytes) -> Birth:
    """statx(2) with STATX_BTIME; what it is a link to is not followed."""
    buffer = ctypes.create_string_buffer(256)
    checked(_libc.statx(AT_FDCWD, path, AT_SYMLINK_NOFOLLOW, 0x800, buffer))
    (mask,), (seconds, nanoseconds) = struct.unpack_from("=I", buffer), struct.unpack_from("=qI", buffer, 0x50)
    return Birth(seconds * 10**9 + nanoseconds if mask & 0x800 else 0)


CHANGEABLE_FLAGS = IMMUTABLE | APPEND | NODUMP | NOATIME
_GETFLAGS, _SETFLAGS = 0x80086601, 0x40086602


def flags(path: bytes) -> int:
    """FS_IOC_GETFLAGS, those that can be changed."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        return _flags(handle) & CHANGEABLE_FLAGS
    finally:
        os.close(handle)


def set_flags(path: bytes, wanted: int) -> None:
    """FS_IOC_SETFLAGS, those that can be changed."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        _set_flags(handle, wanted)
    finally:
        os.close(handle)


def guarded(path: bytes, protection: int, name: str, *arguments: object) -> object:
    """Another call, by path, while the file or directory ``path`` has these flags, then again those that it had."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        before = _flags(handle) & CHANGEABLE_FLAGS
        _set_flags(handle, before | protection)
        try:
            return CALLS[name](*arguments)
        finally:
            _set_flags(handle, before)
    finally:
        os.close(handle)


def opened(path: bytes, how: int, mode: int) -> None:
    """open(2) and close(2)."""
    os.close(os.open(path, how | os.O_NONBLOCK | os.O_CLOEXEC, mode))


def _flags(handle: int) -> int:
    return int(struct.unpack("=Q", fcntl.ioctl(handle, _GETFLAGS, bytes(8)))[0])


def _set_flags(handle: int, wanted: int) -> None:
    fcntl.ioctl(handle, _SETFLAGS, struct.pack("=Q", _flags(handle) & ~CHANGEABLE_FLAGS | wanted))


def entries(handle: int) -> list[tuple[bytes, int, int]]:
    """Names, d_type and inode numbers of an open directory from its position on, sorted (getdents(2))."""
    found = []
    while some := part(handle):
        found += [entry[:3] for entry in some]
    return sorted(found)


def part(handle: int, length: int = 32768) -> list[tuple[bytes, int, int, int]]:
    """The same of as many entries as one call tells in a buffer, with the position after each."""
    buffer = ctypes.create_string_buffer(length)
    filled = checked(_libc.getdents64(handle, buffer, ctypes.c_size_t(length)))
    found, raw, offset = [], buffer.raw[:filled], 0
    while offset < filled:
        inode, position, record, kind = struct.unpack_from("=QqHB", raw, offset)
        name = raw[offset + 19 : offset + record].partition(b"\0")[0]
        found.append((name, kind, inode, position))
        offset += record
    return found


def listing(path: bytes) -> list[tuple[bytes, int, bool]]:
    """Names and d_type, and whether d_ino is what stat says; the latter is not asked of `..`, which is outside."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return [(name, kind, _same_inode(handle, name, inode)) for name, kind, inode in entries(handle)]
    finally:
        os.close(handle)


def _same_inode(directory: int, name: bytes, inode: int) -> bool:
    try:
        return name == b".." or os.stat(name, dir_fd=directory, follow_symlinks=False).st_ino == inode
    except PermissionError:  # it may be read but not searched
        return True


def access_all_ways(path: bytes) -> list[bool]:
    """access(2) for each combination of reading, writing and executing."""
    return [os.access(path, mode) for mode in range(8)]


CALLS: dict[str, Callable[..., object]] = {
    function.__name__: function
    for function in (
        *(stat, lstat, statfs, access, access_all_ways, chmod, chown, lchown, utimensat, truncate, mkdir, rmdir),
        *(unlink, link, symlink, readlink, rename, renameat2, mknod),
        *(setxattr, getxattr, listxattr, removexattr, listing, birth, flags, set_flags, guarded, opened),
    )
}
"""Every call by path, by its name."""
