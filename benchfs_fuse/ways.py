"""How the requests of a mount come and go: through the plane, or through pyfuse3. Mounts in the way chosen.

Imports pyfuse3, ``session``, ``plane``, ``operations`` and the core's ring. Invariants: ``plane=auto`` takes the plane
where it can be set up, and says why where it cannot; whatever fails leaves nothing mounted.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pyfuse3

from benchfs_core.chunks.ring import Ring
from benchfs_core.chunks.uring import UringDriver, explain, io_uring_available
from benchfs_core.errors import BenchFSError
from benchfs_core.filesystem import FileSystem
from benchfs_core.meter import Meter
from benchfs_core.types import AtimeMode, SyncMode
from benchfs_fuse import mounts, session
from benchfs_fuse.operations import BenchFSOperations
from benchfs_fuse.options import MountOptions, PlaneKind
from benchfs_fuse.plane.answering import Removals
from benchfs_fuse.plane.handlers import Handlers
from benchfs_fuse.plane.listings import Listings
from benchfs_fuse.plane.plane import MAX_REQUESTS, Plane
from benchfs_fuse.plane.protocol import MAX_WRITE_BYTES
from benchfs_fuse.plane.write_back import WriteBack
from benchfs_fuse.requests import timed_filesystem

_AUTO_INVAL_DATA = 1 << 12
_PARALLEL_DIROPS = 1 << 18
_HANDLE_KILLPRIV = 1 << 19
_CACHE_SYMLINKS = 1 << 23
_EXPLICIT_INVAL_DATA = 1 << 25
_HANDLE_KILLPRIV_V2 = 1 << 28
"""``FUSE_…`` flags of INIT (linux/fuse.h)."""

_OWN_RING_DEPTH = 32
"""Of the plane's own ring, where the chunk store has none; nothing but device reads and replies are in it."""


class MountError(BenchFSError):
    """The mount could not be made."""


@dataclass(frozen=True, slots=True)
class Way:
    """A session that is mounted."""

    plane: PlaneKind
    """Never AUTO."""
    note: str
    """Why it is not the one that AUTO prefers, or empty."""
    run: Callable[[], Awaitable[None]]
    """Serves until unmounted."""
    stop: Callable[[], None]
    """Ends ``run`` although it is still mounted somewhere."""
    close: Callable[[bool], None]
    """Ends the session, told whether to unmount as well."""


@dataclass(frozen=True, slots=True)
class Front:
    """What requests are answered with."""

    filesystem: FileSystem
    operations: BenchFSOperations
    ring: Ring | None
    """The chunk store's."""
    now_ns: Callable[[], int]

    def handlers(self, options: MountOptions, write_back: WriteBack, meter: Meter) -> tuple[Handlers, Handlers]:
        """The plane's handlers, and the same for requests of which the meter is told where their time goes."""
        writeback_cache, removals, listings = options.volume.sync is SyncMode.FSYNC, Removals(), Listings()
        plain, timed = (
            Handlers(
                filesystem,
                write_back,
                writeback_cache=writeback_cache,
                now_ns=self.now_ns,
                removals=removals,
                listings=listings,
            )
            for filesystem in (self.filesystem, timed_filesystem(self.filesystem, meter))
        )
        return plain, timed


async def mount(front: Front, mount_point: Path, options: MountOptions, words: set[str]) -> Way:
    """Mount; ``words`` are the options for the kernel.

    Raises:
        MountError: it could not be mounted.
    """
    note = ""
    if options.plane is not PlaneKind.PYFUSE3:
        note = io_uring_available() or ""
        if not note:
            try:
                return await _through_plane(front, mount_point, options, words)
            except session.SessionError as error:
                note = str(error)
        if options.plane is PlaneKind.RING:
            raise _refused(mount_point, f"plane=ring: {note}")
    try:
        return await _through_pyfuse3(front.operations, mount_point, options, words, note)
    except (RuntimeError, session.SessionError) as error:
        raise _refused(mount_point, str(error)) from error


async def _through_plane(front: Front, mount_point: Path, options: MountOptions, words: set[str]) -> Way:
    change = session.Change(
        needed=_HANDLE_KILLPRIV_V2 | (session.DONT_MASK if options.volume.acl else 0),
        wanted=_PARALLEL_DIROPS
        | _EXPLICIT_INVAL_DATA
        | (_CACHE_SYMLINKS if options.volume.atime is AtimeMode.NOATIME else 0),  # what is cached moves no atime
        cleared=_AUTO_INVAL_DATA | _HANDLE_KILLPRIV,
        max_background=MAX_REQUESTS,
        max_write=MAX_WRITE_BYTES,
    )
    driver = _own_driver(front.ring)  # before anything is mounted: the kernel may refuse it
    try:
        owned = await session.init_owned(front.operations, mount_point, words, change)
    except BaseException:
        if driver is not None:
            driver.close()
        raise
    profile = front.operations.profile
    write_back = WriteBack(mount_point, _device_of(mount_point))
    handlers, timed_handlers = front.handlers(options, write_back, profile.meter)
    planes: list[Plane] = []

    async def run() -> None:
        async with AsyncExitStack() as stack:
            stack.push_async_callback(write_back.aclose)
            ring = front.ring
            if ring is None:
                ring = await stack.enter_async_context(Ring.open(_OWN_RING_DEPTH, driver))
            planes.append(Plane(ring, owned.device, owned.pair, handlers, timed_handlers, profile))
            await planes[0].run(pyfuse3.main)

    return Way(
        PlaneKind.RING,
        "",
        run,
        stop=lambda: planes[0].stop(),
        close=lambda unmount: owned.close(mount_point, unmount=unmount),
    )


def _device_of(mount_point: Path) -> int:
    """``st_dev`` of the mount that was just made there, without asking it; -1 where it is gone already."""
    entry = mounts.find_mount(mount_point)
    return -1 if entry is None else os.makedev(*map(int, entry.device.split(":")))


def _own_driver(ring: Ring | None) -> UringDriver | None:
    """The queues for a ring of the plane's own, where the chunk store has none. SessionError: they cannot be had."""
    if ring is not None:
        return None
    try:
        return UringDriver(2 * _OWN_RING_DEPTH)
    except OSError as error:
        raise session.SessionError(explain(error)) from error


async def _through_pyfuse3(
    operations: BenchFSOperations, mount_point: Path, options: MountOptions, words: set[str], note: str
) -> Way:
    """With ACLs the umask must be ours to apply, or not, which takes a session of our own making."""
    if options.volume.acl:
        descriptor = await session.init_with_flags(operations, mount_point, words, session.DONT_MASK)

        def close(unmount: bool) -> None:
            session.close(descriptor, mount_point, unmount=unmount)
    else:
        pyfuse3.init(operations, str(mount_point), words)

        def close(unmount: bool) -> None:
            pyfuse3.close(unmount=unmount)

    return Way(PlaneKind.PYFUSE3, note, pyfuse3.main, pyfuse3.terminate, close)


def _refused(mount_point: Path, reason: str) -> MountError:
    hint = "" if os.path.exists("/dev/fuse") else " (there is no /dev/fuse here: load the kernel module fuse)"
    return MountError(f"{mount_point}: cannot mount: {reason}{hint}")
