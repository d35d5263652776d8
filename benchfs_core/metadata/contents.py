"""The content of small regular files, kept in rows: the table ``inline``.

SQL lives here as in the rest of ``benchfs_core.metadata``; the table is described in ``schema``. Nothing awaits.
Durability is the caller's: each change is part of the open transaction, so that content, size and times of a small
file are there together or not at all.
"""

from __future__ import annotations

from typing import NamedTuple

from benchfs_core.metadata.database import Database
from benchfs_core.metadata.inode_rows import InodeRows
from benchfs_core.types import BLOCK_BYTES, InodeId

MAX_INLINE_BYTES = 64 * 1024
"""The longest content that may be kept in a row: the smallest chunk there is."""

_UNIT_BYTES = 4096
"""What small content is counted in by st_blocks, as filesystems commonly allocate."""

_STORE = "INSERT OR REPLACE INTO inline (inode, data) VALUES (?, ?)"

INLINE_BLOCKS = f"(length(data) + {_UNIT_BYTES - 1}) / {_UNIT_BYTES} * {_UNIT_BYTES // BLOCK_BYTES}"
"""The same as ``inline_blocks`` in SQL, of a row of ``inline``."""


def inline_blocks(length: int) -> int:
    """Units of 512 bytes that inline content of ``length`` bytes counts as."""
    return -(-length // _UNIT_BYTES) * (_UNIT_BYTES // BLOCK_BYTES)


class FileState(NamedTuple):
    """What a change of content leaves in the inode's row: bytes, and nanoseconds since 1970."""

    size: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int


class Contents:
    """The table ``inline``."""

    def __init__(self, database: Database, inodes: InodeRows) -> None:
        self._database = database
        self._inodes = inodes

    def load(self, inode: InodeId) -> tuple[bytes | None, bool]:
        """The inode's inline content, None without a row; and whether it has chunk rows."""
        data, has_chunks = self._database.first_row(
            "SELECT (SELECT data FROM inline WHERE inode = ?1), EXISTS (SELECT 1 FROM chunk WHERE inode = ?1)", (inode,)
        )
        return data, bool(has_chunks)

    def inline(self, inode: InodeId) -> bytes | None:
        """The inode's inline content, None without a row: ``load`` without a look at the chunk rows."""
        row: tuple[bytes] | None = self._database.execute(
            "SELECT data FROM inline WHERE inode = ?", (inode,)
        ).fetchone()
        return None if row is None else row[0]

    def store(self, inode: InodeId, content: bytes, state: FileState) -> None:
        """Make ``content`` the inode's inline content; of none there is no row, and a dirty mark has chunks dead."""
        assert len(content) <= min(MAX_INLINE_BYTES, state.size)
        database = self._database
        attributes = self._inodes.get(inode)
        if content:
            database.change_at_once(_STORE, (inode, content))
            database.pending_bytes += len(content)
        else:
            with database.change():
                database.execute("DELETE FROM inline WHERE inode = ?", (inode,))
                database.execute("UPDATE dirty SET cut = 0 WHERE inode = ?", (inode,))
        blocks = inline_blocks(len(content))
        self._inodes.put(attributes.with_state(state.size, blocks, state.atime_ns, state.mtime_ns, state.ctime_ns))
