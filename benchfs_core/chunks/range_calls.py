"""Blocking calls on parts of open chunk files, for worker threads: allocating, punching, cloning, looking for holes.

Imports ctypes, fcntl and os, and ``errors``. Knows descriptors, not chunks. Whatever the filesystem below cannot do is
done by means of what it can, but for allocation, which nothing stands in for.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct

from benchfs_core.errors import NotSupported

_KEEP_SIZE, _PUNCH_HOLE = 1, 2
"""``FALLOC_FL_…`` of <linux/falloc.h>."""
_FICLONERANGE = 0x4020940D
"""Of <linux/fs.h>."""
_CLONE_RANGE = struct.Struct("<qQQQ")
"""``file_clone_range``: src_fd, src_offset, src_length, dest_offset."""
_BUFFER_BYTES = 1 << 20
_PAGE_BYTES = 4096

_UNABLE = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EXDEV, errno.ENOTTY, errno.EPERM})
"""How filesystems say that they do not do this, or not to these bytes."""


def allocate(descriptor: int, offset: int, length: int) -> None:
    """Have space for these bytes; the file's length stays (fallocate(2)).

    Raises:
        NotSupported: the filesystem cannot.
        OSError: it refused.
    """
    try:
        _fallocate(descriptor, _KEEP_SIZE, offset, length)
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.ENOSYS):
            raise NotSupported("the filesystem below cannot allocate space beforehand") from error
        raise


def has_space_beyond(status: os.stat_result, length: int) -> bool:
    """Whether a file may have space allocated beyond its first ``length`` bytes."""
    return status.st_blocks * 512 > -(-length // _PAGE_BYTES) * _PAGE_BYTES


def cut(descriptor: int, length: int) -> None:
    """Have a file that needs it end at ``length`` bytes, without space beyond (ftruncate(2))."""
    if os.fstat(descriptor).st_size < length:  # only what is not made longer loses what is allocated beyond
        os.ftruncate(descriptor, length)
    os.ftruncate(descriptor, length)


def zero(descriptor: int, offset: int, length: int) -> None:
    """Have these bytes read as zeros, without their space where that can be.

    The file becomes longer only where space was allocated beyond its end: filesystems punch no holes there.
    """
    status, end = os.fstat(descriptor), offset + length
    if end > status.st_size:
        if has_space_beyond(status, status.st_size):
            os.ftruncate(descriptor, end)
        else:
            end = status.st_size
    if end <= offset:
        return
    try:
        _fallocate(descriptor, _PUNCH_HOLE | _KEEP_SIZE, offset, end - offset)
    except OSError as error:
        if error.errno not in _UNABLE:
            raise
        zeros = bytes(min(_BUFFER_BYTES, end - offset))
        while offset < end:
            offset += os.pwrite(descriptor, memoryview(zeros)[: end - offset], offset)


def data_from(descriptor: int, offset: int) -> int | None:
    """Where data begins or goes on (lseek(2), SEEK_DATA); None: nowhere."""
    return _seek(descriptor, offset, os.SEEK_DATA)


def hole_from(descriptor: int, offset: int) -> int:
    """Where a hole begins or goes on (lseek(2), SEEK_HOLE): what follows the end is one."""
    found = _seek(descriptor, offset, os.SEEK_HOLE)
    return offset if found is None else found


def copy(source: int, source_offset: int, target: int, target_offset: int, length: int) -> int:
    """Copy bytes from file to file, or share their space; how many were copied. What ``source`` lacks is a hole."""
    held = max(0, min(length, os.fstat(source).st_size - source_offset))
    copied = 0
    if held and not _clone(source, source_offset, target, target_offset, held):
        copied = _copy_data(source, source_offset, target, target_offset, held)
    if held < length:
        zero(target, target_offset + held, length - held)
    return copied


def _clone(source: int, source_offset: int, target: int, target_offset: int, length: int) -> bool:
    """Share the space; whether that could be, which takes whole blocks and a filesystem that can."""
    try:
        fcntl.ioctl(target, _FICLONERANGE, _CLONE_RANGE.pack(source, source_offset, length, target_offset))
    except OSError as error:
        if error.errno not in _UNABLE:
            raise
        return False
    return True


def _copy_data(source: int, source_offset: int, target: int, target_offset: int, length: int) -> int:
    """Copy what is data; holes become holes."""
    at, end, shift, copied = source_offset, source_offset + length, target_offset - source_offset, 0
    while at < end:
        data = min(end, _or(data_from(source, at), end))
        if data > at:
            zero(target, at + shift, data - at)
        if data >= end:
            break
        at = min(end, hole_from(source, data))
        assert at > data, "a hole where there is data"
        _copy_bytes(source, data, target, data + shift, at - data)
        copied += at - data
    return copied


def _copy_bytes(source: int, source_offset: int, target: int, target_offset: int, length: int) -> None:
    in_kernel, done = True, 0
    while done < length:
        if in_kernel:
            try:
                more = os.copy_file_range(source, target, length - done, source_offset + done, target_offset + done)
            except OSError as error:
                if error.errno not in _UNABLE:
                    raise
                in_kernel = False
                continue
        else:
            data = os.pread(source, min(_BUFFER_BYTES, length - done), source_offset + done)
            more = os.pwrite(target, data, target_offset + done)
        if not more:
            raise OSError(errno.EIO, "a copy stored nothing and named no error")
        done += more


def _seek(descriptor: int, offset: int, whence: int) -> int | None:
    try:
        return os.lseek(descriptor, offset, whence)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        return None


def _or(found: int | None, otherwise: int) -> int:
    return otherwise if found is None else found


def _fallocate(descriptor: int, mode: int, offset: int, length: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    place = (ctypes.c_longlong(offset), ctypes.c_longlong(length))
    while libc.fallocate(descriptor, mode, *place) != 0:
        number = ctypes.get_errno()
        if number != errno.EINTR:
            raise OSError(number, os.strerror(number))
