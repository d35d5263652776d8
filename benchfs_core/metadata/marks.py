"""Dirty marks, chunk rows and orphans: what the metadata knows about chunk files.

SQL lives here as in the rest of ``benchfs_core.metadata``; the tables are described in ``schema``. Nothing awaits.
Durability is the caller's: each change is part of the open transaction.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from benchfs_core.metadata.contents import INLINE_BLOCKS
from benchfs_core.metadata.database import ROW_BYTES, Database
from benchfs_core.metadata.inode_rows import InodeRows
from benchfs_core.types import ChunkIndex, ChunkInfo, InodeId

_BLOCKS = f"""SELECT (SELECT ifnull(sum(blocks), 0) FROM chunk WHERE inode = ?1)
                   + ifnull((SELECT {INLINE_BLOCKS} FROM inline WHERE inode = ?1), 0)"""


@dataclass(frozen=True, slots=True)
class DirtyMark:
    """One inode whose chunk files may be ahead of its rows; chunk bytes from ``cut`` on, if set, are dead."""

    inode: InodeId
    cut: int | None


class Marks:
    """The tables ``dirty``, ``chunk`` and ``orphan``."""

    def __init__(self, database: Database, inodes: InodeRows) -> None:
        self._database = database
        self._inodes = inodes

    def mark_dirty(self, inode: InodeId) -> None:
        """Say that the inode's chunk files are about to change."""
        with self._database.change():
            self._database.execute("INSERT OR IGNORE INTO dirty (inode, cut) VALUES (?, NULL)", (inode,))

    def record_cut(self, inode: InodeId, size: int, least_size: int, now_ns: int) -> None:
        """Shorten the inode: chunk bytes from ``size`` on are dead; an earlier cut below that stays in force."""
        with self._database.change():
            self._database.execute(
                "INSERT INTO dirty (inode, cut) VALUES (?, ?)"
                " ON CONFLICT (inode) DO UPDATE SET cut = min(ifnull(cut, excluded.cut), excluded.cut)",
                (inode, size),
            )
            self._put_size(inode, least_size, now_ns)

    def clear_cut(self, inode: InodeId, least_size: int, *, drop_inline: bool) -> None:
        """Say that the recorded cut has been made, durably; the inode stays dirty, and has at least ``least_size``.

        With ``drop_inline`` its inline content has moved into a chunk, durably as well.
        """
        with self._database.change():
            if drop_inline:
                self._database.execute("DELETE FROM inline WHERE inode = ?", (inode,))
            self._put_size(inode, least_size)
            self._database.execute("UPDATE dirty SET cut = NULL WHERE inode = ?", (inode,))

    def record_growth(self, inode: InodeId, size: int, now_ns: int) -> None:
        """Lengthen the inode by a hole: it has at least ``size`` bytes, whatever its chunk files say."""
        self._database.change_kept_back()
        self._put_size(inode, size, now_ns)

    def mark_clean(
        self,
        inode: InodeId,
        size: int,
        written: Sequence[ChunkInfo],
        kept_below: ChunkIndex | None,
        *,
        drop_inline: bool,
    ) -> int:
        """Say that everything of the inode is durable: ``written`` replaces the rows of those chunks.

        Args:
            inode: what is clean.
            size: its size in bytes.
            written: the chunks that exist among those that changed since it was last clean.
            kept_below: rows from this chunk index on are dropped first (after a cut), None keeps all.
            drop_inline: whether its inline content has moved into a chunk.

        Returns:
            The inode's blocks, of 512 bytes.
        """
        execute = self._database.execute
        with self._database.change():
            if kept_below is not None:
                execute("DELETE FROM chunk WHERE inode = ? AND chunk_index >= ?", (inode, kept_below))
            for chunk in written:
                execute(
                    "INSERT OR REPLACE INTO chunk (inode, chunk_index, length, blocks) VALUES (?, ?, ?, ?)",
                    (inode, chunk.chunk_index, chunk.length, chunk.blocks),
                )
            if drop_inline:
                execute("DELETE FROM inline WHERE inode = ?", (inode,))
            (blocks,) = self._database.first_row(_BLOCKS, (inode,))
            if (a := self._inodes.find(inode)) is not None:
                self._inodes.put(a.with_state(size, blocks, a.atime_ns, a.mtime_ns, a.ctime_ns))
            execute("DELETE FROM dirty WHERE inode = ?", (inode,))
        return int(blocks)

    def set_times(self, inode: InodeId, atime_ns: int, mtime_ns: int, ctime_ns: int) -> None:
        """Store the times that reads and writes moved."""
        self._database.change_kept_back()
        if (a := self._inodes.find(inode)) is not None:
            self._inodes.put(a.with_state(a.size, a.blocks, atime_ns, mtime_ns, ctime_ns))

    def blocks_of(self, inode: InodeId, chunk_indices: Collection[ChunkIndex]) -> int:
        """Blocks that the rows of the given chunks count, of 512 bytes."""
        execute = self._database.execute
        total = 0
        for chunk_index in chunk_indices:
            row = execute(
                "SELECT blocks FROM chunk WHERE inode = ? AND chunk_index = ?", (inode, chunk_index)
            ).fetchone()
            total += row[0] if row else 0
        return total

    def blocks_below(self, inode: InodeId, chunk_index: ChunkIndex) -> int:
        """Blocks that the rows of all chunks below ``chunk_index`` count."""
        row = self._database.first_row(
            "SELECT ifnull(sum(blocks), 0) FROM chunk WHERE inode = ? AND chunk_index < ?", (inode, chunk_index)
        )
        return int(row[0])

    def chunk_rows(self, inode: InodeId) -> list[ChunkInfo]:
        """The chunks of a clean inode, by rising index."""
        rows = self._database.execute(
            "SELECT chunk_index, length, blocks FROM chunk WHERE inode = ? ORDER BY chunk_index", (inode,)
        )
        return [ChunkInfo(ChunkIndex(index), length, blocks) for index, length, blocks in rows]

    def chunk_indices(self, inode: InodeId, first: int, below: int, limit: int) -> list[ChunkIndex]:
        """Up to ``limit`` chunks, lowest first, that rows name from ``first`` on and below ``below``."""
        rows = self._database.execute(
            "SELECT chunk_index FROM chunk WHERE inode = ? AND chunk_index >= ? AND chunk_index < ?"
            " ORDER BY chunk_index LIMIT ?",
            (inode, first, below, limit),
        )
        return [ChunkIndex(index) for (index,) in rows]

    def dirty(self) -> Iterator[DirtyMark]:
        """Every dirty mark. Read to its end before anything is changed."""
        for inode, cut in self._database.execute("SELECT inode, cut FROM dirty"):
            yield DirtyMark(InodeId(inode), cut)

    def orphans(self, after: int, limit: int) -> list[InodeId]:
        """Up to ``limit`` numbers above ``after`` whose chunk files are to be deleted, lowest first."""
        self._database.write_kept_back()
        rows = self._database.execute("SELECT inode FROM orphan WHERE inode > ? ORDER BY inode LIMIT ?", (after, limit))
        return [InodeId(inode) for (inode,) in rows]

    def adopt_orphans(self, inodes: Sequence[InodeId]) -> None:
        """Note numbers that have chunk files but no inode row, to be deleted like any orphan."""
        with self._database.change():
            for inode in inodes:
                self._database.execute("INSERT OR IGNORE INTO orphan (inode) VALUES (?)", (inode,))

    def trim_chunk_rows(self, inode: InodeId, limit: int) -> int:
        """Drop up to ``limit`` chunk rows of an orphan; return how many went. Keeps each transaction's work bounded."""
        with self._database.change():
            cursor = self._database.execute(
                "DELETE FROM chunk WHERE inode = ?1 AND chunk_index IN"
                " (SELECT chunk_index FROM chunk WHERE inode = ?1 LIMIT ?2) RETURNING 1",
                (inode, limit),
            )
            return len(cursor.fetchall())

    def forget_orphans(self, inodes: Sequence[InodeId]) -> None:
        """Drop every row of inodes whose chunk files are durably gone."""
        if not inodes:
            return
        numbers = (json.dumps(inodes),)
        self._database.pending_bytes += len(inodes) * ROW_BYTES
        with self._database.change():
            self._inodes.delete(inodes)
            for table in ("orphan", "dirty", "inode", "symlink", "inline", "chunk", "xattr"):
                self._database.execute(f"DELETE FROM {table} WHERE inode IN (SELECT value FROM json_each(?))", numbers)

    def inode_exists(self, inode: InodeId) -> bool:
        """Whether there is an inode row of that number."""
        return self._inodes.find(inode) is not None

    def _put_size(self, inode: InodeId, size: int, now_ns: int | None = None) -> None:
        """Have the row say that size; with ``now_ns`` the content changed then."""
        if (a := self._inodes.find(inode)) is not None:
            mtime_ns, ctime_ns = (a.mtime_ns, a.ctime_ns) if now_ns is None else (now_ns, now_ns)
            self._inodes.put(a.with_state(size, a.blocks, a.atime_ns, mtime_ns, ctime_ns))
