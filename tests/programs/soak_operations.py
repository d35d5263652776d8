"""What the soak's processes do to the one tree that they share: each method is one kind of operation on random names.

Imports the standard library alone, so that it runs on any filesystem. Names are few, and the same name is a directory
for one process and a file for another, so that operations collide. An operation that fails raises ``OSError``; which
errnos are in order says ``soak_errors``. Invariants: every 512-byte sector of a shared file that is not zeros names
the inode and the place it was written to, so that a reader can tell bytes of another file or of another place;
nothing here blocks on a FIFO.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import random
import stat
import struct
from collections.abc import Iterator

SECTOR = 512
MAX_SECTORS = 512
"""Of one file: four chunks of 64 KiB."""

MAX_SECTORS_AT_ONCE = 64
NAMES = "abcdef"
MAX_DEPTH = 3
MAX_HELD = 6
APPENDED = 1 << 62
"""Stands in an appended sector for its place, which the writer does not know."""

MAGIC = b"benchfs\n"
UNIT = struct.Struct("<8sQQQ")
READS = 50
"""How often a sector is read again before it counts as wrong: a reader may see another's write half done."""

NOREPLACE, EXCHANGE = 1, 2
KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 1, 2, 16
XATTRS = ("user.one", "user.two", "user.three")
LIBC = ctypes.CDLL(None, use_errno=True)


class WrongContent(Exception):
    """A file showed what was never written there."""


def renameat2(old: str, new: str, flags: int) -> None:
    """rename(2) with flags, which Python's does not have."""
    if LIBC.renameat2(-100, os.fsencode(old), -100, os.fsencode(new), ctypes.c_uint(flags)):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def fallocate(descriptor: int, mode: int, offset: int, length: int) -> None:
    """fallocate(2), of which Python has a part."""
    if LIBC.fallocate(descriptor, mode, ctypes.c_long(offset), ctypes.c_long(length)):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


@contextlib.contextmanager
def opened(path: str, flags: int, mode: int = 0o666) -> Iterator[int]:
    """A descriptor that is closed again."""
    descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC, mode)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


class SharedTree:
    """Random operations below the current directory; ``perform`` does one of a kind."""

    def __init__(self, rng: random.Random, worker: int) -> None:
        self._rng = rng
        self._worker = worker
        self._stamp = 0
        self._held: list[int] = []
        self._source = os.memfd_create("sectors")

    def path(self) -> str:
        """One of the few names, at most three levels deep."""
        return "/".join(self._rng.choices(NAMES, k=self._rng.randint(1, MAX_DEPTH)))

    def close(self) -> None:
        """Let go of the files that are held open."""
        while self._held:
            os.close(self._held.pop())

    # ---- content -----------------------------------------------------------------------------------------------------

    def _is_file(self, descriptor: int) -> bool:
        return stat.S_ISREG(os.fstat(descriptor).st_mode)

    def sectors(self, descriptor: int, first: int, count: int) -> bytes:
        """What may be written to this file at sector ``first``."""
        inode = os.fstat(descriptor).st_ino
        self._stamp += 1
        stamp = self._worker << 48 | self._stamp
        units = (
            UNIT.pack(MAGIC, inode, first if first == APPENDED else first + index, stamp) for index in range(count)
        )
        return b"".join(unit * (SECTOR // UNIT.size) for unit in units)

    def _place(self) -> tuple[int, int]:
        count = self._rng.randint(1, MAX_SECTORS_AT_ONCE)
        return self._rng.randrange(MAX_SECTORS - count), count

    def _write_to(self, descriptor: int) -> None:
        if self._is_file(descriptor):
            first, count = self._place()
            os.pwrite(descriptor, self.sectors(descriptor, first, count), first * SECTOR)

    def verify(self, descriptor: int) -> None:
        """Read somewhere, and compare."""
        if not self._is_file(descriptor):
            return
        first, count = self._place()
        inode = os.fstat(descriptor).st_ino
        data = os.pread(descriptor, count * SECTOR, first * SECTOR)
        for index in range(len(data) // SECTOR):
            sector = data[index * SECTOR : (index + 1) * SECTOR]
            for _ in range(READS):
                if self._is_right(sector, inode, first + index):
                    break
                sector = os.pread(descriptor, SECTOR, (first + index) * SECTOR)
            else:
                raise WrongContent(f"inode {inode}, sector {first + index}: {sector!r}")

    @staticmethod
    def _is_right(sector: bytes, inode: int, place: int) -> bool:
        for offset in range(0, len(sector), UNIT.size):
            unit = sector[offset : offset + UNIT.size]
            if not any(unit):
                continue
            if len(unit) < UNIT.size:
                return False
            magic, of, at, _ = UNIT.unpack(unit)
            if (magic, of) != (MAGIC, inode) or at not in (place, APPENDED):
                return False
        return True

    def write(self) -> None:
        with opened(self.path(), os.O_RDWR | os.O_CREAT) as descriptor:
            self._write_to(descriptor)

    def write_synchronously(self) -> None:
        with opened(self.path(), os.O_RDWR | os.O_CREAT | os.O_SYNC) as descriptor:
            self._write_to(descriptor)

    def append(self) -> None:
        with opened(self.path(), os.O_WRONLY | os.O_CREAT | os.O_APPEND) as descriptor:
            if self._is_file(descriptor) and os.fstat(descriptor).st_size < MAX_SECTORS * SECTOR:
                os.write(descriptor, self.sectors(descriptor, APPENDED, self._rng.randint(1, 4)))

    def write_direct(self) -> None:
        with opened(self.path(), os.O_RDWR | os.O_CREAT | os.O_DIRECT) as descriptor:
            if self._is_file(descriptor):
                first = self._rng.randrange(0, MAX_SECTORS, 8)
                with mmap.mmap(-1, 8 * SECTOR) as aligned:
                    aligned[:] = self.sectors(descriptor, first, 8)
                    os.pwrite(descriptor, aligned, first * SECTOR)

    def store_mapped(self) -> None:
        """Store through a mapping, by the kernel's hand: where another shortens the file it is EFAULT, not a signal."""
        with opened(self.path(), os.O_RDWR | os.O_CREAT) as descriptor:
            size = os.fstat(descriptor).st_size
            if self._is_file(descriptor) and size:
                try:
                    whole = mmap.mmap(descriptor, size)
                except ValueError:  # another has shortened it since, which Python looks for
                    return
                with whole as mapped, memoryview(mapped) as view:
                    first = self._rng.randrange(size // SECTOR)
                    count = min(MAX_SECTORS_AT_ONCE, size // SECTOR - first)
                    os.pwrite(self._source, self.sectors(descriptor, first, count), 0)
                    with view[first * SECTOR : (first + count) * SECTOR] as part:
                        os.preadv(self._source, [part], 0)

    def read(self) -> None:
        with opened(self.path(), os.O_RDONLY) as descriptor:
            self.verify(descriptor)

    def truncate(self) -> None:
        os.truncate(self.path(), self._rng.randrange(MAX_SECTORS) * SECTOR)

    def allocate(self) -> None:
        with opened(self.path(), os.O_WRONLY) as descriptor:
            length = self._rng.randrange(1, MAX_SECTORS) * SECTOR
            fallocate(descriptor, self._rng.choice((0, KEEP_SIZE)), 0, length)

    def punch(self) -> None:
        with opened(self.path(), os.O_WRONLY) as descriptor:
            first, count = self._rng.randrange(MAX_SECTORS), self._rng.randrange(1, MAX_SECTORS_AT_ONCE)
            mode = self._rng.choice((KEEP_SIZE | PUNCH_HOLE, KEEP_SIZE | ZERO_RANGE))
            fallocate(descriptor, mode, first * SECTOR, count * SECTOR)

    def find_data(self) -> None:
        with opened(self.path(), os.O_RDONLY) as descriptor:
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                os.lseek(descriptor, self._rng.randrange(MAX_SECTORS) * SECTOR, os.SEEK_DATA)

    def open_and_empty(self) -> None:
        with opened(self.path(), os.O_WRONLY | os.O_TRUNC) as descriptor:
            self._write_to(descriptor)

    def fsync(self) -> None:
        with opened(self.path(), os.O_RDONLY) as descriptor:
            os.fsync(descriptor)

    def fdatasync(self) -> None:
        with opened(self.path(), os.O_RDWR) as descriptor:
            self._write_to(descriptor)
            os.fdatasync(descriptor)

    def hold(self) -> None:
        """Open a file and keep it, whatever becomes of its names."""
        self._held.append(os.open(self.path(), os.O_RDWR | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC))
        if len(self._held) > MAX_HELD:
            os.close(self._held.pop(self._rng.randrange(len(self._held))))

    def use_held(self) -> None:
        if not self._held:
            return
        descriptor = self._rng.choice(self._held)
        if self._is_file(descriptor):
            self._write_to(descriptor)
            self.verify(descriptor)
            os.ftruncate(descriptor, self._rng.randrange(MAX_SECTORS) * SECTOR)
            os.fchmod(descriptor, 0o666)
            os.fsync(descriptor)

    # ---- names -------------------------------------------------------------------------------------------------------

    def create(self) -> None:
        with opened(self.path(), os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644) as descriptor:
            self._write_to(descriptor)

    def rename(self) -> None:
        os.rename(self.path(), self.path())

    def rename_to_free_name(self) -> None:
        renameat2(self.path(), self.path(), NOREPLACE)

    def exchange(self) -> None:
        renameat2(self.path(), self.path(), EXCHANGE)

    def link(self) -> None:
        os.link(self.path(), self.path(), follow_symlinks=False)

    def unlink(self) -> None:
        os.unlink(self.path())

    def mkdir(self) -> None:
        os.mkdir(self.path(), 0o777)

    def rmdir(self) -> None:
        os.rmdir(self.path())

    def symlink(self) -> None:
        os.symlink(self.path(), self.path())

    def readlink(self) -> None:
        os.readlink(self.path())

    def make_special(self) -> None:
        kind = self._rng.choice((stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR))
        os.mknod(self.path(), 0o666 | kind, os.makedev(1, 3) if kind == stat.S_IFCHR else 0)

    def list_directory(self) -> None:
        for name in os.listdir(os.path.dirname(self.path()) or "."):
            if name not in NAMES:
                raise WrongContent(f"a name that nobody made: {name!r}")

    def walk(self) -> None:
        """A reader of the whole tree, for whom names come and go."""
        for _, directories, files in os.walk("."):
            if strange := [name for name in (*directories, *files) if name not in NAMES]:
                raise WrongContent(f"names that nobody made: {strange}")

    def sync_directory(self) -> None:
        with opened(os.path.dirname(self.path()) or ".", os.O_RDONLY | os.O_DIRECTORY) as descriptor:
            os.fsync(descriptor)

    # ---- attributes --------------------------------------------------------------------------------------------------

    def look(self) -> None:
        os.stat(self.path(), follow_symlinks=self._rng.random() < 0.5)

    def access(self) -> None:
        os.access(self.path(), os.R_OK | os.W_OK)
        os.statvfs(self.path())

    def chmod(self) -> None:
        os.chmod(self.path(), self._rng.choice((0o777, 0o755, 0o750, 0o644, 0o600, 0o1777, 0o2775, 0o4755, 0)))

    def chown(self) -> None:
        os.chown(self.path(), self._rng.choice((-1, 0, 1234, 65534)), -1, follow_symlinks=False)

    def utime(self) -> None:
        moment_ns = self._rng.randrange(1 << 60)
        os.utime(self.path(), ns=(moment_ns, moment_ns + 1), follow_symlinks=False)

    def set_xattr(self) -> None:
        value = self._rng.randbytes(self._rng.randrange(300))
        os.setxattr(self.path(), self._rng.choice(XATTRS), value, self._rng.choice((0, 1, 2)))

    def get_xattr(self) -> None:
        os.getxattr(self.path(), self._rng.choice(XATTRS))

    def list_xattrs(self) -> None:
        if strange := set(os.listxattr(self.path())) - set(XATTRS):
            raise WrongContent(f"xattrs that nobody set: {strange}")

    def remove_xattr(self) -> None:
        os.removexattr(self.path(), self._rng.choice(XATTRS))


NOT_OPERATIONS = ("path", "close", "sectors", "verify")
KINDS = tuple(sorted(name for name in vars(SharedTree) if not name.startswith("_") and name not in NOT_OPERATIONS))
"""Every kind of operation, by name; its index tells the watchdog what a process is doing."""
