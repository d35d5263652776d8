"""Hands out inode numbers and readdir cookies: each number once in a volume's life, crashes included.

SQL lives here as in the rest of ``benchfs_core.metadata``. Invariant: a number is handed out only below a limit that is
durable; after a crash handing out goes on at that limit, so that chunk files left by an uncommitted inode never meet a
new inode. A damaged source is refused: it might hand out again what is in use, or call files leftovers that are none.
"""

from __future__ import annotations

from benchfs_core.errors import DamagedVolume
from benchfs_core.metadata.database import Database
from benchfs_core.types import InodeId

RESERVATION = 4096
"""Numbers set aside at a time: what a crash may waste, and what the next mount looks through.

Four times as many took it 0.3 s among a million names; a durable commit for each 2,000 new files is not felt.
"""

MAX_RESERVATION = 16384
"""More than this, no release has ever set aside."""

FIRST_NUMBER = 16
"""The first one handed out; below it are the root and room for cookies of `.` and `..`."""

MAX_NUMBER = 1 << 62
"""No inode and no cookie has this number or a higher one."""

_HIGHEST = "SELECT max({column}) FROM {table}"
_NUMBERED = (
    ("inode", "inode"),
    ("orphan", "inode"),
    ("dirty", "inode"),
    ("inline", "inode"),
    ("chunk", "inode"),
    ("inline", "inode"),
    ("xattr", "inode"),
    ("symlink", "inode"),
    ("dentry", "parent"),
)
"""Columns of numbers in use whose highest value an index tells at once."""


class Numbers:
    """The volume's one source of numbers."""

    def __init__(self, database: Database) -> None:
        """Take over. DamagedVolume: the source contradicts itself, or numbers in use."""
        self._database = database
        low, high = _sound_reservation(database)
        self.unsettled = range(low, high)
        """Numbers that the process before this one may have used without committing them."""
        self._next: int = high
        self._limit: int = high

    @property
    def remaining(self) -> int:
        """How many can be handed out before more must be reserved."""
        return self._limit - self._next

    def take(self) -> InodeId:
        """Hand out the next number; the caller has seen to it that some remain (``GroupCommit.writable``)."""
        assert self._next < self._limit, "number taken beyond the durable limit"
        self._next += 1
        return InodeId(self._next - 1)

    def reserve(self) -> int:
        """Write a further limit into the open transaction and return it; it holds once durable and confirmed."""
        limit = self._next + RESERVATION
        with self._database.change():
            self._database.execute("UPDATE number SET low = ?, high = ?", (self._next, limit))
        return limit

    def confirm(self, limit: int) -> None:
        """Hand out up to ``limit``, which ``reserve`` returned and a flush has made durable."""
        self._limit = max(self._limit, limit)

    def settle(self) -> None:
        """Give back what was not handed out, at an orderly end: the next mount need not look for leftovers."""
        with self._database.change():
            self._database.execute("UPDATE number SET low = ?, high = ?", (self._next, self._next))
        self._limit = self._next


def _sound_reservation(database: Database) -> tuple[int, int]:
    """The one row, if it can be; no scan: this is done at every mount."""
    rows = database.rows("SELECT low, high FROM number LIMIT 2")
    trouble = ""
    if len(rows) != 1:
        trouble = "has no row" if not rows else "has more than one row"
    elif not (FIRST_NUMBER <= rows[0][0] <= rows[0][1] < MAX_NUMBER and rows[0][1] - rows[0][0] <= MAX_RESERVATION):
        trouble = f"says {rows[0][0]} to {rows[0][1]}, which cannot be"
    else:
        used = (database.first_row(_HIGHEST.format(table=table, column=column))[0] for table, column in _NUMBERED)
        highest = max(number or 0 for number in used)
        if highest >= rows[0][1]:
            trouble = f"ends at {rows[0][1]}, but {highest} is in use"
    if trouble:
        raise DamagedVolume(f"{database.path}: damaged: table number {trouble}: repair it with benchfs fsck --repair")
    return rows[0]
