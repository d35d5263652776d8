"""``DirectIO``: large reads and writes past the page cache of the filesystem below, as O_DIRECT does them (open(2)).

Imports os, errno, logging, ``buffers`` and ``ring``. The mount's own pages are the cache of what is read and written in
such sizes: to keep it below as well costs a copy, the memory, and more CPU than all else that the request needs.
Measured on ext4, by one ring at depth 4: 100 against 265 µs of CPU for a cold MiB read, 150 against 350 for a new MiB
written durably.

Invariants: a descriptor opened here is closed when its request is done; where direct I/O is not to be had, the caller
is told so, having lost nothing, and it is not tried again. Both ways show the same bytes: before it touches the disk,
the kernel writes back what is cached of that range, and it drops what it has overwritten.
"""

from __future__ import annotations

import errno
import logging
import os

from benchfs_core.chunks.buffers import PAGE_BYTES, aligned, is_aligned
from benchfs_core.chunks.ring import Ring
from benchfs_core.types import Buffer

log = logging.getLogger(__name__)

DIRECT_BYTES = 512 * 1024
"""Shorter requests gain less than they lose by going without read-ahead and without gathering of writes; but for
durable writes at the same time."""

_REFUSALS = frozenset({errno.EINVAL, errno.EOPNOTSUPP})
_NEVER = _REFUSALS | {errno.ENOENT}
"""Failures to open that will not pass. ENOENT: there is no /proc."""


class DirectIO:
    """Direct I/O by one ring."""

    def __init__(self, ring: Ring) -> None:
        self._ring = ring
        self._usable = True
        self.count = 0
        """Requests that went this way."""

    async def read(self, descriptor: int, offset: int, length: int) -> tuple[bytearray, int] | None:
        """Read into a buffer of ``length`` bytes: that, and how many were read. None where it is not to be had so.

        A checkpoint, unless None. Fewer bytes than asked for say nothing about the end of the file.
        """
        if not self._fits(offset, length):
            return None
        buffer = self._ring.buffers.take(length)
        if not is_aligned(buffer) or (direct := self._open(descriptor, os.O_RDONLY)) < 0:
            return None
        try:
            done = await self._ring.read_once(direct, offset, buffer)
        except OSError as error:
            if error.errno not in _REFUSALS:
                raise
            self._give_up(error)
            return None
        finally:
            os.close(direct)
        self.count += 1
        return buffer, done

    async def write(
        self, descriptor: int, offset: int, data: Buffer, rw_flags: int, *, any_length: bool = False
    ) -> int:
        """Write ``data``, or a part from its start; how many bytes. 0 where it is not to be had so. A checkpoint.

        With ``any_length`` also what is short, as long as it is whole pages: for durable writes at the same time, which
        the filesystem below then takes side by side. Through its cache ext4 has each wait for the one before.
        """
        if not self._fits(offset, len(data), any_length=any_length):
            return 0
        buffer = data if isinstance(data, bytearray) and is_aligned(data) else None
        if buffer is None:
            if len(data) >= DIRECT_BYTES:
                return 0  # it is not worth the copy
            buffer = aligned(len(data))
            buffer[:] = data
        if (direct := self._open(descriptor, os.O_WRONLY)) < 0:
            return 0
        try:
            done = await self._ring.write_once(direct, offset, buffer, rw_flags)
        except OSError as error:
            if error.errno not in _REFUSALS:
                raise
            self._give_up(error)
            return 0
        finally:
            os.close(direct)
        self.count += 1
        return done

    def _fits(self, offset: int, length: int, *, any_length: bool = False) -> bool:
        return self._usable and (any_length or length >= DIRECT_BYTES) and not (offset | length) % PAGE_BYTES

    def _open(self, descriptor: int, access: int) -> int:
        """The same file once more; -1 where that fails, of which whoever goes on without is told. Takes 3 µs."""
        try:
            return os.open(f"/proc/self/fd/{descriptor}", access | os.O_DIRECT | os.O_CLOEXEC)
        except OSError as error:
            if error.errno in _NEVER:
                self._give_up(error)
            return -1

    def _give_up(self, error: OSError) -> None:
        if self._usable:
            log.info("no direct I/O on the filesystem below: %s", error.strerror)
        self._usable = False
