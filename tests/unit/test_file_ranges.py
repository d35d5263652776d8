"""Allocation, holes and copies of single files: the order of effects, sizes, content, and what failures leave."""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import product

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from benchfs_core.errors import BeyondEnd, FileTooLarge, FlushFailed, InvalidArgument, NoSpace, NotSupported
from benchfs_core.inodes import ActiveInode
from benchfs_core.types import MAX_FILE_BYTES, SyncMode
from tests.support.recording import Rig
from tests.support.volumes import CHUNK_SIZE

both_modes = pytest.mark.parametrize("sync", SyncMode)
FREE_BYTES = 1 << 30
INLINE_BYTES = 16384


async def allocate(rig: Rig, node: ActiveInode, offset: int, length: int, *, keep_size: bool = False) -> None:
    await rig.io.allocation.allocate(node, offset, length, free_bytes=FREE_BYTES, keep_size=keep_size, keep_times=False)


async def zero(rig: Rig, node: ActiveInode, offset: int, length: int, *, keep_size: bool = False) -> None:
    await rig.io.allocation.zero(node, offset, length, free_bytes=FREE_BYTES, keep_size=keep_size, keep_times=False)


async def punch(rig: Rig, node: ActiveInode, offset: int, length: int) -> None:
    await rig.io.allocation.punch(node, offset, length, keep_times=False)


async def copy(rig: Rig, source: ActiveInode, at: int, target: ActiveInode, to: int, length: int) -> int:
    return await rig.io.copies.copy(source, at, target, to, length, keep_times=False, beyond_is_hole=False)


async def content(rig: Rig, node: ActiveInode) -> bytes:
    return bytes(await rig.io.read(node, 0, node.size))


@asynccontextmanager
async def written(rig: Rig, length: int, *, clean: bool = True) -> AsyncIterator[ActiveInode]:
    """A file of that many bytes, clean or dirty."""
    node = await rig.file(b"%d" % len(rig.inodes.active))
    await rig.io.write(node, 0, b"d" * length)
    if clean:
        assert await rig.durability.clean(node)
        await rig.commit.commit()
    rig.events.clear()
    yield node
    await rig.durability.clean(node)
    assert not node.dirty
    await rig.commit.commit()
    assert rig.rule_breaches() == []


# The order of effects


@both_modes
@pytest.mark.parametrize("act", [allocate, zero, punch], ids=["allocate", "zero", "punch"])
async def test_the_dirty_mark_is_durable_before_anything_is_done_to_a_clean_file(sync: SyncMode, act: object) -> None:
    assert callable(act)
    async with Rig(sync) as rig, written(rig, 2 * CHUNK_SIZE) as node:
        await act(rig, node, 100, CHUNK_SIZE)
        assert rig.events[0] == "wal"
        assert {event.split()[0] for event in rig.events[1:]} & {"allocate", "zero"}


@both_modes
async def test_the_dirty_mark_is_durable_before_anything_is_copied_to_a_clean_file(sync: SyncMode) -> None:
    async with Rig(sync) as rig, written(rig, CHUNK_SIZE) as source, written(rig, CHUNK_SIZE) as target:
        assert await copy(rig, source, 0, target, 0, CHUNK_SIZE) == CHUNK_SIZE
        assert rig.events[:2] == ["wal", "copy 0+0"]


async def test_with_sync_write_what_was_punched_or_copied_is_flushed_before_the_answer() -> None:
    async with Rig(SyncMode.WRITE) as rig, written(rig, CHUNK_SIZE) as node, written(rig, CHUNK_SIZE) as target:
        await punch(rig, node, 0, 4096)
        assert rig.events == ["wal", "zero 0+0", "fsync 0"]
        rig.events.clear()
        await copy(rig, node, 0, target, 0, CHUNK_SIZE)
        assert rig.events == ["wal", "copy 0+0", "fsync 0"]


async def test_with_sync_fsync_it_waits_for_the_fsync() -> None:
    async with Rig(SyncMode.FSYNC) as rig, written(rig, CHUNK_SIZE) as node, written(rig, CHUNK_SIZE) as target:
        await punch(rig, node, 0, 4096)
        await copy(rig, node, 0, target, 0, CHUNK_SIZE)
        assert "fsync 0" not in rig.events
        for changed in (node, target):
            rig.events.clear()
            await rig.io.fsync(changed, datasync=False)
            assert rig.events[0] == "fsync 0"


async def test_with_sync_write_a_size_that_was_allocated_is_durable_on_return() -> None:
    async with Rig(SyncMode.WRITE) as rig, written(rig, 10) as node:
        await allocate(rig, node, 0, 2 * CHUNK_SIZE)
        assert (rig.events[0], rig.events[-1]) == ("wal", "wal")
        assert sorted(rig.events[1:-1]) == ["allocate 0+0", "allocate 1+0"]
        assert rig.metadata.get(node.inode).size == node.size == 2 * CHUNK_SIZE


@both_modes
async def test_a_cut_under_way_is_made_before_anything_is_allocated_beyond_it(sync: SyncMode) -> None:
    async with Rig(sync) as rig, written(rig, 3 * CHUNK_SIZE, clean=False) as node:
        await rig.io.truncate(node, CHUNK_SIZE)
        rig.events.clear()
        await allocate(rig, node, 2 * CHUNK_SIZE, 100)
        assert rig.events.index("delete 2") < rig.events.index("allocate 2+0")
        assert await content(rig, node) == b"d" * CHUNK_SIZE + bytes(CHUNK_SIZE + 100)


# Allocation


@both_modes
async def test_beyond_the_end_the_size_stays_or_grows_as_asked(sync: SyncMode) -> None:
    async with Rig(sync) as rig, written(rig, 10) as node:
        await allocate(rig, node, 0, 3 * CHUNK_SIZE, keep_size=True)
        assert node.size == 10
        await rig.io.refresh_blocks(node)
        assert node.blocks == 3 * CHUNK_SIZE // 512
        assert await rig.durability.clean(node)
        assert rig.rule_breaches() == []  # chunks of no length lie beyond the end
        await allocate(rig, node, 0, 3 * CHUNK_SIZE - 5)
        assert await content(rig, node) == b"d" * 10 + bytes(3 * CHUNK_SIZE - 15)


@both_modes
@pytest.mark.parametrize("size", [10, 5, 2 * CHUNK_SIZE])
async def test_a_truncate_gives_back_what_is_allocated_beyond_it(sync: SyncMode, size: int) -> None:
    async with Rig(sync) as rig, written(rig, 10) as node:
        await allocate(rig, node, 0, 4 * CHUNK_SIZE, keep_size=size <= 10)
        await rig.io.truncate(node, size)
        await rig.durability.make_cut(node)
        await rig.io.refresh_blocks(node)
        assert node.blocks <= -(-size // CHUNK_SIZE) * CHUNK_SIZE // 512
        assert (await content(rig, node)).rstrip(b"\0") == b"d" * min(size, 10)


async def test_what_cannot_be_is_refused_before_a_chunk_is_made() -> None:
    async with Rig(SyncMode.WRITE, inline_bytes=INLINE_BYTES) as rig:
        node = await rig.file()
        for keep_size in (False, True):
            with pytest.raises(NoSpace):
                await allocate(rig, node, 0, FREE_BYTES + 1, keep_size=keep_size)
            with pytest.raises(NoSpace):
                await zero(rig, node, 0, MAX_FILE_BYTES, keep_size=keep_size)
        assert (node.size, node.inline, await rig.store.list_chunks(node.inode)) == (0, b"", [])
        await punch(rig, node, 0, MAX_FILE_BYTES)


async def test_what_is_allocated_already_needs_no_space() -> None:
    async with Rig(SyncMode.FSYNC) as rig, written(rig, CHUNK_SIZE) as node:
        await rig.io.allocation.allocate(node, 0, CHUNK_SIZE, free_bytes=0, keep_size=False, keep_times=False)


@pytest.mark.parametrize(("offset", "length"), [(-1, 5), (0, 0), (0, -1), (5, -5)])
async def test_impossible_ranges(offset: int, length: int) -> None:
    async with Rig(SyncMode.FSYNC) as rig:
        node = await rig.file()
        for act in (allocate, zero, punch):
            with pytest.raises(InvalidArgument):
                await act(rig, node, offset, length)
            with pytest.raises(FileTooLarge):
                await act(rig, node, MAX_FILE_BYTES - 10, 11)


@both_modes
async def test_a_failure_in_the_middle_leaves_size_and_content(sync: SyncMode) -> None:
    async with Rig(sync) as rig, written(rig, 10) as node:
        rig.store.fail("allocate_chunk", errno.ENOSPC)
        with pytest.raises(OSError, match="No space"):
            await allocate(rig, node, 0, 3 * CHUNK_SIZE)
        assert await content(rig, node) == b"d" * 10
        rig.store.fail("allocate_chunk", NotSupported("not here"))
        with pytest.raises(NotSupported):
            await allocate(rig, node, 0, 3 * CHUNK_SIZE)
        rig.store.fail("allocate_chunk", NotSupported("not here"))
        await zero(rig, node, 5, 100)
        assert await content(rig, node) == b"d" * 5 + bytes(100)


async def test_small_content_moves_to_where_there_is_space() -> None:
    async with Rig(SyncMode.WRITE, inline_bytes=INLINE_BYTES) as rig:
        node = await rig.file()
        await rig.io.write(node, 0, b"small")
        await allocate(rig, node, 0, 4096)
        assert node.inline is None
        assert await content(rig, node) == b"small" + bytes(4091)
        [chunk] = await rig.store.list_chunks(node.inode)
        assert (chunk.length, chunk.blocks) == (5, 8)


async def test_small_content_is_punched_where_it_is() -> None:
    async with Rig(SyncMode.WRITE, inline_bytes=INLINE_BYTES) as rig:
        node = await rig.file()
        await rig.io.write(node, 0, b"small content")
        rig.events.clear()
        await punch(rig, node, 2, 4)
        await punch(rig, node, 100, 4)
        assert node.inline == b"sm\0\0\0\0content"
        assert node.size == 13
        assert set(rig.events) == {"wal"}


# Zeros


@both_modes
@pytest.mark.parametrize(
    ("offset", "length"),
    [(0, 10), (5, 3 * CHUNK_SIZE - 10), (CHUNK_SIZE, CHUNK_SIZE), (3 * CHUNK_SIZE - 1, 50), (9 * CHUNK_SIZE, 5)],
)
async def test_zeros_are_where_they_were_asked_for(sync: SyncMode, offset: int, length: int) -> None:
    size = 3 * CHUNK_SIZE
    expected = bytearray(b"d" * size)
    expected[offset : offset + length] = bytes(max(0, min(size, offset + length) - offset))
    async with Rig(sync) as rig:
        for clean in (True, False):
            async with written(rig, size, clean=clean) as node:
                await punch(rig, node, offset, length)
                assert await content(rig, node) == expected
            async with written(rig, size, clean=clean) as node:
                await zero(rig, node, offset, length, keep_size=True)
                assert await content(rig, node) == expected
                await zero(rig, node, offset, length)
                assert await content(rig, node) == bytes(expected).ljust(offset + length, b"\0")


async def test_a_flush_that_fails_is_told_to_who_punched_and_to_the_next_fsync() -> None:
    async with Rig(SyncMode.WRITE) as rig, written(rig, CHUNK_SIZE) as node:
        rig.store.fail("fsync_chunk", errno.EIO)
        with pytest.raises(FlushFailed):
            await punch(rig, node, 0, 4096)
        with pytest.raises(FlushFailed):
            await rig.io.fsync(node, datasync=False)
        await rig.io.write(node, 0, b"d" * CHUNK_SIZE)


async def test_space_that_is_allocated_brings_nothing_back_that_was_lost() -> None:
    async with Rig(SyncMode.FSYNC) as rig, written(rig, CHUNK_SIZE, clean=False) as node:
        rig.store.fail("fsync_chunk", errno.EIO)
        for _ in range(2):
            with pytest.raises(FlushFailed):
                await rig.io.fsync(node, datasync=False)
            await allocate(rig, node, 0, CHUNK_SIZE)
        await zero(rig, node, 0, CHUNK_SIZE)
        await rig.io.fsync(node, datasync=False)


# Holes


async def test_holes_are_found_across_chunks_and_at_the_end() -> None:
    async with Rig(SyncMode.FSYNC) as rig, written(rig, 100) as node:
        seek = rig.io.holes.seek
        await rig.io.write(node, 5 * CHUNK_SIZE, b"d" * (CHUNK_SIZE + 8192))
        await rig.io.truncate(node, 9 * CHUNK_SIZE + 7)
        for offset, data, found in (
            *((0, True, 0), (99, True, 99), (4096, True, 5 * CHUNK_SIZE), (6 * CHUNK_SIZE, True, 6 * CHUNK_SIZE)),
            *((0, False, 4096), (5 * CHUNK_SIZE, False, 6 * CHUNK_SIZE + 8192), (70000, False, 70000)),
            (9 * CHUNK_SIZE + 6, False, 9 * CHUNK_SIZE + 6),
        ):
            assert await seek(node, offset, data=data, settle=None) == found, (offset, data)
        for offset, data in ((6 * CHUNK_SIZE + 8192, True), (node.size, True), (node.size, False), (-1, False)):
            with pytest.raises(BeyondEnd):
                await seek(node, offset, data=data, settle=None)


async def test_what_a_cut_leaves_to_be_cut_is_a_hole() -> None:
    async with Rig(SyncMode.FSYNC) as rig, written(rig, 3 * CHUNK_SIZE) as node:
        await rig.io.truncate(node, CHUNK_SIZE)
        assert node.cut.pending == CHUNK_SIZE
        node.size = 2 * CHUNK_SIZE  # as between two steps of a truncate
        assert await rig.io.holes.seek(node, 0, data=False, settle=None) == CHUNK_SIZE
        with pytest.raises(BeyondEnd):
            await rig.io.holes.seek(node, CHUNK_SIZE, data=True, settle=None)
        node.size = CHUNK_SIZE


async def test_small_content_is_data_and_what_follows_it_a_hole() -> None:
    async with Rig(SyncMode.FSYNC, inline_bytes=INLINE_BYTES) as rig:
        node, seek = await rig.file(), rig.io.holes.seek
        with pytest.raises(BeyondEnd):
            await seek(node, 0, data=True, settle=None)
        await rig.io.write(node, 0, b"small")
        assert await seek(node, 2, data=True, settle=None) == 2
        assert await seek(node, 0, data=False, settle=None) == 5
        await rig.io.truncate(node, 10_000)
        assert await seek(node, 0, data=False, settle=None) == 4096
        with pytest.raises(BeyondEnd):
            await seek(node, 5, data=True, settle=None)


@pytest.mark.parametrize("data", [True, False])
async def test_nothing_is_told_as_a_hole_before_others_have_said_what_is_there(data: bool) -> None:
    """Whoever keeps writes to itself is asked about each hole; what it then writes counts, beyond the end too."""
    async with Rig(SyncMode.FSYNC) as rig, written(rig, 100) as node:
        asked: list[tuple[int, int]] = []

        async def settle(start: int, end: int) -> None:
            asked.append((start, end))
            for offset in (4096, 3 * CHUNK_SIZE):
                if start <= offset < end and len(asked) == 1:
                    await rig.io.write(node, offset, b"late" * 1024)

        found = await rig.io.holes.seek(node, 8192 if data else 0, data=data, settle=settle)
        assert found == (3 * CHUNK_SIZE if data else 8192)
        assert asked == [(8192, MAX_FILE_BYTES)] if data else [(100, MAX_FILE_BYTES)]


async def test_nobody_is_asked_about_data() -> None:
    async def settle(start: int, end: int) -> None:
        raise AssertionError((start, end))

    async with Rig(SyncMode.FSYNC) as rig, written(rig, 100) as node:
        assert await rig.io.holes.seek(node, 50, data=True, settle=settle) == 50


# Copies


@both_modes
@pytest.mark.parametrize(
    ("at", "to"), list(product((0, 1000, CHUNK_SIZE, 2 * CHUNK_SIZE + 5), (0, 7, CHUNK_SIZE, 3 * CHUNK_SIZE + 9)))
)
async def test_copies_are_what_the_source_was(sync: SyncMode, at: int, to: int) -> None:
    async with Rig(sync) as rig, written(rig, 50) as source, written(rig, CHUNK_SIZE + 50) as target:
        for number, index in enumerate((0, 1, 3)):  # a hole where chunk 2 would be
            await rig.io.write(source, index * CHUNK_SIZE + number, bytes([65 + number]) * (CHUNK_SIZE - 100))
        await rig.io.truncate(source, 5 * CHUNK_SIZE)  # and at the end
        whole, before = await content(rig, source), await content(rig, target)
        copied = await copy(rig, source, at, target, to, 10 * CHUNK_SIZE)
        assert copied == len(whole) - at
        expected = before.ljust(to, b"\0")[:to] + whole[at:] + before[to + copied :]
        assert await content(rig, target) == expected
        assert rig.metadata.get(target.inode).size <= target.size == len(expected)


@both_modes
async def test_a_copy_below_a_cut_that_is_yet_to_be_made_shows_nothing_of_what_was_cut_off(sync: SyncMode) -> None:
    async with Rig(sync) as rig, written(rig, 100) as source, written(rig, 2 * CHUNK_SIZE) as target:
        await rig.io.truncate(target, CHUNK_SIZE + 500)
        assert target.cut.pending == CHUNK_SIZE + 500
        await copy(rig, source, 0, target, CHUNK_SIZE + 10, 100)
        assert await content(rig, target) == b"d" * (CHUNK_SIZE + 500)


@both_modes
async def test_a_copy_over_data_leaves_holes_of_the_source(sync: SyncMode) -> None:
    async with Rig(sync) as rig, written(rig, 10) as source, written(rig, 4 * CHUNK_SIZE) as target:
        await rig.io.truncate(source, 3 * CHUNK_SIZE)
        assert await copy(rig, source, 0, target, 0, 3 * CHUNK_SIZE) == 3 * CHUNK_SIZE
        expected = b"d" * 10 + bytes(3 * CHUNK_SIZE - 10) + b"d" * CHUNK_SIZE
        assert await content(rig, target) == expected


@pytest.mark.parametrize("sizes", list(product((0, 10, INLINE_BYTES + 1, 3 * CHUNK_SIZE), repeat=2)))
async def test_copies_of_and_to_small_files(sizes: tuple[int, int]) -> None:
    async with Rig(SyncMode.WRITE, inline_bytes=INLINE_BYTES) as rig:
        source, target = await rig.file(b"s"), await rig.file(b"t")
        await rig.io.write(source, 0, b"s" * sizes[0])
        await rig.io.truncate(source, sizes[0] + 5000)
        await rig.io.write(target, 0, b"t" * sizes[1])
        done = 0
        while more := await copy(rig, source, done, target, done + 3, 1 << 20):
            done += more
        assert done == sizes[0] + 5000
        expected = (b"t" * sizes[1])[:3].ljust(3, b"\0") + b"s" * sizes[0] + bytes(5000)
        assert await content(rig, target) == expected + (b"t" * sizes[1])[len(expected) :]


async def test_bytes_that_only_the_caller_knows_of_are_a_hole() -> None:
    async with Rig(SyncMode.FSYNC) as rig, written(rig, 10) as source, written(rig, 10) as target:
        copied = await rig.io.copies.copy(source, 0, target, 5, CHUNK_SIZE * 2, keep_times=False, beyond_is_hole=True)
        assert copied == 2 * CHUNK_SIZE
        assert await content(rig, target) == b"d" * 15 + bytes(2 * CHUNK_SIZE - 10)


@pytest.mark.parametrize(("at", "to", "length"), [(0, 0, 1), (0, 5, 10), (5, 0, 10), (-1, 0, 5), (0, -1, 5)])
async def test_impossible_copies(at: int, to: int, length: int) -> None:
    async with Rig(SyncMode.FSYNC) as rig, written(rig, 100) as node:
        with pytest.raises(InvalidArgument):
            await copy(rig, node, at, node, to, length)


async def test_a_copy_within_a_file() -> None:
    async with Rig(SyncMode.WRITE) as rig, written(rig, 100) as node:
        assert await copy(rig, node, 0, node, CHUNK_SIZE - 50, 100) == 100
        assert await content(rig, node) == b"d" * 100 + bytes(CHUNK_SIZE - 150) + b"d" * 100


@both_modes
async def test_a_failed_copy_leaves_nothing_beyond_the_end(sync: SyncMode) -> None:
    async with Rig(sync) as rig, written(rig, 3 * CHUNK_SIZE) as source, written(rig, 10) as target:
        await rig.io.write(source, 2 * CHUNK_SIZE, b"later")
        rig.store.fail("copy_chunk", errno.ENOSPC, after=True)
        with pytest.raises(OSError, match="No space"):
            await copy(rig, source, 0, target, CHUNK_SIZE, CHUNK_SIZE)
        assert await content(rig, target) == b"d" * 10
        await rig.io.truncate(target, 3 * CHUNK_SIZE)
        assert await content(rig, target) == b"d" * 10 + bytes(3 * CHUNK_SIZE - 10)


async def test_a_copy_that_could_not_be_flushed_leaves_nothing_beyond_the_end() -> None:
    async with Rig(SyncMode.WRITE) as rig, written(rig, CHUNK_SIZE) as source, written(rig, 10) as target:
        rig.store.fail("fsync_chunk", errno.EIO)
        with pytest.raises(FlushFailed):
            await copy(rig, source, 0, target, CHUNK_SIZE, CHUNK_SIZE)
        assert await content(rig, target) == b"d" * 10
        await rig.io.truncate(target, 2 * CHUNK_SIZE)
        assert await content(rig, target) == b"d" * 10 + bytes(2 * CHUNK_SIZE - 10)


async def test_copies_both_ways_and_truncates_do_not_wait_for_each_other() -> None:
    """Both files are held, each with a truncate in line behind: in two orders, nobody would ever go on."""
    async with Rig(SyncMode.FSYNC) as rig, written(rig, CHUNK_SIZE) as one, written(rig, CHUNK_SIZE) as other:
        rig.store.hold("copy_chunk")
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(copy, rig, one, 0, other, 0, 100)
                nursery.start_soon(copy, rig, other, 200, one, 200, 100)
                await wait_all_tasks_blocked()
                for node in (one, other):
                    nursery.start_soon(rig.io.truncate, node, 50_000)
                await wait_all_tasks_blocked()
                nursery.start_soon(copy, rig, one, 300, other, 300, 100)
                nursery.start_soon(copy, rig, other, 400, one, 400, 100)
                await wait_all_tasks_blocked()
                rig.store.release("copy_chunk")
