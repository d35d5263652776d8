"""Every exception that BenchFS raises on purpose.

::

    BenchFSError
    ├── FileSystemError          a request failed; the caller of FileSystem gets it
    │   ├── NoSuchEntry          no dentry of that name, or no such inode
    │   ├── EntryExists          the name is taken
    │   ├── NotADirectory
    │   ├── IsADirectory
    │   ├── DirectoryNotEmpty
    │   ├── NameTooLong
    │   ├── InvalidArgument
    │   ├── NotPermitted
    │   ├── TooManyLinks
    │   ├── FileTooLarge
    │   ├── BeyondEnd            no data from that offset on
    │   ├── BadHandle            a handle that is not open
    │   ├── NoSuchAttribute      an xattr that is not there
    │   ├── AttributeTooLarge    an xattr value, or all of an inode's, over the limit
    │   ├── NotSupported
    │   ├── NoSpace              the filesystem below is full
    │   ├── VolumeReadOnly       mounted read-only, or turned so by a failure
    │   ├── FlushFailed          data that was written could not be made durable
    │   │   ├── FlushFoundNoSpace  for the filesystem below is full
    │   │   └── FlushOverQuota   for a quota below is used up
    │   ├── CorruptChunk         a chunk file that contradicts the metadata
    │   └── MetadataFailed       the metadata database cannot be read or written
    ├── VolumeError              the volume cannot be opened
    │   ├── NotAVolume           neither empty nor formatted by BenchFS
    │   ├── UnknownFormat        a format version or feature flag from the future
    │   ├── DamagedVolume        the superblock or database is unreadable
    │   └── VolumeBusy           somebody has it mounted
    └── OptionError              an option that is unknown or out of range

    OSError                      a failure of the filesystem below, where no entry above says more
    ├── NotBegun                 it came before anything was written or flushed
    └── Vanished                 a directory or file of the volume was removed below the mount

Imports nothing. ``benchfs_fuse.translate`` alone knows which errno each of these is.
"""

from __future__ import annotations


class BenchFSError(Exception):
    """Root of the tree; its text is one line for the user."""


class FileSystemError(BenchFSError):
    """A request failed in a way the caller can be told about."""


class NoSuchEntry(FileSystemError):
    """No dentry of that name, or no such inode."""


class EntryExists(FileSystemError):
    """The name is taken."""


class NotADirectory(FileSystemError):
    """A directory was needed."""


class IsADirectory(FileSystemError):
    """Anything but a directory was needed."""


class DirectoryNotEmpty(FileSystemError):
    """The directory still has entries."""


class NameTooLong(FileSystemError):
    """A name or symlink target over its limit."""


class InvalidArgument(FileSystemError):
    """A request that cannot mean anything."""


class NotPermitted(FileSystemError):
    """A request that is never allowed on this kind of inode, or not with the flags it has."""


class TooManyLinks(FileSystemError):
    """One more name would pass the link limit."""


class FileTooLarge(FileSystemError):
    """The file would pass the size limit."""


class BeyondEnd(FileSystemError):
    """No data, or nothing at all, from that offset of a file on."""


class BadHandle(FileSystemError):
    """A handle that is not open, or not open for this."""


class NoSuchAttribute(FileSystemError):
    """An extended attribute that is not there."""


class AttributeTooLarge(FileSystemError):
    """An extended attribute, or all of an inode's together, over the limit."""


class NotSupported(FileSystemError):
    """Something BenchFS does not do, and says so."""


class NoSpace(FileSystemError):
    """The filesystem below is full."""


class VolumeReadOnly(FileSystemError):
    """Mounted read-only, or turned read-only by a failure."""


class FlushFailed(FileSystemError):
    """Data that was written could not be made durable."""


class FlushFoundNoSpace(FlushFailed):
    """Data that was written found no space: some filesystems allocate it only when it is flushed."""


class FlushOverQuota(FlushFailed):
    """Data that was written went over a quota of the filesystem below."""


class CorruptChunk(FileSystemError):
    """A chunk file contradicts the metadata."""


class MetadataFailed(FileSystemError):
    """The metadata database cannot be read or written."""


class NotBegun(OSError):
    """The filesystem below failed before a write or flush began: nothing is lost by it, and trying again is sound.

    Otherwise than after a failed flush, of which a later success says nothing.
    """


class Vanished(OSError):
    """A directory or file of the volume was removed below the mount: what is missing there now says nothing."""


class VolumeError(BenchFSError):
    """The volume cannot be opened."""


class NotAVolume(VolumeError):
    """The directory is neither empty nor a volume."""


class UnknownFormat(VolumeError):
    """A format version or feature flag that this release does not know."""


class DamagedVolume(VolumeError):
    """The superblock or the database is unreadable."""


class VolumeBusy(VolumeError):
    """Somebody has the volume mounted."""


class OptionError(BenchFSError):
    """An option that is unknown, malformed or out of range."""
