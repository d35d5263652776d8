"""Space for the database: what it will grow by is allocated, and a WAL that cannot be copied keeps to its reserve."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from benchfs_core.errors import NoSpace
from benchfs_core.metadata.database import Database
from benchfs_core.metadata.group_commit import WAL_CHECKPOINT_BYTES, WAL_RESERVE_BYTES, GroupCommit
from benchfs_core.metadata.manager import MetadataManager
from benchfs_core.metadata.numbers import Numbers
from benchfs_core.metadata.space import DatabaseSpace, open_database_file
from benchfs_core.metadata.wal import WalCheckpointer
from benchfs_core.superblock import create_database
from benchfs_core.types import ROOT_INODE, InodeId
from tests.support.volumes import OWNER

MIB = 1 << 20


async def nothing() -> None:
    pass


class FullDisk(WalCheckpointer):
    """Copies the WAL unless the disk is full, which it is to begin with."""

    full = True

    def run(self) -> bool:
        if self.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().run()


class Metadata:
    """A database in a file, and the way to change it."""

    def __init__(self, path: Path) -> None:
        create_database(path, (0, 0), 1).close()
        self.database = Database.open(path)
        self.numbers = Numbers(self.database)
        self.checkpointer = FullDisk(path)
        self.descriptor = open_database_file(path)
        self.space = DatabaseSpace(self.descriptor)
        self.commit = GroupCommit(self.database, self.numbers, nothing, self.checkpointer, self.space)
        self.manager = MetadataManager(self.database, self.numbers)
        self._made = 0

    async def make(self) -> InodeId:
        await self.commit.writable()
        self._made += 1
        return self.manager.create(ROOT_INODE, b"%d" % self._made, 0o100644, OWNER, 1).inode

    def close(self) -> None:
        self.checkpointer.close()
        self.database.close()
        self.space.close()


@pytest.fixture
def metadata(tmp_path: Path) -> Iterator[Metadata]:
    metadata = Metadata(tmp_path / "benchfs.db")
    yield metadata
    metadata.close()


async def test_a_wal_checkpoint_takes_back_what_is_allocated_and_it_is_allocated_anew(metadata: Metadata) -> None:
    """SQLite truncates the file; what was allocated before was taken for there, and a full disk had no space for it."""

    def allocated() -> int:
        return os.fstat(metadata.descriptor).st_blocks * 512 - os.fstat(metadata.descriptor).st_size

    metadata.checkpointer.full = False
    inode = await metadata.make()
    for _ in range(2):
        while metadata.database.wal_bytes < WAL_CHECKPOINT_BYTES:
            await metadata.commit.writable()
            assert allocated() >= metadata.database.unsaved_bytes
            metadata.manager.xattrs.set(inode, b"user.a", os.urandom(60_000), 1)
            await metadata.commit.commit()
        await metadata.commit.checkpoint_wal()
        await metadata.commit.writable()
        assert allocated() >= metadata.database.unsaved_bytes + 512 * 1024
        await metadata.make()
        await metadata.commit.commit()  # which begins the WAL anew


async def test_a_wal_that_cannot_be_copied_stays_within_its_reserve(metadata: Metadata) -> None:
    """Deleting on a full btrfs went on until the WAL had no space either, and the mount was read-only for good."""
    inode, commit, database = await metadata.make(), metadata.commit, metadata.database

    async def change() -> None:
        for number in range(10_000):
            await commit.writable(frees=True)
            metadata.manager.xattrs.set(inode, b"user.%d" % (number % 64), os.urandom(60_000), 1)
            if commit.wal_is_long.is_set():
                await commit.checkpoint_wal()

    with pytest.raises(NoSpace):
        await change()
    await commit.commit()
    assert database.failure is None
    assert WAL_RESERVE_BYTES - 2 * MIB < database.wal_bytes < WAL_RESERVE_BYTES
    # space is made by others, and noticed though nothing can be changed
    metadata.checkpointer.full = False
    await commit.commit_interval()
    assert commit.wal_is_long.is_set()
    await commit.checkpoint_wal()
    await metadata.make()


async def test_what_forgetting_orphans_adds_to_the_wal_is_not_underrated(metadata: Metadata) -> None:
    manager, database = metadata.manager, metadata.database
    made = [(await metadata.make(), b"%d" % (number + 1)) for number in range(4000)]
    for inode, _ in made:
        await metadata.commit.writable()
        manager.xattrs.set(inode, b"user.a", bytes(1000), 1)
    await metadata.commit.commit()
    gone = Random(1).sample(made, 256)
    for _, name in gone:
        manager.unlink(ROOT_INODE, name, 1)
    await metadata.commit.commit()
    before = database.wal_bytes
    manager.marks.forget_orphans([inode for inode, _ in gone])
    expected = database.pending_bytes
    await metadata.commit.commit()
    assert database.wal_bytes - before <= expected
