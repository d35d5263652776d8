"""What files may look like after a kill: what workers told of, and what was acknowledged to them.

Imports the core's ``types`` and ``workload``. With ``sync=write`` each write(2) that returned must be there, with
``sync=fsync`` what the last fsync(2) that returned left; where something later was under way, that or what was before.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass, field
from pathlib import Path

from benchfs_core.types import SyncMode
from tests.crash.workload import XATTR, content


@dataclass(slots=True)
class Expected:
    """What one file may look like."""

    exists: bool | None = False
    """None: it may or may not be there."""
    durable: bytearray = field(default_factory=bytearray)
    """What is there for certain, unless ``later`` says that it may have changed."""
    later: list[tuple[int, bytes]] = field(default_factory=list)
    """Writes that may be there, in part or not at all, in their order."""
    instead: list[bytes] = field(default_factory=list)
    """Whole contents that may have taken the file's place."""
    attributes: list[bytes] = field(default_factory=lambda: [b""])
    """Values that the extended attribute may have: the acknowledged one first."""

    def settle(self) -> None:
        """Everything written so far is there for certain."""
        for offset, data in self.later:
            self._apply(self.durable, offset, data)
        self.later.clear()

    def problem(self, found: bytes | None, attribute: bytes = b"") -> str | None:
        """What is wrong with a file that was found, or not found."""
        if found is None:
            return "is missing" if self.exists is True else None
        if self.exists is False:
            return "is there though it was unlinked"
        if not attribute and any(found == whole for whole in self.instead):
            return None
        if attribute not in self.attributes:
            return f"has an attribute of {len(attribute)} bytes that it was not given, or not last"
        most = max([len(self.durable), *(offset + len(data) for offset, data in self.later)])
        if not len(self.durable) <= len(found) <= most:
            return f"has {len(found)} bytes, not {len(self.durable)} to {most}"
        if found == self.durable:
            return None
        return self._wrong_bytes(found)

    def _wrong_bytes(self, found: bytes) -> str | None:
        """Each byte must be the durable one, or one that was written there later, or beyond the durable end zero."""
        padded = bytes(self.durable) + bytes(len(found) - len(self.durable))
        wrong = {index for index, (one, other) in enumerate(zip(found, padded, strict=True)) if one != other}
        for offset, data in self.later:
            same = {
                index for index in wrong if 0 <= index - offset < len(data) and found[index] == data[index - offset]
            }
            wrong -= same
        return f"has {len(wrong)} wrong bytes, the first at {min(wrong)}" if wrong else None

    @staticmethod
    def _apply(to: bytearray, offset: int, data: bytes) -> None:
        if len(to) < offset:
            to.extend(bytes(offset - len(to)))
        to[offset : offset + len(data)] = data


class Recorder:
    """What one worker was told, and so what its files may look like."""

    def __init__(self, sync: SyncMode, expected: dict[str, Expected]) -> None:
        self._every_write_is_durable = sync is SyncMode.WRITE
        self._expected = expected
        self._begun: list[object] | None = None
        self.acknowledged = 0
        self.unfsynced = 0
        """Writes that were acknowledged and not promised to survive."""
        self._failed_with: object = errno.ECONNABORTED

    @property
    def interrupted(self) -> bool:
        """Whether an operation was under way when the daemon or the worker was killed."""
        return self._begun is not None and self._failed_with == errno.ECONNABORTED

    def line(self, words: list[object]) -> None:
        """Take in one line."""
        if words == ["done"]:
            assert self._begun is not None
            self._acknowledge(self._begun)
            self._begun = None
            self.acknowledged += 1
        elif words[0] == "failed":
            # ENOTCONN: begun after the daemon had died; ECONNABORTED: the daemon had the request
            assert words[1] in (errno.ENOTCONN, errno.ECONNABORTED, errno.EIO), os.strerror(int(str(words[1])))
            self._failed_with = words[1]
        else:
            self._begun = words
            self._begin(words)

    def _begin(self, words: list[object]) -> None:
        file = self._file(words)
        match words:
            case ["write", _, int(offset), int(seed), int(length)]:
                file.later.append((offset, content(seed, length)))
                if file.exists is False:
                    file.exists = None
            case ["fsync", _]:
                if file.exists is False:
                    file.exists = None  # made by opening it
            case ["replace", _, int(seed), int(length)]:
                file.instead.append(content(seed, length))
                if file.exists is False:
                    file.exists = None
            case ["unlink", _]:
                file.exists = None
            case ["attribute", _, int(seed), int(length)]:
                file.attributes.append(content(seed, length))
                if file.exists is False:
                    file.exists = None
            case _:
                raise AssertionError(words)

    def _acknowledge(self, words: list[object]) -> None:
        file = self._file(words)
        match words:
            case ["write", *_]:
                if self._every_write_is_durable:
                    file.settle()
                    file.exists = True
                else:
                    self.unfsynced += 1
            case ["fsync", _]:
                file.settle()
                file.exists = True
            case ["attribute", *_]:  # and fsync
                file.settle()
                file.exists = True
                del file.attributes[:-1]
            case ["replace", _, int(seed), int(length)]:
                self._expected[str(words[1])] = Expected(exists=True, durable=bytearray(content(seed, length)))
            case ["unlink", _]:
                self._expected[str(words[1])] = Expected()

    def _file(self, words: list[object]) -> Expected:
        return self._expected.setdefault(str(words[1]), Expected())


def look(path: Path) -> tuple[bytes | None, bytes]:
    """A file's content and its extended attribute; None where there is no file."""
    try:
        return path.read_bytes(), os.getxattr(path, XATTR) if XATTR in os.listxattr(path) else b""
    except FileNotFoundError:
        return None, b""


def judge(directory: Path, expected: dict[str, Expected]) -> list[str]:
    """What is wrong with the files on a recovered mount; from now on they must be as they were found."""
    problems = []
    for name, file in sorted(expected.items()):
        found, attribute = look(directory / name)
        if problem := file.problem(found, attribute):
            problems.append(f"{name}: {problem}")
        expected[name] = Expected(exists=found is not None, durable=bytearray(found or b""), attributes=[attribute])
    return problems
