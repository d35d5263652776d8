"""A program of its own, run by ``write_back``: has the kernel write back what it holds of single files of one mount.

Imports the standard library only, little of it. Reads requests from standard input, answers each with an errno, 0 for
success, and ends with its input. It opens files by number (open_by_handle_at(2)): names they may have none. Invariant:
nothing stays open on the mount between two requests, nor is anything but the mount with the device number given looked
at; what it waits for ends when the mount's daemon does.

    python write_back_program.py MOUNT-POINT DEVICE
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys
from contextlib import suppress

REQUEST = struct.Struct("<QQQ")
"""Inode number, first file offset, and how many bytes: 0 for all that follow."""
ANSWER = struct.Struct("<i")

_FILE_HANDLE = struct.Struct("=IiIII")
"""``file_handle`` as the kernel's FUSE has it: bytes, type; number of the inode (high, low) and its generation."""
_HANDLE_BYTES, _INODE_AND_GENERATION = 12, 0x81
_WAIT_WRITE_WAIT = 7
"""``SYNC_FILE_RANGE_…``, all of them."""


def write_back(libc: ctypes.CDLL, mount_point: str, device: int, request: bytes) -> int:
    """Write back a range of a file, and hold nothing any more; the errno.

    The one who waits for the answer has the inode locked in the kernel. Nothing here needs that lock: fsync(2) would,
    as closing a file did once.
    """
    inode, start, length = REQUEST.unpack(request)
    opened: list[int] = []
    try:
        opened.append(os.open(mount_point, os.O_RDONLY | os.O_DIRECTORY))
        if os.fstat(opened[0]).st_dev != device:
            return errno.ENODEV
        handle = _FILE_HANDLE.pack(_HANDLE_BYTES, _INODE_AND_GENERATION, inode >> 32, inode & 0xFFFF_FFFF, 0)
        flags = os.O_RDONLY | os.O_NOATIME | os.O_CLOEXEC  # else the kernel would drop what it holds
        opened.append(_checked(libc.open_by_handle_at(opened[0], handle, flags)))
        place = (ctypes.c_longlong(start), ctypes.c_longlong(length))
        _checked(libc.sync_file_range(opened[1], *place, _WAIT_WRITE_WAIT))
    except OSError as error:
        return error.errno or errno.EIO
    finally:
        for descriptor in reversed(opened):
            with suppress(OSError):  # what could not be written was told above
                os.close(descriptor)
    return 0


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def main() -> None:
    """Serve until the input ends."""
    mount_point, device = sys.argv[1], int(sys.argv[2])
    libc = ctypes.CDLL(None, use_errno=True)
    os.chdir("/")
    while len(request := os.read(0, REQUEST.size)) == REQUEST.size:
        os.write(1, ANSWER.pack(write_back(libc, mount_point, device, request)))


if __name__ == "__main__":
    main()
