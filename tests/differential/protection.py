"""Rules of the state machine about what the kernel asks only some filesystems: nameless files, flags, birth times.

Imports this package but ``machine``, which takes these rules in. What a protected file or directory refuses is asked
for within one step, of root: between steps nothing is protected, and others may be refused by the kernel, which knows
no flags of a FUSE filesystem, with another errno. In sync=fsync no flags of regular files change, of which the kernel
keeps ctime.
"""

from __future__ import annotations

import os
import stat

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from tests.differential import calls
from tests.differential import strategies as draw
from tests.differential.protocol import User
from tests.differential.steps import Steps
from tests.differential.strategies import Place

PICK = st.integers(0, 255)
MAX_OPEN = 5
PROTECTIONS = st.sampled_from([calls.IMMUTABLE, calls.APPEND, calls.IMMUTABLE | calls.APPEND])
HARMLESS = st.sampled_from([0, calls.NODUMP, calls.NOATIME, calls.NODUMP | calls.NOATIME])
CHANGES: dict[str, tuple[object, ...]] = {
    "chmod": (0o640,),
    "chown": (1000, -1),
    "truncate": (5,),
    "setxattr": (b"user.a", b"value", 0, True),
    "removexattr": (b"user.a", True),
    "getxattr": (b"user.a", 100, True),
}
"""Calls by path, and what else they are given."""
TIMES = st.sampled_from([None, (calls.NOW, calls.NOW), (calls.NOW, calls.OMIT), (5, 6), (calls.OMIT, 6)])


class ProtectionRules(Steps):
    """See the module."""

    def one(self, pick: int, *, directory: bool | None = None) -> bytes | None:
        """A regular file or a directory whose flags may change; None: there is none."""
        kinds: tuple[int, ...] = (stat.S_IFREG, stat.S_IFDIR) if self.writes_through else (stat.S_IFDIR,)
        if directory is not None:
            kinds = tuple(kind for kind in kinds if (kind == stat.S_IFDIR) is directory)
        found = [path for path, mode in self.known if stat.S_IFMT(mode) in kinds]
        return found[pick % len(found)] if found else None

    @rule(user=draw.USERS, place=draw.ANY)
    def ask_birth(self, user: User, place: Place) -> None:
        self.step(user, "birth", self.at(place))

    @rule(user=draw.USERS, place=draw.EXISTING)
    def ask_flags(self, user: User, place: Place) -> None:
        self.step(user, "flags", self.at(place))

    @rule(user=draw.USERS, pick=PICK, flags=HARMLESS)
    def set_flags(self, user: User, pick: int, flags: int) -> None:
        path = self.one(pick)
        if path is not None:
            self.step(user, "set_flags", path, flags)

    @rule(pick=PICK, flags=HARMLESS, name=st.sampled_from(draw.COMMON_NAMES), directory=st.booleans())
    def hand_flags_on(self, pick: int, flags: int, name: bytes, directory: bool) -> None:
        """What is made in a directory inherits some of its flags."""
        parent = self.one(pick, directory=True)
        if parent is not None:
            path = name if parent == b"." else parent + b"/" + name
            self.step(draw.ROOT, "set_flags", parent, flags)
            self.step(draw.ROOT, *(("mkdir", path, 0o777) if directory else ("opened", path, os.O_CREAT, 0o666)))
            self.step(draw.ROOT, "flags", path)

    @rule(pick=PICK, flags=PROTECTIONS)
    def protect_as_nobody_may(self, pick: int, flags: int) -> None:
        path = self.one(pick)
        if path is not None:
            self.step(draw.ALICE, "set_flags", path, flags)

    @rule(pick=PICK, flags=PROTECTIONS, name=st.sampled_from(sorted(CHANGES)))
    def change_protected(self, pick: int, flags: int, name: str) -> None:
        path = self.one(pick)
        if path is not None:
            self.step(draw.ROOT, "guarded", path, flags, name, path, *CHANGES[name])

    @rule(pick=PICK, flags=PROTECTIONS, times=TIMES)
    def touch_protected(self, pick: int, flags: int, times: tuple[calls.Moment, calls.Moment] | None) -> None:
        path = self.one(pick)
        if path is not None:
            self.step(draw.ROOT, "guarded", path, flags, "utimensat", path, times, 0)

    @rule(pick=PICK, flags=PROTECTIONS, how=draw.FILE_FLAGS)
    def open_protected(self, pick: int, flags: int, how: int) -> None:
        path = self.one(pick, directory=False)
        if path is not None:
            self.step(draw.ROOT, "guarded", path, flags, "opened", path, how, 0o600)

    @rule(pick=PICK, flags=PROTECTIONS, within=st.booleans())
    def remove_protected(self, pick: int, flags: int, within: bool) -> None:
        """What is protected, or what lies in a protected directory."""
        path = self.one(pick)
        if path is None or path == b".":
            return
        protected = os.path.dirname(path) or b"." if within else path
        kind = dict(self.known)[path]
        self.step(draw.ROOT, "guarded", protected, flags, "rmdir" if stat.S_ISDIR(kind) else "unlink", path)

    @rule(pick=PICK, where=PICK, flags=PROTECTIONS, name=st.sampled_from(draw.COMMON_NAMES), link=st.booleans())
    def move_protected(self, pick: int, where: int, flags: int, name: bytes, link: bool) -> None:
        path, directory = self.one(pick), self.one(where, directory=True)
        if path is None or path == b"." or directory is None:
            return
        new = name if directory == b"." else directory + b"/" + name
        if new in dict(self.known):
            return
        arguments = ("link", path, new, 0) if link else ("rename", path, new)
        self.step(draw.ROOT, "guarded", path, flags, *arguments)
        self.step(draw.ROOT, "guarded", directory, flags, *arguments)

    @rule(pick=PICK, flags=PROTECTIONS, name=st.sampled_from(draw.COMMON_NAMES), kind=st.integers(0, 3))
    def make_in_protected(self, pick: int, flags: int, name: bytes, kind: int) -> None:
        directory = self.one(pick, directory=True)
        if directory is None:
            return
        path = name if directory == b"." else directory + b"/" + name
        arguments: tuple[object, ...] = (
            ("mkdir", path, 0o755),
            ("symlink", b"target", path),
            ("opened", path, os.O_CREAT | os.O_RDONLY, 0o644),
            ("opened", directory, os.O_TMPFILE | os.O_RDWR, 0o600),
        )[kind]
        self.step(draw.ROOT, "guarded", directory, flags, *arguments)

    @precondition(lambda self: len(self.open) < MAX_OPEN)
    @rule(user=draw.USERS, place=draw.EXISTING, more=st.sampled_from([0, os.O_EXCL, os.O_APPEND]), mode=draw.MODES)
    def open_nameless(self, user: User, place: Place, more: int, mode: int) -> None:
        how = os.O_TMPFILE | (os.O_RDWR if mode & 4 else os.O_WRONLY) | more
        self._opened(user, "open", self.at(place, stat.S_IFDIR), how, mode)

    @precondition(lambda self: self.open)
    @rule(user=draw.USERS, pick=st.integers(0, MAX_OPEN - 1), place=draw.NEW)
    def link_handle(self, user: User, pick: int, place: Place) -> None:
        self.step(user, "link_handle", self.open[pick % len(self.open)], self.at(place))
