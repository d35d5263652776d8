"""One mount, from checks to orderly end: opens the volume, has its session served, closes everything.

Imports the core and this package's ``operations``, ``ways``, ``mounts``, ``options``, ``kernel_clock``. Invariants:
what can be checked is checked before anything is touched; ready means that a stat of the mount point shows our root;
umount(8), SIGTERM and SIGINT end in the same way, with everything on disk; after a crash the mount stays, dead, lest
programs take an empty directory for ours.
"""

from __future__ import annotations

import datetime
import json
import logging
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

from benchfs_core.errors import BenchFSError
from benchfs_core.profile import Profile
from benchfs_core.status import status_of
from benchfs_core.types import ROOT_INODE, StoreKind, SyncMode
from benchfs_core.volume import Clocks, Volume, open_volume
from benchfs_fuse import mounts
from benchfs_fuse.control import serve_control
from benchfs_fuse.kernel_clock import KernelClock
from benchfs_fuse.operations import BenchFSOperations
from benchfs_fuse.options import MountOptions
from benchfs_fuse.profiling.asked import profile_commands
from benchfs_fuse.tuning import raise_kernel_limits
from benchfs_fuse.ways import Front, MountError, Way, mount

log = logging.getLogger(__name__)

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interrupted(BenchFSError):
    """A signal said to end before the mount was made."""


@dataclass(frozen=True, slots=True)
class Request:
    """What to mount where."""

    source: Path
    mount_point: Path
    options: MountOptions
    log: str
    """Where messages go, as told to users."""

    @property
    def shown_source(self) -> str:
        """What the mount shows as its source; pyfuse3 takes ASCII only."""
        return mounts.printable(self.options.fsname or str(self.source), ascii_only=True)


@dataclass(slots=True)
class _Progress:
    """How far a mount has come."""

    in_use: bool = False
    """Somebody was told that it is ready."""
    registration: Path | None = None

    def unregister(self) -> None:
        if self.registration is not None:
            self.registration.unlink(missing_ok=True)


def check_mount_point(source: Path, mount_point: Path, *, memory: bool) -> None:
    """See that ``mount_point`` can be mounted on; a dead mount there is cleared away.

    Raises:
        MountError: it is missing, not a directory, inside the source or around it, or mounted on already by us.
    """
    try:
        if mounts.clear_dead_mount(mount_point):
            log.warning("%s: cleared away the dead mount of a process that was killed", mount_point)
        is_directory = mount_point.is_dir()
    except OSError as error:
        raise MountError(f"{mount_point}: {error.strerror}: nothing can be mounted there") from error
    if not mount_point.exists():
        raise MountError(f"{mount_point}: does not exist: make the mount point first")
    if not is_directory:
        raise MountError(f"{mount_point}: not a directory: give a directory as mount point")
    if not memory:
        if mount_point == source:
            raise MountError(f"{mount_point}: is SOURCE itself: give another mount point")
        if source in mount_point.parents:
            raise MountError(f"{mount_point}: lies inside SOURCE {source}: give a mount point outside")
        if mount_point in source.parents:
            raise MountError(f"{mount_point}: would hide SOURCE {source}, which lies inside: give another mount point")
    entry = mounts.find_mount(mount_point)
    if entry is not None and entry.type == mounts.FILESYSTEM_TYPE:
        raise MountError(f"{mount_point}: {entry.source} is mounted there already: unmount it first")


def describe(request: Request, volume: Volume, way: Way) -> str:
    """The line that tells a user what was mounted."""
    options = request.options.volume
    chunk = volume.superblock.chunk_size
    size = f"{chunk >> 20} MiB" if chunk >= 1 << 20 else f"{chunk >> 10} KiB"
    parts = [f"chunks of {size}", f"store {volume.store.value}", f"sync={options.sync.value}"]
    if volume.store_note:
        parts[1] += f" ({volume.store_note})"
    parts.append(f"plane={way.plane.value}")
    if way.note:
        parts[-1] += f" ({way.note})"
    if options.acl:
        parts.append("acl")
    if options.read_only:
        parts.append("read-only")
    if volume.recovered.unclean:
        parts.append("recovered after an unclean end")
    what = ", ".join(parts)
    line = f"{request.source} on {request.mount_point}: {what}; unmount with: benchfs umount {request.mount_point}"
    return mounts.printable(line)


async def serve(request: Request, ready: Callable[[str], None]) -> None:
    """Mount and serve until unmounted or told to end by a signal; on return everything is on disk.

    Args:
        request: what to mount where.
        ready: told the line for the user, once the mount answers; raises BrokenPipeError if nobody waits for it any
            more, which ends the mount as a signal does: it was promised to nobody.

    Raises:
        BenchFSError, OSError: it could not be mounted, or not everything could be brought to disk.
    """
    check_mount_point(request.source, request.mount_point, memory=request.options.volume.store is StoreKind.MEMORY)
    progress = _Progress()
    with _clocks(request.options.volume.sync) as clocks:
        await _serve(request, ready, progress, clocks)
    progress.unregister()
    log.info("%s: unmounted, everything is on disk", request.mount_point)


@contextmanager
def _clocks(sync: SyncMode) -> Iterator[Clocks]:
    if sync is not SyncMode.FSYNC:
        yield Clocks()
        return
    with closing(KernelClock()) as clock:  # with a write-back cache the kernel dates part of what happens
        yield Clocks(now_ns=clock.now_ns)


async def _serve(request: Request, ready: Callable[[str], None], progress: _Progress, clocks: Clocks) -> None:
    options = request.options
    writeback_cache = options.volume.sync is SyncMode.FSYNC
    async with open_volume(request.source, options.volume, options.format, clocks=clocks) as volume:
        operations = BenchFSOperations(
            volume.filesystem,
            writeback_cache=writeback_cache,
            acl=options.volume.acl,
            profile=Profile(volume.meter),
        )
        with trio.open_signal_receiver(*_SIGNALS) as signals:
            front = Front(volume.filesystem, operations, volume.ring, clocks.now_ns)
            way = await _mount_unless_told(front, request, signals)
            try:
                await _session(request, volume, way, operations, ready, progress, signals)
            except BaseException:
                # Once in use, it is not unmounted: programs on it must see that it is dead, not an empty directory.
                way.close(not progress.in_use)
                if not progress.in_use:
                    progress.unregister()
                raise
            way.close(True)
        log.info("requests: %s", json.dumps(operations.profile.counts(), sort_keys=True))


async def _session(
    request: Request,
    volume: Volume,
    way: Way,
    operations: BenchFSOperations,
    ready: Callable[[str], None],
    progress: _Progress,
    signals: AsyncIterator[int],
) -> None:
    """Answer requests until the session ends."""

    def status(_: Mapping[str, object]) -> dict[str, object]:
        return {"pid": daemon.pid, "since": since, **status_of(volume), "requests": operations.profile.counts()}

    since = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    facts = {"since": since, "since_ns": volume.meter.now_ns(), "plane": way.plane.value}
    commands = {"status": status, **profile_commands(operations.profile, facts)}
    daemon = mounts.this_process(request.shown_source, str(request.mount_point), request.log)

    async def announce(nursery: trio.Nursery) -> None:
        inode, device = await trio.to_thread.run_sync(mounts.look_at_root, request.mount_point)
        if inode != ROOT_INODE:
            raise MountError(f"{request.mount_point}: mounted, but its root is not ours")
        raise_kernel_limits(device)
        progress.registration = await trio.to_thread.run_sync(mounts.register, daemon, device)
        if progress.registration is not None:
            await nursery.start(serve_control, mounts.control_socket(progress.registration), commands)
        if volume.lock is not None:
            volume.lock.serving(str(request.mount_point))
        line = describe(request, volume, way)
        log.info(line)
        try:
            ready(line)
            progress.in_use = True
        except BrokenPipeError:
            log.warning("%s: whoever asked for the mount no longer waits for it: ending", request.mount_point)
            await _unmount(request.mount_point, way)

    async def until_unmounted(nursery: trio.Nursery) -> None:
        await way.run()
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(until_unmounted, nursery)
        await announce(nursery)
        async for number in signals:
            log.info("%s: ending", signal.Signals(number).name)
            await _unmount(request.mount_point, way)


async def _unmount(mount_point: Path, way: Way) -> None:
    """Unmount, so that the kernel hands over what it holds; while files are open there, detach after it has."""
    reason = await trio.to_thread.run_sync(mounts.unmount, mount_point)
    if reason is None:
        return
    log.info("%s: %s: detaching it", mount_point, reason)
    await trio.to_thread.run_sync(_write_back, mount_point)
    reason = await trio.to_thread.run_sync(lambda: mounts.unmount(mount_point, lazy=True))
    if reason is not None:
        log.error("%s: %s", mount_point, reason)
    way.stop()


def _write_back(mount_point: Path) -> None:
    """Have the kernel hand over the dirty pages it holds for the mount, as far as it can."""
    try:
        mounts.write_back(mount_point)
    except OSError as error:
        log.error("%s: writing back what the kernel holds: %s", mount_point, error)


async def _mount_unless_told(front: Front, request: Request, signals: AsyncIterator[int]) -> Way:
    """Mount, as ``ways.mount`` does; a signal that says to end ends that, too, and leaves nothing mounted.

    Raises:
        Interrupted: a signal came first.
        MountError: it could not be mounted.
    """
    way: Way | None = None
    failure: MountError | None = None
    told: list[str] = []

    async def listen(scope: trio.CancelScope) -> None:
        told.append(signal.Signals(await anext(signals)).name)
        scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(listen, nursery.cancel_scope)
        try:
            way = await mount(front, request.mount_point, request.options, _mount_words(request))
        except MountError as error:
            failure = error  # kept out of the nursery, which would wrap it in a group
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
    if told or way is None:
        if way is not None:
            way.close(True)
        raise Interrupted(f"{request.mount_point}: {told[0]} while mounting: nothing is mounted")
    return way


def _mount_words(request: Request) -> set[str]:
    """The options for the kernel and libfuse."""
    options = request.options
    words = {f"fsname={_escaped(request.shown_source)}", "subtype=benchfs", "default_permissions"}
    is_root = os.geteuid() == 0
    if options.allow_other if options.allow_other is not None else is_root:
        words.add("allow_other")
    if options.volume.read_only:
        words.add("ro")
    if is_root:
        words |= {"suid", "dev"}
    for flag in options.kernel_flags:
        opposite = flag.removeprefix("no") if flag.startswith("no") else f"no{flag}"
        words = (words - {opposite}) | {flag}
    words.discard("exec")
    return words


def _escaped(name: str) -> str:
    """A value as libfuse's option parser wants it."""
    return name.replace("\\", "\\\\").replace(",", "\\,")
