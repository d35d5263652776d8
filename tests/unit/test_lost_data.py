"""What a failed flush may have lost, as ranges (against a set of bytes), and who is told of it, by ``FileSystem``."""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchfs_core.errors import FlushFailed, VolumeError
from benchfs_core.filesystem import FileSystem
from benchfs_core.lost_data import MAX_RANGES, LostData
from benchfs_core.types import ROOT_INODE, AttributeChange, HandleId, SyncMode
from benchfs_fuse.translate import to_errno
from tests.support.faults import FaultPlan, FaultyIO, Rule
from tests.support.volumes import CHUNK_SIZE, OWNER, findings, open_test_volume

RANGE = st.tuples(st.integers(0, 30), st.integers(1, 10)).map(lambda pair: (pair[0], sum(pair)))
STEP = st.one_of(
    st.tuples(st.sampled_from(["note", "rewritten", "rewritten late"]), RANGE),
    st.tuples(st.just("cut"), st.integers(0, 40).map(lambda size: (size, size))),
)


@given(st.lists(STEP, max_size=12))
def test_ranges_are_the_bytes_they_stand_for(steps: list[tuple[str, tuple[int, int]]]) -> None:
    lost, model = LostData(), set[int]()
    for verb, (start, end) in steps:
        if verb == "note":
            lost.note(start, end, FlushFailed("why"))
            model |= set(range(start, end))
        elif verb == "rewritten":
            lost.rewritten(start, end, lost.failures)
            model -= set(range(start, end))
        elif verb == "cut":
            lost.cut(start)
            model = {byte for byte in model if byte < start}
        else:
            lost.rewritten(start, end, lost.failures - 1)
        assert [size for size in range(42) if lost.remains(size)] == [
            size for size in range(42) if any(byte < size for byte in model)
        ]


def test_too_many_pieces_stay_lost_rather_than_be_forgotten() -> None:
    lost = LostData()
    lost.note(0, 4 * MAX_RANGES, FlushFailed("why"))
    for offset in range(1, 4 * MAX_RANGES, 2):
        lost.rewritten(offset, offset + 1, 1)
    assert lost.remains(1)
    lost.rewritten(0, 4 * MAX_RANGES, 1)
    assert not lost.remains(4 * MAX_RANGES)


def test_many_lost_ranges_are_healed_piece_by_piece() -> None:
    lost = LostData()
    for index in range(3000):
        lost.note(index * 8192, index * 8192 + 4096, FlushFailed("why"))
    for offset in range(0, 3000 * 8192, 1 << 20):
        lost.rewritten(offset, offset + (1 << 20), lost.failures)
    assert not lost.remains(1 << 60)


@asynccontextmanager
async def failing(
    tmp_path: Path, *, lost: bool = True, error: int = errno.EIO, operation: str = "fdatasync"
) -> AsyncIterator[tuple[FileSystem, Callable[[], None]]]:
    """A volume, and what makes its next flush of data fail; ``lost``: whether it ends with data lost."""
    plan = FaultPlan()

    def fail_next() -> None:
        plan.rules.append(Rule(operation, nth=plan.calls[operation] + 1, error=error))

    volume = open_test_volume(tmp_path / "v", SyncMode.FSYNC, wrap_io=lambda io: FaultyIO(io, plan))
    if lost:
        with pytest.raises(VolumeError, match="not everything could be brought to disk"):
            async with volume as opened:
                yield opened.filesystem, fail_next
    else:
        async with volume as opened:
            yield opened.filesystem, fail_next
    assert plan.fired


async def lose(fs: FileSystem, fail_next: Callable[[], None], handle: HandleId, length: int = 100) -> None:
    """Write, and have the flush of it fail."""
    await fs.write(handle, 0, b"x" * length)
    fail_next()
    with pytest.raises(FlushFailed):
        await fs.fsync(handle)


async def test_lost_data_is_told_at_every_fsync_until_it_is_written_again(tmp_path: Path) -> None:
    async with failing(tmp_path, lost=False) as (fs, fail_next):
        handle, made = await fs.create(ROOT_INODE, b"f", 0o600, OWNER)
        await lose(fs, fail_next, handle)
        with pytest.raises(FlushFailed, match=f"inode {made.inode}: flush of chunk 0"):
            await fs.fsync(handle)
        await fs.write(handle, 10, b"y" * 20)
        with pytest.raises(FlushFailed):  # the rest is still in doubt
            await fs.fsync(handle)
        await fs.write(handle, 0, b"z" * 100)
        await fs.fsync(handle)
        await fs.release(handle)


async def test_what_is_cut_off_is_no_longer_missed(tmp_path: Path) -> None:
    async with failing(tmp_path, lost=False) as (fs, fail_next):
        handle, made = await fs.create(ROOT_INODE, b"f", 0o600, OWNER)
        await lose(fs, fail_next, handle)
        await fs.setattr(made.inode, AttributeChange(), 0)
        await fs.write(handle, 0, b"new")
        await fs.fsync(handle)
        await fs.release(handle)


async def test_a_hole_that_is_added_later_was_never_lost(tmp_path: Path) -> None:
    async with failing(tmp_path, lost=False) as (fs, fail_next):
        handle, made = await fs.create(ROOT_INODE, b"f", 0o600, OWNER)
        await lose(fs, fail_next, handle)
        await fs.write(handle, 0, b"z" * 100)
        await fs.setattr(made.inode, AttributeChange(), 200)
        await fs.fsync(handle)
        await fs.release(handle)


async def test_every_handle_that_was_open_is_told_once_even_after_another_has_made_it_good(tmp_path: Path) -> None:
    async with failing(tmp_path, lost=False) as (fs, fail_next):
        first, made = await fs.create(ROOT_INODE, b"f", 0o600, OWNER)
        second, third = await fs.open(made.inode), await fs.open(made.inode)
        await lose(fs, fail_next, first)
        await fs.write(first, 0, b"z" * 100)
        await fs.fsync(first)
        for handle in (second, third):
            with pytest.raises(FlushFailed):
                await fs.fsync(handle)
            await fs.fsync(handle)
        late = await fs.open(made.inode)
        await fs.fsync(late)
        for handle in (first, second, third, late):
            await fs.release(handle)


async def test_a_new_handle_is_told_while_data_is_missing_and_the_file_is_never_called_clean(tmp_path: Path) -> None:
    async with failing(tmp_path) as (fs, fail_next):
        handle, made = await fs.create(ROOT_INODE, b"f", 0o600, OWNER)
        await lose(fs, fail_next, handle)
        await fs.release(handle)
        handle = await fs.open(made.inode)
        with pytest.raises(FlushFailed):
            await fs.fsync(handle)
        with pytest.raises(FlushFailed):
            await fs.sync()
        await fs.release(handle)


async def test_only_the_chunk_that_failed_is_in_doubt_and_no_other_file(tmp_path: Path) -> None:
    async with failing(tmp_path, lost=False) as (fs, fail_next):
        handle, _ = await fs.create(ROOT_INODE, b"f", 0o600, OWNER)
        other, _ = await fs.create(ROOT_INODE, b"g", 0o600, OWNER)
        await fs.write(other, 0, b"good")
        await lose(fs, fail_next, handle, length=2 * CHUNK_SIZE)
        await fs.fsync(other)
        await fs.write(handle, 0, b"z" * CHUNK_SIZE)  # the first that was flushed
        await fs.fsync(handle)
        for opened in (handle, other):
            await fs.release(opened)


async def test_a_flush_that_could_not_begin_has_lost_nothing(tmp_path: Path) -> None:
    """The chunk directory would not open: the next try makes all durable, and the file can be written to again."""
    plan = FaultPlan()
    async with open_test_volume(tmp_path / "v", SyncMode.WRITE, wrap_io=lambda io: FaultyIO(io, plan)) as volume:
        fs = volume.filesystem
        handle, made = await fs.create(ROOT_INODE, b"f", 0o600, OWNER)
        await fs.write(handle, 0, b"x" * (CHUNK_SIZE + 10))
        await fs.setattr(made.inode, AttributeChange(), 10)
        plan.rules.append(Rule("open", nth=plan.calls["open"] + 1, error=errno.EMFILE))
        plan.rules.append(Rule("open", nth=plan.calls["open"] + 2, error=errno.EMFILE))
        with pytest.raises(FlushFailed, match="chunk directory"):
            await fs.setattr(made.inode, AttributeChange(), 100)
        assert len(plan.fired) == 2
        await fs.setattr(made.inode, AttributeChange(), 100)
        await fs.write(handle, 50, b"y")
        await fs.fsync(handle)
        await fs.release(handle)
    assert findings(tmp_path / "v") == []


@pytest.mark.parametrize(
    ("error", "answer"),
    [
        (errno.ENOSPC, errno.ENOSPC),
        (errno.EDQUOT, errno.EDQUOT),
        (errno.EIO, errno.EIO),
        (errno.EROFS, errno.EIO),
        (errno.EBADF, errno.EIO),
    ],
)
async def test_only_want_of_space_is_told_by_its_own_number(tmp_path: Path, error: int, answer: int) -> None:
    """Filesystems that allocate at the flush refuse there what is ENOSPC at the write elsewhere."""
    async with failing(tmp_path, lost=False, error=error) as (fs, fail_next):
        handle, made = await fs.create(ROOT_INODE, b"f", 0o600, OWNER)
        other = await fs.open(made.inode)
        await fs.write(handle, 0, b"x" * 100)
        fail_next()
        for opened in (handle, handle, other):
            with pytest.raises(FlushFailed) as raised:
                await fs.fsync(opened)
            assert to_errno(raised.value, "fsync") == answer
        await fs.write(handle, 0, b"z" * 100)
        await fs.fsync(handle)
        await fs.release(handle)
        await fs.release(other)


async def test_want_of_space_for_a_chunk_directory_is_told_as_such(tmp_path: Path) -> None:
    async with failing(tmp_path, error=errno.ENOSPC, operation="fsync") as (fs, fail_next):
        handle, made = await fs.create(ROOT_INODE, b"f", 0o600, OWNER)
        await fs.write(handle, 0, b"x" * (CHUNK_SIZE + 1))
        await fs.fsync(handle)
        await fs.setattr(made.inode, AttributeChange(), CHUNK_SIZE)
        fail_next()
        with pytest.raises(FlushFailed, match="chunk directory") as raised:
            await fs.fsync(handle)
        assert to_errno(raised.value, "fsync") == errno.ENOSPC
        await fs.release(handle)


async def test_a_file_that_was_emptied_and_of_which_the_new_data_was_in_doubt_is_not_emptied_by_the_next_mount(
    tmp_path: Path,
) -> None:
    new = b"y" * (2 * CHUNK_SIZE)
    async with failing(tmp_path) as (fs, fail_next):
        handle, made = await fs.create(ROOT_INODE, b"f", 0o600, OWNER)
        await fs.write(handle, 0, b"x" * (3 * CHUNK_SIZE))
        await fs.fsync(handle)
        await fs.setattr(made.inode, AttributeChange(), 0)
        await fs.write(handle, 0, new)
        fail_next()
        with pytest.raises(FlushFailed):
            await fs.fsync(handle)
        await fs.release(handle)
    async with open_test_volume(tmp_path / "v", SyncMode.FSYNC) as volume:
        fs = volume.filesystem
        handle = await fs.open(made.inode)
        assert bytes(await fs.read(handle, 0, 3 * CHUNK_SIZE)) == new
        await fs.fsync(handle)
        await fs.release(handle)
    assert findings(tmp_path / "v") == []
