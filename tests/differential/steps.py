"""What every step of the machine does: run a call in both trees, have the answers judged, remember it.

Imports this package but ``machine``, which has the rules. Invariant: an example leaves no trees or descriptors behind.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from typing import ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize

from tests.differential import calls
from tests.differential import strategies as draw
from tests.differential.client import Worker
from tests.differential.judge import Judge, short
from tests.differential.protocol import Outcome, User
from tests.differential.strategies import Place

READS = {"read", "pread", "sendfile", "copy_file_range", "holes", "map_and_read", "map_and_write"}
WRITES = {"write", "pwrite", "sendfile", "copy_file_range", "fallocate", "map_and_write", "truncate", "ftruncate"}


class Steps(RuleBasedStateMachine):
    """One example: a pair of trees, and what has been done to them. Rules are in ``machine``."""

    worker: ClassVar[Worker]
    writes_through: ClassVar[bool]
    acl: ClassVar[bool]

    def __init__(self) -> None:
        super().__init__()
        self.judge = Judge(writes_through=self.writes_through)
        self.judge.calendar.add(*self.worker.begin())
        self.umask = 0o022
        self.open: list[int] = []
        self.slots = 0
        self.watched = False
        self.differs = False
        self.known = self.worker.known()
        self.log: list[str] = []

    @initialize(watched=st.booleans())
    def populate(self, watched: bool) -> None:
        """Something to begin with."""
        self.watched = watched
        self.step(draw.ALICE, "mkdir", b"d", 0o777)
        self.step(draw.ALICE, "mknod", b"a", stat.S_IFREG | 0o666, 0)
        self.step(draw.ROOT, "mknod", b"d/b", stat.S_IFREG | 0o666, 0)
        self.step(draw.BOB, "symlink", b"d/b", b"c")
        self._opened(draw.ALICE, "open", b"a", os.O_RDWR, 0)
        self._opened(draw.ROOT, "open", b"d/b", os.O_RDWR | os.O_APPEND, 0)

    def at(self, place: Place, wanted: int = 0) -> bytes:
        return place.resolve(self.known, wanted)

    def step(self, user: User, name: str, *arguments: object) -> Outcome:
        """Run one call in both trees; both must answer alike and look alike afterwards. ext4's answer."""
        step = self.worker.step(user, self.umask, name, arguments)
        number = len(self.log) + 1
        native, mounted = step.outcomes
        shown = ", ".join(map(short, arguments))
        self.log.append(f"{number}: uid {user.uid} umask {self.umask:o} {name}({shown}): {native.error or 'done'}")
        self.judge.calendar.add(step.start_ns, step.end_ns, reads=name in READS, fills=self.fills(name))
        if name == "copy_file_range":
            self.judge.copied.add(step.inode)
        elif name == "fallocate":
            self.judge.allocated.add(step.inode)
        self.agree(self.judge.outcomes(native, mounted))
        if self.watched:
            looked = self.worker.look()
            self.agree(self.judge.looked(looked, is_open=bool(self.open)))
            self.known = [(path, status.mode) for path, status, _ in looked]
        elif not native.error:
            self.known = self.worker.known()
        return native

    def fills(self, name: str) -> bool:
        return name in WRITES and not self.writes_through

    def changes_acl(self, path: bytes, name: bytes, value: bytes | None = None) -> bool:
        """Whether setting (None: removing) the ACL changes anything, where it is not compared that it does not."""
        if self.writes_through:
            return True
        stored = self.step(draw.ROOT, "getxattr", path, name, 1000, True)
        if stored.error or value is None:  # there is none: then without entries, or with those of the mode, it stays so
            return not stored.error or (value is not None and len(value) > draw.MINIMAL_ACL_BYTES)
        return stored.value != (len(value), value)

    def fresh(self, value: bytes) -> bytes:
        """A value that no attribute has yet, in the mode where setting it again is not compared."""
        return value if self.writes_through else b"%d " % len(self.log) + value

    def changes_size(self, ask: str, what: bytes | int, size: int) -> bool:
        """Whether it is not the size that the file has, in the mode where this is not compared."""
        if self.writes_through:
            return True
        status = self.step(draw.ROOT, ask, what).value
        return not isinstance(status, calls.Status) or status.size != size

    def _opened(self, user: User, name: str, *arguments: object) -> None:
        slot, self.slots = self.slots, self.slots + 1
        if not self.step(user, name, slot, *arguments).error:
            self.open.append(slot)

    def agree(self, problems: Iterable[str]) -> None:
        found = list(problems)
        if found:
            self.differs = True
            raise AssertionError("\n".join(["ext4 and BenchFS differ:", *found, "after", *self.log]))

    def teardown(self) -> None:
        try:
            if not self.differs:  # otherwise this would be told instead
                self.agree(self.judge.everything(*self.worker.everything(), is_open=bool(self.open)))
        finally:
            self.worker.end()
