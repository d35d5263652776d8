"""Between BenchFS's values and pyfuse3's: exceptions to errno, attributes to entries, and back.

The only module that knows which errno an exception is. Invariant: the translation is total; whatever a handler raises,
the caller gets an errno and the mount goes on (pyfuse3 ends the mount at any exception but FUSEError).
"""

from __future__ import annotations

import errno
import logging
import os

import pyfuse3

from benchfs_core import errors
from benchfs_core.types import AttributeChange, Attributes
from benchfs_fuse.requests import Caller

log = logging.getLogger(__name__)

CACHE_S = 24 * 3600
"""How long the kernel may keep names and attributes: nothing changes but through it."""

_BLOCK_SIZE = 4096
"""``st_blksize``: what programs take as a good size for I/O; as ext4."""

_TIME_LIMIT_NS = (1 << 63) - 1

ERRNO: dict[type[errors.FileSystemError], int] = {
    errors.NoSuchEntry: errno.ENOENT,
    errors.EntryExists: errno.EEXIST,
    errors.NotADirectory: errno.ENOTDIR,
    errors.IsADirectory: errno.EISDIR,
    errors.DirectoryNotEmpty: errno.ENOTEMPTY,
    errors.NameTooLong: errno.ENAMETOOLONG,
    errors.InvalidArgument: errno.EINVAL,
    errors.NotPermitted: errno.EPERM,
    errors.TooManyLinks: errno.EMLINK,
    errors.FileTooLarge: errno.EFBIG,
    errors.BeyondEnd: errno.ENXIO,
    errors.BadHandle: errno.EBADF,
    errors.NoSuchAttribute: errno.ENODATA,
    errors.AttributeTooLarge: errno.ENOSPC,
    errors.NotSupported: errno.EOPNOTSUPP,
    errors.NoSpace: errno.ENOSPC,
    errors.VolumeReadOnly: errno.EROFS,
    errors.FlushFailed: errno.EIO,
    errors.FlushFoundNoSpace: errno.ENOSPC,
    errors.FlushOverQuota: errno.EDQUOT,
    errors.CorruptChunk: errno.EIO,
    errors.MetadataFailed: errno.EIO,
}
"""What each failure of a request is to the caller. ENOSPC for xattrs as setxattr(2) has it."""

_PASSED_ON = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ENOMEM, errno.EFBIG, errno.EIO})
"""Errors of the filesystem below that mean to the caller what they mean to us; any other is EIO."""


def to_errno(error: BaseException, request: str) -> int:
    """The errno that answers ``request``; what is nobody's fault but ours is logged with its traceback."""
    known = ERRNO.get(type(error))  # type: ignore[arg-type]  # a dict takes any key
    if known is not None:
        if known == errno.EIO:
            log.error("%s: %s", request, error)
        return known
    if isinstance(error, OSError) and error.errno is not None:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            log.error("%s: the filesystem below: %s", request, error)
        return error.errno if error.errno in _PASSED_ON else errno.EIO
    log.error("%s: internal error, answered with EIO", request, exc_info=error)
    return errno.EIO


def to_entry(attributes: Attributes, *, timeout_s: float = CACHE_S) -> pyfuse3.EntryAttributes:
    """Attributes as pyfuse3 wants them; the kernel may keep the attributes for ``timeout_s``, the name for long."""
    entry = pyfuse3.EntryAttributes()
    entry.st_ino = attributes.inode
    entry.st_mode = attributes.mode
    entry.st_nlink = attributes.link_count
    entry.st_uid = attributes.uid
    entry.st_gid = attributes.gid
    entry.st_rdev = attributes.rdev
    entry.st_size = attributes.size
    entry.st_blocks = attributes.blocks
    entry.st_blksize = _BLOCK_SIZE
    entry.st_atime_ns = attributes.atime_ns
    entry.st_mtime_ns = attributes.mtime_ns
    entry.st_ctime_ns = attributes.ctime_ns
    entry.entry_timeout = CACHE_S
    entry.attr_timeout = timeout_s
    return entry


def no_entry() -> pyfuse3.EntryAttributes:
    """That there is no such name, for the kernel to remember."""
    entry = pyfuse3.EntryAttributes()
    entry.st_ino = pyfuse3.InodeT(0)
    entry.entry_timeout = CACHE_S
    return entry


def to_change(attr: pyfuse3.EntryAttributes, fields: pyfuse3.SetattrFields) -> AttributeChange:
    """What a setattr request changes besides the size; UTIME_NOW arrives with the time filled in."""
    return AttributeChange(
        ctime_ns=_clamped(attr.st_ctime_ns) if fields.update_ctime else None,
        mode=attr.st_mode if fields.update_mode else None,
        uid=attr.st_uid if fields.update_uid else None,
        gid=attr.st_gid if fields.update_gid else None,
        atime_ns=_clamped(attr.st_atime_ns) if fields.update_atime else None,
        mtime_ns=_clamped(attr.st_mtime_ns) if fields.update_mtime else None,
    )


def to_caller(ctx: pyfuse3.RequestContext) -> Caller:
    """Who asks."""
    return Caller(ctx.uid, ctx.gid, ctx.pid, ctx.umask)


def to_statvfs(below: os.statvfs_result, name_max: int) -> pyfuse3.StatvfsData:
    """The space of the filesystem below, as ours."""
    data = pyfuse3.StatvfsData()
    for field in ("f_bsize", "f_frsize", "f_blocks", "f_bfree", "f_bavail", "f_files", "f_ffree", "f_favail"):
        setattr(data, field, getattr(below, field))
    data.f_namemax = name_max
    return data


def _clamped(time_ns: int) -> int:
    """Times are stored in 64 bits: 1677 to 2262."""
    return max(-_TIME_LIMIT_NS, min(time_ns, _TIME_LIMIT_NS))
