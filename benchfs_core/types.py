"""Names and values shared by every layer: identifiers, attributes, modes of operation.

Pure: imports nothing but the standard library's typing, enum and dataclasses (no trio, os, time, sqlite).
Invariant: every value here is immutable; a layer that needs state keeps it elsewhere. What every request makes
anew is a NamedTuple: a frozen dataclass takes four times as long to make, and ten times as long to replace.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import NamedTuple, NewType, TypeAlias

InodeId = NewType("InodeId", int)
"""The number of an inode. Never reused, a crash included."""

ChunkIndex = NewType("ChunkIndex", int)
"""Which chunk of a file: the file offset divided by the chunk size, rounded down."""

HandleId = NewType("HandleId", int)
"""One open of a file or directory (``fh`` in FUSE). Not an operating system's descriptor."""

ROOT_INODE = InodeId(1)
"""The root directory, the same number as FUSE's (``FUSE_ROOT_ID`` in linux/fuse.h)."""

Buffer: TypeAlias = bytes | bytearray | memoryview
"""Bytes on their way in or out. Whoever hands one over does not change it afterwards."""

BLOCK_BYTES = 512
"""The unit of ``st_blocks`` (stat(3type)); everything else is in bytes."""

MAX_NAME_BYTES = 255
"""Longest name of a dentry, as on ext4 (``NAME_MAX``)."""

MAX_SYMLINK_BYTES = 4095
"""Longest symlink target: ``PATH_MAX`` less the terminating NUL (path_resolution(7))."""

MAX_FILE_BYTES = 1 << 60
"""Largest file size: 1 EiB. Beyond it writes and truncates fail with EFBIG."""

MAX_LINK_COUNT = 65000
"""Most names of one inode, and the most subdirectories of a directory less two; ext4's limit."""


class SyncMode(enum.Enum):
    """When acknowledged data is durable (docs/durability.md)."""

    WRITE = "write"
    """A write(2) that returned survives power loss, size and name included."""
    FSYNC = "fsync"
    """An fsync(2) that returned does; the kernel's write-back cache is on."""


class StoreKind(enum.Enum):
    """Which chunk store a mount uses."""

    AUTO = "auto"
    IO_URING = "io_uring"
    FILE = "file"
    MEMORY = "memory"


class AtimeMode(enum.Enum):
    """When reading moves atime (mount(8))."""

    NOATIME = "noatime"
    RELATIME = "relatime"
    STRICTATIME = "strictatime"


class Attributes(NamedTuple):
    """What stat(2) and statx(2) show of an inode. Times in nanoseconds since 1970, ``blocks`` in units of 512 bytes."""

    inode: InodeId
    mode: int
    link_count: int
    uid: int
    gid: int
    rdev: int
    size: int
    blocks: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    birth_ns: int = 0
    """When the inode was made; 0: not known."""
    flags: int = 0
    """See ``benchfs_core.flags``."""

    # ``_replace`` takes four times as long as these, and every request that changes something needs one.

    def with_links(self, link_count: int, mtime_ns: int, ctime_ns: int) -> Attributes:
        """The same after a change of names."""
        return Attributes(*self[:2], link_count, *self[3:9], mtime_ns, ctime_ns, *self[11:])

    def with_state(self, size: int, blocks: int, atime_ns: int, mtime_ns: int, ctime_ns: int) -> Attributes:
        """The same after reads and changes of content."""
        return Attributes(*self[:6], size, blocks, atime_ns, mtime_ns, ctime_ns, *self[11:])

    def changed(self, change: AttributeChange) -> Attributes:
        """The same with what ``change`` names."""
        return Attributes(
            self.inode,
            self.mode if change.mode is None else change.mode,
            self.link_count,
            self.uid if change.uid is None else change.uid,
            self.gid if change.gid is None else change.gid,
            *self[5:8],
            self.atime_ns if change.atime_ns is None else change.atime_ns,
            self.mtime_ns if change.mtime_ns is None else change.mtime_ns,
            self.ctime_ns if change.ctime_ns is None else change.ctime_ns,
            *self[11:],
        )


class AttributeChange(NamedTuple):
    """What a setattr changes; None leaves a field as it is, but ctime moves with every change: None means now.

    Size is not here: changing it touches chunks and goes through ``FileIO.truncate``.
    """

    ctime_ns: int | None = None
    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None

    @property
    def names_something(self) -> bool:
        """Whether it changes more than ctime."""
        return any(value is not None for value in (self.mode, self.uid, self.gid, self.atime_ns, self.mtime_ns))

    @property
    def is_telling(self) -> bool:
        """Whether it is what somebody tells who keeps mtime and ctime: both of them, and nothing else."""
        return self == (self.ctime_ns, None, None, None, None, self.mtime_ns) and None not in self[::5]


LATE_TIMES_NS = 10 * 10**9
"""How late times may be told. Older ones are no late ones: the clock was set back."""


def is_late(told: AttributeChange, known: Attributes, *, by_writer: bool) -> bool:
    """Whether times are those of a write, or older than what is known, told by somebody who keeps mtime and ctime.

    A write moves both to the same moment; ``by_writer``: they are told through a handle that may write.
    """
    if not told.is_telling or told.ctime_ns is None:
        return False
    return told.ctime_ns < known.ctime_ns or (by_writer and told.mtime_ns == told.ctime_ns)


def merge_late_times(told: AttributeChange, known: Attributes) -> AttributeChange:
    """What to set when somebody who keeps mtime and ctime tells them, perhaps later than a newer change: no going back.

    A ctime earlier than the one known says that the telling was overtaken. Told together with anything else they are
    not late: that is a change of its own.
    """
    if not told.is_telling or told.ctime_ns is None or told.mtime_ns is None:
        return told
    if not 0 < known.ctime_ns - told.ctime_ns < LATE_TIMES_NS:
        return told
    return AttributeChange(ctime_ns=known.ctime_ns, mtime_ns=max(told.mtime_ns, known.mtime_ns))


class DirectoryEntry(NamedTuple):
    """One dentry as readdir shows it. ``cookie`` is its place in the directory, for telldir/seekdir."""

    cookie: int
    name: bytes
    attributes: Attributes


@dataclass(frozen=True, slots=True)
class ChunkInfo:
    """What is stored of one chunk: ``length`` in bytes up to its last written byte, ``blocks`` of 512 bytes."""

    chunk_index: ChunkIndex
    length: int
    blocks: int


@dataclass(frozen=True, slots=True)
class ChunkRange:
    """``length`` bytes of one chunk from ``offset`` on, written or not."""

    inode: InodeId
    chunk_index: ChunkIndex
    offset: int
    length: int


class Credentials(NamedTuple):
    """Who asks: the caller's effective user and group, and the permissions kept from what the caller makes."""

    uid: int
    gid: int
    umask: int = 0
