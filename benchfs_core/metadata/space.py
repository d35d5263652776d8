"""Disk space that the database file will need, allocated before changes are made that need it.

Imports ``host`` and ``errors``. What the WAL holds is written into the database file later, by a WAL checkpoint. If the
disk were full by then, the checkpoint would fail, and what somebody deletes afterwards would first go to the database.
So a change that may make it grow is refused beforehand. The descriptor is closed after the database: it carries
SQLite's locks, which closing drops.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

from benchfs_core.errors import NoSpace
from benchfs_core.host import allocate_beyond_end

STEP_BYTES = 1024 * 1024
"""Allocated at a time, where there is so much."""

_FOR_DELETING_BYTES = 512 * 1024
"""Kept for changes that free space and are never refused."""


def open_database_file(path: Path) -> int:
    """Open the database file of an open database, for ``DatabaseSpace``; return the descriptor."""
    return os.open(path, os.O_RDWR | os.O_CLOEXEC)


class DatabaseSpace:
    """Space beyond the end of one database file. Not a checkpoint anywhere."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._allocated_bytes = 0
        """So much from the start of the file is allocated."""
        self._supported = True
        self.file_bytes = 0
        self.refresh()

    def close(self) -> None:
        """Close the descriptor, after the database."""
        os.close(self._descriptor)

    def refresh(self) -> None:
        """Take notice of what a WAL checkpoint did: the file is longer, and what was allocated beyond its end is gone.

        For SQLite truncates it to the length that it has by then.
        """
        self.file_bytes = os.fstat(self._descriptor).st_size
        self._allocated_bytes = min(self._allocated_bytes, self.file_bytes)

    def ensure(self, growth_bytes: int) -> None:
        """See that the file can grow by so much.

        Raises:
            NoSpace: the filesystem below is full.
        """
        wanted = self.file_bytes + growth_bytes + _FOR_DELETING_BYTES
        if wanted <= self._allocated_bytes or not self._supported:
            return
        if not (self._allocate(wanted + STEP_BYTES) or self._allocate(wanted)):
            raise NoSpace("no space for metadata to grow")

    def _allocate(self, end: int) -> bool:
        """Whether all up to ``end`` is allocated, or cannot be here.

        After a refusal bit by bit: xfs wants as much to be free as is asked for, also where it is allocated already.
        """
        most = end
        while self._supported and self._allocated_bytes < end:
            length = min(most, end - self._allocated_bytes)
            try:
                self._supported = allocate_beyond_end(self._descriptor, length, self._allocated_bytes)
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                if length <= STEP_BYTES:
                    return False
                most = STEP_BYTES
            else:
                self._allocated_bytes += length
        return True
