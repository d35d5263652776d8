"""System calls of the host that Python has no name for.

Imports ctypes, fcntl, os and resource. Blocking; ``flush_filesystem`` for long.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import resource
import struct
from contextlib import suppress
from pathlib import Path

_FALLOC_FL_KEEP_SIZE = 1
_FS_IOC_GETFLAGS, _FS_IOC_SETFLAGS = 0x80086601, 0x40086602
_FS_NOCOW_FL = 0x00800000


def flush_filesystem(descriptor: int) -> None:
    """Flush everything on the filesystem that an open file lies on (syncfs(2)).

    Raises:
        OSError: something could not be flushed since this descriptor was opened, or since it was last told so
            (Linux 5.8 and later).
    """
    if ctypes.CDLL(None, use_errno=True).syncfs(descriptor) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def allocate_beyond_end(descriptor: int, length: int, start: int = 0) -> bool:
    """Allocate ``length`` bytes of a file from ``start`` on without changing its size (fallocate(2), KEEP_SIZE).

    Whether that came about: some filesystems cannot.

    Raises:
        OSError: there is no space.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    offsets = (ctypes.c_longlong(start), ctypes.c_longlong(length))
    if libc.fallocate(descriptor, _FALLOC_FL_KEEP_SIZE, *offsets) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.EOPNOTSUPP, errno.ENOSYS):
        return False
    raise OSError(number, os.strerror(number))


def create_overwritable(path: Path, like: Path | None = None) -> None:
    """Make an empty file that is overwritten in place (FS_NOCOW_FL); nothing if it exists.

    It has mode and owner of ``like``, without which it is the caller's alone.

    btrfs writes anew what is overwritten, and needs space for it: what was allocated beforehand would be of use once.
    Elsewhere nothing is special about the file.

    Raises:
        OSError: it cannot be made.
    """
    model = None if like is None else like.stat()
    mode = 0o600 if model is None else model.st_mode & 0o777
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    except FileExistsError:
        return
    try:
        if model is not None and os.geteuid() == 0:
            os.fchown(descriptor, model.st_uid, model.st_gid)
        with suppress(OSError):  # a filesystem that has no such flag overwrites in place anyway
            (flags,) = struct.unpack("l", fcntl.ioctl(descriptor, _FS_IOC_GETFLAGS, bytes(struct.calcsize("l"))))
            fcntl.ioctl(descriptor, _FS_IOC_SETFLAGS, struct.pack("l", flags | _FS_NOCOW_FL))
    finally:
        os.close(descriptor)


def raise_descriptor_limit(wanted: int) -> int:
    """Raise the process's limit on descriptors towards ``wanted``; return the limit in force (getrlimit(2))."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return soft
