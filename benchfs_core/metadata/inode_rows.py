"""Rows of the table ``inode``: read and changed in memory, written when the transaction is committed.

SQL lives here as in the rest of ``benchfs_core.metadata``. Nothing awaits; a change is part of the caller's. What a
request reads of an inode, and most of what it changes, then costs no statement, and what several requests change of one
inode is written once. Invariants: what is known here is what the rows say once those that are kept back are written,
for nobody else changes them; whoever reads or deletes rows by SQL of its own has them written, or forgotten, before; an
inode without links is an orphan, and gets its row in ``orphan`` with its own.
"""

from __future__ import annotations

import stat
from collections.abc import Sequence

from benchfs_core.errors import NoSuchEntry
from benchfs_core.flags import INHERITED
from benchfs_core.metadata.database import ROW_BYTES, Database
from benchfs_core.types import Attributes, Credentials, InodeId

COLUMNS = (
    "inode.inode, inode.mode, inode.link_count, inode.uid, inode.gid, inode.rdev, inode.size, inode.blocks,"
    " inode.atime_ns, inode.mtime_ns, inode.ctime_ns, inode.birth_ns, inode.flags"
)
"""The columns that make an ``Attributes``, in its order."""

MAX_KNOWN = 8192
"""Rows kept in memory, beyond those that are kept back; some 5 MiB."""

_GET = f"SELECT {COLUMNS} FROM inode WHERE inode = ?"
_INSERT = (
    "INSERT OR REPLACE INTO inode (inode, mode, link_count, uid, gid, rdev, size, blocks, atime_ns, mtime_ns, ctime_ns,"
    " birth_ns, flags, parent) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_UPDATE = (
    "UPDATE inode SET mode = ?2, link_count = ?3, uid = ?4, gid = ?5, rdev = ?6, size = ?7, blocks = ?8, atime_ns = ?9,"
    " mtime_ns = ?10, ctime_ns = ?11, birth_ns = ?12, flags = ?13 WHERE inode = ?1"
)
_ORPHAN = "INSERT OR IGNORE INTO orphan (inode) VALUES (?)"


class InodeRows:
    """The table ``inode``; with ``Database.keep_back`` the rows that it keeps back."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: dict[InodeId, Attributes] = {}
        self._unwritten: dict[InodeId, bool] = {}
        """Inodes known here whose rows say something else; True: there is no row yet."""
        self._undo: list[tuple[InodeId, Attributes | None, bool | None]] = []
        """What the change under way replaced: what was known, and what ``_unwritten`` said of it."""
        database.keep_back(self)

    def get(self, inode: InodeId) -> Attributes:
        """The attributes of ``inode``.

        Raises:
            NoSuchEntry: no such inode.
        """
        attributes = self._known.get(inode) or self._load(inode)
        if attributes is None:
            raise NoSuchEntry(f"inode {inode}")
        return attributes

    def find(self, inode: InodeId) -> Attributes | None:
        """The attributes of ``inode``; None if there is no such inode."""
        return self._known.get(inode) or self._load(inode)

    def put(self, attributes: Attributes) -> None:
        """Have the row of an inode say this. Part of a change, or after ``Database.change_kept_back``."""
        inode = attributes.inode
        if self._database.in_change:
            self._undo.append((inode, self._known.get(inode), self._unwritten.get(inode)))
        if inode not in self._unwritten:
            self._unwritten[inode] = False
            self._database.pending_bytes += ROW_BYTES
        self._known[inode] = attributes

    def insert(self, attributes: Attributes, parent: InodeId | None) -> None:
        """Add an inode; ``parent`` is the directory that a directory lies in, None for anything else."""
        if parent is not None:  # which is no attribute
            self._database.execute(_INSERT, (*attributes, parent))
            return
        inode = attributes.inode
        if self._database.in_change:
            self._undo.append((inode, None, None))
        self._known[inode] = attributes
        self._unwritten[inode] = True
        self._database.pending_bytes += ROW_BYTES

    def touch(self, inode: InodeId, now_ns: int) -> None:
        """ctime moves; nothing of what does not exist."""
        if (a := self.find(inode)) is not None:
            self.put(a.with_links(a.link_count, a.mtime_ns, now_ns))

    def touch_directory(self, inode: InodeId, links: int, now_ns: int) -> None:
        """Note that entries of a directory changed: mtime and ctime move, ``links`` subdirectories came or went."""
        if (a := self.find(inode)) is not None:
            self.put(a.with_links(a.link_count + links, now_ns, now_ns))

    def add_links(self, inode: InodeId, count: int, now_ns: int) -> Attributes:
        """Add ``count``, which may be negative, to the link count; ctime moves. The attributes as they are then."""
        a = self.get(inode)
        attributes = a.with_links(a.link_count + count, a.mtime_ns, now_ns)
        self.put(attributes)
        return attributes

    def parent(self, directory: InodeId) -> InodeId:
        """The directory that ``directory`` lies in; the root's is itself.

        Raises:
            NoSuchEntry: no such inode.
        """
        row = self._database.execute("SELECT parent FROM inode WHERE inode = ?", (directory,)).fetchone()
        if row is None or row[0] is None:
            raise NoSuchEntry(f"inode {directory} has no parent")
        return InodeId(row[0])

    def set_parent(self, directory: InodeId, parent: InodeId) -> None:
        """Note that ``directory`` moved."""
        self._database.execute("UPDATE inode SET parent = ? WHERE inode = ?", (parent, directory))

    def delete(self, inodes: Sequence[InodeId]) -> None:
        """Forget inodes whose rows the change under way deletes."""
        for inode in inodes:
            self._undo.append((inode, self._known.pop(inode, None), self._unwritten.pop(inode, None)))

    # What the database asks of rows that are kept back

    def write(self) -> None:
        """Write the rows that are kept back into the open transaction."""
        if not self._unwritten:
            return
        assert not self._database.in_change, "a change that is taken back would take these rows with it"
        known = self._known
        new = [(*known[inode], None) for inode, is_new in self._unwritten.items() if is_new]
        changed = [known[inode] for inode, is_new in self._unwritten.items() if not is_new]
        orphans = [(inode,) for inode in self._unwritten if not known[inode].link_count]
        for sql, rows in ((_INSERT, new), (_UPDATE, changed), (_ORPHAN, orphans)):
            if rows:
                self._database.execute_many(sql, rows)
        self._unwritten.clear()
        if len(known) > MAX_KNOWN:
            known.clear()

    def keep(self) -> None:
        """A change ends, and what it did stays."""
        self._undo.clear()

    def take_back(self) -> None:
        """A change ends, and what it did is undone."""
        for inode, attributes, unwritten in reversed(self._undo):
            if attributes is None:
                self._known.pop(inode, None)
            else:
                self._known[inode] = attributes
            if unwritten is None:
                self._unwritten.pop(inode, None)
            else:
                self._unwritten[inode] = unwritten
        self._undo.clear()

    def forget(self) -> None:
        """The open transaction is lost."""
        self._known.clear()
        self._unwritten.clear()
        self._undo.clear()

    def _load(self, inode: InodeId) -> Attributes | None:
        row = self._database.execute(_GET, (inode,)).fetchone()
        if row is None:
            return None
        if len(self._known) - len(self._unwritten) >= MAX_KNOWN:
            self._known = {kept_back: self._known[kept_back] for kept_back in self._unwritten}
        if self._database.in_change:  # which may have made it
            self._undo.append((inode, None, None))
        attributes = self._known[inode] = Attributes._make(row)
        return attributes


def new_attributes(
    inode: InodeId, mode: int, owner: Credentials, directory: Attributes, now_ns: int, rdev: int = 0, size: int = 0
) -> Attributes:
    """What a new inode in ``directory`` starts with.

    A set-group-ID directory hands on its group, and to directories the bit as well (inode(7), S_ISGID). Some flags are
    handed on, too.
    """
    gid = owner.gid
    if directory.mode & stat.S_ISGID:
        gid = directory.gid
        if stat.S_ISDIR(mode):
            mode |= stat.S_ISGID
    links = 2 if stat.S_ISDIR(mode) else 1
    flags = directory.flags & INHERITED
    return Attributes(inode, mode, links, owner.uid, gid, rdev, size, 0, now_ns, now_ns, now_ns, now_ns, flags)
