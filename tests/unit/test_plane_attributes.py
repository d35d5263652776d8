"""STATX, TMPFILE and IOCTL of the plane, without a kernel: what they answer, and what they refuse."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from benchfs_core.chunks.uring import io_uring_available
from benchfs_core.config import VolumeOptions
from benchfs_core.flags import APPEND, IMMUTABLE, NODUMP
from benchfs_core.types import InodeId, StoreKind
from benchfs_core.volume import Volume, open_volume
from benchfs_fuse.plane import protocol, replies
from benchfs_fuse.plane.attributes import (
    FS_IOC_FSGETXATTR,
    FS_IOC_FSSETXATTR,
    FS_IOC_GETFLAGS,
    FS_IOC_SETFLAGS,
)
from benchfs_fuse.plane.protocol import Opcode
from tests.unit.test_plane import Kernel, serving, write_body

pytestmark = pytest.mark.skipif(io_uring_available() is not None, reason=str(io_uring_available()))

INVAL_INODE = 2
DONE = bytes(16)
"""``fuse_ioctl_out`` of success."""


@pytest.fixture
async def volume() -> AsyncIterator[Volume]:
    async with open_volume(Path("none"), VolumeOptions(store=StoreKind.MEMORY)) as volume:
        yield volume


def ioctl(command: int, data: bytes = b"", out_size: int = 0, address: int = 0) -> bytes:
    return protocol.IOCTL_IN.pack(1, 0, command, address, len(data), out_size) + data


def xattr(xflags: int, project: int = 0) -> bytes:
    return struct.pack("<IIIII8x", xflags, 0, 0, project, 0)


async def refused(kernel: Kernel, body: bytes, inode: int) -> int:
    unique = kernel.send(Opcode.IOCTL, body, inode)
    found = await kernel.answer()
    assert found[0] == unique
    return found[1]


async def changed(kernel: Kernel, body: bytes, inode: int) -> None:
    """The kernel is told that attributes have changed, and then that it is done."""
    unique = kernel.send(Opcode.IOCTL, body, inode)
    assert await kernel.answer() == (0, -INVAL_INODE, struct.pack("<Qqq", inode, -1, 0))
    assert await kernel.answer() == (unique, 0, DONE)


async def test_flags_are_set_and_told_either_way(volume: Volume) -> None:
    async with serving(volume) as at:
        inode, _ = await at.kernel.create(b"f")
        for node in (inode, 1):
            await changed(at.kernel, ioctl(FS_IOC_SETFLAGS, struct.pack("<I", IMMUTABLE | NODUMP)), node)
            told = await at.kernel.ask(Opcode.IOCTL, ioctl(FS_IOC_GETFLAGS, out_size=4), node)
            assert told == DONE + struct.pack("<I", IMMUTABLE | NODUMP)
            told = await at.kernel.ask(Opcode.IOCTL, ioctl(FS_IOC_FSGETXATTR, out_size=28), node)
            assert told == DONE + xattr(0x88)
            await changed(at.kernel, ioctl(FS_IOC_FSSETXATTR, xattr(0x10)), node)
            assert await volume.filesystem.flags.get(InodeId(node)) == APPEND
            await changed(at.kernel, ioctl(FS_IOC_FSSETXATTR, xattr(0)), node)


async def test_who_comes_past_the_kernels_checks_changes_nothing(volume: Volume) -> None:
    """A second attempt, with the caller's address: whoever makes it may have changed what lies there meanwhile."""
    async with serving(volume) as at:
        inode, _ = await at.kernel.create(b"f")
        for command, data in ((FS_IOC_SETFLAGS, struct.pack("<I", IMMUTABLE)), (FS_IOC_FSSETXATTR, xattr(8))):
            body = ioctl(command, data + bytes(4 if command == FS_IOC_SETFLAGS else 0), address=0x7FFF0000)
            assert await refused(at.kernel, body, inode) == errno.EOPNOTSUPP
        assert await volume.filesystem.flags.get(InodeId(inode)) == 0


@pytest.mark.parametrize(
    ("body", "number"),
    [
        (ioctl(0x5401, address=1), errno.ENOTTY),
        (ioctl(0x5401), errno.ENOTTY),
        (ioctl(FS_IOC_SETFLAGS, struct.pack("<I", 0x80000)), errno.EOPNOTSUPP),
        (ioctl(FS_IOC_FSSETXATTR, xattr(0x20)), errno.EOPNOTSUPP),
        (ioctl(FS_IOC_FSSETXATTR, xattr(0, project=5)), errno.EOPNOTSUPP),
        (ioctl(FS_IOC_SETFLAGS, bytes(3)), errno.EIO),
        (ioctl(FS_IOC_SETFLAGS), errno.EIO),
        (ioctl(FS_IOC_FSSETXATTR, bytes(27)), errno.EIO),
        (ioctl(FS_IOC_GETFLAGS, out_size=3), errno.EIO),
        (ioctl(FS_IOC_FSGETXATTR, out_size=4), errno.EIO),
        (ioctl(FS_IOC_SETFLAGS, bytes(4)) + b"x", errno.EIO),
        (b"", errno.EIO),
    ],
)
async def test_what_is_refused(volume: Volume, body: bytes, number: int) -> None:
    async with serving(volume) as at:
        inode, _ = await at.kernel.create(b"f")
        assert await refused(at.kernel, body, inode) == number
        assert await volume.filesystem.flags.get(InodeId(inode)) == 0


async def test_a_late_write_is_taken_and_another_refused(volume: Volume) -> None:
    async with serving(volume) as at:
        inode, handle = await at.kernel.create(b"f")
        await changed(at.kernel, ioctl(FS_IOC_SETFLAGS, struct.pack("<I", IMMUTABLE)), inode)
        unique = at.kernel.send(Opcode.WRITE, write_body(handle, 0, b"new"), inode)
        assert (await at.kernel.answer())[:2] == (unique, errno.EPERM)
        body = protocol.WRITE_IN.pack(handle, 0, 4, protocol.WRITE_CACHE, 0, 0) + b"late"
        await at.kernel.ask(Opcode.WRITE, body, inode)
        assert (await volume.filesystem.getattr(InodeId(inode))).size == 4


async def test_an_append_only_file_is_opened_for_direct_io(volume: Volume) -> None:
    async with serving(volume) as at:
        inode, _ = await at.kernel.create(b"f")
        await changed(at.kernel, ioctl(FS_IOC_SETFLAGS, struct.pack("<I", APPEND)), inode)
        reply = await at.kernel.ask(Opcode.OPEN, protocol.OPEN_IN.pack(os.O_WRONLY | os.O_APPEND, 0), inode)
        handle, flags = struct.unpack_from("<QI", reply)
        assert flags & replies.DIRECT_IO
        for open_flags, number in ((os.O_WRONLY | os.O_APPEND, 0), (os.O_WRONLY, errno.EPERM)):
            body = protocol.WRITE_IN.pack(handle, 0, 1, 0, 0, open_flags) + b"x"
            unique = at.kernel.send(Opcode.WRITE, body, inode)
            assert (await at.kernel.answer())[:2] == (unique, number)
        reply = await at.kernel.ask(Opcode.OPEN, protocol.OPEN_IN.pack(os.O_RDONLY, 0), inode)
        assert not struct.unpack_from("<QI", reply)[1] & replies.DIRECT_IO


async def test_a_nameless_file_is_made_and_linked(volume: Volume) -> None:
    async with serving(volume) as at:
        body = protocol.CREATE_IN.pack(os.O_RDWR | os.O_TMPFILE, 0o100666, 0o022, 0) + b"/\0"
        reply = await at.kernel.ask(Opcode.TMPFILE, body)
        (inode,) = struct.unpack_from("<Q", reply)
        assert len(reply) == replies.ENTRY_OUT.size + replies.OPEN_OUT.size
        assert (await volume.filesystem.getattr(InodeId(inode))).link_count == 0
        await at.kernel.ask(Opcode.LINK, protocol.LINK_IN.pack(inode) + b"name\0")
        statx = await at.kernel.ask(Opcode.STATX, bytes(24), inode)
        assert struct.unpack_from("<I8xI", statx, 32 + 4) == (4096, 1)
