"""System calls on descriptors that a tree's worker holds open, by slot: they outlive renames, unlinks and credentials.

Imports this package's ``calls``. Invariants: as there; a slot that is not open answers EBADF.
"""

from __future__ import annotations

import errno
import mmap
import os
import stat
from collections.abc import Callable

from tests.differential import calls
from tests.differential.calls import Moment, Status

MAX_MAPPED_BYTES = 1 << 20


class Handles:
    """The open descriptors of one tree."""

    def __init__(self) -> None:
        self._open: dict[int, int] = {}

    def close_all(self) -> None:
        """Close what is still open, whatever it answers."""
        for slot in list(self._open):
            self.close(slot)

    def _handle(self, slot: int) -> int:
        return self._open.get(slot, -1)

    def inode(self, slot: int) -> int:
        """Its number, or 0 where nothing is open."""
        handle = self._handle(slot)
        return os.fstat(handle).st_ino if handle >= 0 else 0

    def _is_fifo(self, slot: int) -> bool:
        handle = self._handle(slot)
        return handle >= 0 and stat.S_ISFIFO(os.fstat(handle).st_mode)

    def open(self, slot: int, path: bytes, flags: int, mode: int) -> None:
        # Opening a fifo or a device must not wait for anybody.
        self._open[slot] = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC, mode)

    def dup(self, slot: int, new_slot: int) -> None:
        self._open[new_slot] = os.dup(self._handle(slot))

    def link_handle(self, slot: int, path: bytes) -> None:
        """linkat(2) with AT_EMPTY_PATH: a name for what is open."""
        calls.link_open(self._handle(slot), path)

    def close(self, slot: int) -> None:
        os.close(self._open.pop(slot, -1))

    def fstat(self, slot: int) -> Status:
        return Status.of(os.fstat(self._handle(slot)))

    def read(self, slot: int, length: int) -> bytes:
        return b"" if self._is_fifo(slot) else os.read(self._handle(slot), length)

    def pread(self, slot: int, length: int, offset: int) -> bytes:
        return os.pread(self._handle(slot), length, offset)

    def write(self, slot: int, data: bytes) -> int:
        return -1 if self._is_fifo(slot) else os.write(self._handle(slot), data)

    def pwrite(self, slot: int, data: bytes, offset: int) -> int:
        return os.pwrite(self._handle(slot), data, offset)

    def lseek(self, slot: int, offset: int, whence: int) -> int:
        handle = self._handle(slot)
        if handle >= 0 and stat.S_ISDIR(os.fstat(handle).st_mode):
            return -1  # positions in a directory mean something to its filesystem only
        return os.lseek(handle, offset, whence)

    def ftruncate(self, slot: int, size: int) -> None:
        os.ftruncate(self._handle(slot), size)

    def fchmod(self, slot: int, mode: int) -> None:
        os.fchmod(self._handle(slot), mode)

    def fchown(self, slot: int, uid: int, gid: int) -> None:
        os.fchown(self._handle(slot), uid, gid)

    def futimens(self, slot: int, times: tuple[Moment, Moment] | None) -> None:
        calls.futimens(self._handle(slot), times)

    def fsync(self, slot: int) -> None:
        os.fsync(self._handle(slot))

    def fdatasync(self, slot: int) -> None:
        os.fdatasync(self._handle(slot))

    def fsetxattr(self, slot: int, name: bytes, value: bytes, flags: int) -> None:
        os.setxattr(self._handle(slot), name, value, flags)

    def flistxattr(self, slot: int) -> list[str]:
        return sorted(os.listxattr(self._handle(slot)))

    def fgetdents(self, slot: int) -> list[tuple[bytes, int]]:
        """From the start, whatever was read before."""
        handle = self._handle(slot)
        if handle >= 0 and stat.S_ISDIR(os.fstat(handle).st_mode):
            os.lseek(handle, 0, os.SEEK_SET)
        return [(name, kind) for name, kind, _ in calls.entries(handle)]

    def sendfile(self, slot: int, source: int, length: int) -> int:
        """Copy from the position of a regular file; not within one, where the order of bytes is anybody's guess."""
        target, origin = self._handle(slot), self._handle(source)
        if self._is_fifo(slot) or (origin >= 0 and not stat.S_ISREG(os.fstat(origin).st_mode)):
            return -1
        if target >= 0 and origin >= 0 and os.path.samestat(os.fstat(target), os.fstat(origin)):
            return -1
        return os.sendfile(target, origin, None, length)

    def fallocate(self, slot: int, mode: int, offset: int, length: int) -> None:
        calls.fallocate(self._handle(slot), mode, offset, length)

    def copy_file_range(
        self, slot: int, source: int, length: int, offset: int | None, source_offset: int | None
    ) -> int:
        """As often as it takes: how much one call does is the filesystem's matter."""
        target, origin = self._handle(slot), self._handle(source)
        done = 0
        while True:
            at = None if source_offset is None else source_offset + done
            to = None if offset is None else offset + done
            more = os.copy_file_range(origin, target, length - done, at, to)
            done += more
            if not more or done == length:
                return done

    def seek(self, slot: int, offset: int, whence: int) -> str:
        """SEEK_DATA or SEEK_HOLE; where exactly is the filesystem's matter."""
        handle = self._handle(slot)
        if handle >= 0 and not stat.S_ISREG(os.fstat(handle).st_mode):
            return "not asked"
        try:
            found = os.lseek(handle, offset, whence)
        except OSError as error:
            if error.errno != errno.ENXIO or not 0 <= offset < os.fstat(handle).st_size or whence != os.SEEK_DATA:
                raise
            found = offset  # a hole reaches the end
        assert offset <= found <= os.fstat(handle).st_size
        os.lseek(handle, 0, os.SEEK_SET)
        return "found"

    def holes(self, slot: int) -> tuple[bytes, bool]:
        """The content, read where there is data alone; and whether data and holes take turns."""
        handle = self._handle(slot)
        if handle >= 0 and not stat.S_ISREG(os.fstat(handle).st_mode):
            return b"", True
        size, end, orderly = os.fstat(handle).st_size, 0, True
        content = bytearray(min(size, MAX_MAPPED_BYTES))
        while end < size:
            try:
                data = os.lseek(handle, end, os.SEEK_DATA)
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise
                break
            orderly &= data >= end
            end = os.lseek(handle, data, os.SEEK_HOLE)
            orderly &= data < end <= size
            part = os.pread(handle, min(end, len(content)) - data, data) if data < len(content) else b""
            content[data : data + len(part)] = part
        os.lseek(handle, 0, os.SEEK_SET)
        return bytes(content), orderly

    def map_and_read(self, slot: int) -> bytes:
        with self._mapped(slot, mmap.PROT_READ) as view:
            return view[:]

    def map_and_write(self, slot: int, data: bytes, offset: int) -> None:
        """Write through a shared mapping and msync(2); within the file's size."""
        with self._mapped(slot, mmap.PROT_READ | mmap.PROT_WRITE) as view:
            start = offset % len(view)
            end = min(len(view), start + len(data))
            view[start:end] = data[: end - start]
            view.flush()

    def _mapped(self, slot: int, protection: int) -> mmap.mmap:
        handle = self._handle(slot)
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode) or not 0 < status.st_size <= MAX_MAPPED_BYTES:
            raise OSError(errno.ENODEV, "not mapped here")
        return mmap.mmap(handle, 0, flags=mmap.MAP_SHARED, prot=protection)

    @property
    def calls(self) -> dict[str, Callable[..., object]]:
        """Every call on a descriptor, by its name."""
        return {
            function.__name__: function
            for function in (
                *(self.open, self.dup, self.close, self.fstat, self.read, self.pread, self.write, self.pwrite),
                *(self.lseek, self.ftruncate, self.fchmod, self.fchown, self.futimens, self.fsync, self.fdatasync),
                *(self.fsetxattr, self.flistxattr, self.fgetdents, self.sendfile),
                *(self.fallocate, self.copy_file_range, self.seek, self.holes),
                *(self.map_and_read, self.map_and_write, self.link_handle),
            )
        }
