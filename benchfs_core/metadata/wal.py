"""The WAL beside the connection that changes: copied into the database file by a second one, opened for flushing.

May import apsw, as all of ``benchfs_core.metadata`` may. The database file is opened by SQLite only, here as well.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

import apsw

from benchfs_core.errors import DamagedVolume


class WalCheckpointer:
    """A second connection that copies the WAL into the database file, for use in a worker thread."""

    def __init__(self, path: Path, vfs: str | None = None) -> None:
        """Open it. DamagedVolume: it cannot be opened."""
        try:
            self._connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE, vfs=vfs)
            self._connection.pragma("synchronous", "NORMAL")
            self._connection.pragma("wal_autocheckpoint", 0)
        except apsw.Error as error:
            raise DamagedVolume(f"{path}: {error}: a second connection cannot be opened") from error

    def run(self) -> bool:
        """Copy and flush what readers allow (a "passive" WAL checkpoint); blocks. Whether all of the WAL was copied.

        Raises:
            OSError: SQLite's error as a number of the operating system: ENOSPC, EDQUOT or EIO.
        """
        try:
            total, done = self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        except apsw.FullError as error:
            raise OSError(errno.ENOSPC, str(error), str(self._connection.filename)) from error
        except apsw.Error as error:  # SQLite has no word for a quota
            number = errno.EDQUOT if self._connection.system_errno == errno.EDQUOT else errno.EIO
            raise OSError(number, str(error), str(self._connection.filename)) from error
        return total == done

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def open_wal(path: Path) -> int:
    """Open the WAL of the database at ``path`` for flushing; return the descriptor.

    Its name is durable on return. Unlike the database file, the WAL carries no locks that closing would drop.
    """
    descriptor = os.open(f"{path}-wal", os.O_RDWR | os.O_CLOEXEC)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
    return descriptor


def open_wal_index(path: Path) -> int:
    """Open the index of the WAL (-shm) of the database at ``path``, to allocate space for it; return the descriptor.

    To be closed after the database: it carries SQLite's locks, which closing drops.
    """
    return os.open(f"{path}-shm", os.O_RDWR | os.O_CLOEXEC)
