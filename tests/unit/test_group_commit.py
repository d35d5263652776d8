"""``GroupCommit``: shared flushes, what a failure ends, the gate of a WAL checkpoint, and a WAL that stays bounded."""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import apsw
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from benchfs_core.errors import MetadataFailed, VolumeReadOnly
from benchfs_core.metadata.database import Database
from benchfs_core.metadata.group_commit import WAL_CHECKPOINT_BYTES, GroupCommit
from benchfs_core.metadata.manager import MetadataManager
from benchfs_core.metadata.numbers import RESERVATION, Numbers
from benchfs_core.metadata.wal import WalCheckpointer
from benchfs_core.superblock import create_database
from benchfs_core.types import ROOT_INODE
from tests.support.faults import FaultPlan, Rule
from tests.support.faulty_database import faulty_vfs
from tests.support.volumes import OWNER


class Wal:
    """The flush of the WAL: counted, held back or failing as told."""

    def __init__(self) -> None:
        self.begun = 0
        self.ended = 0
        self.gate: trio.Event | None = None
        self.error: int | None = None

    async def flush(self) -> None:
        self.begun += 1
        await trio.lowlevel.checkpoint()
        if self.gate is not None:
            await self.gate.wait()
        if self.error is not None:
            raise OSError(self.error, os.strerror(self.error))
        self.ended += 1


class Metadata:
    """A database in a file, and the way to change it."""

    def __init__(self, path: Path) -> None:
        create_database(path, (0, 0), 1).close()
        self.wal = Wal()
        self.database = Database.open(path)
        self.numbers = Numbers(self.database)
        self.checkpointer = WalCheckpointer(path)
        self.commit = GroupCommit(self.database, self.numbers, self.wal.flush, self.checkpointer)
        self.manager = MetadataManager(self.database, self.numbers)
        self.made = 0

    async def make(self) -> int:
        """Make a file; the transaction that it is in."""
        await self.commit.writable()
        self.made += 1
        self.manager.create(ROOT_INODE, b"%d" % self.made, 0o100644, OWNER, 1)
        return self.commit.sequence


@pytest.fixture
async def metadata(tmp_path: Path) -> AsyncIterator[Metadata]:
    metadata = Metadata(tmp_path / "benchfs.db")
    with trio.fail_after(60):
        yield metadata
    metadata.checkpointer.close()
    metadata.database.close()


async def test_all_who_wait_share_one_flush(metadata: Metadata) -> None:
    sequence = await metadata.make()
    before = metadata.wal.begun
    async with trio.open_nursery() as nursery:
        for _ in range(100):
            nursery.start_soon(metadata.commit.make_durable, sequence)
    assert metadata.wal.begun == before + 1
    await metadata.commit.make_durable(sequence)
    assert metadata.wal.begun == before + 1, "durable already"


async def test_a_change_made_during_a_flush_waits_for_the_next(metadata: Metadata) -> None:
    first = await metadata.make()
    metadata.wal.gate = trio.Event()
    before = metadata.wal.begun
    done: list[str] = []

    async def wait(name: str, sequence: int) -> None:
        await metadata.commit.make_durable(sequence)
        done.append(name)
        assert metadata.wal.ended >= before + (1 if name == "first" else 2)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait, "first", first)
        await wait_all_tasks_blocked()
        second = await metadata.make()
        assert second == first + 1
        nursery.start_soon(wait, "second", second)
        await wait_all_tasks_blocked()
        assert done == []
        metadata.wal.gate.set()
    assert metadata.wal.begun == before + 2


async def test_commit_without_changes_waits_for_a_flush_under_way(metadata: Metadata) -> None:
    """What was committed but is not flushed is not durable."""
    await metadata.make()
    metadata.wal.gate = trio.Event()
    before = metadata.wal.ended
    async with trio.open_nursery() as nursery:
        nursery.start_soon(metadata.commit.commit)
        await wait_all_tasks_blocked()
        assert not metadata.database.has_changes
        nursery.start_soon(metadata.commit.commit)
        await wait_all_tasks_blocked()
        assert len(nursery.child_tasks) == 2
        metadata.wal.gate.set()
    assert metadata.wal.ended > before


async def test_commit_of_nothing_flushes_nothing(metadata: Metadata) -> None:
    await metadata.make()
    await metadata.commit.commit()
    before = metadata.wal.begun
    await metadata.commit.commit()
    await metadata.commit.make_durable(metadata.commit.last_change)
    assert metadata.wal.begun == before


async def test_a_failed_flush_ends_all_changing(metadata: Metadata) -> None:
    durable = await metadata.make()
    await metadata.commit.commit()
    lost = await metadata.make()
    metadata.wal.error = errno.EIO
    failures: list[str] = []

    async def wait() -> None:
        try:
            await metadata.commit.make_durable(lost)
        except MetadataFailed as error:
            failures.append(str(error))

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(wait)
    assert len(failures) == 3
    assert metadata.database.failure == "flush of the WAL failed: Input/output error"
    metadata.wal.error = None
    with pytest.raises(MetadataFailed):
        await metadata.commit.make_durable(lost)
    with pytest.raises(VolumeReadOnly):
        await metadata.commit.writable()
    with pytest.raises(VolumeReadOnly):
        metadata.manager.unlink(ROOT_INODE, b"1", 1)
    await metadata.commit.make_durable(durable)
    assert metadata.manager.lookup(ROOT_INODE, b"1").link_count == 1, "reading goes on"


async def test_no_change_begins_while_a_wal_checkpoint_catches_up(metadata: Metadata) -> None:
    while metadata.database.wal_bytes < WAL_CHECKPOINT_BYTES:
        for _ in range(500):
            await metadata.make()
        await metadata.commit.commit()
    await metadata.make()
    metadata.wal.gate = trio.Event()
    changed: list[int] = []

    async def change() -> None:
        changed.append(await metadata.make())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(metadata.commit.checkpoint_wal)
        while metadata.wal.begun == metadata.wal.ended:
            await trio.lowlevel.checkpoint()
        nursery.start_soon(change)
        await wait_all_tasks_blocked()
        assert changed == []
        metadata.wal.gate.set()
    assert len(changed) == 1


async def test_the_wal_stays_bounded(metadata: Metadata) -> None:
    """SQLite begins it anew only when everything in it was copied before a transaction begins."""
    wal = metadata.database.path.with_name("benchfs.db-wal")
    checkpoints = 0
    for _ in range(60):
        for _ in range(200):
            await metadata.make()
            inode = metadata.manager.lookup(ROOT_INODE, b"%d" % metadata.made).inode
            metadata.manager.xattrs.set(inode, b"user.x", bytes(4000), 1)
        await metadata.commit.commit()
        if metadata.commit.wal_is_long.is_set():
            await metadata.commit.checkpoint_wal()
            checkpoints += 1
    assert checkpoints >= 2
    assert wal.stat().st_size < 2 * WAL_CHECKPOINT_BYTES


async def test_the_wal_begins_anew_while_somebody_reads_between_all_changes(metadata: Metadata) -> None:
    """Reads share one transaction, which would keep SQLite from the start of the WAL if nobody ended it."""
    metadata.database.hold_snapshot()
    longest = restarts = 0
    while restarts < 3:
        for _ in range(500):
            metadata.manager.get(ROOT_INODE)
            await metadata.make()
        await metadata.commit.commit()
        metadata.manager.get(ROOT_INODE)
        before = metadata.database.wal_bytes
        longest = max(longest, before)
        if before >= WAL_CHECKPOINT_BYTES:
            await metadata.commit.checkpoint_wal()
            metadata.manager.get(ROOT_INODE)
            await metadata.make()
            await metadata.commit.commit()
            assert metadata.database.wal_bytes < before
            restarts += 1
    assert longest < 2 * WAL_CHECKPOINT_BYTES


async def test_reads_share_one_transaction_and_no_statement_is_planned_twice(metadata: Metadata) -> None:
    """Locks cost three times as much as a lookup, and planning four times, which no counter shows."""
    connection = metadata.database._connection
    assert connection.config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, -1) == 1
    metadata.database.hold_snapshot()
    for _ in range(20):
        await metadata.make()
    await metadata.commit.commit()
    begun = list[str]()

    def note(event: dict[str, Any]) -> None:
        begun.extend([event["sql"]] if event["sql"] == "BEGIN" else [])

    connection.trace_v2(apsw.SQLITE_TRACE_PROFILE, note)
    for number in range(1, 21):
        metadata.manager.lookup(ROOT_INODE, b"%d" % number)
        metadata.manager.get(ROOT_INODE)
    connection.trace_v2(0, None)
    assert begun == ["BEGIN"]


async def test_no_transaction_outgrows_what_is_reserved_for_the_wal(metadata: Metadata) -> None:
    """On a full disk one commit interval of large xattrs made a COMMIT fail, and the mount read-only."""
    await metadata.make()
    inode = metadata.manager.lookup(ROOT_INODE, b"%d" % metadata.made).inode
    await metadata.commit.commit()
    before, flushes = metadata.database.sequence, metadata.wal.begun
    for number in range(400):
        await metadata.commit.writable()
        metadata.manager.xattrs.set(inode, b"user.%d" % number, os.urandom(60_000), 1)
        assert metadata.database.pending_bytes < 5 << 20
        if metadata.database.wal_bytes < 2 * WAL_CHECKPOINT_BYTES:
            assert metadata.wal.begun == flushes, "nobody asked for what was changed to be durable"
    assert metadata.database.sequence - before >= 400 * 60_000 // (5 << 20)
    assert metadata.wal.begun > flushes, "who changes faster than the WAL is copied waits for the disk"


async def test_what_was_committed_for_its_size_alone_is_flushed_for_who_waits(metadata: Metadata) -> None:
    await metadata.make()
    inode = metadata.manager.lookup(ROOT_INODE, b"%d" % metadata.made).inode
    await metadata.commit.commit()
    metadata.manager.xattrs.set(inode, b"user.a", b"value", 1)
    waits_for, before = metadata.commit.last_change, metadata.database.sequence
    for number in range(100):
        await metadata.commit.writable()
        metadata.manager.xattrs.set(inode, b"user.%d" % (number % 8), os.urandom(60_000), 1)
    assert metadata.database.sequence > before
    flushes = metadata.wal.ended
    await metadata.commit.make_durable(waits_for)
    assert metadata.wal.ended == flushes + 1


async def test_much_that_is_to_be_flushed_is_not_flushed_in_the_turn_of_who_needs_it(metadata: Metadata) -> None:
    """A turn without a checkpoint is where flushes are made on the event loop (``LoneCalls``)."""
    await metadata.make()
    inode = metadata.manager.lookup(ROOT_INODE, b"%d" % metadata.made).inode
    for number, begun_at_once in ((1, 1), (100, 0)):
        await metadata.commit.commit()
        for _ in range(number):
            await metadata.commit.writable()
            metadata.manager.xattrs.set(inode, b"user.a", os.urandom(60_000), 1)
        flushes, work = metadata.wal.begun, metadata.commit.commit()
        work.send(None)
        assert metadata.wal.begun - flushes == begun_at_once
        work.close()


async def test_numbers_are_handed_out_below_a_durable_limit_only(metadata: Metadata) -> None:
    await metadata.commit.writable()
    high = metadata.database.first_row("SELECT high FROM number")[0]
    assert metadata.wal.ended == 1
    assert high >= metadata.numbers.take() + metadata.numbers.remaining
    while metadata.numbers.remaining > RESERVATION // 2 - 1:
        metadata.numbers.take()
    await metadata.commit.commit_interval()
    assert metadata.numbers.remaining >= RESERVATION - 1
    assert metadata.database.first_row("SELECT high FROM number")[0] > high


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_wal_checkpoint_tells_want_of_space_and_a_quota_from_a_failing_disk(tmp_path: Path, error: int) -> None:
    """A quota is an I/O error to SQLite; taken for one it ended all changing, where freeing space helps."""
    path, plan = tmp_path / "db", FaultPlan()
    database = create_database(path, (0, 0), 0)
    with faulty_vfs(plan) as vfs:
        checkpointer = WalCheckpointer(path, vfs)
        try:
            with database.change():
                database.execute("UPDATE number SET high = high + 1")
            database.commit()
            plan.rules.append(Rule("write", nth=plan.calls["write"] + 1, error=error))
            with pytest.raises(OSError, match=r"fault|full") as raised:
                checkpointer.run()
            assert (raised.value.errno, len(plan.fired)) == (error, 1)
            assert checkpointer.run()
        finally:
            checkpointer.close()
    database.close()
