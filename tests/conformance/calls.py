"""System calls that Python has no name for, and the table of all calls that take a path.

Every function here raises OSError with the call's errno, as those of ``os`` do.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import stat
import struct
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

NOREPLACE, EXCHANGE, WHITEOUT = 1, 2, 4
"""Flags of renameat2(2)."""

UTIME_NOW, UTIME_OMIT = (1 << 30) - 1, (1 << 30) - 2
"""In place of nanoseconds (utimensat(2))."""

_AT_FDCWD, _AT_SYMLINK_NOFOLLOW, _AT_SYMLINK_FOLLOW = -100, 0x100, 0x400
AT_EMPTY_PATH = 0x1000
_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def renameat2(old: str | Path, new: str | Path, flags: int) -> None:
    """renameat2(2)."""
    _checked(_libc.renameat2(_AT_FDCWD, os.fsencode(old), _AT_FDCWD, os.fsencode(new), flags))


def link_followed(old: str, new: str) -> None:
    """linkat(2) with AT_SYMLINK_FOLLOW, which not every Python asks for when told to follow."""
    _checked(_libc.linkat(_AT_FDCWD, os.fsencode(old), _AT_FDCWD, os.fsencode(new), _AT_SYMLINK_FOLLOW))


def link_open(descriptor: int, new: str, flags: int = _AT_SYMLINK_FOLLOW) -> None:
    """linkat(2) of an open file: by /proc/self/fd, or with AT_EMPTY_PATH (0x1000) by the descriptor itself."""
    if flags == AT_EMPTY_PATH:
        _checked(_libc.linkat(descriptor, b"", _AT_FDCWD, os.fsencode(new), flags))
    else:
        link_followed(f"/proc/self/fd/{descriptor}", new)


def access(name: str, mode: int = os.F_OK) -> None:
    """access(2), which Python answers with a bool."""
    _checked(_libc.access(os.fsencode(name), mode))


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


def utimensat(name: str | int, atime: tuple[int, int], mtime: tuple[int, int], *, follow: bool = True) -> None:
    """utimensat(2), or futimens(3) of a descriptor; each time in seconds and nanoseconds or UTIME_*."""
    times = (_Timespec * 2)(_Timespec(*atime), _Timespec(*mtime))
    flags = 0 if follow else _AT_SYMLINK_NOFOLLOW
    if isinstance(name, int):
        _checked(_libc.futimens(name, times))
    else:
        _checked(_libc.utimensat(_AT_FDCWD, os.fsencode(name), times, flags))


KEEP_SIZE, PUNCH_HOLE, COLLAPSE_RANGE, ZERO_RANGE, INSERT_RANGE = 1, 2, 8, 16, 32
"""Modes of fallocate(2)."""


def fallocate(descriptor: int, mode: int, offset: int, length: int) -> None:
    """fallocate(2)."""
    _checked(_libc.fallocate(descriptor, mode, ctypes.c_long(offset), ctypes.c_long(length)))


def write_from_nothing(descriptor: int, length: int) -> int:
    """write(2) from an address that is not ours."""
    return _checked(_libc.write(descriptor, ctypes.c_void_p(8), ctypes.c_size_t(length)))


def path_from_nowhere(name: str, *after: int | bytes, first: bool = True) -> None:
    """A call of the C library with a path at an address that is not ours, before or after its other arguments."""
    address = ctypes.c_void_p(8)
    _checked(getattr(_libc, name)(*((address, *after) if first else (*after, address))))


def xattr_size(name: str, attribute: str, room: int) -> int:
    """getxattr(2) into ``room`` bytes; the size it returns."""
    buffer = ctypes.create_string_buffer(max(room, 1))
    return _checked(_libc.getxattr(os.fsencode(name), attribute.encode(), buffer, ctypes.c_size_t(room)))


def list_size(name: str, room: int) -> int:
    """listxattr(2) into ``room`` bytes; the size it returns."""
    buffer = ctypes.create_string_buffer(max(room, 1))
    return _checked(_libc.listxattr(os.fsencode(name), buffer, ctypes.c_size_t(room)))


class Statx(NamedTuple):
    """Some of what statx(2) tells."""

    mask: int
    attributes: int
    attributes_mask: int
    status: tuple[int, ...]
    """Link count, uid, gid, mode, inode, size, blocks."""
    birth_ns: int


STATX_BASIC_STATS, STATX_BTIME = 0x7FF, 0x800
STATX_ATTR_IMMUTABLE, STATX_ATTR_APPEND = 0x10, 0x20
FORCE_SYNC, DONT_SYNC = 0x2000, 0x4000
"""AT_STATX_FORCE_SYNC and AT_STATX_DONT_SYNC."""


def statx(name: str, mask: int = STATX_BASIC_STATS | STATX_BTIME, flags: int = 0) -> Statx:
    """statx(2), of what has the name and is followed by nothing."""
    buffer = ctypes.create_string_buffer(256)
    _checked(_libc.statx(_AT_FDCWD, os.fsencode(name), _AT_SYMLINK_NOFOLLOW | flags, mask, buffer))
    told, _, attributes, *owner, mode, inode, size, blocks, attributes_mask = struct.unpack_from(
        "<IIQIIIH2xQQQQ", buffer
    )
    seconds, nanoseconds = struct.unpack_from("<qI", buffer, 0x50)
    status = (*owner, mode, inode, size, blocks)
    return Statx(told, attributes, attributes_mask, status, seconds * 10**9 + nanoseconds)


IMMUTABLE, APPEND, NODUMP, NOATIME = 0x10, 0x20, 0x40, 0x80
"""Flags of ioctl_iflags(2)."""
SHOWN = 0xFF
"""Flags that chattr(1) can change, not those that ext4 shows of how it keeps a file."""
FSXATTR = struct.Struct("<IIIII8x")
"""``struct fsxattr``: xflags, extsize, nextents, projid, cowextsize."""


def ioctl(name: str | int, command: int, buffer: bytes) -> bytes:
    """ioctl(2), of a descriptor or of what has the name."""
    if isinstance(name, int):
        return fcntl.ioctl(name, command, buffer)
    descriptor = os.open(name, os.O_RDONLY | os.O_NONBLOCK)
    try:
        return fcntl.ioctl(descriptor, command, buffer)
    finally:
        os.close(descriptor)


def get_flags(name: str | int) -> int:
    """FS_IOC_GETFLAGS, those that can be set."""
    return int(struct.unpack("<Q", ioctl(name, 0x80086601, bytes(8)))[0]) & SHOWN


def set_flags(name: str | int, flags: int) -> None:
    """FS_IOC_SETFLAGS, those that can be set."""
    (shown,) = struct.unpack("<Q", ioctl(name, 0x80086601, bytes(8)))
    ioctl(name, 0x40086602, struct.pack("<Q", shown & ~SHOWN | flags))


def get_fsxattr(name: str) -> tuple[int, ...]:
    """FS_IOC_FSGETXATTR."""
    return FSXATTR.unpack(ioctl(name, 0x801C581F, bytes(28)))


def set_fsxattr(name: str, *values: int) -> None:
    """FS_IOC_FSSETXATTR."""
    ioctl(name, 0x401C5820, FSXATTR.pack(*values))


class _Dirent(ctypes.Structure):
    _fields_ = (
        ("inode", ctypes.c_uint64),
        ("offset", ctypes.c_int64),
        ("length", ctypes.c_uint16),
        ("type", ctypes.c_uint8),
        ("name", ctypes.c_char * 256),
    )


class DirectoryStream:
    """opendir(3), readdir(3), telldir(3), seekdir(3), rewinddir(3), closedir(3)."""

    def __init__(self, name: str) -> None:
        _libc.opendir.restype = ctypes.c_void_p
        _libc.readdir.restype = ctypes.POINTER(_Dirent)
        _libc.telldir.restype = ctypes.c_long
        address = _libc.opendir(os.fsencode(name))
        if not address:
            _checked(-1)
        self._stream = ctypes.c_void_p(address)

    def __enter__(self) -> DirectoryStream:
        return self

    def __exit__(self, *_: object) -> None:
        _libc.closedir(self._stream)

    def read(self) -> tuple[bytes, int, int] | None:
        """The next entry: name, inode, type; None at the end."""
        ctypes.set_errno(0)
        entry = _libc.readdir(self._stream)
        if not entry:
            if ctypes.get_errno():
                _checked(-1)
            return None
        return entry.contents.name, entry.contents.inode, entry.contents.type

    def rest(self) -> list[bytes]:
        """Names of all entries that are still to come."""
        names = []
        while (entry := self.read()) is not None:
            names.append(entry[0])
        return names

    def tell(self) -> int:
        """Where the next entry is."""
        return int(_libc.telldir(self._stream))

    def seek(self, place: int) -> None:
        """Go back to where ``tell`` was."""
        _libc.seekdir(self._stream, ctypes.c_long(place))

    def rewind(self) -> None:
        """Start again."""
        _libc.rewinddir(self._stream)


PATH_CALLS: dict[str, Callable[[str], object]] = {
    "open": lambda path: os.close(os.open(path, os.O_RDONLY)),
    "open O_CREAT": lambda path: os.close(os.open(path, os.O_CREAT | os.O_WRONLY)),
    "mkdir": lambda path: os.mkdir(path),
    "mkfifo": lambda path: os.mkfifo(path),
    "mknod": lambda path: os.mknod(path, stat.S_IFREG | 0o644),
    "symlink": lambda path: os.symlink("target", path),
    "link from": lambda path: os.link(path, "new", follow_symlinks=False),
    "link to": lambda path: os.link("existing", path),
    "rename from": lambda path: os.rename(path, "new"),
    "rename to": lambda path: os.rename("existing", path),
    "unlink": lambda path: os.unlink(path),
    "rmdir": lambda path: os.rmdir(path),
    "chmod": lambda path: os.chmod(path, 0o644),
    "chown": lambda path: os.chown(path, 0, 0),
    "lchown": lambda path: os.lchown(path, 0, 0),
    "truncate": lambda path: os.truncate(path, 0),
    "utimensat": lambda path: os.utime(path),
    "stat": lambda path: os.stat(path),
    "lstat": lambda path: os.lstat(path),
    "access": lambda path: access(path),
    "readlink": lambda path: os.readlink(path),
    "statvfs": lambda path: os.statvfs(path),
    "chdir": lambda path: os.chdir(path),
    "opendir": lambda path: os.listdir(path),
    "setxattr": lambda path: os.setxattr(path, "user.name", b"value"),
    "getxattr": lambda path: os.getxattr(path, "user.name"),
    "listxattr": lambda path: os.listxattr(path),
    "removexattr": lambda path: os.removexattr(path, "user.name"),
    "execve": lambda path: os.execv(path, ["program"]),
}
"""Every call that takes a path, by name. ``existing`` is a file to link or rename from."""

MAKERS = ("open O_CREAT", "mkdir", "mkfifo", "mknod", "symlink", "link to", "rename to")
"""Those that make the name that they are given."""
