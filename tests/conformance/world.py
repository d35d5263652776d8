"""What the rows of the conformance tables are made of: ``Rule``, the tables, and the ``World`` that a row acts in.

A row is a rule of the manual pages or of POSIX, checked on ext4 and on mounts of BenchFS alike. A table is a module's
``rules = Rules()``; a row is a function under ``@rules("rename(2)")``, or an ``rules.add(…)`` in a loop over data;
``conftest`` hands every row of a module's table to its ``test_rule``. A row starts as root, with umask 022, in a fresh,
empty directory of mode 777, which is the working directory: rows use relative names, so that users without privileges
need no access to what is above. Rows know only files: nothing of BenchFS is imported here.
"""

from __future__ import annotations

import os
import pickle
import socket
import stat
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, ParamSpec, TypeVar, cast

from tests.support.mounting import MountedVolume, wait_until

P = ParamSpec("P")
R = TypeVar("R")

CLOCK_REALTIME_COARSE = 5
"""The clock that the kernel takes file times from; Python has no name for it."""


@dataclass(frozen=True, slots=True)
class User:
    """Somebody who acts: user, group, supplementary groups."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()


ROOT = User(0, 0)
OWNER = User(70001, 70001)
MEMBER = User(70002, 70002, (70001, 70011))
"""Has OWNER's group, and one more, among its supplementary groups."""
OTHER = User(70003, 70003)


class Child(Generic[R]):
    """An action in a process of its own, as some user; whoever starts one asks for its result."""

    def __init__(self, action: Callable[[], R], user: User) -> None:
        receiver, sender = os.pipe()
        with warnings.catch_warnings():
            # later Pythons warn of the other thread, which is faulthandler's watchdog and holds no lock
            warnings.simplefilter("ignore", DeprecationWarning)
            self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                with open(sender, "wb") as stream:
                    pickle.dump(_outcome(action, user), stream)
                code = 0
            finally:
                os._exit(code)
        os.close(sender)
        self._receiver = receiver

    def exit_code(self) -> int:
        """Wait for its end; a signal is negative."""
        os.close(self._receiver)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def result(self) -> R:
        """Wait for its end; return what the action returned.

        Raises:
            AssertionError: the action raised, or the process was killed.
        """
        with open(self._receiver, "rb") as stream:
            answer = stream.read()
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        if code != 0:
            raise AssertionError(f"the child ended with {code}")
        succeeded, value = pickle.loads(answer)
        if not succeeded:
            raise AssertionError(f"in a child:\n{value}")
        return cast(R, value)


def _outcome(action: Callable[[], object], user: User) -> tuple[bool, object]:
    try:
        os.setgroups(user.groups)
        os.setresgid(user.gid, user.gid, user.gid)
        os.setresuid(user.uid, user.uid, user.uid)
        return True, action()
    except BaseException:
        return False, traceback.format_exc()


@dataclass(frozen=True, slots=True)
class Place:
    """Where rows act: a directory on ext4 or on a mount of BenchFS."""

    directory: Path
    volume: MountedVolume | None = None
    """None: native."""

    @property
    def writeback(self) -> bool:
        """Whether the kernel keeps written pages, sizes and times of files to itself for a while."""
        return self.volume is not None and "sync=fsync" in self.volume.options


@dataclass(frozen=True, slots=True)
class World:
    """One row's surroundings; see the module's docstring."""

    place: Place
    top: Path
    """The absolute path of the working directory."""

    def start(self, action: Callable[[], R], user: User = ROOT) -> Child[R]:
        """Run ``action`` in a child as ``user``, without waiting for it."""
        return Child(action, user)

    def run(self, user: User, action: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Call ``action`` in a child as ``user``; return what it returns, fail where it raises."""
        return Child(lambda: action(*args, **kwargs), user).result()

    def denied(self, user: User, number: int, action: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
        """For ``user`` the call fails with this errno."""

        def attempt() -> None:
            fails(number, action, *args, **kwargs)

        self.run(user, attempt)

    def own(self, name: str, user: User = OWNER, mode: int | None = None, *, kind: str = "file") -> str:
        """Make an inode of ``kind`` that belongs to ``user``, with exactly this mode; return its name."""
        make(name, kind)
        os.chown(name, user.uid, user.gid, follow_symlinks=False)
        if mode is not None:
            os.chmod(name, mode)
        return name


def fails(number: int, action: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
    """The call fails with this errno."""
    wanted = os.strerror(number)
    try:
        result = action(*args, **kwargs)
    except OSError as error:
        if error.errno != number:
            raise AssertionError(f"failed with {error} instead of {wanted!r}") from error
    else:
        raise AssertionError(f"returned {result!r} instead of failing with {wanted!r}")


KINDS: dict[str, Callable[[str], object]] = {
    "file": lambda name: os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)),
    "dir": lambda name: os.mkdir(name, 0o755),
    "symlink": lambda name: os.symlink("target", name),
    "fifo": lambda name: os.mkfifo(name, 0o644),
    "socket": lambda name: _bind(name),
    "char": lambda name: os.mknod(name, stat.S_IFCHR | 0o644, os.makedev(1, 3)),
    "block": lambda name: os.mknod(name, stat.S_IFBLK | 0o644, os.makedev(259, 300_000)),
}
"""Every type of inode by name, and how to make one."""

SPECIAL = ("fifo", "socket", "char", "block")


def make(name: str, kind: str) -> str:
    """Make an inode of one of ``KINDS``; return its name."""
    KINDS[kind](name)
    return name


def _bind(name: str) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(name)


def write(name: str, content: bytes = b"content") -> str:
    """Make or replace a file of this content; return its name."""
    Path(name).write_bytes(content)
    return name


def read(name: str) -> bytes:
    """The content of a file."""
    return Path(name).read_bytes()


def mode_of(name: str) -> int:
    """Permission bits of what has this name."""
    return stat.S_IMODE(os.lstat(name).st_mode)


def links(name: str) -> int:
    """Link count of what has this name."""
    return os.lstat(name).st_nlink


def inode(name: str) -> int:
    """Inode number of what has this name."""
    return os.lstat(name).st_ino


def opened(name: str, flags: int = os.O_RDONLY, mode: int = 0o777) -> None:
    """Open and close."""
    os.close(os.open(name, flags, mode))


def tick() -> None:
    """Wait until whatever the kernel dates is later than anything it has dated before.

    Since Linux 6.13 no date is before the finest one given to any file (multigrain timestamps), and a tick that came
    late may leave the coarse clock behind that: then two dates before and after the tick are the same.
    """
    now_ns = time.clock_gettime_ns(time.CLOCK_REALTIME)
    wait_until(lambda: time.clock_gettime_ns(CLOCK_REALTIME_COARSE) > now_ns, "the kernel's clock ticks")


Check = Callable[[World], None]


@dataclass(frozen=True, slots=True)
class Rule:
    """One row."""

    name: str
    source: str
    """The manual page, or the section of POSIX.1-2024, that says so."""
    check: Check
    """Acts and asserts; true of ext4, and of BenchFS unless ``differs``."""
    differs: str = ""
    """Why BenchFS does something else, by design."""
    benchfs: Check | None = None
    """What BenchFS does instead; given exactly where ``differs`` is."""

    def __post_init__(self) -> None:
        assert bool(self.differs) == (self.benchfs is not None), self.name
        assert self.source, self.name

    def verify(self, world: World) -> None:
        """Check the row in ``world``."""
        if self.benchfs is not None and world.place.volume is not None:
            self.benchfs(world)
        else:
            self.check(world)


class Rules(list[Rule]):
    """A table. Names are unique in it."""

    def __call__(self, source: str, *, differs: str = "", benchfs: Check | None = None) -> Callable[[Check], Check]:
        """Make a row of a function; its name is the row's."""

        def enter(check: Check) -> Check:
            self.add(check.__name__.strip("_").replace("_", " "), source, check, differs=differs, benchfs=benchfs)
            return check

        return enter

    def add(self, name: str, source: str, check: Check, *, differs: str = "", benchfs: Check | None = None) -> None:
        """Add a row."""
        assert name not in {rule.name for rule in self}, name
        self.append(Rule(name, source, check, differs, benchfs))
