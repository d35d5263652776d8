"""``FaultyVFS``: SQLite's own file access with faults by plan, on database and WAL: layer ``metadata``.

Imports apsw and ``faults``. Operations ``open``, ``read``, ``write``, ``sync`` and ``truncate``. SQLite's index of the
WAL (-shm) is memory, and has none. A call may come from a worker thread: the WAL checkpoint runs in one.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import apsw

from tests.support.faults import FaultPlan, Rule

_RESULTS = {
    "read": apsw.SQLITE_IOERR_READ,
    "write": apsw.SQLITE_IOERR_WRITE,
    "sync": apsw.SQLITE_IOERR_FSYNC,
    "truncate": apsw.SQLITE_IOERR_TRUNCATE,
}
"""What SQLite's own VFS says of an error it has no other word for."""


class FaultyVFS(apsw.VFS):
    """SQLite's default VFS, whose files ask the plan."""

    def __init__(self, name: str, plan: FaultPlan) -> None:
        super().__init__(name, "")
        self.plan = plan
        self.last_error = 0

    def xGetLastError(self) -> tuple[int, str]:
        """SQLite's name for the errno of what failed last."""
        return self.last_error, ""

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:
        """SQLite's name for opening."""
        rule = self.plan.decide("open", "metadata")
        if rule is not None and rule.error:
            raise apsw.CantOpenError("a fault made for this test")
        return _FaultyFile(self, name, flags)


class _FaultyFile(apsw.VFSFile):
    """One file of SQLite's. The methods have SQLite's names."""

    def __init__(self, vfs: FaultyVFS, name: str | apsw.URIFilename | None, flags: list[int]) -> None:
        super().__init__("", name, flags)
        self._vfs = vfs
        self._plan = vfs.plan

    def xRead(self, amount: int, offset: int) -> bytes:
        rule = self._plan.decide("read", "metadata")
        self._raise(rule, "read")
        data = super().xRead(amount, offset)
        return data if rule is None else bytes(rule.corrupted(data))

    def xWrite(self, data: bytes, offset: int) -> None:
        rule = self._plan.decide("write", "metadata")
        if rule is not None and rule.torn is not None:
            super().xWrite(data[: rule.torn], offset)
        self._raise(rule, "write")
        super().xWrite(data if rule is None else bytes(rule.corrupted(data)), offset)

    def xSync(self, flags: int) -> None:
        rule = self._plan.decide("sync", "metadata")
        self._raise(rule, "sync")
        if rule is None or not rule.lost:
            super().xSync(flags)

    def xTruncate(self, newsize: int) -> None:
        self._raise(self._plan.decide("truncate", "metadata"), "truncate")
        super().xTruncate(newsize)

    def _raise(self, rule: Rule | None, operation: str) -> None:
        """Fail as SQLite's VFS does: a full disk is told apart, nothing else is."""
        if rule is None or not rule.error:
            return
        if rule.error == errno.ENOSPC and operation == "write":
            raise apsw.FullError("a fault made for this test")
        self._vfs.last_error = rule.error
        failure: Any = apsw.IOError("a fault made for this test")
        failure.extendedresult = _RESULTS[operation]
        raise failure


@contextmanager
def faulty_vfs(plan: FaultPlan) -> Iterator[str]:
    """The name of a VFS that asks ``plan``, there for the length of the block."""
    vfs = FaultyVFS(f"faulty-{id(plan)}", plan)
    try:
        yield f"faulty-{id(plan)}"
    finally:
        vfs.unregister()
