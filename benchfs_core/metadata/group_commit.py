"""When metadata becomes durable: commits shared by those who wait, WAL checkpoints, and the way into a change.

Imports trio; SQL stays in ``database``. Invariants: a transaction counts as durable only after a flush of the WAL that
began after its commit; a failed commit or flush ends all changing (DESIGN: the mount turns read-only); while a WAL
checkpoint catches up, no transaction begins that changes anything, and what was read by then is read anew, which is
what lets SQLite reuse the WAL from its start.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Awaitable, Callable

import trio

from benchfs_core.errors import MetadataFailed, NoSpace, VolumeReadOnly
from benchfs_core.metadata.database import Database
from benchfs_core.metadata.numbers import RESERVATION, Numbers
from benchfs_core.metadata.space import DatabaseSpace
from benchfs_core.metadata.wal import WalCheckpointer
from benchfs_core.meter import Meter, Part
from benchfs_core.shared_flush import SharedFlush

log = logging.getLogger(__name__)

WAL_CHECKPOINT_BYTES = 8 * 1024 * 1024
"""The WAL is copied into the database once it is this long."""

WAL_RESERVE_BYTES = 32 * 1024 * 1024
"""Allocated for the WAL beforehand, so that commits succeed on a full disk: deleting must always work."""

WAL_INDEX_RESERVE_BYTES = 128 * 1024
"""Allocated for the index of the WAL, which grows with it by 32 KiB every 16 MiB: that must succeed as well."""

_WAL_FOR_DELETING_BYTES = 8 * 1024 * 1024
"""The last part of the reserve, kept for changes that free space."""

_WAL_FOR_COMMITS_BYTES = 1024 * 1024
"""The very last part, for the commit of what was changed by then: one that fails ends all changing."""

_TRANSACTION_BYTES = 4 * 1024 * 1024
"""A transaction about this large is committed before more is changed: all of it must fit into the reserve. It is
flushed when somebody needs it durable, or where the WAL checkpoint lags behind."""

_NUMBERS_IN_HAND = 64
"""Below this many numbers a change waits for more: one change takes at most a few."""


class GroupCommit:
    """The durability of everything that ``MetadataManager`` changes."""

    def __init__(
        self,
        database: Database,
        numbers: Numbers,
        flush_wal: Callable[[], Awaitable[None]],
        checkpointer: WalCheckpointer | None,
        space: DatabaseSpace | None = None,
        meter: Meter | None = None,
    ) -> None:
        """Serve one database.

        Args:
            database: where the changes are made.
            numbers: the source that must not run dry.
            flush_wal: makes the WAL file durable; OSError if it cannot.
            checkpointer: copies the WAL into the database; None for a database in memory.
            space: what the database file may grow into; None for one in memory.
            meter: whose time is spent waiting here.
        """
        self._meter = meter or Meter()
        self._database = database
        self._numbers = numbers
        self._flush_wal = flush_wal
        self._checkpointer = checkpointer
        self._space = space
        self._shared = SharedFlush(self._commit_and_flush)
        self._durable = 0
        self._gate: trio.Event | None = None
        self._no_space: str | None = None
        self._has_much_to_flush = False
        """Whether large transactions were committed since the last flush."""
        self.wal_is_long = trio.Event()
        """Set when a WAL checkpoint is due."""

    @property
    def sequence(self) -> int:
        """Number of the open transaction: wait for this one to make durable what was just changed."""
        return self._database.sequence

    @property
    def last_change(self) -> int:
        """Number of the last transaction that has changes: wait for this one to make everything so far durable."""
        return self._database.sequence if self._database.has_changes else self._database.sequence - 1

    @property
    def shared_commits(self) -> int:
        """How many commits with a flush of the WAL were begun, each for all who waited; for metrics."""
        return self._shared.begun

    async def writable(self, *, frees: bool = False) -> None:
        """Wait until a change may be made; then the caller makes it before its next checkpoint.

        A checkpoint only if it must wait: for a WAL checkpoint to catch up, for a large transaction to become durable
        where that lags behind, or for numbers. Elsewhere a large transaction is committed here and not durable by that.

        Args:
            frees: the change frees space, and may use what is reserved for such.

        Raises:
            VolumeReadOnly: no change may be made at all.
            NoSpace: only changes that free space may be; where the WAL cannot be copied for long, not even those.
        """
        while True:
            self.raise_if_failed()
            if self._no_space is not None and self._wal_is_nearly_full(frees=frees):
                raise NoSpace(self._no_space)
            if self._space is not None and not frees:
                self._space.ensure(self._database.unsaved_bytes)
            if self._gate is not None:
                with self._meter.all_as(Part.METADATA):
                    await self._gate.wait()
            elif self._database.pending_bytes > self._most_pending():
                if self._database.wal_bytes < 2 * WAL_CHECKPOINT_BYTES:
                    self._commit()
                    self._has_much_to_flush = True
                else:  # the WAL checkpoint lags behind
                    await self.commit()
            elif self._numbers.remaining < _NUMBERS_IN_HAND:
                await self._reserve_numbers()
            else:
                return

    @property
    def failed(self) -> bool:
        """Whether a failure has ended all changing."""
        return self._database.failure is not None

    def raise_if_failed(self) -> None:
        """Raise VolumeReadOnly if a failure has ended all changing."""
        if self._database.failure is not None:
            raise VolumeReadOnly(self._database.failure)

    async def make_durable(self, sequence: int) -> None:
        """Return once transaction ``sequence`` is durable, along with everyone who waits at the same time.

        A checkpoint only if it is not durable yet.

        Raises:
            MetadataFailed: it is not, and cannot become so.
        """
        if sequence <= self._durable:
            return
        if self._database.failure is not None:
            raise MetadataFailed(self._database.failure)
        with self._meter.all_as(Part.METADATA):  # also for who leads the flush, and does its I/O for the others
            await self._shared.flush()
        assert sequence <= self._durable

    async def commit(self) -> None:
        """Make every change so far durable."""
        await self.make_durable(self.last_change)

    async def commit_interval(self) -> None:
        """What is due every commit interval: changes become durable, and numbers are reserved before anybody waits."""
        if self._numbers.remaining < RESERVATION // 2:
            await self.writable(frees=True)
            await self._reserve_numbers()
        if self._no_space is not None:
            self.wal_is_long.set()  # whoever makes space below need not change anything here
        await self.commit()

    async def checkpoint_wal(self) -> None:
        """Copy a long WAL into the database file and have SQLite start it anew; nothing if it is short.

        The bulk is copied while changes go on, the rest while they wait. Failing for want of space, it is due again at
        the next commit.
        """
        self.wal_is_long = trio.Event()
        if self._checkpointer is None or self._database.wal_bytes < WAL_CHECKPOINT_BYTES or self._database.failure:
            return
        try:
            await trio.to_thread.run_sync(self._checkpointer.run)
            self._gate = trio.Event()
            await self.commit()
            if await trio.to_thread.run_sync(self._checkpointer.run):
                self._database.wal_saved_bytes = self._database.wal_bytes
            self._database.end_snapshot()
            self._no_space = None
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                if self._no_space is None:
                    log.warning("WAL checkpoint: %s: it will be tried again", error)
                self._no_space = f"{self._database.path}: no space to grow"
            else:
                self._database.fail(f"WAL checkpoint failed: {error.strerror}")
        finally:
            if self._space is not None:
                self._space.refresh()
            if self._gate is not None:
                self._gate.set()
                self._gate = None

    def _wal_is_nearly_full(self, *, frees: bool) -> bool:
        kept_bytes = _WAL_FOR_COMMITS_BYTES if frees else _WAL_FOR_DELETING_BYTES
        return self._database.wal_bytes > WAL_RESERVE_BYTES - kept_bytes

    def _most_pending(self) -> int:
        """How large a transaction may be that more is added to."""
        left_bytes = WAL_RESERVE_BYTES - _WAL_FOR_COMMITS_BYTES - self._database.wal_bytes
        return min(_TRANSACTION_BYTES, max(0, left_bytes))

    async def _reserve_numbers(self) -> None:
        limit = self._numbers.reserve()
        await self.make_durable(self._database.sequence)
        self._numbers.confirm(limit)

    def _commit(self) -> int:
        """Append what was changed to the WAL; the number of the last transaction there. Not durable yet."""
        committed = self._database.commit()
        if self._database.wal_bytes >= WAL_CHECKPOINT_BYTES:
            self.wal_is_long.set()
        return committed

    async def _commit_and_flush(self) -> None:
        committed = self._commit()
        if committed <= self._durable:
            return  # those who came while the flush before this one ran had nothing newer to wait for
        if self._has_much_to_flush:
            self._has_much_to_flush = False
            await trio.lowlevel.checkpoint()  # what takes long is not to be flushed on the event loop (``LoneCalls``)
        try:
            await self._flush_wal()
        except OSError as error:
            self._database.fail(f"flush of the WAL failed: {error.strerror}")
            raise MetadataFailed(self._database.failure or "") from error
        self._durable = max(self._durable, committed)
