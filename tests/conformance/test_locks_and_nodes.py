"""Locks between processes; fifos, sockets and device nodes that work through the filesystem; inotify."""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import stat
import struct
from collections.abc import Callable
from errno import EINVAL, ENXIO
from functools import partial

import pytest

from tests.conformance.world import Rule, Rules, World, fails, links, make, mode_of, opened, read, write

pytestmark = pytest.mark.fuse
rules = Rules()

F_OFD_SETLK = 37


def test_rule(rule: Rule, world: World) -> None:
    rule.verify(world)


def flock(descriptor: int, kind: int) -> None:
    """flock(2) of the whole file; F_RDLCK, F_WRLCK, F_UNLCK."""
    fcntl.flock(
        descriptor,
        {fcntl.F_RDLCK: fcntl.LOCK_SH, fcntl.F_WRLCK: fcntl.LOCK_EX, fcntl.F_UNLCK: fcntl.LOCK_UN}[kind]
        | fcntl.LOCK_NB,
    )


def record(command: int, descriptor: int, kind: int, start: int = 0, length: int = 0) -> None:
    """fcntl(2) record locks, of a process or of an open file description."""
    fcntl.fcntl(descriptor, command, struct.pack("hhqqi4x", kind, os.SEEK_SET, start, length, 0))


LOCKS: dict[str, Callable[..., None]] = {
    "flock": flock,
    "fcntl": partial(record, fcntl.F_SETLK),
    "OFD": partial(record, F_OFD_SETLK),
}


def _between_processes(lock: Callable[..., None], world: World) -> None:
    descriptor = os.open(write("file"), os.O_RDWR)

    def attempt(kind: int) -> bool:
        try:
            lock(os.open("file", os.O_RDWR), kind)
        except (BlockingIOError, PermissionError):
            return False
        return True

    shared, alone = partial(attempt, fcntl.F_RDLCK), partial(attempt, fcntl.F_WRLCK)
    for held, outcome in (
        (fcntl.F_RDLCK, (True, False)),
        (fcntl.F_WRLCK, (False, False)),
        (fcntl.F_UNLCK, (True, True)),
    ):
        lock(descriptor, held)
        assert (world.start(shared).result(), world.start(alone).result()) == outcome
    lock(descriptor, fcntl.F_WRLCK)
    os.close(descriptor)
    assert world.start(alone).result(), "closing gives it up"


for _name, _lock in LOCKS.items():
    rules.add(f"{_name} locks exclude other processes", f"{_name.lower()}(2)", partial(_between_processes, _lock))


@rules("fcntl(2)")
def record_locks_hold_their_range_only(world: World) -> None:
    descriptor = os.open(write("file"), os.O_RDWR)
    record(fcntl.F_SETLK, descriptor, fcntl.F_WRLCK, 100, 50)

    def attempts() -> None:
        other = os.open("file", os.O_RDWR)
        record(fcntl.F_SETLK, other, fcntl.F_WRLCK, 0, 100)
        record(fcntl.F_SETLK, other, fcntl.F_WRLCK, 150, 0)
        with pytest.raises(BlockingIOError):
            record(fcntl.F_SETLK, other, fcntl.F_RDLCK, 149, 1)

    world.start(attempts).result()
    os.close(descriptor)


@rules("fcntl(2): a process's locks go with any close, those of a description do not")
def closing_another_descriptor_gives_up_fcntl_locks_and_no_ofd_locks(world: World) -> None:
    write("file")
    for command, kept in ((fcntl.F_SETLK, False), (F_OFD_SETLK, True)):
        descriptor = os.open("file", os.O_RDWR)
        record(command, descriptor, fcntl.F_WRLCK)
        opened("file")

        def blocked(command: int = command) -> bool:
            try:
                record(command, os.open("file", os.O_RDWR), fcntl.F_WRLCK)
            except BlockingIOError:
                return True
            return False

        assert world.start(blocked).result() == kept
        os.close(descriptor)


@rules("fifo(7)")
def a_fifo_carries_bytes_between_processes(world: World) -> None:
    os.mkfifo("fifo")
    fails(ENXIO, os.open, "fifo", os.O_WRONLY | os.O_NONBLOCK)
    child = world.start(lambda: read("fifo"))
    write("fifo", b"through")
    assert child.result() == b"through"
    assert os.stat("fifo").st_size == 0
    descriptor = os.open("fifo", os.O_RDONLY | os.O_NONBLOCK)
    os.rename("fifo", "renamed")
    os.unlink("renamed")
    os.close(descriptor)


@rules("unix(7)")
def a_socket_is_reached_by_its_name(world: World) -> None:
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
        listener.bind("socket")
        fails(98, make, "socket", "socket")
        fails(111, client.connect, "socket")
        listener.listen()
        os.link("socket", "second")
        os.rename("socket", "renamed")
        os.chmod("renamed", 0o777)
        client.connect("second")
        server, _address = listener.accept()
        with server:
            client.sendall(b"through")
            assert server.recv(100) == b"through"
    with socket.socket(socket.AF_UNIX) as late:
        fails(111, late.connect, "renamed")
    assert stat.S_ISSOCK(os.stat("renamed").st_mode)


@rules("null(4), mknod(2)")
def device_nodes_lead_to_their_devices(world: World) -> None:
    os.mknod("null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod("zero", stat.S_IFCHR | 0o666, os.makedev(1, 5))
    os.mknod("full", stat.S_IFCHR | 0o666, os.makedev(1, 7))
    write("null", b"gone")
    assert read("null") == b""
    descriptor = os.open("zero", os.O_RDONLY)
    assert os.read(descriptor, 10) == bytes(10)
    os.close(descriptor)
    descriptor = os.open("full", os.O_WRONLY)
    fails(28, os.write, descriptor, b"x")
    os.close(descriptor)
    os.mknod("nothing", stat.S_IFBLK | 0o666, os.makedev(259, 1_000_000))
    fails(ENXIO, os.open, "nothing", os.O_RDONLY)


@rules("mknod(2)")
def mknod_makes_every_type_but_directories_and_symlinks(world: World) -> None:
    for number, kind in enumerate((stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK, 0)):
        name = f"node {number}"
        os.mknod(name, kind | 0o640, os.makedev(4000, 1_048_575))
        status = os.stat(name)
        assert stat.S_IFMT(status.st_mode) == (kind or stat.S_IFREG)
        assert (mode_of(name), links(name), status.st_size) == (0o640, 1, 0)
        if kind in (stat.S_IFCHR, stat.S_IFBLK):
            assert status.st_rdev == os.makedev(4000, 1_048_575)
    fails(1, os.mknod, "dir", stat.S_IFDIR | 0o755)
    fails(EINVAL, os.mknod, "symlink", stat.S_IFLNK | 0o755)


class Watch:
    """inotify(7) on one directory."""

    EVENT = struct.Struct("iIII")

    def __init__(self, name: str) -> None:
        libc = ctypes.CDLL(None)
        self._descriptor = libc.inotify_init1(os.O_NONBLOCK)
        assert libc.inotify_add_watch(self._descriptor, os.fsencode(name), 0xFFF) > 0

    def close(self) -> None:
        """End it."""
        os.close(self._descriptor)

    def events(self) -> list[tuple[int, str]]:
        """Mask and name of what has happened."""
        data, found = os.read(self._descriptor, 1 << 16), []
        while data:
            _watch, mask, _cookie, length = self.EVENT.unpack_from(data)
            name = data[self.EVENT.size : self.EVENT.size + length].rstrip(b"\0").decode()
            found.append((mask, name))
            data = data[self.EVENT.size + length :]
        return found


@rules("inotify(7)")
def inotify_tells_what_happens_in_a_directory(world: World) -> None:
    os.mkdir("d")
    watch = Watch("d")
    write("d/file")
    os.chmod("d/file", 0o600)
    os.rename("d/file", "d/renamed")
    os.mkdir("d/dir")
    os.unlink("d/renamed")
    os.rmdir("d/dir")
    create, modify, attributes, moved_from, moved_to, delete, directory = 0x100, 2, 4, 0x40, 0x80, 0x200, 0x40000000
    wanted = [
        (create, "file"),
        (modify, "file"),
        (attributes, "file"),
        (moved_from, "file"),
        (moved_to, "renamed"),
        (create | directory, "dir"),
        (delete, "renamed"),
        (delete | directory, "dir"),
    ]
    found = [event for event in watch.events() if event in wanted]
    watch.close()
    assert found == wanted
