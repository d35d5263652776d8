"""Opens a volume: the composition root, where every layer is made, wired, recovered and closed in order.

Imports everything in ``benchfs_core`` and nothing above it. Invariants: a directory that is refused is left untouched;
layers are closed in the reverse of the order in which they were opened; closing makes everything durable, and says so
if it could not.
"""

from __future__ import annotations

import datetime
import logging
import os
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import trio

from benchfs_core.chunks.file_store import FileChunkStore
from benchfs_core.chunks.io import ChunkIO
from benchfs_core.chunks.memory import InMemoryChunkStore
from benchfs_core.chunks.ring import Ring
from benchfs_core.chunks.ring_io import RingIO
from benchfs_core.chunks.store import ChunkStore
from benchfs_core.chunks.uring_store import IOUringChunkStore
from benchfs_core.config import FormatOptions, VolumeOptions
from benchfs_core.data_durability import DataDurability
from benchfs_core.errors import BenchFSError, DamagedVolume, NotAVolume, OptionError, VolumeError
from benchfs_core.file_io import FileIO
from benchfs_core.filesystem import FileSystem
from benchfs_core.inline_data import InlineData
from benchfs_core.inodes import InodeTable
from benchfs_core.maintenance import Maintenance
from benchfs_core.metadata.database import IN_MEMORY, Database
from benchfs_core.metadata.group_commit import GroupCommit
from benchfs_core.metadata.manager import MetadataManager
from benchfs_core.metadata.numbers import Numbers
from benchfs_core.metadata.space import DatabaseSpace, open_database_file
from benchfs_core.metadata.wal import WalCheckpointer
from benchfs_core.meter import Meter, Part
from benchfs_core.mounting import Mounting
from benchfs_core.recovery import Recovered, recover
from benchfs_core.superblock import (
    CHUNKS,
    DATABASE,
    LOCK,
    Superblock,
    create_database,
    format_volume,
    read_superblock,
)
from benchfs_core.types import StoreKind, SyncMode
from benchfs_core.volume_io import choose_store, count_calls, flush_wal, handle_limit, open_io, open_wal_files
from benchfs_core.volume_lock import VolumeLock

log = logging.getLogger(__name__)

LOCK_WAIT_S = 10.0
"""How long to wait for an owner that has unmounted but not ended."""


@dataclass(frozen=True, slots=True)
class Clocks:
    """Where time comes from."""

    now_ns: Callable[[], int] = time.time_ns
    """The wall clock, nanoseconds since 1970."""
    now_s: Callable[[], float] = time.monotonic
    """A clock that never goes back, seconds."""
    fine_ns: Callable[[], int] = time.perf_counter_ns
    """One as fine as can be had, nanoseconds: for how long requests take."""


@dataclass(frozen=True, slots=True)
class Volume:
    """An open volume."""

    filesystem: FileSystem
    superblock: Superblock
    store: StoreKind
    """The store in use; never AUTO."""
    store_note: str
    """Why it is not the one that AUTO prefers, or empty."""
    recovered: Recovered
    maintenance: Maintenance
    lock: VolumeLock | None
    options: VolumeOptions
    inodes: InodeTable
    database: Database
    count: Callable[[], dict[str, int]]
    """Since opening: what was asked of the filesystem below (``IOCounts``), commits, submissions to the ring."""
    ring: Ring | None
    """The store's ring, where it has one: a front end may send its own requests through it."""
    meter: Meter
    """To be told whose request runs, where its time is to be split."""


@dataclass(frozen=True, slots=True)
class _Storage:
    """What lies below the metadata and file layers of one volume."""

    superblock: Superblock
    database: Database
    store: ChunkStore
    kind: StoreKind
    note: str
    flush_wal: Callable[[], Awaitable[None]]
    checkpointer: WalCheckpointer | None
    space: DatabaseSpace | None
    lock: VolumeLock | None
    meter: Meter
    statvfs: Callable[[], os.statvfs_result]
    count_io: Callable[[], dict[str, int]] = dict
    ring: Ring | None = None


async def make_volume(source: Path, options: FormatOptions, clocks: Clocks | None = None) -> Superblock:
    """Format the empty directory ``source``; durable on return.

    Raises:
        VolumeError: it is a volume already, or not empty.
        OSError: the filesystem below refused.
    """
    _check_directory(source)
    if read_superblock(source) is not None:
        raise NotAVolume(f"{source}: is a BenchFS volume already: give an empty directory")
    lock = await VolumeLock.acquire(source / LOCK, wait_s=0)
    try:
        return _format(source, options, clocks or Clocks())
    finally:
        lock.release()


@asynccontextmanager
async def open_volume(
    source: Path,
    options: VolumeOptions,
    format_options: FormatOptions | None = None,
    *,
    clocks: Clocks | None = None,
    wrap_io: Callable[[ChunkIO], ChunkIO] | None = None,
    vfs: str | None = None,
    lock_wait_s: float = LOCK_WAIT_S,
) -> AsyncIterator[Volume]:
    """Open the volume in ``source`` for the length of the block, making one if the directory is empty.

    Args:
        source: the directory; with ``StoreKind.MEMORY`` only a name, neither read nor written.
        options: how to open it.
        format_options: how to make it; None: with defaults.
        clocks: where time comes from.
        wrap_io: puts something, such as faults or measurements, between the store and its I/O.
        vfs: the SQLite VFS that does the database's I/O; None: SQLite's own.
        lock_wait_s: how long to wait for an owner that is ending.

    Raises:
        VolumeError: refused; ``source`` is untouched.
        OptionError: ``format_options`` contradict the volume that is there.
        OSError: the filesystem below refused.
    """
    clocks = clocks or Clocks()
    async with AsyncExitStack() as stack:
        if options.store is StoreKind.MEMORY:
            storage = _memory_storage(stack, format_options or FormatOptions(), clocks, options)
        else:
            storage = await _open_storage(stack, source, options, format_options, clocks, wrap_io, vfs, lock_wait_s)
        async with _serve(storage, source, options, clocks) as volume:
            yield volume


@asynccontextmanager
async def _serve(storage: _Storage, source: Path, options: VolumeOptions, clocks: Clocks) -> AsyncIterator[Volume]:
    """Wire the layers above the storage; recover; run the background work; at the end bring everything to disk."""
    chunk_size, database = storage.superblock.chunk_size, storage.database
    numbers, inodes = Numbers(database), InodeTable()
    meter = storage.meter
    commit = GroupCommit(database, numbers, storage.flush_wal, storage.checkpointer, storage.space, meter)
    metadata = MetadataManager(database, numbers, acl=options.acl)
    for layer in (metadata, metadata.marks, metadata.contents, metadata.xattrs, metadata.acls):
        meter.follow_into(layer, Part.METADATA)
    durability = DataDurability(storage.store, metadata.marks, commit, chunk_size, options.sync, meter)
    maintenance = Maintenance(
        storage.store, metadata.marks, commit, inodes, durability, options.commit_interval_s, clocks.now_s
    )
    inline = InlineData(metadata.contents, metadata.marks, storage.store, commit, durability, options.inline_bytes)
    file_io = FileIO(storage.store, metadata.marks, commit, durability, inline, chunk_size, clocks.now_ns, clocks.now_s)
    mounting = Mounting(options.read_only, options.atime, options.acl, storage.statvfs)
    filesystem = FileSystem(metadata, commit, file_io, inodes, maintenance, mounting, clocks.now_ns)
    recovered = await recover(storage.store, metadata, numbers, inodes, chunk_size, read_only=options.read_only)
    if not options.read_only:
        database.hold_snapshot()
        await commit.writable(frees=True)  # reserves numbers: along with what recovery noted, durably
    volume = Volume(
        *(filesystem, storage.superblock, storage.kind, storage.note, recovered, maintenance, storage.lock),
        options=options,
        inodes=inodes,
        database=database,
        count=lambda: {**storage.count_io(), "commits": commit.shared_commits},
        ring=storage.ring,
        meter=meter,
    )
    failure: BaseException | None = None
    async with trio.open_nursery() as nursery:
        if not options.read_only:
            nursery.start_soon(maintenance.run)
        try:
            yield volume
        except BaseException as error:
            failure = error  # kept out of the nursery, which would wrap it in a group
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure  # what is durable stays so; the next opening recovers
    if not options.read_only:
        await _bring_to_disk(volume, commit, numbers)


async def _bring_to_disk(volume: Volume, commit: GroupCommit, numbers: Numbers) -> None:
    if volume.lock is not None:
        volume.lock.closing()
    try:
        await volume.maintenance.sync()
        await volume.maintenance.delete_waiting_orphans(at_end=True)
        numbers.settle()
        await commit.commit()
    except (BenchFSError, OSError) as error:
        raise VolumeError(f"not everything could be brought to disk: {error}") from error


async def _open_storage(
    stack: AsyncExitStack,
    source: Path,
    options: VolumeOptions,
    format_options: FormatOptions | None,
    clocks: Clocks,
    wrap_io: Callable[[ChunkIO], ChunkIO] | None,
    vfs: str | None,
    lock_wait_s: float,
) -> _Storage:
    _check_directory(source)
    superblock = read_superblock(source, writing=not options.read_only)
    if superblock is None and options.read_only:
        raise NotAVolume(f"{source}: empty, and read-only: mount it without ro to make a volume")
    if superblock is not None:
        _check_complete(source)
        _check_chunk_size(source, superblock, format_options)
    kind, note = choose_store(options.store)
    max_handles = handle_limit(options.max_handles)
    lock = await VolumeLock.acquire(source / LOCK, wait_s=lock_wait_s)
    stack.callback(lock.release)
    place = os.open(source, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)  # whatever its path will lead to
    stack.callback(os.close, place)
    meter = Meter(clocks.fine_ns)
    counted, kind, note = await open_io(stack, options, kind, note, meter)
    io = counted if wrap_io is None else wrap_io(counted)
    if superblock is None:
        superblock = _format(source, format_options or FormatOptions(), clocks)
    database, checkpointer, space, wal = _open_database(stack, source, options, vfs)
    store_class = IOUringChunkStore if kind is StoreKind.IO_URING else FileChunkStore
    store = store_class(
        str(source / CHUNKS),
        chunk_size=superblock.chunk_size,
        durable_writes=options.sync is SyncMode.WRITE,
        max_handles=max_handles,
        io=io,
    )
    stack.push_async_callback(store.close_all)
    ring = counted.ring if isinstance(counted, RingIO) else None
    flush, statvfs, count_io = partial(flush_wal, io, wal), partial(os.statvfs, place), partial(count_calls, counted)
    return _Storage(
        *(superblock, database, store, kind, note, flush, checkpointer, space, lock, meter, statvfs, count_io, ring)
    )


def _open_database(
    stack: AsyncExitStack, source: Path, options: VolumeOptions, vfs: str | None
) -> tuple[Database, WalCheckpointer | None, DatabaseSpace | None, int]:
    """The database, what serves it, and the descriptor of its WAL, -1 where nothing is changed."""
    closed_last = stack.enter_context(ExitStack())  # descriptors that carry SQLite's locks
    database = Database.open(source / DATABASE, read_only=options.read_only, vfs=vfs)
    stack.callback(database.close)
    if options.read_only:
        return database, None, None, -1
    space = DatabaseSpace(open_database_file(database.path))
    closed_last.callback(space.close)
    checkpointer = WalCheckpointer(database.path, vfs)
    stack.callback(checkpointer.close)
    wal, wal_index = open_wal_files(database.path)
    stack.callback(os.close, wal)
    closed_last.callback(os.close, wal_index)
    return database, checkpointer, space, wal


def _check_chunk_size(source: Path, superblock: Superblock, wanted: FormatOptions | None) -> None:
    if wanted is not None and wanted.chunk_size != superblock.chunk_size:
        raise OptionError(
            f"chunk_size={wanted.chunk_size >> 10}K: the volume in {source} has chunks of "
            f"{superblock.chunk_size >> 10}K, fixed when it was made: leave the option out"
        )


def _memory_storage(
    stack: AsyncExitStack, format_options: FormatOptions, clocks: Clocks, options: VolumeOptions
) -> _Storage:
    database = create_database(IN_MEMORY, _owner(), clocks.now_ns())
    stack.callback(database.close)
    superblock = Superblock(str(uuid.uuid4()), format_options.chunk_size, "")
    store = InMemoryChunkStore(chunk_size=format_options.chunk_size, durable_writes=options.sync is SyncMode.WRITE)

    async def nothing_to_flush() -> None:
        await trio.lowlevel.checkpoint()

    statvfs = partial(os.statvfs, "/dev/shm")
    meter = Meter(clocks.fine_ns)
    return _Storage(
        *(superblock, database, store, StoreKind.MEMORY, "", nothing_to_flush, None, None, None, meter, statvfs)
    )


def _format(source: Path, options: FormatOptions, clocks: Clocks) -> Superblock:
    now_ns = clocks.now_ns()
    created = datetime.datetime.fromtimestamp(now_ns // 10**9, datetime.UTC).isoformat()
    return format_volume(source, options, owner=_owner(), created=created, now_ns=now_ns, uuid_hex=uuid.uuid4().hex)


def _owner() -> tuple[int, int]:
    return os.geteuid(), os.getegid()


def _check_complete(source: Path) -> None:
    for path, whole in (
        (source / DATABASE, (source / DATABASE).is_file()),
        (source / CHUNKS, (source / CHUNKS).is_dir()),
    ):
        if not whole:  # without its chunks, every file would read as zeros
            raise DamagedVolume(f"{path}: missing: restore it from a backup")


def _check_directory(source: Path) -> None:
    try:
        os.fspath(source).encode()
    except UnicodeEncodeError:
        raise NotAVolume(f"{os.fsencode(source)!r}: SQLite needs a path in UTF-8: rename the directory") from None
    if not source.exists():
        raise NotAVolume(f"{source}: does not exist: make the directory first")
    if not source.is_dir():
        raise NotAVolume(f"{source}: not a directory")
