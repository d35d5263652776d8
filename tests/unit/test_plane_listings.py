"""What the kernel is told of listings that it may hold; as ``test_plane``, without a kernel."""

from __future__ import annotations

import errno
import struct
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from benchfs_core.chunks.uring import io_uring_available
from benchfs_core.config import VolumeOptions
from benchfs_core.filesystem import FileSystem
from benchfs_core.types import StoreKind
from benchfs_core.volume import Volume, open_volume
from benchfs_fuse.plane import protocol, replies
from benchfs_fuse.plane.protocol import Opcode
from tests.unit.test_plane import Kernel, read_body, serving

pytestmark = pytest.mark.skipif(io_uring_available() is not None, reason=str(io_uring_available()))


@pytest.fixture
async def in_memory() -> AsyncIterator[Volume]:
    async with open_volume(Path("none"), VolumeOptions(store=StoreKind.MEMORY)) as volume:
        yield volume


async def made(kernel: Kernel, name: bytes) -> int:
    """A new directory in the root."""
    reply = await kernel.ask(Opcode.MKDIR, protocol.MKDIR_IN.pack(0o755, 0) + name + b"\0")
    return int(struct.unpack_from("<Q", reply)[0])


async def list_once(kernel: Kernel, directory: int) -> None:
    reply = await kernel.ask(Opcode.OPENDIR, protocol.OPEN_IN.pack(0, 0), directory)
    (handle,) = struct.unpack_from("<Q", reply)
    await kernel.ask(Opcode.READDIR, read_body(handle, 0, 4096), directory)
    await kernel.ask(Opcode.RELEASEDIR, protocol.RELEASE_IN.pack(handle, 0, 0, 0), directory)


def told_of(directory: int) -> tuple[int, int, bytes]:
    """The message that drops a listing, as ``Kernel.answer`` takes it: no errno but FUSE_NOTIFY_INVAL_INODE."""
    return 0, -2, replies.content_changed(directory)[16:]


async def test_a_rename_that_is_made_is_answered_so_whatever_cannot_be_asked_afterwards(
    in_memory: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between directories, of a file and of a directory; the kernel is told before the reply that `..` is another."""
    async with serving(in_memory) as at:
        one, two = await made(at.kernel, b"one"), await made(at.kernel, b"two")
        await at.kernel.create(b"file")
        await list_once(at.kernel, two)
        fail(monkeypatch)
        body = protocol.RENAME_IN.pack(one)
        assert await at.kernel.ask(Opcode.RENAME, body + b"file\0file\0") == b""
        unique = at.kernel.send(Opcode.RENAME, body + b"two\0two\0")
        assert await at.kernel.answer() == told_of(two)
        assert await at.kernel.answer() == (unique, 0, b"")


def fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing can be looked up any more."""

    async def fails(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "the disk below")

    for method in ("lookup", "getattr", "_current"):
        monkeypatch.setattr(FileSystem, method, fails)


async def test_a_listing_is_dropped_once_at_the_next_change_and_its_note_with_the_directory(in_memory: Volume) -> None:
    """Whichever handlers, timed or not, serve the requests: they take turns."""
    async with serving(in_memory) as at:
        one, two = await made(at.kernel, b"one"), await made(at.kernel, b"two")
        for index in range(40):
            await list_once(at.kernel, one)
            unique = at.kernel.send(Opcode.MKDIR, protocol.MKDIR_IN.pack(0o755, 0) + b"%d\0" % index, one)
            assert await at.kernel.answer() == told_of(one)
            assert (await at.kernel.answer())[:2] == (unique, 0)
            await at.kernel.ask(Opcode.MKDIR, protocol.MKDIR_IN.pack(0o755, 0) + b"%d again\0" % index, one)
        await list_once(at.kernel, two)
        at.kernel.send(Opcode.FORGET, protocol.FORGET_IN.pack(1), two)
        await at.kernel.ask(Opcode.LOOKUP, b"two\0")
        await at.kernel.ask(Opcode.MKDIR, protocol.MKDIR_IN.pack(0o755, 0) + b"below\0", two)


async def test_a_change_that_is_made_although_it_fails_drops_the_listing(
    in_memory: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A link whose attributes cannot be told: to the kernel nothing has changed."""
    async with serving(in_memory) as at:
        one = await made(at.kernel, b"one")
        inode, _ = await at.kernel.create(b"file")
        await list_once(at.kernel, one)
        fail(monkeypatch)
        unique = at.kernel.send(Opcode.LINK, protocol.LINK_IN.pack(inode) + b"name\0", one)
        assert await at.kernel.answer() == told_of(one)
        assert await at.kernel.answer() == (unique, errno.EIO, b"")
