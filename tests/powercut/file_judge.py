"""The judge of workloads on files and names: a model of one worker's directory, at every instant that may be found.

Imports ``contents`` and ``record``. Names and attributes recovered are those of one instant, not before the last
operation that was promised to be durable; contents are judged file by file.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchfs_core.types import SyncMode
from tests.conformance.calls import get_flags
from tests.powercut.blocks import BLOCK
from tests.powercut.contents import Content
from tests.powercut.record import Settled

XATTR = "user.power"


@dataclass(frozen=True, slots=True)
class Entry:
    """What a name leads to. ``node``: the worker's own number for it."""

    node: int
    directory: bool
    mode: int
    xattr: str = ""
    flags: int = 0


@dataclass(frozen=True, slots=True)
class Found:
    """What is to be seen of one name."""

    directory: bool
    mode: int
    xattr: str
    links: int
    inode: int
    flags: int = 0


Names = dict[str, Entry]


class FileJudge:
    """See ``record.Judge``."""

    def __init__(self, sync: SyncMode) -> None:
        self.settled = Settled()
        self._every_write_is_durable = sync is SyncMode.WRITE
        self._history: list[Names] = [{}]
        """The names at each instant from the one that is durable on."""
        self._first = 0
        """Number of the first of them, of all there were."""
        self._changed_at: dict[int, int] = {}
        self._contents: dict[int, Content] = {}
        self._inodes: dict[int, int] = {}
        self._nameless: set[int] = set()
        """Files that have no name yet, and may get one."""

    def begin(self, operation: Sequence[object]) -> None:
        match operation:
            case ["write", _, int(node), int(first), int(count), int(generation)]:
                self._contents[node].write(first, count, generation)
            case ["truncate", _, int(node), int(size), int(generation)]:
                self._contents[node].truncate(size, generation)
            case ["zero" | "punch" as kind, _, int(node), int(first), int(count)]:
                self._contents[node].zero(first, count)
                if kind == "zero":
                    self._contents[node].grow((first + count) * BLOCK)
            case ["allocate", _, int(node), int(size)]:
                self._contents[node].grow(size)
            case ["copy", _, int(node), _, int(other), int(first), int(count), int(to), int(generation)]:
                self._contents[node].copy(self._contents[other], first, count, to, generation)
            case ["fsync" | "fsyncdir" | "reserve", *_]:
                pass
            case ["nameless", _, int(node), _]:
                self._contents[node] = Content(node)
                self._nameless.add(node)
            case [str(kind), *words]:
                names = dict(self._history[-1])
                touched = _change(names, kind, words)
                self._nameless.discard(touched)
                if kind == "create":
                    self._contents[touched] = Content(touched)
                self._history.append(names)
                self._changed_at[touched] = self._first + len(self._history) - 1
            case _:
                raise AssertionError(operation)

    def done(self, operation: Sequence[object], result: object, at_ns: int) -> None:
        match operation:
            case ["write" | "truncate" | "zero" | "punch" | "allocate" | "copy", _, int(node), *_]:
                if self._every_write_is_durable:
                    self._durable(node, at_ns)
            case ["fsync", _, int(node)]:
                self._durable(node, at_ns)
            case ["fsyncdir", *_]:
                self._raise_floor(self._first + len(self._history) - 1, at_ns)
            case ["create" | "mkdir" | "nameless", _, int(node), _]:
                assert isinstance(result, int)
                self._inodes[node] = result

    def problems(self, directory: Path) -> list[str]:
        if not directory.exists():
            return [f"{directory.name} is missing"] if self._first else []
        return self.judge(look(directory), lambda path: (directory / path).read_bytes())

    def blocks_of(self, node: int) -> int:
        """How many whole blocks a file has while nothing is lost."""
        return self._contents[node].size // BLOCK

    @property
    def names(self) -> Names:
        """The names as they are while nothing is lost."""
        return self._history[-1]

    def judge(self, found: dict[str, Found], read: Callable[[str], bytes]) -> list[str]:
        """What is wrong with names that were found; ``read`` gives a file's content."""
        at = [names for names in self._history if self._same(names, found)]
        if not at:
            return [self._difference(found)]
        problems: list[str] = []
        for names in at:
            problems = [
                f"{path}: {problem}"
                for path, entry in sorted(names.items())
                if not entry.directory and (problem := self._contents[entry.node].problem(read(path))) is not None
            ]
            if not problems:
                break
        return problems

    def _durable(self, node: int, at_ns: int) -> None:
        self.settled.add(at_ns, self._contents[node].settle())
        self._raise_floor(self._changed_at.get(node, 0), at_ns)

    def _raise_floor(self, to: int, at_ns: int) -> None:
        if to <= self._first:
            return
        self.settled.add(at_ns, 0)
        del self._history[: to - self._first]
        self._first = to
        if len(self._contents) > 2 * len(self._history[-1]) + 50:
            used = self._nameless | {entry.node for names in self._history for entry in names.values()}
            for known in (self._contents, self._inodes, self._changed_at):
                for node in known.keys() - used:
                    del known[node]

    def _same(self, names: Names, found: dict[str, Found]) -> bool:
        if names.keys() != found.keys():
            return False
        links = Counter(entry.node for entry in names.values())
        inodes: dict[int, int] = {}
        for path, entry in names.items():
            seen = found[path]
            inode = inodes.setdefault(entry.node, self._inodes.get(entry.node, seen.inode))
            if (seen.directory, seen.mode, seen.xattr, seen.inode) != (entry.directory, entry.mode, entry.xattr, inode):
                return False
            if seen.flags != entry.flags:
                return False
            if not entry.directory and seen.links != links[entry.node]:
                return False
        return len(set(inodes.values())) == len(inodes)

    def _difference(self, found: dict[str, Found]) -> str:
        oldest, newest = self._history[0], self._history[-1]
        return (
            f"names and attributes of no instant since they were durable ({len(self._history)} instants): "
            f"found {sorted(found.items())}; durable {sorted(oldest.items())}; newest {sorted(newest.items())}"
        )


def _change(names: Names, kind: str, words: Sequence[object]) -> int:
    """Make one change of names; the node it is about."""
    match kind, *words:
        case "publish", _, str(path), int(node), int(mode):
            names[path] = Entry(node, directory=False, mode=mode)
        case "create", str(path), int(node), int(mode):
            names[path] = Entry(node, directory=False, mode=mode)
        case "mkdir", str(path), int(node), int(mode):
            names[path] = Entry(node, directory=True, mode=mode)
        case "rename", str(old), str(path) if path in names and names[path].node == names[old].node:
            pass  # two names of one inode stay (rename(2))
        case "rename", str(old), str(path):
            entry = names.pop(old)
            names[path] = entry
            if entry.directory:
                for below in [one for one in names if one.startswith(f"{old}/")]:
                    names[path + below[len(old) :]] = names.pop(below)
        case "link", str(old), str(path):
            names[path] = names[old]
        case "unlink" | "rmdir", str(path):
            return names.pop(path).node
        case "chmod", str(path), int(mode):
            _everywhere(names, replace(names[path], mode=mode))
        case "setflags", str(path), int(value):
            _everywhere(names, replace(names[path], flags=value))
        case "setxattr", str(path), str(value):
            _everywhere(names, replace(names[path], xattr=value))
        case _:
            raise AssertionError((kind, words))
    return names[path].node


def _everywhere(names: Names, new: Entry) -> None:
    for path, entry in names.items():
        if entry.node == new.node:
            names[path] = new


def look(directory: Path) -> dict[str, Found]:
    """All that is to be seen of names and attributes below a directory."""
    seen: dict[str, Found] = {}
    for path in directory.rglob("*"):
        status = path.lstat()
        has_xattr = XATTR in os.listxattr(path)
        seen[os.fspath(path.relative_to(directory))] = Found(
            stat.S_ISDIR(status.st_mode),
            stat.S_IMODE(status.st_mode),
            os.getxattr(path, XATTR).decode() if has_xattr else "",
            status.st_nlink,
            status.st_ino,
            get_flags(os.fspath(path)),
        )
    return seen
