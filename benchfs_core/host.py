"""System calls of the host that Python has no name for.

Imports ctypes and os. Blocking: for worker threads.
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
from pathlib import Path

_FALLOC_FL_KEEP_SIZE = 1


def flush_filesystem(path: str | Path) -> None:
    """Flush everything on the filesystem that ``path`` lies on (syncfs(2)).

    Raises:
        OSError: something written since the last call could not be flushed (Linux 5.8 and later say so).
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(descriptor) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(path))
    finally:
        os.close(descriptor)


def allocate_beyond_end(descriptor: int, length: int) -> bool:
    """Allocate the file's first ``length`` bytes without changing its size (fallocate(2), KEEP_SIZE).

    Whether that came about: some filesystems cannot.

    Raises:
        OSError: there is no space.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    offsets = (ctypes.c_longlong(0), ctypes.c_longlong(length))
    if libc.fallocate(descriptor, _FALLOC_FL_KEEP_SIZE, *offsets) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.EOPNOTSUPP, errno.ENOSYS):
        return False
    raise OSError(number, os.strerror(number))


def raise_descriptor_limit(wanted: int) -> int:
    """Raise the process's limit on descriptors towards ``wanted``; return the limit in force (getrlimit(2))."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return soft
