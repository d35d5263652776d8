"""One test for each bug of the system this descends from, on whole volumes, in both file-backed stores and both modes.

The bugs of its ring and its handle cache have theirs beside the ring and the cache (tests/unit).
"""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from benchfs_core.errors import FlushFailed, NoSuchEntry, VolumeError
from benchfs_core.filesystem import FileSystem
from benchfs_core.types import ROOT_INODE, AttributeChange, StoreKind, SyncMode
from tests.support.faults import FaultPlan, FaultyIO, Rule
from tests.support.volumes import (
    CHUNK_SIZE,
    OWNER,
    findings,
    open_test_volume,
    read_file,
    read_inode,
    used_chunks,
    write_file,
)

MIB = 1024 * 1024


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return tmp_path / "volume"


@pytest.fixture(params=[StoreKind.FILE, StoreKind.IO_URING], ids=lambda kind: kind.value)
def store(request: pytest.FixtureRequest) -> StoreKind:
    return StoreKind(request.param)


@pytest.fixture(params=SyncMode, ids=lambda mode: mode.value)
def sync(request: pytest.FixtureRequest) -> SyncMode:
    return SyncMode(request.param)


@pytest.fixture
async def fs(source: Path, sync: SyncMode, store: StoreKind) -> AsyncIterator[FileSystem]:
    with trio.fail_after(60):
        async with open_test_volume(source, sync, store) as volume:
            yield volume.filesystem
    assert findings(source) == []


async def test_two_names_that_are_permutations_of_each_other(fs: FileSystem) -> None:
    """Identity was a hash that took the bytes of a name in any order."""
    names = [b"abc", b"acb", b"bac", b"bca", b"cab", b"cba"]
    inodes = {await write_file(fs, name, name) for name in names}
    assert len(inodes) == len(names)
    assert [await read_file(fs, name) for name in names] == names


async def test_a_request_across_three_chunks(fs: FileSystem) -> None:
    data = os.urandom(CHUNK_SIZE + 200)
    inode = await write_file(fs, b"f", data, offset=CHUNK_SIZE - 100)
    assert await read_inode(fs, inode) == bytes(CHUNK_SIZE - 100) + data
    handle = await fs.open(inode)
    assert bytes(await fs.read(handle, CHUNK_SIZE - 1, CHUNK_SIZE + 2)) == data[99 : 99 + CHUNK_SIZE + 2]
    await fs.release(handle)


async def test_a_hole_in_the_middle(fs: FileSystem, source: Path) -> None:
    """A chunk that was never written was EIO."""
    inode = await write_file(fs, b"f", b"begin")
    await write_file(fs, b"f", b"end", offset=3 * CHUNK_SIZE)
    assert await read_inode(fs, inode) == b"begin".ljust(3 * CHUNK_SIZE, b"\0") + b"end"
    assert used_chunks(source) == [f"{inode}/0", f"{inode}/3"]


async def test_truncate_down_then_extend(fs: FileSystem) -> None:
    """The bytes that had been cut off came back."""
    for size, grown in ((10, 5000), (CHUNK_SIZE, 3 * CHUNK_SIZE), (CHUNK_SIZE + 7, 2 * CHUNK_SIZE), (0, 100)):
        inode = await write_file(fs, b"f", b"x" * (3 * CHUNK_SIZE))
        await fs.setattr(inode, AttributeChange(), size)
        await fs.setattr(inode, AttributeChange(), grown)
        assert await read_inode(fs, inode) == b"x" * size + bytes(grown - size)
        await write_file(fs, b"f", b"y", offset=grown + 5)
        assert await read_inode(fs, inode) == b"x" * size + bytes(grown + 5 - size) + b"y"
        await fs.setattr(inode, AttributeChange(), 0)


async def test_unlink_and_recreate_the_same_name_under_open_handles(fs: FileSystem, source: Path) -> None:
    """The handle was cached by name: the old file's reader saw the new file."""
    old, before = await fs.create(ROOT_INODE, b"f", 0o644, OWNER)
    await fs.write(old, 0, b"old content")
    await fs.unlink(ROOT_INODE, b"f")
    new, after = await fs.create(ROOT_INODE, b"f", 0o644, OWNER)
    await fs.write(new, 0, b"new")
    assert before.inode != after.inode
    assert bytes(await fs.read(old, 0, 100)) == b"old content"
    await fs.write(old, 3, b"er")
    assert bytes(await fs.read(old, 0, 100)) == b"olderontent"
    assert bytes(await fs.read(new, 0, 100)) == b"new"
    await fs.release(old)
    await fs.forget(before.inode, 1)
    await _gone(source / "chunks" / str(before.inode))
    assert bytes(await fs.read(new, 0, 100)) == b"new"
    await fs.release(new)
    await fs.forget(after.inode, 1)


async def test_concurrent_partial_writes_to_one_chunk(fs: FileSystem) -> None:
    """Each read the chunk, changed its part and wrote all of it back: one of two was lost."""
    part, count = 500, 100
    handle, made = await fs.create(ROOT_INODE, b"f", 0o644, OWNER)
    data = os.urandom(part * count)
    async with trio.open_nursery() as nursery:
        for number in range(count):
            nursery.start_soon(fs.write, handle, number * part, data[number * part : (number + 1) * part])
    assert bytes(await fs.read(handle, 0, len(data) + 1)) == data
    await fs.release(handle)
    assert await read_inode(fs, made.inode) == data


async def test_a_request_larger_than_one_buffer(fs: FileSystem) -> None:
    """Whatever was beyond the first buffer was dropped."""
    data = os.urandom(2 * MIB + 12345)
    inode = await write_file(fs, b"f", data, offset=777)
    assert await read_inode(fs, inode) == bytes(777) + data


async def test_deleting_frees_disk_space(fs: FileSystem, source: Path) -> None:
    """Chunks of deleted files stayed for good."""
    inode = await write_file(fs, b"f", b"x" * (5 * CHUNK_SIZE))
    replaced = await write_file(fs, b"g", b"y" * CHUNK_SIZE)
    await fs.mknod(ROOT_INODE, b"h", 0o100644, OWNER)
    assert len(used_chunks(source)) == 6
    await fs.unlink(ROOT_INODE, b"f")
    await fs.rename(ROOT_INODE, b"h", ROOT_INODE, b"g")
    await _gone(source / "chunks" / str(inode))
    await _gone(source / "chunks" / str(replaced))
    assert used_chunks(source) == []
    with pytest.raises(NoSuchEntry):
        await fs.lookup(ROOT_INODE, b"f")


async def test_an_fsync_error_reaches_the_caller(source: Path, store: StoreKind) -> None:
    """It was logged. Now this fsync says so, every later one does, and so does unmounting."""
    plan = FaultPlan()
    with pytest.raises(VolumeError, match="not everything"):  # noqa: PT012 - the whole block is what ends so
        async with open_test_volume(source, SyncMode.FSYNC, store, wrap_io=lambda io: FaultyIO(io, plan)) as volume:
            fs = volume.filesystem
            handle, _ = await fs.create(ROOT_INODE, b"f", 0o644, OWNER)
            await fs.write(handle, 0, b"data")
            plan.rules.append(Rule("fdatasync", nth=plan.calls["fdatasync"] + 1, error=errno.EIO))
            for _ in range(3):
                with pytest.raises(FlushFailed):
                    await fs.fsync(handle)
            assert len(plan.fired) == 1, "the later calls fail although the kernel would say that all is well"
    assert findings(source) == []


async def _gone(chunks: Path) -> None:
    """Wait for the background deletion of a directory of chunks; the test's own limit ends the wait."""
    while chunks.exists():
        await trio.lowlevel.checkpoint()
