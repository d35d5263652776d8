"""FALLOCATE, LSEEK and COPY_FILE_RANGE without a kernel: what is answered, and what is refused how."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from benchfs_core.chunks.uring import io_uring_available
from benchfs_core.config import VolumeOptions
from benchfs_core.types import MAX_FILE_BYTES, StoreKind
from benchfs_core.volume import Volume, open_volume
from benchfs_fuse.plane import protocol
from benchfs_fuse.plane.protocol import Opcode
from tests.unit.test_plane import Serving, read_body, serving, write_body

pytestmark = pytest.mark.skipif(io_uring_available() is not None, reason=str(io_uring_available()))

KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 1, 2, 16
CHUNK = 4 << 20


@pytest.fixture
async def in_memory() -> AsyncIterator[Volume]:
    async with open_volume(Path("none"), VolumeOptions(store=StoreKind.MEMORY)) as volume:
        yield volume


async def refused(at: Serving, opcode: Opcode, body: bytes, inode: int) -> int:
    unique = at.kernel.send(opcode, body, inode)
    answered, error, _ = await at.kernel.answer()
    assert answered == unique
    return error


def fallocate(handle: int, mode: int, offset: int, length: int) -> bytes:
    return protocol.FALLOCATE_IN.pack(handle, offset, length, mode)


def lseek(handle: int, offset: int, whence: int) -> bytes:
    return protocol.LSEEK_IN.pack(handle, offset, whence)


def copy(source: int, at: int, target: int, to: int, length: int, flags: int = 0) -> bytes:
    return protocol.COPY_FILE_RANGE_IN.pack(source, at, 1, target, to, length, flags)


async def test_ranges_are_allocated_punched_zeroed_found_and_copied(in_memory: Volume) -> None:
    async with serving(in_memory) as at:
        inode, handle = await at.kernel.create(b"file")
        await at.kernel.ask(Opcode.WRITE, write_body(handle, 0, b"d" * 20_000), inode)
        assert await at.kernel.ask(Opcode.FALLOCATE, fallocate(handle, KEEP_SIZE, 0, 2 * CHUNK), inode) == b""
        await at.kernel.ask(Opcode.FALLOCATE, fallocate(handle, 0, 0, CHUNK), inode)
        await at.kernel.ask(Opcode.FALLOCATE, fallocate(handle, PUNCH_HOLE | KEEP_SIZE, 4096, 8192), inode)
        await at.kernel.ask(Opcode.FALLOCATE, fallocate(handle, ZERO_RANGE, 0, 10), inode)
        found = await at.kernel.ask(Opcode.READ, read_body(handle, 0, 30_000), inode)
        assert found == (bytes(10) + b"d" * 4086 + bytes(8192) + b"d" * 7712).ljust(30_000, b"\0")
        attributes = await at.kernel.ask(Opcode.GETATTR, bytes(16), inode)
        assert struct.unpack_from("<Q", attributes, 24) == (CHUNK,)
        other, target = await at.kernel.create(b"target")
        for opcode, size in ((Opcode.COPY_FILE_RANGE, 8), (Opcode.COPY_FILE_RANGE_64, 8)):
            reply = await at.kernel.ask(opcode, copy(handle, 0, target, 7, 20_000), inode)
            assert reply == struct.pack("<Q", 20_000)
            assert len(reply) == size
        assert await at.kernel.ask(Opcode.READ, read_body(target, 7, 20_000), other) == found[:20_000]
        await at.kernel.ask(Opcode.RELEASE, protocol.RELEASE_IN.pack(handle, 0, 0, 0), inode)
        reader = await at.kernel.ask(Opcode.OPEN, protocol.OPEN_IN.pack(os.O_RDONLY, 0), inode)
        (handle,) = struct.unpack_from("<Q", reader)
        for offset, whence, place in ((0, os.SEEK_HOLE, 4096), (5000, os.SEEK_DATA, 12_288), (1, os.SEEK_DATA, 1)):
            assert await at.kernel.ask(Opcode.LSEEK, lseek(handle, offset, whence), inode) == struct.pack("<Q", place)
        assert await refused(at, Opcode.LSEEK, lseek(handle, CHUNK, os.SEEK_DATA), inode) == errno.ENXIO


async def test_what_is_refused(in_memory: Volume) -> None:
    async with serving(in_memory) as at:
        inode, handle = await at.kernel.create(b"file")
        for mode, offset, length, number in (
            *((0, -1, 5, errno.EINVAL), (0, 0, 0, errno.EINVAL), (KEEP_SIZE, 5, -5, errno.EINVAL)),
            *((0, MAX_FILE_BYTES, 1, errno.EFBIG), (PUNCH_HOLE, 0, 5, errno.EOPNOTSUPP), (8, 0, 5, errno.EOPNOTSUPP)),
            (0, 0, 1 << 59, errno.ENOSPC),
        ):
            body = fallocate(handle, mode, offset, length)
            assert await refused(at, Opcode.FALLOCATE, body, inode) == number, (mode, offset, length)
        assert await refused(at, Opcode.FALLOCATE, fallocate(99, 0, 0, 5), inode) == errno.EBADF
        assert await refused(at, Opcode.LSEEK, lseek(handle, 0, os.SEEK_END), inode) == errno.EINVAL
        assert await refused(at, Opcode.COPY_FILE_RANGE, copy(handle, 0, handle, 0, 5, flags=1), inode) == errno.EINVAL
        assert await refused(at, Opcode.COPY_FILE_RANGE, copy(handle, 0, 98, 0, 5), inode) == errno.EBADF


async def test_where_nothing_can_be_written_back_holes_are_told_of_no_file(
    in_memory: Volume, caplog: pytest.LogCaptureFixture
) -> None:
    """The program for it finds another filesystem at the mount point than ours."""
    async with serving(in_memory) as at:
        inode, handle = await at.kernel.create(b"file")
        await at.kernel.ask(Opcode.WRITE, write_body(handle, CHUNK, b"d"), inode)
        assert len(await at.kernel.ask(Opcode.LSEEK, lseek(handle, CHUNK, os.SEEK_DATA), inode)) == 8
        for _ in range(2):
            assert await refused(at, Opcode.LSEEK, lseek(handle, 0, os.SEEK_DATA), inode) == errno.ENOSYS
        assert await refused(at, Opcode.LSEEK, lseek(handle, CHUNK, os.SEEK_DATA), inode) == errno.ENOSYS
    assert caplog.text.count("no holes are told any more") == 1
