"""What reads show while cuts are pending, after failures, and when requests run at the same time; crash copies."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from benchfs_core.errors import FileTooLarge
from benchfs_core.types import MAX_FILE_BYTES, ROOT_INODE, AttributeChange, SyncMode
from tests.support.faults import FaultPlan, FaultyIO, Rule
from tests.support.recording import Rig
from tests.support.volumes import (
    CHUNK_SIZE,
    OWNER,
    crash_copy,
    findings,
    open_test_volume,
    read_file,
    read_inode,
    write_file,
)

both_modes = pytest.mark.parametrize("sync", SyncMode)


@both_modes
async def test_beyond_a_pending_cut_reads_are_zeros(sync: SyncMode) -> None:
    """Also where the file is longer again than the cut: nothing from before the truncate shows."""
    async with Rig(sync) as rig:
        node = await rig.file()
        await rig.io.write(node, 0, b"x" * (3 * CHUNK_SIZE))
        await rig.io.truncate(node, CHUNK_SIZE + 5)
        rig.store.hold("truncate_chunk")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.io.write, node, 2 * CHUNK_SIZE, b"new")
            await wait_all_tasks_blocked()
            assert bytes(await rig.io.read(node, 0, 2 * CHUNK_SIZE)) == b"x" * (CHUNK_SIZE + 5)
            rig.store.release("truncate_chunk")
        expected = b"x" * (CHUNK_SIZE + 5) + bytes(CHUNK_SIZE - 5) + b"new"
        assert bytes(await rig.io.read(node, 0, 9 * CHUNK_SIZE)) == expected


async def test_what_cannot_be_cut_stays_hidden() -> None:
    """A write that failed beyond the end left bytes, and cutting them off failed: growth must not show them."""
    async with Rig(SyncMode.FSYNC) as rig:
        node = await rig.file()
        await rig.io.write(node, 0, b"x" * 10)
        rig.store.fail("write_chunk", errno.ENOSPC, after=True)
        rig.store.fail("truncate_chunk", errno.EIO)
        with pytest.raises(OSError, match="No space"):
            await rig.io.write(node, 10, b"stale" * 10)
        assert node.size == 10
        rig.store.fail("truncate_chunk", errno.EIO)
        with pytest.raises(OSError, match="Input/output"):
            await rig.io.truncate(node, 100)
        assert node.size == 10
        await rig.io.truncate(node, 100)
        assert bytes(await rig.io.read(node, 0, 200)) == b"x" * 10 + bytes(90)


@both_modes
async def test_a_failed_write_beyond_the_end_leaves_size_and_no_bytes(tmp_path: Path, sync: SyncMode) -> None:
    """The second of three chunks cannot be written; the third was, all the same."""
    plan = FaultPlan()
    async with open_test_volume(tmp_path / "v", sync, wrap_io=lambda io: FaultyIO(io, plan)) as volume:
        fs = volume.filesystem
        inode = await write_file(fs, b"f", b"x" * 100)
        handle = await fs.open(inode)
        plan.rules.append(Rule("write", nth=plan.calls["write"] + 2, error=errno.ENOSPC))
        with pytest.raises(OSError) as raised:
            await fs.write(handle, 100, b"stale!" * (2 * CHUNK_SIZE // 6))
        assert raised.value.errno == errno.ENOSPC
        assert len(plan.fired) == 1
        assert (await fs.getattr(inode)).size == 100
        await fs.setattr(inode, AttributeChange(), 4 * CHUNK_SIZE)
        assert await read_inode(fs, inode) == (b"x" * 100).ljust(4 * CHUNK_SIZE, b"\0")
        await fs.release(handle)
    assert findings(tmp_path / "v") == []


async def test_after_fsync_a_recorded_cut_is_not_made_again(tmp_path: Path) -> None:
    async with open_test_volume(tmp_path / "v", SyncMode.FSYNC) as volume:
        fs = volume.filesystem
        inode = await write_file(fs, b"f", b"x" * 1000)
        handle = await fs.open(inode, truncate=True)
        await fs.write(handle, 0, b"y" * 500)
        await fs.fsync(handle)
        crash_copy(tmp_path / "v", tmp_path / "crashed")
        await fs.release(handle)
    async with open_test_volume(tmp_path / "crashed", SyncMode.FSYNC) as volume:
        assert await read_file(volume.filesystem, b"f") == b"y" * 500
    assert findings(tmp_path / "crashed") == []


@both_modes
@pytest.mark.parametrize("sizes", [(800, 300), (300, 200, 250), (CHUNK_SIZE, 0), (0, 2 * CHUNK_SIZE, 5)])
async def test_truncating_more_than_once_then_fsync(tmp_path: Path, sync: SyncMode, sizes: tuple[int, ...]) -> None:
    content = b"x" * (2 * CHUNK_SIZE + 100)
    async with open_test_volume(tmp_path / "v", sync) as volume:
        fs = volume.filesystem
        inode = await write_file(fs, b"f", content)
        handle = await fs.open(inode)
        for size in sizes:
            await fs.setattr(inode, AttributeChange(), size)
            content = content[:size].ljust(size, b"\0")
        if sync is SyncMode.FSYNC:
            await fs.fsync(handle)
        crash_copy(tmp_path / "v", tmp_path / "crashed")
        await fs.release(handle)
    for _ in range(2):  # the second time after an orderly end
        async with open_test_volume(tmp_path / "crashed", sync) as volume:
            assert await read_file(volume.filesystem, b"f") == content
        assert findings(tmp_path / "crashed") == []


async def test_a_truncate_waits_for_requests_and_they_for_it() -> None:
    async with Rig(SyncMode.FSYNC) as rig:
        node = await rig.file()
        await rig.io.write(node, 0, b"x" * 100)
        rig.store.hold("write_chunk", 1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.io.write, node, 0, b"y" * 100)
            await wait_all_tasks_blocked()
            nursery.start_soon(rig.io.truncate, node, 10)
            await wait_all_tasks_blocked()
            nursery.start_soon(rig.io.write, node, 20, b"z")
            await wait_all_tasks_blocked()
            assert node.size == 100
            rig.store.release("write_chunk")
        assert bytes(await rig.io.read(node, 0, 100)) == b"y" * 10 + bytes(10) + b"z"


@both_modes
async def test_a_read_does_not_overtake_a_write(sync: SyncMode) -> None:
    """It waits for what overlaps and was asked for earlier, whether that ends well or not, and for nothing else."""
    async with Rig(sync) as rig:
        node = await rig.file()
        await rig.io.write(node, 0, b"x" * 100)
        rig.store.hold("write_chunk", 1)
        found: list[bytes] = []

        async def read() -> None:
            found.append(bytes(await rig.io.read(node, 90, 4096)))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.io.write, node, 100, b"y" * 5)
            await wait_all_tasks_blocked()
            nursery.start_soon(read)
            await wait_all_tasks_blocked()
            assert not found
            with trio.fail_after(1):
                assert bytes(await rig.io.read(node, 0, 100)) == b"x" * 100
            rig.store.release("write_chunk")
        assert found == [b"x" * 10 + b"y" * 5]
        rig.store.fail("write_chunk", errno.EIO)
        with pytest.raises(OSError):
            await rig.io.write(node, 105, b"z")
        await read()
        assert found[1] == found[0]


@both_modes
@pytest.mark.parametrize("seed", range(8))
async def test_truncates_writes_and_reads_at_the_same_time_show_nothing_false(seed: int, sync: SyncMode) -> None:
    """Each byte is zero or what a write put at its place: every write puts a byte that its place alone decides."""
    async with Rig(sync) as rig:
        node = await rig.file()
        image = bytes(place % 251 + 1 for place in range(3 * CHUNK_SIZE))

        async def read() -> None:
            found = bytes(await rig.io.read(node, 0, len(image)))
            assert all(here in (0, there) for here, there in zip(found, image, strict=False))

        async with trio.open_nursery() as nursery:
            for step in range(12):
                at = (seed * 7919 + step * 40_503) % (2 * CHUNK_SIZE)
                nursery.start_soon(rig.io.write, node, at, image[at : at + 30_000 + step])
                nursery.start_soon(rig.io.truncate, node, (at * 3) % len(image))
                nursery.start_soon(read)
        await read()
        await rig.io.fsync(node, datasync=False)
        assert await rig.durability.clean(node)
        assert rig.rule_breaches() == []


async def test_no_file_passes_the_size_limit() -> None:
    async with Rig(SyncMode.FSYNC) as rig:
        node = await rig.file()
        with pytest.raises(FileTooLarge):
            await rig.io.write(node, MAX_FILE_BYTES, b"x")
        with pytest.raises(FileTooLarge):
            await rig.io.truncate(node, MAX_FILE_BYTES + 1)
        await rig.io.truncate(node, MAX_FILE_BYTES)
        assert bytes(await rig.io.read(node, MAX_FILE_BYTES - 3, 100)) == bytes(3)


async def test_bytes_of_a_crashed_write_may_stay_but_nothing_of_another_file(tmp_path: Path) -> None:
    """The chunk directory of a file that was never committed does not become another file's content."""
    async with open_test_volume(tmp_path / "v", SyncMode.FSYNC) as volume:
        lost = await write_file(volume.filesystem, b"lost", b"secret" * 100)
        crash_copy(tmp_path / "v", tmp_path / "crashed")
    assert (tmp_path / "crashed" / "chunks" / str(lost)).exists()
    async with open_test_volume(tmp_path / "crashed", SyncMode.FSYNC) as volume:
        assert volume.recovered.unclaimed == 1
        for number in range(50):
            handle, made = await volume.filesystem.create(ROOT_INODE, b"%d" % number, 0o644, OWNER)
            assert made.inode > lost
            assert bytes(await volume.filesystem.read(handle, 0, 1000)) == b""
    assert not (tmp_path / "crashed" / "chunks" / str(lost)).exists()
    assert findings(tmp_path / "crashed") == []
