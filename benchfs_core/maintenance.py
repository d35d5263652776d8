"""Background work of one mount: commits, cleaning of dirty files, deletion of orphans' chunks.

Imports trio and the layers that it serves; the only module that sleeps (between commits, and to gather orphans). Its
tasks live in the volume's nursery and end with it. Invariants: nothing here changes what a caller sees; chunks are
deleted only after the metadata that makes them unneeded is durable; work that fails is logged and tried again, or left
to the next mount. What waits is bounded: dirty files by ``MAX_ACTIVE``.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

import trio

from benchfs_core.chunks.store import ChunkStore
from benchfs_core.data_durability import DataDurability
from benchfs_core.errors import FileSystemError, VolumeReadOnly
from benchfs_core.inodes import ActiveInode, InodeTable
from benchfs_core.metadata.group_commit import GroupCommit
from benchfs_core.metadata.marks import Marks
from benchfs_core.types import InodeId

log = logging.getLogger(__name__)

CLEAN_AFTER_S = 2.0
"""A closed file is made clean once nothing was written to it for so long."""

MAX_ACTIVE = 16384
"""Above this many active inodes, opening and making files waits for cleaning; above half, files are cleaned at once."""

_CLEAN_AT_ONCE = 16
"""Files flushed one by one up to this many; more share one flush of the whole filesystem below."""

_GATHER_ORPHANS_S = 0.2
"""How long orphans are gathered before they are deleted: each batch costs a flush of the WAL and one of ``chunks``."""

_ORPHANS_AT_ONCE = 256
_DELETIONS_AT_ONCE = 4
_ROWS_AT_ONCE = 1000


class Maintenance:
    """The background tasks, and the words by which the foreground tells them what there is to do."""

    def __init__(
        self,
        store: ChunkStore,
        marks: Marks,
        commit: GroupCommit,
        inodes: InodeTable,
        durability: DataDurability,
        commit_interval_s: float,
        now_s: Callable[[], float],
        max_active: int = MAX_ACTIVE,
    ) -> None:
        self._store = store
        self._marks = marks
        self._commit = commit
        self._inodes = inodes
        self._durability = durability
        self._commit_interval_s = commit_interval_s
        self._now_s = now_s
        self._max_active = max_active
        self._orphans_waiting = trio.Event()
        self._clean_soon = trio.Event()
        self._pass_ended = trio.Event()
        self._all_in_use = False
        """Whether the last pass could not make room: nobody waits then until the next one has tried."""
        self._stuck: set[InodeId] = set()
        self._running = False

    async def run(self) -> None:
        """Work until cancelled, or until a failure of the metadata has ended all changing."""
        self._running = True
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._commit_regularly)
            nursery.start_soon(self._checkpoint_wal)
            nursery.start_soon(self._clean_regularly)
            nursery.start_soon(self._delete_orphans)

    # What the foreground says

    def delete_orphans_soon(self) -> None:
        """There are orphans that nobody uses."""
        self._orphans_waiting.set()

    def closed(self, node: ActiveInode) -> None:
        """The last handle of a file was closed."""
        node.idle_since_s = self._now_s()
        self._inodes.drop_if_idle(node)

    async def room(self) -> None:
        """While too many files are dirty, wait for one pass of cleaning. A checkpoint only if it must wait."""
        if len(self._inodes.active) < self._max_active or self._all_in_use:
            return
        if self._running and not self._commit.failed:
            self._clean_soon.set()
            await self._pass_ended.wait()

    # What there is to do

    async def sync(self) -> None:
        """Make everything written so far durable, and every file that is not being written to clean.

        Raises:
            FileSystemError, OSError: something could not be.
        """
        failure: Exception | None = None
        try:
            await self._clean(list(self._inodes.active.values()))
        except (FileSystemError, OSError) as error:
            failure = error
        for node in [node for node in self._inodes.active.values() if not node.unlinked]:
            try:
                await self._durability.fsync(node, datasync=False)
            except (FileSystemError, OSError) as error:
                failure = error
        await self._commit.commit()
        if failure is not None:
            raise failure

    async def delete_waiting_orphans(self, *, at_end: bool = False) -> None:
        """Delete the chunks and rows of every orphan that nobody uses; ``at_end`` nobody uses any."""
        after = 0
        while page := self._marks.orphans(after, _ORPHANS_AT_ONCE):
            after = page[-1]
            unused = [inode for inode in page if at_end or not self._inodes.in_use(inode)]
            unused = [inode for inode in unused if inode not in self._stuck]
            if unused:
                await self._delete(unused)

    # Tasks

    async def _commit_regularly(self) -> None:
        while not self._commit.failed:
            await trio.sleep(self._commit_interval_s)
            await _attempt("committing", self._store_times)
            await _attempt("committing", self._commit.commit_interval)

    async def _checkpoint_wal(self) -> None:
        while not self._commit.failed:
            await self._commit.wal_is_long.wait()
            await _attempt("WAL checkpoint", self._commit.checkpoint_wal)

    async def _clean_regularly(self) -> None:
        while not self._commit.failed:
            with trio.move_on_after(self._commit_interval_s):
                await self._clean_soon.wait()
            self._clean_soon = trio.Event()
            await _attempt("cutting files", self._settle_cuts)
            await _attempt("making files clean", self._clean_idle)
            if len(self._inodes.active) >= self._max_active:
                await _attempt("storing times", self._store_times)
            self._all_in_use = len(self._inodes.active) >= self._max_active
            self._pass_ended.set()
            self._pass_ended = trio.Event()

    async def _delete_orphans(self) -> None:
        while not self._commit.failed:
            self._orphans_waiting = trio.Event()
            await _attempt("deleting chunks of unlinked files", self.delete_waiting_orphans)
            await self._orphans_waiting.wait()
            await trio.sleep(_GATHER_ORPHANS_S)

    # Steps

    def _cleanable(self, age_s: float) -> list[ActiveInode]:
        before_s = self._now_s() - age_s
        return [
            node
            for node in self._inodes.active.values()
            if not (node.open_count or node.unlinked)
            and node.dirty
            and not node.lost.remains(node.size)
            and node.idle_since_s <= before_s
        ]

    async def _clean_idle(self) -> None:
        crowded = len(self._inodes.active) > self._max_active // 2
        await self._clean(self._cleanable(age_s=0 if crowded else CLEAN_AFTER_S))

    async def _clean(self, nodes: Sequence[ActiveInode]) -> None:
        """Make files clean; those that are in use meanwhile, or cannot be flushed, stay dirty."""
        nodes = [node for node in nodes if node.dirty and not node.lost.remains(node.size) and not node.unlinked]
        flushed_at: dict[InodeId, int] = {}
        if len(nodes) > _CLEAN_AT_ONCE and not self._durability.durable_writes:
            for node in nodes:
                with suppress(FileSystemError, OSError):  # it is tried again, and reported, one by one
                    await self._durability.make_cut(node)
            flushed_at = {node.inode: node.writes for node in nodes if node.cut.pending is None}
            try:
                await self._store.fsync_all()
            except OSError as error:  # it does not say which file: each is asked for itself, and remembers
                log.error("flushing the filesystem below: %s", error)
                flushed_at = {}
        for node in nodes:
            try:
                await self._durability.clean(node, flushed_at=flushed_at.get(node.inode))
            except (FileSystemError, OSError) as error:
                if not self._commit.failed:  # else that was logged once, where it failed
                    log.error("inode %d stays dirty: %s", node.inode, error)
            self._inodes.drop_if_idle(node)

    async def _settle_cuts(self) -> None:
        """Make recorded cuts and flush those files: while a cut is on record, a crash repeats it on what came after."""
        cut = [node for node in self._inodes.active.values() if node.cut.recorded]
        for node in [node for node in cut if not node.lost.remains(node.size)]:
            try:
                await self._durability.fsync(node, datasync=True)
            except (FileSystemError, OSError) as error:
                if not self._commit.failed:
                    log.error("inode %d: cutting: %s", node.inode, error)

    async def _store_times(self) -> None:
        moved = [node for node in self._inodes.active.values() if node.times_moved]
        if moved:
            await self._commit.writable(frees=True)  # rows stay as long as they are
            for node in moved:
                self._durability.store_times(node)
                self._inodes.drop_if_idle(node)

    async def _delete(self, inodes: list[InodeId]) -> None:
        with_chunks = [inode for inode in inodes if self._store.holds(inode)]
        gone = sorted({*inodes}.difference(with_chunks))
        if with_chunks:
            gone += await self._delete_chunks(with_chunks)
        await self._commit.writable(frees=True)
        self._marks.forget_orphans(gone)
        for inode in gone:
            self._inodes.discard(inode)

    async def _delete_chunks(self, inodes: list[InodeId]) -> list[InodeId]:
        """Delete the chunks of orphans; those of which that is done, durably, and which have few rows left."""
        await self._commit.commit()  # write-ahead: that they are orphans is durable before their chunks go
        gone: list[InodeId] = []
        todo = iter(inodes)

        async def work() -> None:
            for inode in todo:
                try:
                    await self._store.delete_file_chunks(inode)
                    gone.append(inode)
                except OSError as error:
                    self._stuck.add(inode)
                    log.error("deleting the chunks of inode %d: %s: the next mount tries again", inode, error)

        async with trio.open_nursery() as nursery:
            for _ in range(min(_DELETIONS_AT_ONCE, len(inodes))):
                nursery.start_soon(work)
        await self._store.fsync_deletions()
        for inode in gone:
            await self._commit.writable(frees=True)
            while self._marks.trim_chunk_rows(inode, _ROWS_AT_ONCE) == _ROWS_AT_ONCE:
                await trio.lowlevel.checkpoint()
                await self._commit.writable(frees=True)
        return gone


async def _attempt(what: str, work: Callable[[], Awaitable[None]]) -> None:
    """Do background work; a failure is logged and ends neither the task nor the mount."""
    try:
        await work()
    except VolumeReadOnly:
        pass  # logged once, where it failed
    except (FileSystemError, OSError) as error:
        log.error("%s: %s", what, error)
    except Exception:
        log.exception("%s: internal error", what)
