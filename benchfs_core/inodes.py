"""The inodes that a mount holds state of in memory: those open, those dirty, and the kernel's lookup counts.

Imports trio (for locks) and the pure modules. Invariants: an inode with a dirty mark has an ``ActiveInode``, and its
true size and times are there, not in its row; an inode without one is exactly what its row says. The table is bounded
by what is open and by what is dirty (``maintenance`` cleans), the lookup counts by the kernel's own inode cache.
"""

from __future__ import annotations

import trio

from benchfs_core.locks import SharedLock
from benchfs_core.lost_data import LostData
from benchfs_core.shared_flush import SharedFlush
from benchfs_core.types import AttributeChange, Attributes, ChunkIndex, InodeId
from benchfs_core.writes_under_way import WritesUnderWay


class CutState:
    """What is left to do of a file's truncates: chunks to be cut, and the record by which a crash repeats that.

    A cut is pending from ``shorten`` until its chunks are cut, and on record from ``record`` until ``DataDurability``
    clears it, which it may once ``may_be_forgotten``.
    """

    __slots__ = ("boundaries", "flushed", "made", "pending", "recorded", "sequence", "size")

    def __init__(self) -> None:
        self.pending: int | None = None
        """Chunk bytes from this file offset on are dead but still there; None: all are live."""
        self.recorded = False
        """Whether the dirty mark carries a cut, to be made again after a crash."""
        self.size = 0
        """The size that the last recorded cut left, which chunk files cannot tell where it ends in a hole."""
        self.sequence = 0
        """The transaction that must be durable before the cut is made."""
        self.made = 0
        """Cuts made so far."""
        self.flushed = 0
        """Cuts made so far that are known to be on disk."""
        self.boundaries: set[ChunkIndex] = set()
        """Chunks that the others shortened; the rest of what they did is in chunk directories."""

    @property
    def is_flushed(self) -> bool:
        """Whether every cut made so far is on disk."""
        return self.flushed == self.made

    @property
    def may_be_forgotten(self) -> bool:
        """Whether there is a record that a crash need not repeat."""
        return self.recorded and self.pending is None and self.is_flushed

    def allows(self, end: int) -> bool:
        """Whether data up to file offset ``end`` may be written: no dead bytes are there."""
        return self.pending is None or end <= self.pending

    def shorten(self, size: int) -> None:
        """Bytes from ``size`` on are dead; an earlier, deeper cut stays."""
        self.pending = size if self.pending is None else min(self.pending, size)

    def record_move(self, size: int) -> None:
        """Content has moved into a chunk: until that is flushed, a crash takes it back, as it would repeat a cut."""
        self.recorded = True
        self.size = size
        self.made += 1
        self.boundaries.add(ChunkIndex(0))

    def record(self, size: int, sequence: int) -> None:
        """Shorten, with a record of it in transaction ``sequence``."""
        self.shorten(size)
        self.recorded = True
        self.size = size
        self.sequence = sequence


class ActiveInode:
    """A regular file in use: what is newer in memory than in its row, and what must happen before it is durable.

    ``data_lock`` is shared by reads and writes and held alone by truncate; ``mark_lock`` serialises what prepares a
    write (dirty mark, cut) and is taken after it. See docs/architecture.md.
    """

    __slots__ = (
        "atime_ns",
        "blocks",
        "blocks_at_write",
        "changed_sequence",
        "clean_blocks",
        "created_in",
        "ctime_ns",
        "cut",
        "data_lock",
        "dirty",
        "entries_unflushed",
        "flags",
        "flush",
        "flushed_size",
        "flushing_size",
        "idle_since_s",
        "inline",
        "inline_known",
        "inode",
        "least_size",
        "lost",
        "_mark_lock",
        "mark_sequence",
        "mtime_ns",
        "open_count",
        "rows_void_from",
        "size",
        "spilled",
        "times_moved",
        "unflushed",
        "unlinked",
        "writer_count",
        "writes",
        "writing",
        "written",
    )

    def __init__(self, attributes: Attributes) -> None:
        self.inode = attributes.inode
        self.flags = attributes.flags
        """As its row has them."""
        self.open_count = 0
        self.writer_count = 0
        """Handles among those that may write."""
        self.idle_since_s = 0.0
        """Monotonic time of the last close, write or truncate."""

        self._take(attributes)

        self.unlinked = False
        """Whether it has lost its last name: it is not worth making clean."""
        self.dirty = False
        """Whether there is a dirty mark, durable or not."""
        self.mark_sequence = 0
        """The transaction that must be durable before data is written; 0: none."""
        self.changed_sequence = 0
        """The last transaction that changed this inode's rows or names; fsync waits for it."""

        self.created_in = 0
        """The transaction that made it, if that is known; while it is open, a dirty mark needs no flush of its own."""

        self.inline: bytes | None = None
        """The content, where the row ``inline`` has it: all bytes up to the last one written; None: chunks have it."""
        self.inline_known = False
        """Whether ``inline`` says what is so; else the rows do."""
        self.spilled = False
        """Whether chunk 0 has taken over what is still in the row ``inline``; ``cut.recorded`` is set with it."""

        self.cut = CutState()

        self.writes = 0
        """Writes and cuts so far; unequal at two times: something changed in between."""
        self.written: set[ChunkIndex] = set()
        """Chunks changed since the inode was last clean."""
        self.unflushed: set[ChunkIndex] = set()
        """Chunks changed since they were last flushed."""
        self.entries_unflushed = False
        """Whether chunks were deleted since the last flush."""
        self.rows_void_from: ChunkIndex | None = None
        """Chunk rows from this index on do not hold since a cut."""
        self.lost = LostData()
        """What was written and may be lost, until it is written again."""

        self.data_lock = SharedLock()
        self.writing = WritesUnderWay()
        """Reads wait for what overlaps, before they take ``data_lock``."""
        self._mark_lock: trio.Semaphore | None = None
        self.flush: SharedFlush | None = None
        """Flushes under way, made on demand."""

    def _take(self, attributes: Attributes) -> None:
        """What the row says, to begin with."""
        self.size = attributes.size
        self.least_size = attributes.size
        """The row's size: what recovery will not go below."""
        self.flushed_size = 0
        """How much of the size a flush of the chunks has made durable, less what was cut off since."""
        self.flushing_size = 0
        """What ``flushed_size`` will be when the flush under way has succeeded."""
        self.atime_ns = attributes.atime_ns
        self.mtime_ns = attributes.mtime_ns
        self.ctime_ns = attributes.ctime_ns
        self.times_moved = False
        """Whether the times here are newer than the row's."""
        self.blocks = attributes.blocks
        self.blocks_at_write = 0
        """``blocks`` holds as long as this equals ``writes``."""
        self.clean_blocks = attributes.blocks
        """The row's blocks: the sum of its chunk rows."""

    @classmethod
    def fresh(cls, attributes: Attributes, sequence: int) -> ActiveInode:
        """A file just created in transaction ``sequence``: without content."""
        node = cls(attributes)
        node.inline, node.inline_known = b"", True
        node.created_in = node.changed_sequence = sequence
        return node

    @property
    def mark_lock(self) -> trio.Semaphore:
        """Held by who marks it dirty or clean; made on demand, as most of those that are opened never need it.

        Not a ``trio.Lock``, which belongs to a task: a request may come to be run by another one while it waits.
        """
        if self._mark_lock is None:
            self._mark_lock = trio.Semaphore(1, max_value=1)
        return self._mark_lock

    @property
    def droppable(self) -> bool:
        """Whether the row says everything, and nobody uses this."""
        return not (self.open_count or self.dirty or self.times_moved) and self.data_lock.idle

    @property
    def needs_flush(self) -> bool:
        """Whether anything was written, cut or deleted that no flush has confirmed."""
        return bool(self.unflushed) or self.entries_unflushed or not self.cut.is_flushed

    def may_write(self, end: int) -> bool:
        """Whether data up to file offset ``end`` may be written now: durably marked, and no cut in the way."""
        return self.dirty and not self.mark_sequence and self.cut.allows(end)

    def become_inline(self) -> None:
        """The file was emptied: what is written next may go into its row; what chunks hold is dead."""
        self.inline, self.inline_known, self.spilled = b"", True, False
        self.lost.cut(0)

    def modified(self, now_ns: int | None, now_s: float) -> None:
        """Note a change of content; None: the times do not move."""
        if now_ns is not None:
            self.mtime_ns = self.ctime_ns = now_ns
            self.times_moved = True
        self.idle_since_s = now_s
        self.writes += 1

    def times_told(self, change: AttributeChange) -> None:
        """Note the times of a write by whoever keeps them: as those that a write moves itself, stored later."""
        self.mtime_ns = self.mtime_ns if change.mtime_ns is None else change.mtime_ns
        self.ctime_ns = self.ctime_ns if change.ctime_ns is None else change.ctime_ns
        self.times_moved = True

    def overlay(self, stored: Attributes) -> Attributes:
        """``stored`` with what is newer here."""
        ctime_ns = max(self.ctime_ns, stored.ctime_ns)
        return stored.with_state(self.size, self.blocks, self.atime_ns, self.mtime_ns, ctime_ns)


class InodeTable:
    """Active inodes by number, and how often the kernel knows each inode."""

    def __init__(self) -> None:
        self.active: dict[InodeId, ActiveInode] = {}
        self._lookups: dict[InodeId, int] = {}
        self._used_orphans: set[InodeId] = set()
        self._linkable: set[InodeId] = set()
        """Orphans that have had no name yet, and may get one as long as they are in use."""

    def find(self, inode: InodeId) -> ActiveInode | None:
        """The active inode of that number, if it is active."""
        return self.active.get(inode)

    def activate(self, attributes: Attributes) -> ActiveInode:
        """The active inode of a regular file, made from its row if need be."""
        node = self.active.get(attributes.inode)
        if node is None:
            node = self.active[attributes.inode] = ActiveInode(attributes)
        return node

    def add(self, node: ActiveInode) -> ActiveInode:
        """Take in a new one; return it."""
        assert node.inode not in self.active
        self.active[node.inode] = node
        return node

    def drop_if_idle(self, node: ActiveInode) -> None:
        """Forget it if its row says everything."""
        if node.droppable and self.active.get(node.inode) is node:
            del self.active[node.inode]

    def discard(self, inode: InodeId) -> None:
        """Forget an inode that is gone for good; whoever was about to make it clean finds it so."""
        node = self.active.pop(inode, None)
        if node is not None:
            node.dirty = node.times_moved = False

    def remember(self, inode: InodeId) -> None:
        """The kernel was told of the inode once more (a lookup, in FUSE's words)."""
        self._lookups[inode] = self._lookups.get(inode, 0) + 1

    def forget(self, inode: InodeId, count: int) -> bool:
        """The kernel drops ``count`` lookups; whether none is left."""
        left = self._lookups.get(inode, 0) - count
        if left > 0:
            self._lookups[inode] = left
            return False
        self._lookups.pop(inode, None)
        return True

    def orphaned(self, inode: InodeId) -> bool:
        """The inode lost its last name; whether it can be deleted at once."""
        if (node := self.active.get(inode)) is not None:
            node.unlinked = True
        self._used_orphans.add(inode)
        return self.released(inode)

    def made_nameless(self, inode: InodeId, *, linkable: bool) -> None:
        """An inode in use was made without a name; ``linkable``: it may get one, so it is worth making clean."""
        self._used_orphans.add(inode)
        if linkable:
            self._linkable.add(inode)
        elif (node := self.active.get(inode)) is not None:
            node.unlinked = True

    def is_linkable(self, inode: InodeId) -> bool:
        """Whether an inode without a name may get its first."""
        return inode in self._linkable

    def named(self, inode: InodeId) -> None:
        """The inode has a name: if it had none, it is no orphan any more."""
        if inode in self._linkable:
            self._linkable.discard(inode)
            self._used_orphans.discard(inode)

    def released(self, inode: InodeId) -> bool:
        """Whether the inode is an orphan whose last use has just ended."""
        if inode not in self._used_orphans or self.in_use(inode):
            return False
        self._used_orphans.discard(inode)
        self._linkable.discard(inode)
        if (node := self.active.get(inode)) is not None:
            node.unlinked = True
        return True

    def in_use(self, inode: InodeId) -> bool:
        """Whether the kernel knows the inode or it is open."""
        node = self.active.get(inode)
        return inode in self._lookups or (node is not None and node.open_count > 0)
