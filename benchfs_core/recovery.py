"""What a mount does about an unclean end: sizes of dirty files, cuts and deletions still due, uncommitted leftovers.

Imports the layers it puts in order. Bounded: it looks at dirty files and at one reservation of numbers, never at all
inodes. It changes nothing itself but marks: files it finds dirty are handed to ``maintenance`` as dirty as they were,
so that what was flushed or not stays known. Safe to repeat and to interrupt.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from benchfs_core.chunks.store import ChunkStore, Listed
from benchfs_core.errors import CorruptChunk, FlushFailed, NoSuchEntry
from benchfs_core.inodes import ActiveInode, InodeTable
from benchfs_core.layout import file_end
from benchfs_core.metadata.manager import MetadataManager
from benchfs_core.metadata.marks import DirtyMark
from benchfs_core.metadata.numbers import Numbers
from benchfs_core.types import ChunkIndex

log = logging.getLogger(__name__)


_MARKS_AT_ONCE = 1024
"""Dirty files whose chunks are listed together: the bound on what is held of them."""


@dataclass(frozen=True, slots=True)
class Recovered:
    """What recovery found."""

    dirty: int
    """Files whose size was rebuilt from their chunks."""
    unclaimed: int
    """Numbers with chunks but without an inode."""

    @property
    def unclean(self) -> bool:
        """Whether the volume had not been closed in order."""
        return bool(self.dirty or self.unclaimed)


async def recover(
    store: ChunkStore,
    metadata: MetadataManager,
    numbers: Numbers,
    inodes: InodeTable,
    chunk_size: int,
    *,
    read_only: bool,
) -> Recovered:
    """Bring memory in step with what is on disk; the caller commits.

    Raises:
        OSError: the chunks cannot be looked at.
    """
    marks = list(metadata.marks.dirty())
    for start in range(0, len(marks), _MARKS_AT_ONCE):
        part = marks[start : start + _MARKS_AT_ONCE]
        files = await store.list_files([mark.inode for mark in part])
        for mark, chunks in zip(part, files, strict=True):
            _recover_file(metadata, inodes, chunk_size, mark, chunks)
    unclaimed = [
        inode for inode in await store.find_inodes(numbers.unsettled) if not metadata.marks.inode_exists(inode)
    ]
    if unclaimed and not read_only:
        metadata.marks.adopt_orphans(unclaimed)
    recovered = Recovered(len(marks), len(unclaimed))
    if recovered.unclean:
        log.info("recovered: %d dirty files, %d inodes that were never committed", recovered.dirty, recovered.unclaimed)
    return recovered


def _recover_file(
    metadata: MetadataManager, inodes: InodeTable, chunk_size: int, mark: DirtyMark, chunks: Listed
) -> None:
    try:
        node = ActiveInode(metadata.get(mark.inode))
    except NoSuchEntry:
        log.error("dirty mark of inode %d, which does not exist: run benchfs fsck", mark.inode)
        return
    inodes.add(node)
    node.dirty = True
    node.cut.pending = mark.cut
    node.cut.recorded = mark.cut is not None
    if isinstance(chunks, CorruptChunk):
        node.lost.note_names(FlushFailed(f"inode {mark.inode}: {chunks}: run benchfs fsck"))
        log.error(node.lost.reason)
        return
    content = metadata.contents.inline(mark.inode)
    if content is not None:  # then its chunks are dead
        node.inline, node.inline_known = content, True
        node.cut.shorten(0)
        node.cut.recorded = True
    written = (
        chunk for chunk in chunks if chunk.length
    )  # one of no length has allocated space, perhaps beyond the end
    end = max((file_end(chunk.chunk_index, chunk.length, chunk_size) for chunk in written), default=0)
    if node.cut.pending is not None:
        end = min(end, node.cut.pending)
    node.size = max(node.size, end)
    if node.cut.pending is not None:
        node.cut.shorten(node.size)  # cut further away, a chunk with space beyond would become longer than the file
    node.cut.size = node.size if node.cut.recorded else 0
    node.written = {chunk.chunk_index for chunk in chunks}
    node.unflushed = set(node.written)
    node.entries_unflushed = True
    node.rows_void_from = ChunkIndex(0)
    node.writes = 1
