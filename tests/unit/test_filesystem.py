"""``FileSystem``: handles, lookup counts, times, listing while names change, xattr namespaces.

Everything else about it is the machine's (tests/property).
"""

from __future__ import annotations

import stat
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from benchfs_core import errors
from benchfs_core.config import VolumeOptions
from benchfs_core.filesystem import FileSystem
from benchfs_core.mounting import Mounting
from benchfs_core.types import ROOT_INODE, AtimeMode, AttributeChange, HandleId, InodeId, StoreKind
from benchfs_core.volume import open_volume
from tests.support.volumes import NEVER_S, OWNER, Ticks, listing, open_test_volume, read_inode, write_file

DAY_NS = 24 * 3600 * 10**9


@pytest.fixture
async def fs(tmp_path: Path) -> AsyncIterator[FileSystem]:
    async with open_test_volume(tmp_path, store=StoreKind.MEMORY) as volume:
        with trio.fail_after(60):
            yield volume.filesystem


async def test_handles_that_are_not_open(fs: FileSystem) -> None:
    file, made = await fs.create(ROOT_INODE, b"f", 0o644, OWNER)
    directory = await fs.opendir(ROOT_INODE)
    await fs.release(file)
    await fs.releasedir(directory)
    assert file != directory
    for call in (
        lambda: fs.read(file, 0, 1),
        lambda: fs.write(file, 0, b"x"),
        lambda: fs.fsync(file),
        lambda: fs.release(file),
        lambda: fs.readdir(directory, 0),
        lambda: fs.fsync_directory(directory),
        lambda: fs.releasedir(directory),
        lambda: fs.read(HandleId(0), 0, 1),
    ):
        with pytest.raises(errors.BadHandle):
            await call()
    assert await fs.open(made.inode) not in (file, directory)


async def test_what_cannot_be_opened_or_made(fs: FileSystem) -> None:
    inode = await write_file(fs, b"f", b"x")
    with pytest.raises(errors.IsADirectory):
        await fs.open(ROOT_INODE)
    with pytest.raises(errors.NotADirectory):
        await fs.opendir(inode)
    with pytest.raises(errors.IsADirectory):
        await fs.setattr(ROOT_INODE, AttributeChange(), 0)
    with pytest.raises(errors.InvalidArgument):
        await fs.setattr(inode, AttributeChange(), -1)
    for kind in (stat.S_IFDIR, stat.S_IFLNK):
        with pytest.raises(errors.InvalidArgument):
            await fs.mknod(ROOT_INODE, b"g", kind | 0o644, OWNER)


async def test_special_files_keep_their_device(fs: FileSystem) -> None:
    for number, kind in enumerate((stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK)):
        made = await fs.mknod(ROOT_INODE, b"%d" % number, kind | 0o600, OWNER, rdev=0x501)
        assert (made.mode, made.rdev) == (kind | 0o600, 0x501)


async def test_an_unlinked_file_lives_as_long_as_it_is_known_or_open(fs: FileSystem) -> None:
    handle, made = await fs.create(ROOT_INODE, b"f", 0o644, OWNER)
    await fs.lookup(ROOT_INODE, b"f")
    await fs.unlink(ROOT_INODE, b"f")
    await fs.release(handle)
    await fs.forget(made.inode, 1)
    assert (await fs.getattr(made.inode)).link_count == 0
    again = await fs.open(made.inode)
    await fs.write(again, 0, b"still here")
    await fs.forget(made.inode, 1)
    assert bytes(await fs.read(again, 0, 99)) == b"still here"
    await fs.release(again)
    with pytest.raises(errors.NoSuchEntry):  # noqa: PT012 - the whole block is what ends so
        while True:
            await fs.getattr(made.inode)
            await trio.lowlevel.checkpoint()


async def test_a_name_that_is_there_throughout_is_listed_once(fs: FileSystem) -> None:
    """Whatever is made, removed and renamed between two calls of readdir."""
    for number in range(100):
        await fs.mknod(ROOT_INODE, b"stays%d" % number, 0o100644, OWNER)
        await fs.mknod(ROOT_INODE, b"goes%d" % number, 0o100644, OWNER)
    handle, cookie, seen = await fs.opendir(ROOT_INODE), 0, []
    for step in range(1000):
        entry = next(await fs.readdir(handle, cookie), None)
        if entry is None:
            break
        cookie = entry.cookie
        seen.append(entry.name)
        if step < 100:
            await fs.unlink(ROOT_INODE, b"goes%d" % step)
            await fs.mknod(ROOT_INODE, b"new%d" % step, 0o100644, OWNER)
            await fs.rename(ROOT_INODE, b"new%d" % step, ROOT_INODE, b"stays%d" % ((step * 37) % 100))
    stays = [name for name in seen if name.startswith(b"stays")]
    assert sorted(stays) == sorted(b"stays%d" % number for number in range(100))


async def test_dot_and_dot_dot(fs: FileSystem) -> None:
    made = await fs.mkdir(ROOT_INODE, b"d", 0o755, OWNER)
    assert await fs.directory_and_parent(await fs.opendir(made.inode)) == (made.inode, ROOT_INODE)
    assert await fs.directory_and_parent(await fs.opendir(ROOT_INODE)) == (ROOT_INODE, ROOT_INODE)


async def test_times_move_as_posix_says(fs: FileSystem) -> None:
    handle, made = await fs.create(ROOT_INODE, b"f", 0o644, OWNER)
    assert made.atime_ns == made.mtime_ns == made.ctime_ns
    await fs.write(handle, 0, b"x")
    written = await fs.getattr(made.inode)
    assert written.mtime_ns == written.ctime_ns > made.ctime_ns
    await fs.setattr(made.inode, AttributeChange(mode=0o600))
    changed = await fs.getattr(made.inode)
    assert (changed.mtime_ns, changed.ctime_ns > written.ctime_ns) == (written.mtime_ns, True)
    assert changed.mode == stat.S_IFREG | 0o600
    await fs.setattr(made.inode, AttributeChange(atime_ns=1, mtime_ns=2))
    assert (await fs.getattr(made.inode))._replace(ctime_ns=0) == changed._replace(atime_ns=1, mtime_ns=2, ctime_ns=0)
    for act in (
        lambda: fs.link(made.inode, ROOT_INODE, b"g"),
        lambda: fs.rename(ROOT_INODE, b"g", ROOT_INODE, b"h"),
        lambda: fs.unlink(ROOT_INODE, b"h"),
        lambda: fs.xattrs.set(made.inode, b"user.x", b""),
        lambda: fs.xattrs.remove(made.inode, b"user.x"),
    ):
        before = await fs.getattr(made.inode)
        await act()
        after = await fs.getattr(made.inode)
        assert after.ctime_ns > before.ctime_ns
        assert after.mtime_ns == 2
    root = await fs.getattr(ROOT_INODE)
    await fs.mknod(ROOT_INODE, b"i", 0o100644, OWNER)
    assert (await fs.getattr(ROOT_INODE)).mtime_ns > root.mtime_ns


async def test_times_that_writes_moved_survive_a_restart(tmp_path: Path) -> None:
    async with open_test_volume(tmp_path / "v") as volume:
        inode = await write_file(volume.filesystem, b"f", b"x")
        before = await volume.filesystem.getattr(inode)
    async with open_test_volume(tmp_path / "v") as volume:
        assert (await volume.filesystem.getattr(inode))._replace(blocks=before.blocks) == before


@pytest.mark.parametrize(
    ("mode", "after_change", "again", "a_day_later"),
    [
        (AtimeMode.NOATIME, False, False, False),
        (AtimeMode.RELATIME, True, False, True),
        (AtimeMode.STRICTATIME, True, True, True),
    ],
)
def test_when_reading_moves_atime(mode: AtimeMode, after_change: bool, again: bool, a_day_later: bool) -> None:
    mounting = Mounting(read_only=False, atime=mode, acl=False, statvfs=lambda: pytest.fail("not asked for"))
    assert mounting.moves_atime(5, 5, 5, lambda: 6) == after_change
    assert mounting.moves_atime(7, 6, 6, lambda: 8) == again
    assert mounting.moves_atime(7, 6, 6, lambda: 7 + DAY_NS) == a_day_later
    assert not replace(mounting, read_only=True).moves_atime(5, 5, 5, lambda: DAY_NS)


@pytest.mark.parametrize("mode", AtimeMode)
async def test_reading_moves_the_atime_of_files_links_and_directories(tmp_path: Path, mode: AtimeMode) -> None:
    options = VolumeOptions(store=StoreKind.MEMORY, atime=mode, commit_interval_s=NEVER_S)
    async with open_volume(tmp_path, options, clocks=Ticks().clocks) as volume:
        fs = volume.filesystem
        file = await write_file(fs, b"f", b"x")
        link = (await fs.symlink(ROOT_INODE, b"l", b"f", OWNER)).inode
        before = {inode: (await fs.getattr(inode)).atime_ns for inode in (ROOT_INODE, file, link)}
        await read_inode(fs, file)
        await fs.readlink(link)
        await listing(fs)
        moved = {inode for inode, atime in before.items() if (await fs.getattr(inode)).atime_ns > atime}
        assert moved == (set() if mode is AtimeMode.NOATIME else {ROOT_INODE, file, link})


@pytest.mark.parametrize("name", [b"system.posix_acl_access", b"system.x", b"btrfs.x", b"user", b""])
async def test_xattr_namespaces_that_would_promise_too_much(fs: FileSystem, name: bytes) -> None:
    for call in (
        lambda: fs.xattrs.set(ROOT_INODE, name, b""),
        lambda: fs.xattrs.get(ROOT_INODE, name),
        lambda: fs.xattrs.remove(ROOT_INODE, name),
    ):
        with pytest.raises(errors.NotSupported):
            await call()


async def test_xattrs_of_what_is_not_there(fs: FileSystem) -> None:
    with pytest.raises(errors.NoSuchEntry):
        await fs.xattrs.set(InodeId(99), b"user.x", b"")
    with pytest.raises(errors.NoSuchAttribute):
        await fs.xattrs.get(ROOT_INODE, b"user.x")


async def test_blocks_count_what_is_stored(fs: FileSystem) -> None:
    inode = await write_file(fs, b"f", b"x" * 1024)
    assert (await fs.getattr(inode)).blocks == 2
    await write_file(fs, b"f", b"x" * 512, offset=1 << 30)
    assert (await fs.getattr(inode)).blocks >= 3
    await fs.sync()
    assert (await fs.getattr(inode)).size == (1 << 30) + 512
    await fs.setattr(inode, AttributeChange(), 0)
    await fs.sync()
    assert (await fs.getattr(inode)).blocks == 0
    assert fs.blocks_are_current(inode)
