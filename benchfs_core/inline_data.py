"""Small files: their content lives in the metadata, beside size and times, until it outgrows ``limit``.

Imports ``chunks.store``, ``data_durability``, ``metadata`` and the pure modules. A file is *inline* while
``ActiveInode.inline`` is bytes: it has no live chunks, and each change of it is one change of metadata, whole or not
at all. What outgrows the limit moves into chunk 0 (``move_to_chunk``); a file truncated to nothing is inline again.

Invariant: a row ``inline`` is the file's content, and chunk bytes of that inode are dead, until the chunk that takes
over is flushed and the row is removed. So a crash finds the one or the other.
The caller holds ``data_lock``: shared for reads and writes, alone for everything else.
"""

from __future__ import annotations

from benchfs_core.chunks.store import ChunkStore
from benchfs_core.data_durability import DataDurability
from benchfs_core.inodes import ActiveInode
from benchfs_core.metadata.contents import Contents, FileState, inline_blocks
from benchfs_core.metadata.group_commit import GroupCommit
from benchfs_core.metadata.marks import Marks
from benchfs_core.types import Buffer, ChunkIndex


class InlineData:
    """Content of small files of one volume."""

    def __init__(
        self,
        contents: Contents,
        marks: Marks,
        store: ChunkStore,
        commit: GroupCommit,
        durability: DataDurability,
        limit: int,
    ) -> None:
        """``limit``: the longest content in bytes that a write leaves inline; 0 has all content in chunks."""
        self._contents = contents
        self._marks = marks
        self._store = store
        self._commit = commit
        self._durability = durability
        self._limit = limit

    def find(self, node: ActiveInode) -> bytes | None:
        """The content of an inline file, without the zeros at its end that ``size`` may add; None: chunks have it."""
        if not node.inline_known:
            content, has_chunks = self._contents.load(node.inode)
            empty = not (has_chunks or node.dirty)
            node.inline = b"" if content is None and empty else content
            node.inline_known = True
        return node.inline

    def fits(self, end: int) -> bool:
        """Whether content may end at ``end`` and stay inline."""
        return end <= self._limit

    def read(self, node: ActiveInode, offset: int, length: int) -> bytes:
        """``length`` bytes from ``offset``; both lie within the size of an inline file."""
        assert node.inline is not None
        part = node.inline[offset : offset + length]
        return part if len(part) == length else part + bytes(length - len(part))

    def write(self, node: ActiveInode, offset: int, data: Buffer, now_ns: int | None) -> None:
        """Change part of an inline file. Between ``writable()`` and the next checkpoint only; None: times stay."""
        old, end = node.inline, offset + len(data)
        assert old is not None
        if not offset and end >= len(old):
            content = bytes(data)
        else:
            content = b"".join((old[:offset], bytes(max(0, offset - len(old))), data, old[end:]))
        self._store_content(node, content, max(node.size, end), now_ns)

    def zero(self, node: ActiveInode, offset: int, end: int, now_ns: int | None) -> None:
        """Have part of an inline file be zeros. After ``writable()``, before a checkpoint; None: times stay."""
        old = node.inline
        assert old is not None
        end = min(end, len(old))
        content = old if end <= offset else b"".join((old[:offset], bytes(end - offset), old[end:]))
        self._store_content(node, content, node.size, now_ns)

    def truncate(self, node: ActiveInode, size: int, now_ns: int) -> None:
        """Make an inline file ``size`` bytes long. Between ``writable()`` and the next checkpoint only."""
        assert node.inline is not None
        self._store_content(node, node.inline[:size], size, now_ns)

    async def move_to_chunk(self, node: ActiveInode) -> None:
        """Have chunks hold the content of a file that was inline. The caller holds ``data_lock`` alone.

        With ``sync=write`` the move is durable with the next transaction; else the row stays until the next flush.

        Raises:
            OSError: the chunk could not be written; the file is inline as before.
        """
        content = node.inline
        if not content:
            node.inline = None
            return
        await self._durability.make_cut(node)
        await self._commit.writable()
        self._marks.mark_dirty(node.inode)
        node.dirty = True
        node.changed_sequence = self._commit.sequence
        if node.created_in != self._commit.sequence:
            await self._commit.make_durable(node.changed_sequence)
        node.written.add(ChunkIndex(0))
        node.writes += 1
        try:
            await self._store.write_chunk(node.inode, ChunkIndex(0), 0, content)
        except BaseException:
            node.cut.shorten(0)  # what may be there is dead: the row says so
            raise
        node.unflushed.add(ChunkIndex(0))
        node.inline, node.spilled, node.clean_blocks = None, True, 0
        node.cut.record_move(node.size)
        if self._durability.durable_writes:
            await self._durability.forget_cut(node)
        elif node.created_in == self._commit.sequence:  # the row was never durable
            self._durability.clear_cut(node)

    def refresh_blocks(self, node: ActiveInode) -> None:
        """Bring ``node.blocks`` of an inline file up to date."""
        assert node.inline is not None
        node.blocks = inline_blocks(len(node.inline))
        node.blocks_at_write = node.writes

    def _store_content(self, node: ActiveInode, content: bytes, size: int, now_ns: int | None) -> None:
        mtime_ns, ctime_ns = (node.mtime_ns, node.ctime_ns) if now_ns is None else (now_ns, now_ns)
        self._contents.store(node.inode, content, FileState(size, node.atime_ns, mtime_ns, ctime_ns))
        node.inline = content
        node.size = node.least_size = size
        node.mtime_ns, node.ctime_ns = mtime_ns, ctime_ns
        node.times_moved = False
        node.writes += 1
        node.blocks = node.clean_blocks = inline_blocks(len(content))
        node.blocks_at_write = node.writes
        node.changed_sequence = self._commit.sequence
        if not content and node.dirty:  # so far the row said that what chunks there may be are dead
            node.cut.record(0, node.changed_sequence)
