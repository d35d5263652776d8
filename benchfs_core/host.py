"""System calls of the host that Python has no name for.

Imports ctypes, os and resource. Blocking; ``flush_filesystem`` for long.
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource

_FALLOC_FL_KEEP_SIZE = 1


def flush_filesystem(descriptor: int) -> None:
    """Flush everything on the filesystem that an open file lies on (syncfs(2)).

    Raises:
        OSError: something could not be flushed since this descriptor was opened, or since it was last told so
            (Linux 5.8 and later).
    """
    if ctypes.CDLL(None, use_errno=True).syncfs(descriptor) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


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
