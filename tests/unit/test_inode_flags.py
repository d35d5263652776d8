"""Flags of inodes (ioctl_iflags(2)): what they forbid of names, attributes and content, and what they must not lose."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import trio

from benchfs_core import acl, errors
from benchfs_core.config import VolumeOptions
from benchfs_core.filesystem import FileSystem
from benchfs_core.flags import APPEND, IMMUTABLE, NOATIME, NODUMP
from benchfs_core.types import ROOT_INODE, AtimeMode, AttributeChange, InodeId, StoreKind, SyncMode
from benchfs_core.volume import open_volume
from benchfs_fuse.requests import Caller, Requests
from tests.support.volumes import (
    CHUNK_SIZE,
    OWNER,
    crash_copy,
    findings,
    listing,
    open_test_volume,
    read_file,
    read_inode,
    write_file,
)

MODES = pytest.mark.parametrize("sync", SyncMode, ids=str)
PROTECTING = pytest.mark.parametrize("flag", [IMMUTABLE, APPEND], ids=["immutable", "append"])
ROOT = Caller(0, 0, os.getpid())


@pytest.fixture
async def fs(tmp_path: Path) -> AsyncIterator[FileSystem]:
    async with open_test_volume(tmp_path, store=StoreKind.MEMORY) as volume:
        with trio.fail_after(60):
            yield volume.filesystem


async def is_refused(call: Awaitable[object]) -> bool:
    try:
        await call
    except errors.NotPermitted:
        return True
    return False


async def refused(call: Awaitable[object]) -> None:
    assert await is_refused(call)


def changes_of(fs: FileSystem, file: InodeId, name: bytes, other: bytes) -> dict[str, Callable[[], Awaitable[object]]]:
    """What neither an immutable nor an append-only file takes."""
    return {
        "truncate": lambda: fs.setattr(file, AttributeChange(), 3),
        "truncate to its size": lambda: fs.setattr(file, AttributeChange(), 7),
        "open with O_TRUNC": lambda: fs.open(file, truncate=True),
        "open for writing": lambda: fs.open(file),
        "chmod": lambda: fs.setattr(file, AttributeChange(mode=0o600)),
        "chown": lambda: fs.setattr(file, AttributeChange(uid=1)),
        "utimes": lambda: fs.setattr(file, AttributeChange(atime_ns=1, mtime_ns=2)),
        "setxattr": lambda: fs.xattrs.set(file, b"user.a", b"2"),
        "setxattr to what is there": lambda: fs.xattrs.set(file, b"user.a", b"1"),
        "removexattr": lambda: fs.xattrs.remove(file, b"user.a"),
        "removexattr of none": lambda: fs.xattrs.remove(file, b"user.none"),
        "link": lambda: fs.link(file, ROOT_INODE, b"new"),
        "unlink": lambda: fs.unlink(ROOT_INODE, name),
        "rename": lambda: fs.rename(ROOT_INODE, name, ROOT_INODE, b"new"),
        "rename over it": lambda: fs.rename(ROOT_INODE, other, ROOT_INODE, name),
        "exchange": lambda: fs.exchange(ROOT_INODE, other, ROOT_INODE, name),
    }


@PROTECTING
async def test_what_a_protected_file_does_not_take(fs: FileSystem, flag: int) -> None:
    file = await write_file(fs, b"f", b"content")
    await write_file(fs, b"other", b"other")
    await fs.xattrs.set(file, b"user.a", b"1")
    await fs.flags.set(file, flag)
    before, names = await fs.getattr(file), await listing(fs)
    for what, change in changes_of(fs, file, b"f", b"other").items():
        assert await is_refused(change()), what
    assert (await fs.getattr(file), await listing(fs), await read_file(fs, b"f")) == (before, names, b"content")
    await fs.flags.set(file, 0)
    for what, change in changes_of(fs, file, b"f", b"other").items():
        if what not in ("removexattr of none", "rename over it", "exchange", "unlink"):
            await change()
            if what in ("link", "rename"):
                await fs.rename(ROOT_INODE, b"new", ROOT_INODE, b"f")


async def test_what_only_an_append_only_file_takes(fs: FileSystem) -> None:
    file = await write_file(fs, b"f", b"content")
    await fs.flags.set(file, APPEND)
    handle = await fs.open(file, appends=True)
    assert fs.is_append_only(handle)
    await fs.write(handle, 7, b" and more")
    await fs.setattr(file, AttributeChange(atime_ns=1, mtime_ns=1), touches=True)
    await fs.setattr(file, AttributeChange())  # chown(2) of neither owner nor group
    assert (await fs.getattr(file)).mtime_ns == 1
    await fs.flags.set(file, IMMUTABLE)
    await refused(fs.open(file, appends=True))
    await refused(fs.setattr(file, AttributeChange(atime_ns=1, mtime_ns=1), touches=True))
    await refused(fs.setattr(file, AttributeChange()))
    assert await read_inode(fs, file) == b"content and more"


async def test_only_appending_is_done_through_a_handle_of_an_append_only_file(fs: FileSystem) -> None:
    """fcntl(2) can take O_APPEND away from a descriptor: the kernel's FUSE client does not know that it must not."""
    file = await write_file(fs, b"f", b"content")
    older = await fs.open(file)
    await fs.flags.set(file, APPEND)
    handle = await fs.open(file, appends=True)
    await refused(fs.write(handle, 0, b"X", appends=False))
    await fs.write(handle, 7, b"!", appends=True)
    await fs.write(older, 0, b"C", appends=False)  # as on ext4: it was open before
    assert await read_inode(fs, file) == b"Content!"
    await fs.flags.set(file, 0)
    await fs.write(handle, 1, b"O", appends=False)
    assert await read_inode(fs, file) == b"COntent!"


@PROTECTING
async def test_what_a_protected_directory_does_not_take(fs: FileSystem, flag: int) -> None:
    directory = (await fs.mkdir(ROOT_INODE, b"d", 0o755, OWNER)).inode
    file = (await fs.mknod(directory, b"f", 0o100644, OWNER)).inode
    empty = (await fs.mkdir(directory, b"empty", 0o755, OWNER)).inode
    await write_file(fs, b"outside", b"")
    await fs.flags.set(directory, flag)
    await refused(fs.unlink(directory, b"f"))
    await refused(fs.rmdir(directory, b"empty"))
    await refused(fs.rename(directory, b"f", directory, b"g"))
    await refused(fs.rename(directory, b"f", ROOT_INODE, b"g"))
    await refused(fs.rename(ROOT_INODE, b"outside", directory, b"f"))
    await refused(fs.exchange(ROOT_INODE, b"outside", directory, b"f"))
    await refused(fs.rmdir(ROOT_INODE, b"d"))
    await refused(fs.setattr(directory, AttributeChange(mode=0o700)))
    await refused(fs.xattrs.set(directory, b"user.a", b""))
    makers: list[Callable[[], Awaitable[object]]] = [
        lambda: fs.mknod(directory, b"new file", 0o100644, OWNER),
        lambda: fs.create(directory, b"new open file", 0o100644, OWNER),
        lambda: fs.mkdir(directory, b"new directory", 0o755, OWNER),
        lambda: fs.symlink(directory, b"new link", b"target", OWNER),
        lambda: fs.link(file, directory, b"new name"),
        lambda: fs.rename(ROOT_INODE, b"outside", directory, b"moved"),
        lambda: fs.create_nameless(directory, 0o600, OWNER, linkable=True),
    ]
    for make in makers:
        if flag == IMMUTABLE:
            await refused(make())
        else:
            await make()
    for taken in (b"f", b"empty"):
        with pytest.raises(errors.EntryExists):
            await fs.mkdir(directory, taken, 0o755, OWNER)
    with pytest.raises(errors.NoSuchEntry):
        await fs.unlink(directory, b"missing")
    await fs.mknod(empty, b"below", 0o100644, OWNER)  # only its own entries are protected
    handle = await fs.open(file)
    await fs.write(handle, 0, b"content")
    await fs.unlink(empty, b"below")


async def test_an_open_handle_of_an_immutable_file_takes_only_what_was_acknowledged(fs: FileSystem) -> None:
    file = await write_file(fs, b"f", b"content")
    handle = await fs.open(file)
    await fs.flags.set(file, IMMUTABLE)
    await refused(fs.write(handle, 0, b"X"))
    await fs.write(handle, 0, b"late", is_late=True)  # a page that the kernel has held since before
    await fs.write(handle, 2 * CHUNK_SIZE, b"late", is_late=True)
    assert (await read_inode(fs, file))[:7] == b"lateent"
    await fs.fsync(handle)
    await fs.release(handle)


async def test_times_of_acknowledged_writes_are_told_and_others_refused(fs: FileSystem) -> None:
    file = await write_file(fs, b"f", b"content")
    await fs.flags.set(file, IMMUTABLE)
    known = await fs.getattr(file)

    async def tell(mtime_ns: int, ctime_ns: int, *, by_writer: bool = False) -> int:
        change = AttributeChange(mtime_ns=mtime_ns, ctime_ns=ctime_ns)
        return (await fs.setattr(file, change, late_times=True, by_writer=by_writer)).mtime_ns

    before_ns, after_ns = known.ctime_ns - 500, known.ctime_ns + 500
    assert await tell(before_ns, before_ns) == max(before_ns, known.mtime_ns)
    assert (await fs.getattr(file)).ctime_ns == known.ctime_ns
    await refused(tell(after_ns, after_ns))  # utimensat(2) of mtime alone, by path
    await refused(tell(5, after_ns))
    await refused(tell(5, after_ns, by_writer=True))
    assert await tell(after_ns, after_ns, by_writer=True) == after_ns


async def test_flags_that_there_are_not(fs: FileSystem) -> None:
    file = await write_file(fs, b"f", b"")
    link = (await fs.symlink(ROOT_INODE, b"l", b"f", OWNER)).inode
    for flags in (0x1, 0x8, 0x4000, 0x80000, 0x40000000, 0x100, IMMUTABLE | 0x1):
        with pytest.raises(errors.NotSupported):
            await fs.flags.set(file, flags)
    with pytest.raises(errors.NotSupported):
        await fs.flags.set(link, IMMUTABLE)
    with pytest.raises(errors.NoSuchEntry):
        await fs.flags.set(InodeId(4711), 0)
    assert await fs.flags.get(file) == 0


async def test_an_immutable_inode_keeps_its_other_flags(fs: FileSystem) -> None:
    """ext4_ioctl_check_immutable."""
    file = await write_file(fs, b"f", b"")
    await fs.flags.set(file, IMMUTABLE | NODUMP)
    for flags in (IMMUTABLE, IMMUTABLE | NODUMP | APPEND, IMMUTABLE | NODUMP | NOATIME):
        await refused(fs.flags.set(file, flags))
    await fs.flags.set(file, IMMUTABLE | NODUMP)
    await fs.flags.set(file, APPEND | NOATIME)
    assert await fs.flags.get(file) == APPEND | NOATIME


async def test_ctime_moves_and_nothing_else(fs: FileSystem) -> None:
    file = await write_file(fs, b"f", b"content")
    for node in (file, ROOT_INODE):
        for flags in (NODUMP, NODUMP, 0):
            before = await fs.getattr(node)
            await fs.flags.set(node, flags)
            after = await fs.getattr(node)
            assert after.ctime_ns > before.ctime_ns
            assert after == before._replace(ctime_ns=after.ctime_ns, flags=flags)


async def test_what_is_made_in_a_directory_inherits_some(fs: FileSystem) -> None:
    await fs.flags.set(ROOT_INODE, NODUMP | NOATIME | APPEND)
    handle, nameless = await fs.create_nameless(ROOT_INODE, 0o600, OWNER, linkable=True)
    await fs.release(handle)
    for made in (
        await fs.mkdir(ROOT_INODE, b"d", 0o755, OWNER),
        await fs.mknod(ROOT_INODE, b"f", 0o100644, OWNER),
        nameless,
    ):
        assert made.flags == NODUMP | NOATIME


async def test_noatime_keeps_atime(tmp_path: Path) -> None:
    async with open_volume(tmp_path, VolumeOptions(store=StoreKind.MEMORY, atime=AtimeMode.STRICTATIME)) as volume:
        fs = volume.filesystem
        file = await write_file(fs, b"f", b"content")
        for flags in (0, NOATIME):
            await fs.flags.set(file, flags)
            await fs.flags.set(ROOT_INODE, flags)
            before = (await fs.getattr(file)).atime_ns, (await fs.getattr(ROOT_INODE)).atime_ns
            await read_inode(fs, file)
            await listing(fs)
            after = (await fs.getattr(file)).atime_ns, (await fs.getattr(ROOT_INODE)).atime_ns
            assert (after == before) is bool(flags)


async def test_capabilities_go_when_an_append_only_file_is_written(fs: FileSystem) -> None:
    """The kernel takes them away by removexattr, which it does not refuse itself (file_remove_privs)."""
    file = await write_file(fs, b"f", b"")
    for flag in (APPEND, IMMUTABLE):
        await fs.flags.set(file, 0)
        await fs.xattrs.set(file, b"security.capability", b"x" * 20)
        await fs.flags.set(file, flag)
        if flag == APPEND:
            await fs.xattrs.remove(file, b"security.capability")
        else:
            await refused(fs.xattrs.remove(file, b"security.capability"))


async def test_acls_of_protected_inodes_stay(tmp_path: Path) -> None:
    async with open_volume(tmp_path, VolumeOptions(store=StoreKind.MEMORY, acl=True)) as volume:
        fs = volume.filesystem
        file = await write_file(fs, b"f", b"")
        await fs.flags.set(file, IMMUTABLE)
        for name in (acl.ACCESS, acl.DEFAULT):
            await refused(fs.xattrs.set(file, name, b"junk"))
            await refused(fs.xattrs.remove(file, name))


async def test_opening_with_o_trunc_takes_nothing_of_a_protected_file(fs: FileSystem) -> None:
    file = await write_file(fs, b"f", b"content")
    await fs.xattrs.set(file, b"security.capability", b"x" * 20)
    await fs.setattr(file, AttributeChange(mode=0o4755))
    await fs.flags.set(file, APPEND)
    requests = Requests(fs, writeback_cache=False)
    await refused(requests.open(file, os.O_WRONLY | os.O_TRUNC | os.O_APPEND, Caller(5, 5, 1), drops=True))
    assert (await fs.getattr(file)).mode & 0o7777 == 0o4755
    assert await fs.xattrs.get(file, b"security.capability")
    opened = await requests.open(file, os.O_WRONLY | os.O_APPEND, ROOT, drops=False)
    assert opened.is_direct
    assert not (await requests.open(file, os.O_RDONLY, ROOT, drops=False)).is_direct


@MODES
async def test_they_are_durable_as_any_attribute_is(tmp_path: Path, sync: SyncMode) -> None:
    source, crashed, early = tmp_path / "source", tmp_path / "crashed", tmp_path / "early"
    async with open_test_volume(source, sync) as volume:
        fs = volume.filesystem
        file = await write_file(fs, b"f", b"content")
        handle = await fs.open(file)
        await fs.fsync(handle)
        await fs.flags.set(file, IMMUTABLE)
        crash_copy(source, early)
        await fs.fsync(handle)
        crash_copy(source, crashed)
        await fs.release(handle)
    for place, flags in ((early, 0), (crashed, IMMUTABLE), (source, IMMUTABLE)):
        assert findings(place) == []
        async with open_test_volume(place, sync) as volume:
            fs = volume.filesystem
            file = (await listing(fs))[b"f"].attributes.inode
            assert (await fs.flags.get(file), await read_file(fs, b"f")) == (flags, b"content")
            if flags:
                await refused(fs.unlink(ROOT_INODE, b"f"))
        assert findings(place) == []
