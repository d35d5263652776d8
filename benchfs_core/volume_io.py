"""How an open volume does its I/O: through io_uring or threads, with how many descriptors, and how its WAL is flushed.

Imports ``chunks``, ``metadata``, ``host``; part of the composition root, ``volume``. Invariant: what the host refuses
(io_uring, descriptors, space to reserve) is replaced by less where that is no loss, with one line about it, and
otherwise refused with one.
"""

from __future__ import annotations

import errno
import logging
import os
from contextlib import AsyncExitStack
from dataclasses import asdict
from pathlib import Path

from benchfs_core.chunks.io import ChunkIO
from benchfs_core.chunks.ring_io import RingIO
from benchfs_core.chunks.thread_io import ThreadIO
from benchfs_core.chunks.uring import explain, io_uring_available
from benchfs_core.config import VolumeOptions
from benchfs_core.errors import Vanished, VolumeError
from benchfs_core.host import allocate_beyond_end, raise_descriptor_limit
from benchfs_core.metadata.group_commit import WAL_INDEX_RESERVE_BYTES, WAL_RESERVE_BYTES
from benchfs_core.metadata.wal import open_wal, open_wal_index
from benchfs_core.meter import Meter
from benchfs_core.types import StoreKind

log = logging.getLogger(__name__)

_OTHER_DESCRIPTORS = 128
"""Descriptors that are no chunk handles: the database, the ring, FUSE, directories being flushed, the log."""

_LEAST_DESCRIPTORS = 64
"""With fewer, what is open at least (20), a few handles and the directories being flushed would not fit."""


def choose_store(wanted: StoreKind) -> tuple[StoreKind, str]:
    """The store to use, and why it is not the one that AUTO prefers."""
    if wanted is StoreKind.FILE:
        return wanted, ""
    reason = io_uring_available()
    if reason is None:
        return StoreKind.IO_URING, ""
    return StoreKind.FILE, _without_io_uring(wanted, reason)


def _without_io_uring(wanted: StoreKind, reason: str) -> str:
    """What to say where threads are used instead. VolumeError: they were not what was asked for."""
    if wanted is StoreKind.IO_URING:
        raise VolumeError(f"store=io_uring: io_uring cannot be used here ({reason}): use store=auto or store=file")
    return f"io_uring cannot be used here: {reason}"


async def open_io(
    stack: AsyncExitStack, options: VolumeOptions, kind: StoreKind, note: str, meter: Meter
) -> tuple[RingIO | ThreadIO, StoreKind, str]:
    """The I/O, the store that it is for, and why that is not the one that AUTO prefers."""
    if kind is StoreKind.IO_URING:
        try:
            return await stack.enter_async_context(RingIO.open_ring(options.queue_depth, meter=meter)), kind, note
        except OSError as error:  # a small ring was to be had a moment ago
            kind, note = StoreKind.FILE, _without_io_uring(options.store, explain(error))
    io = ThreadIO(options.queue_depth, meter=meter)
    stack.push_async_callback(io.aclose)
    return io, kind, note


def handle_limit(wanted: int) -> int:
    """How many chunk handles there may be, up to ``wanted``: what RLIMIT_NOFILE allows, raised as far as it goes.

    Raises:
        VolumeError: it allows so few that requests would fail.
    """
    limit = raise_descriptor_limit(wanted + _OTHER_DESCRIPTORS)
    if limit < _LEAST_DESCRIPTORS:
        raise VolumeError(f"RLIMIT_NOFILE is {limit}, and {_LEAST_DESCRIPTORS} is the least: raise it with ulimit -n")
    allowed = max(8, limit - _OTHER_DESCRIPTORS)
    if allowed < wanted:
        log.warning("max_handles is %d instead of %d: RLIMIT_NOFILE allows no more", allowed, wanted)
    return min(wanted, allowed)


def _reserve(descriptor: int, length: int) -> None:
    try:
        allocate_beyond_end(descriptor, length)
    except OSError as error:
        log.warning("no %d KiB reserved for metadata: %s", length >> 10, error.strerror)


async def flush_wal(io: ChunkIO, wal: int) -> None:
    """Flush the WAL, which counts only if it can be found again.

    Not asked by fstat(2): whoever looks at the times of a file has the kernel date the next write to it finely, and
    with it whatever is written to a mount (multigrain timestamps). Each fsync would have had times to write.
    """
    await io.fsync(wal, datasync=True)
    try:
        is_gone = os.readlink(f"/proc/self/fd/{wal}").endswith(" (deleted)")
    except OSError:  # no /proc, or too long a path
        is_gone = os.fstat(wal).st_nlink == 0
    if is_gone:
        raise Vanished(errno.ENOENT, "it was removed below the mount")


def count_calls(io: RingIO | ThreadIO) -> dict[str, int]:
    """What was asked of the filesystem below so far, by kind."""
    return {**asdict(io.counts), "ring_enters": io.enter_count}


def open_wal_files(database: Path) -> tuple[int, int]:
    """Open the WAL and its index, with space allocated for both; the index is to be closed after the database."""
    wal = open_wal(database)
    try:
        wal_index = open_wal_index(database)
    except BaseException:
        os.close(wal)
        raise
    _reserve(wal, WAL_RESERVE_BYTES)
    _reserve(wal_index, WAL_INDEX_RESERVE_BYTES)
    return wal, wal_index
