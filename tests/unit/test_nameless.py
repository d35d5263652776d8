"""Files made without a name (open(2), O_TMPFILE): orphans from birth, until they are linked."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
import trio

from benchfs_core import errors
from benchfs_core.types import ROOT_INODE, AttributeChange, Credentials, StoreKind, SyncMode
from tests.support.volumes import (
    CHUNK_SIZE,
    OWNER,
    crash_copy,
    findings,
    listing,
    open_test_volume,
    read_file,
    used_chunks,
    write_file,
)

MODES = pytest.mark.parametrize("sync", SyncMode, ids=str)
INLINE = pytest.mark.parametrize("inline_bytes", [0, 4096])


@MODES
@INLINE
async def test_what_is_not_linked_goes_with_its_last_use(tmp_path: Path, sync: SyncMode, inline_bytes: int) -> None:
    async with open_test_volume(tmp_path, sync, inline_bytes=inline_bytes) as volume:
        fs = volume.filesystem
        handle, made = await fs.create_nameless(ROOT_INODE, 0o100640, OWNER, linkable=True)
        assert (made.link_count, made.mode, made.uid) == (0, stat.S_IFREG | 0o640, OWNER.uid)
        await fs.write(handle, 0, b"x" * (CHUNK_SIZE + 1))
        await fs.fsync(handle)
        await fs.sync()
        assert used_chunks(tmp_path) == [f"{made.inode}/0", f"{made.inode}/1"]
        assert bytes(await fs.read(handle, CHUNK_SIZE - 1, 9)) == b"xx"
        await fs.release(handle)
        await fs.sync()
        assert (await fs.getattr(made.inode)).size == CHUNK_SIZE + 1  # it is known, and may be opened again
        await fs.forget(made.inode, 1)
        with trio.fail_after(60):
            while os.listdir(tmp_path / "chunks"):
                await trio.lowlevel.checkpoint()
        assert await listing(fs) == {}
    assert findings(tmp_path) == []


@MODES
@INLINE
async def test_a_link_makes_it_a_file_like_any_other(tmp_path: Path, sync: SyncMode, inline_bytes: int) -> None:
    async with open_test_volume(tmp_path, sync, inline_bytes=inline_bytes) as volume:
        fs = volume.filesystem
        handle, made = await fs.create_nameless(ROOT_INODE, 0o600, OWNER, linkable=True)
        await fs.write(handle, 0, b"content")
        linked = await fs.link(made.inode, ROOT_INODE, b"f")
        assert (linked.inode, linked.link_count, linked.size) == (made.inode, 1, 7)
        assert linked.ctime_ns > made.ctime_ns
        await fs.forget(made.inode, 2)
        await fs.write(handle, 7, b" and more")
        await fs.release(handle)
        await fs.sync()
        assert not (set(volume.filesystem._inodes.active) & {made.inode})  # it was made clean
        await fs.lookup(ROOT_INODE, b"f")
        await fs.unlink(ROOT_INODE, b"f")
        with pytest.raises(errors.NoSuchEntry):
            await fs.link(made.inode, ROOT_INODE, b"again")
        await fs.link(await write_file(fs, b"g", b"g"), ROOT_INODE, b"h")
    assert findings(tmp_path) == []


async def test_without_leave_to_be_linked_it_never_is(tmp_path: Path) -> None:
    async with open_test_volume(tmp_path, store=StoreKind.MEMORY) as volume:
        fs = volume.filesystem
        handle, made = await fs.create_nameless(ROOT_INODE, 0o600, OWNER, linkable=False)
        await fs.write(handle, 0, b"content")
        with pytest.raises(errors.NoSuchEntry):
            await fs.link(made.inode, ROOT_INODE, b"f")
        await fs.release(handle)
        assert await listing(fs) == {}


async def test_a_link_that_fails_changes_nothing(tmp_path: Path) -> None:
    async with open_test_volume(tmp_path) as volume:
        fs = volume.filesystem
        await write_file(fs, b"taken", b"old")
        handle, made = await fs.create_nameless(ROOT_INODE, 0o600, OWNER, linkable=True)
        with pytest.raises(errors.EntryExists):
            await fs.link(made.inode, ROOT_INODE, b"taken")
        assert (await fs.getattr(made.inode)).link_count == 0
        await fs.link(made.inode, ROOT_INODE, b"free")
        await fs.release(handle)
    assert findings(tmp_path) == []


async def test_it_begins_as_what_is_made_in_its_directory(tmp_path: Path) -> None:
    async with open_test_volume(tmp_path, store=StoreKind.MEMORY) as volume:
        fs = volume.filesystem
        directory = await fs.mkdir(ROOT_INODE, b"d", 0o755, OWNER)
        await fs.setattr(directory.inode, AttributeChange(mode=0o2755, gid=77))
        before = await fs.getattr(directory.inode)
        handle, made = await fs.create_nameless(directory.inode, 0o666, Credentials(5, 6, 0o022), linkable=True)
        assert (made.mode, made.uid, made.gid) == (stat.S_IFREG | 0o644, 5, 77)
        assert made.birth_ns == made.ctime_ns == made.mtime_ns
        assert await fs.getattr(directory.inode) == before
        await fs.release(handle)
        with pytest.raises(errors.NotADirectory):
            await fs.create_nameless(made.inode, 0o600, OWNER, linkable=True)
        await fs.rmdir(ROOT_INODE, b"d")
        with pytest.raises(errors.NotPermitted):
            await fs.create_nameless(directory.inode, 0o600, OWNER, linkable=True)


@MODES
@INLINE
@pytest.mark.parametrize("linked", [False, True])
async def test_a_crash_keeps_it_exactly_if_it_was_linked(
    tmp_path: Path, sync: SyncMode, inline_bytes: int, linked: bool
) -> None:
    source, crashed = tmp_path / "source", tmp_path / "crashed"
    data = bytes(range(256)) * 700
    async with open_test_volume(source, sync, inline_bytes=inline_bytes) as volume:
        fs = volume.filesystem
        handle, made = await fs.create_nameless(ROOT_INODE, 0o600, OWNER, linkable=True)
        await fs.write(handle, 0, data)
        await fs.fsync(handle)
        if linked:
            await fs.link(made.inode, ROOT_INODE, b"f")
            await fs.fsync(handle)  # durable with the name that it has got
        crash_copy(source, crashed)
    assert findings(crashed) == []
    async with open_test_volume(crashed, sync, inline_bytes=inline_bytes) as volume:
        fs = volume.filesystem
        assert set(await listing(fs)) == ({b"f"} if linked else set())
        if linked:
            assert await read_file(fs, b"f") == data
    assert findings(crashed) == []
    assert bool(used_chunks(crashed)) is linked


async def test_an_orderly_end_deletes_those_that_are_open(tmp_path: Path) -> None:
    async with open_test_volume(tmp_path) as volume:
        handle, _ = await volume.filesystem.create_nameless(ROOT_INODE, 0o600, OWNER, linkable=True)
        await volume.filesystem.write(handle, 0, b"x" * CHUNK_SIZE)
    assert used_chunks(tmp_path) == []
    assert findings(tmp_path) == []
