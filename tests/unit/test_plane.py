"""The plane without a kernel: a pair of sockets stands for /dev/fuse, another for the way to pyfuse3."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from benchfs_core.chunks.ring import Ring
from benchfs_core.chunks.uring import UringDriver, io_uring_available
from benchfs_core.config import VolumeOptions
from benchfs_core.profile import Profile
from benchfs_core.types import InodeId, StoreKind, SyncMode
from benchfs_core.volume import Volume, open_volume
from benchfs_fuse.plane import forward, protocol, replies
from benchfs_fuse.plane.handlers import Handlers
from benchfs_fuse.plane.listings import Listings
from benchfs_fuse.plane.plane import MAX_REQUESTS, Plane
from benchfs_fuse.plane.protocol import IN_HEADER, Opcode
from benchfs_fuse.plane.write_back import WriteBack
from benchfs_fuse.requests import timed_filesystem
from tests.support.faults import FaultPlan, FaultyDriver, Rule

pytestmark = pytest.mark.skipif(io_uring_available() is not None, reason=str(io_uring_available()))

UNKNOWN = 3999
BUFFER_BYTES = 4 << 20


class Kernel:
    """The other end of the device: sends requests, takes replies."""

    def __init__(self, end: socket.socket) -> None:
        self.end = end
        self._unique = 0

    def send(self, opcode: int, body: bytes = b"", inode: int = 1) -> int:
        self._unique += 2
        head = IN_HEADER.pack(IN_HEADER.size + len(body), opcode, self._unique, inode, 0, 0, os.getpid(), 0, 0)
        assert self.end.send(head + body) == len(head) + len(body)
        return self._unique

    async def answer(self) -> tuple[int, int, bytes]:
        """The next reply: unique, errno, body."""
        with trio.fail_after(30):
            await trio.lowlevel.wait_readable(self.end)
        message = self.end.recv(BUFFER_BYTES)
        length, error, unique = struct.unpack_from("<IiQ", message)
        assert length == len(message)
        return unique, -error, message[16:]

    async def ask(self, opcode: int, body: bytes = b"", inode: int = 1) -> bytes:
        """Send, and take the reply, which must tell success."""
        unique = self.send(opcode, body, inode)
        found = await self.answer()
        assert found[:2] == (unique, 0), (Opcode(opcode).name, os.strerror(found[1]))
        return found[2]

    async def create(self, name: bytes) -> tuple[int, int]:
        """Inode and handle of a new file."""
        reply = await self.ask(Opcode.CREATE, protocol.CREATE_IN.pack(os.O_RDWR, 0o100644, 0, 0) + name + b"\0")
        return struct.unpack_from("<Q", reply)[0], struct.unpack_from("<Q", reply, 128)[0]


def write_body(handle: int, offset: int, data: bytes) -> bytes:
    return protocol.WRITE_IN.pack(handle, offset, len(data), 0, 0, 0) + data


def read_body(handle: int, offset: int, size: int) -> bytes:
    return protocol.READ_IN.pack(handle, offset, size, 0, 0, 0)


async def nobody() -> None:
    await trio.sleep_forever()


class Serving:
    """A plane at work, and what a test does to it."""

    def __init__(self, kernel: Kernel, pyfuse3: socket.socket, volume: Volume, plane: Plane, profile: Profile):
        self.kernel, self.pyfuse3, self.volume, self.plane, self.profile = kernel, pyfuse3, volume, plane, profile


@asynccontextmanager
async def serving(
    volume: Volume, driver: FaultyDriver | None = None, other: Callable[[], Awaitable[None]] = nobody
) -> AsyncIterator[Serving]:
    kernel_end, device = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    far, near = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in (kernel_end, device, far):
        end.setblocking(False)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
    write_back = WriteBack(Path("/"), -1)
    profile, listings = Profile(volume.meter), Listings()
    handlers, timed_handlers = (
        Handlers(filesystem, write_back, writeback_cache=False, now_ns=lambda: 0, listings=listings)
        for filesystem in (volume.filesystem, timed_filesystem(volume.filesystem, volume.meter))
    )
    with kernel_end, device, far, near:
        async with Ring.open(32, driver) as ring, trio.open_nursery() as nursery:
            plane = Plane(volume.ring or ring, device.fileno(), near, handlers, timed_handlers, profile)
            nursery.start_soon(plane.run, other)
            yield Serving(Kernel(kernel_end), far, volume, plane, profile)
            plane.stop()
            await write_back.aclose()


@pytest.fixture
async def in_memory() -> AsyncIterator[Volume]:
    async with open_volume(Path("none"), VolumeOptions(store=StoreKind.MEMORY)) as volume:
        yield volume


@pytest.fixture(params=[(store, sync) for store in (StoreKind.IO_URING, StoreKind.FILE) for sync in SyncMode])
async def volume(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Volume]:
    store, sync = request.param
    async with open_volume(tmp_path, VolumeOptions(store=store, sync=sync)) as volume:
        yield volume


async def test_a_file_is_made_written_read_flushed_and_closed(volume: Volume) -> None:
    data = os.urandom(protocol.MAX_WRITE_BYTES)
    async with serving(volume) as at:
        inode, handle = await at.kernel.create(b"file")
        assert await at.kernel.ask(Opcode.WRITE, write_body(handle, 0, data), inode) == replies.write_out(len(data))
        assert await at.kernel.ask(Opcode.WRITE, write_body(handle, 10, b"small"), inode) == replies.write_out(5)
        await at.kernel.ask(Opcode.FSYNC, protocol.FSYNC_IN.pack(handle, 0), inode)
        found = await at.kernel.ask(Opcode.READ, read_body(handle, 0, len(data)), inode)
        assert found == data[:10] + b"small" + data[15:]
        assert await at.kernel.ask(Opcode.READ, read_body(handle, 12, 2), inode) == b"al"
        assert await at.kernel.ask(Opcode.READ, read_body(handle, len(data), 2), inode) == b""
        attributes = await at.kernel.ask(Opcode.GETATTR, bytes(16), inode)
        assert struct.unpack_from("<QQ", attributes, 16) == (inode, len(data))
        await at.kernel.ask(Opcode.RELEASE, protocol.RELEASE_IN.pack(handle, 0, 0, 0), inode)
        assert volume.filesystem.open_handles == 0
    assert at.profile.counts() == {"create": 1, "write": 2, "fsync": 1, "read": 3, "getattr": 1, "release": 1}


async def test_requests_are_answered_while_others_wait(volume: Volume) -> None:
    """More at once than the pool has tasks, some of which wait for flushes and each other."""
    async with serving(volume) as at:
        inode, handle = await at.kernel.create(b"file")
        waiting: dict[int, bytes] = {}
        for index in range(3 * MAX_REQUESTS):
            if index % 3 == 0:
                unique = at.kernel.send(Opcode.WRITE, write_body(handle, 4096 * index, b"x" * 4096), inode)
                waiting[unique] = replies.write_out(4096)
            elif index % 3 == 1:
                waiting[at.kernel.send(Opcode.FSYNC, protocol.FSYNC_IN.pack(handle, 1), inode)] = b""
            else:
                waiting[at.kernel.send(Opcode.READ, read_body(handle, 1 << 40, 10), inode)] = b""
            if index % 16 == 15:
                await trio.lowlevel.checkpoint()
        while waiting:
            unique, error, body = await at.kernel.answer()
            assert (error, body) == (0, waiting.pop(unique))


async def test_large_writes_at_once_do_not_mix(volume: Volume) -> None:
    parts = [bytes([65 + index]) * protocol.MAX_WRITE_BYTES for index in range(8)]
    async with serving(volume) as at:
        inode, handle = await at.kernel.create(b"file")
        sent = set()
        for index, part in enumerate(parts):
            with trio.fail_after(30):
                await trio.lowlevel.wait_writable(at.kernel.end)
            sent.add(at.kernel.send(Opcode.WRITE, write_body(handle, index * len(part), part), inode))
            await wait_all_tasks_blocked()
        while sent:
            unique, error, _ = await at.kernel.answer()
            assert not error
            sent.remove(unique)
        for index, part in enumerate(parts):
            body = read_body(handle, index * len(part), len(part))
            assert await at.kernel.ask(Opcode.READ, body, inode) == part


@pytest.mark.parametrize("at_once", [1, 16])
async def test_requests_pass_by_the_ring(in_memory: Volume, at_once: int) -> None:
    """Counted in calls into the kernel for the ring: one for a while, not two for each request."""
    driver = FaultyDriver(UringDriver(128), FaultPlan(0, ()))
    async with serving(in_memory, driver) as at:

        def ask() -> None:
            with socket.socket(fileno=os.dup(at.kernel.end.fileno())) as end:
                end.setblocking(True)
                for first in range(2, 1602, 2 * at_once):
                    uniques = set(range(first, first + 2 * at_once, 2))
                    for unique in uniques:
                        end.send(IN_HEADER.pack(IN_HEADER.size, Opcode.STATFS, unique, 1, 0, 0, 0, 0, 0))
                    while uniques:
                        error, unique = struct.unpack_from("<IiQ", end.recv(BUFFER_BYTES))[1:]
                        assert not error
                        uniques.remove(unique)

        before = driver.enter_count
        await trio.to_thread.run_sync(ask)
        assert driver.enter_count - before < (400 if at_once == 1 else 100)
    assert at.profile.counts() == {"statfs": 800}


async def test_errors_have_their_errno(in_memory: Volume) -> None:
    async with serving(in_memory) as at:
        cases = {
            at.kernel.send(Opcode.RMDIR, b"none\0"): errno.ENOENT,
            at.kernel.send(Opcode.LOOKUP, b"x" * 256 + b"\0"): errno.ENAMETOOLONG,
            at.kernel.send(Opcode.READ, read_body(99, 0, 1)): errno.EBADF,
            at.kernel.send(Opcode.GETXATTR, protocol.GETXATTR_IN.pack(0) + b"user.x\0"): errno.ENODATA,
            at.kernel.send(Opcode.FLUSH, bytes(24)): errno.ENOSYS,
            at.kernel.send(Opcode.RENAME2, protocol.RENAME2_IN.pack(1, 4) + b"a\0b\0"): errno.EINVAL,
        }
        while cases:
            unique, error, body = await at.kernel.answer()
            assert (error, body) == (cases.pop(unique), b"")


async def test_a_value_that_does_not_fit_is_told(in_memory: Volume) -> None:
    async with serving(in_memory) as at:
        await at.kernel.ask(Opcode.SETXATTR, protocol.SETXATTR_IN.pack(3, 0) + b"user.x\0abc")
        for size, error, body in ((0, 0, replies.xattr_size_out(3)), (2, errno.ERANGE, b""), (3, 0, b"abc")):
            unique = at.kernel.send(Opcode.GETXATTR, protocol.GETXATTR_IN.pack(size) + b"user.x\0")
            assert await at.kernel.answer() == (unique, error, body)
        for flags, error in ((1, errno.EEXIST), (2, 0), (3, errno.EEXIST), (4, errno.EINVAL)):
            unique = at.kernel.send(Opcode.SETXATTR, protocol.SETXATTR_IN.pack(1, flags) + b"user.x\0d")
            assert await at.kernel.answer() == (unique, error, b"")
        unique = at.kernel.send(Opcode.SETXATTR, protocol.SETXATTR_IN.pack(1, 2) + b"user.new\0d")
        assert await at.kernel.answer() == (unique, errno.ENODATA, b"")


async def test_malformed_requests_are_answered_and_end_nothing(
    in_memory: Volume, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(in_memory) as at:
        for opcode in Opcode:
            if opcode in (Opcode.FORGET, Opcode.BATCH_FORGET, Opcode.INTERRUPT):
                at.kernel.send(opcode, b"x")  # has no answer
            elif opcode in at.plane.opcodes and opcode not in (Opcode.STATFS, Opcode.DESTROY):
                unique = at.kernel.send(opcode, b"x")
                answered, error, _ = await at.kernel.answer()
                expected = 0 if opcode in (Opcode.GETATTR, Opcode.SYNCFS) else errno.EIO
                expected = errno.EINVAL if opcode is Opcode.READLINK else expected
                assert (answered, error) == (unique, expected), opcode.name
        at.kernel.end.send(b"short")
        at.kernel.end.send(IN_HEADER.pack(99, Opcode.STATFS, 12345, 1, 0, 0, 0, 0, 0))
        assert (await at.kernel.answer())[:2] == (12345, errno.EIO)
        assert len(await at.kernel.ask(Opcode.STATFS)) == 80
    assert "malformed" in caplog.text
    caplog.clear()


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 3), st.binary(max_size=120)), min_size=1, max_size=20))
def test_no_sequence_of_requests_ends_it(messages: list[tuple[int, int, bytes]]) -> None:
    async def attack() -> None:
        async with open_volume(Path("none"), VolumeOptions(store=StoreKind.MEMORY)) as volume, serving(volume) as at:
            for opcode, inode, body in messages:
                at.kernel.send(opcode, body, inode)
            last = at.kernel.send(Opcode.STATFS)
            at.pyfuse3.close()
            while (await at.kernel.answer())[0] != last:
                pass

    trio.run(attack)


async def test_what_it_does_not_know_is_passed_on_and_the_reply_passed_back(in_memory: Volume) -> None:
    async with serving(in_memory) as at:
        body = os.urandom(3000)
        unique = at.kernel.send(UNKNOWN, body)
        with trio.fail_after(30):
            await trio.lowlevel.wait_readable(at.pyfuse3)
        message = at.pyfuse3.recv(BUFFER_BYTES)
        assert (IN_HEADER.unpack_from(message)[1:3], message[40:]) == ((UNKNOWN, unique), body)
        at.pyfuse3.send(struct.pack("<IiQ", 20, 0, 999_999) + b"late")  # nobody asked: dropped
        at.pyfuse3.send(struct.pack("<IiQ", 20, 0, unique) + b"done")
        assert await at.kernel.answer() == (unique, 0, b"done")
        assert len(await at.kernel.ask(Opcode.STATFS)) == 80


async def test_a_dead_pyfuse3_leaves_nobody_waiting(in_memory: Volume) -> None:
    async with serving(in_memory) as at:
        waiting = {at.kernel.send(UNKNOWN), at.kernel.send(UNKNOWN)}
        await wait_all_tasks_blocked()
        at.pyfuse3.close()
        for _ in range(2):
            unique, error, _ = await at.kernel.answer()
            assert error == errno.ENOSYS
            waiting.remove(unique)
        unique = at.kernel.send(UNKNOWN)
        assert await at.kernel.answer() == (unique, errno.ENOSYS, b"")
        assert len(await at.kernel.ask(Opcode.STATFS)) == 80


async def test_a_pyfuse3_that_stalls_leaves_nobody_waiting(
    in_memory: Volume, caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    async with serving(in_memory) as at:
        unique = at.kernel.send(UNKNOWN)
        await trio.sleep(forward.ANSWER_S + 1)
        assert struct.unpack_from("<IiQ", at.kernel.end.recv(100)) == (16, -errno.ENOSYS, unique)
        many = [at.kernel.send(UNKNOWN) for _ in range(forward.MAX_WAITING)]
        await trio.sleep(1)
        too_many = at.kernel.send(UNKNOWN)
        await trio.sleep(1)
        assert struct.unpack_from("<IiQ", at.kernel.end.recv(100)) == (16, -errno.ENOSYS, too_many)
        await trio.sleep(forward.ANSWER_S)
        assert {struct.unpack_from("<IiQ", at.kernel.end.recv(100))[2] for _ in many} == set(many)
    assert "not answered" in caplog.text
    caplog.clear()


async def test_a_pyfuse3_that_fails_is_nothing_to_the_rest(in_memory: Volume, caplog: pytest.LogCaptureFixture) -> None:
    async def failing() -> None:
        raise RuntimeError("no more")

    async with serving(in_memory, other=failing) as at:
        assert len(await at.kernel.ask(Opcode.STATFS)) == 80
    assert "pyfuse3's loop has ended" in caplog.text
    caplog.clear()


async def test_a_device_that_fails_ends_it_with_the_reason(in_memory: Volume) -> None:
    with pytest.raises(ExceptionGroup) as caught:  # noqa: PT012  # the failure comes out of the block
        async with serving(in_memory) as at:
            at.kernel.end.close()
            await at.plane.ended.wait()
    assert caught.group_contains(OSError, match="reading /dev/fuse")


async def test_passing_failures_of_the_device_pass(in_memory: Volume) -> None:
    rules = [Rule("vectors", nth, number) for nth, number in enumerate((errno.EINTR, errno.EAGAIN, errno.ENOENT), 1)]
    driver = FaultyDriver(UringDriver(256), FaultPlan(rules=rules))
    async with serving(in_memory, driver) as at:
        assert len(await at.kernel.ask(Opcode.STATFS)) == 80
    assert len(driver.plan.fired) == 3


async def test_cancelled_it_sees_what_is_in_the_ring_through(tmp_path: Path) -> None:
    """Else the store could not be closed: a chunk stays pinned until its write has ended."""
    async with open_volume(tmp_path, VolumeOptions(sync=SyncMode.FSYNC)) as volume:
        with trio.CancelScope() as scope:
            async with serving(volume) as at:
                inode, handle = await at.kernel.create(b"file")
                data = b"x" * protocol.MAX_WRITE_BYTES
                await at.kernel.ask(Opcode.WRITE, write_body(handle, 0, data), inode)
                for index in range(3):
                    at.kernel.send(Opcode.WRITE, write_body(handle, index << 20, data), inode)
                at.kernel.send(Opcode.FSYNC, protocol.FSYNC_IN.pack(handle, 0), inode)
                await trio.lowlevel.checkpoint()
                scope.cancel()
        assert scope.cancelled_caught
        assert (await volume.filesystem.getattr(InodeId(inode))).size >= len(data)
    assert scope.cancel_called
