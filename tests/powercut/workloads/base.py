"""What a workload is, and how one on files and names does its operations.

Imports ``record`` and ``file_judge``. A workload works in a directory of its own, one operation at a time; each is told
before it is begun and again when it was acknowledged.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import ClassVar

from benchfs_core.layout import MIN_CHUNK_BYTES
from benchfs_core.types import SyncMode
from tests.conformance.calls import KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE, fallocate, link_open, set_flags
from tests.powercut.blocks import BLOCK, run_of_blocks
from tests.powercut.file_judge import XATTR, FileJudge
from tests.powercut.record import Judge, Operation, Teller

MAX_OPEN = 4


class Workload(ABC):
    """Works until it is killed."""

    chunk_size: ClassVar[int] = MIN_CHUNK_BYTES
    """The least that the volume's chunks are to have."""

    def __init__(self, number: int, seed: int, sync: SyncMode) -> None:
        """``number``: of the worker, which makes what it writes different from what others write."""
        self.number = number
        self.random = Random(seed)
        self.every_write_is_durable = sync is SyncMode.WRITE

    @staticmethod
    @abstractmethod
    def judge(sync: SyncMode) -> Judge:
        """Who judges what this workload leaves."""

    @abstractmethod
    def work(self, directory: Path, tell: Teller) -> None:
        """Work in the directory, which is there and empty."""


class FileWorkload(Workload):
    """Operations on files and names: ``operations`` yields them, this class does them.

    Handles stay open from one write to the next, so that the kernel has reason to keep dirty pages.
    """

    max_blocks: ClassVar[int] = 800

    def __init__(self, number: int, seed: int, sync: SyncMode) -> None:
        super().__init__(number, seed, sync)
        self._made = 0
        self._generation = 0
        self._open: dict[int, int] = {}
        self.blocks: dict[int, int] = {}
        """How many blocks each file has, by node."""

    @staticmethod
    def judge(sync: SyncMode) -> Judge:
        return FileJudge(sync)

    @abstractmethod
    def operations(self) -> Iterator[Operation]:
        """Operations without end; each one was done when the next is asked for."""

    def work(self, directory: Path, tell: Teller) -> None:
        os.chdir(directory)
        for operation in self.operations():
            tell.begin(operation)
            tell.done(self._do(operation))

    # Making operations

    def node(self) -> int:
        """A number for a new file or directory."""
        self._made += 1
        return self.number << 32 | self._made

    def create(self, path: str, mode: int = 0o644) -> tuple[Operation, int]:
        """A new file, and its number."""
        node = self.node()
        self.blocks[node] = 0
        return ("create", path, node, mode), node

    def nameless(self, mode: int = 0o644) -> tuple[Operation, int]:
        """A new file without a name, and its number; its path is empty until it is published."""
        (_, _, node, _), number = self.create("", mode)
        return ("nameless", "", node, mode), number

    def write(self, path: str, node: int, first: int, count: int) -> Operation:
        """Write whole blocks."""
        self._generation += 1
        self.blocks[node] = max(self.blocks[node], first + count)
        return "write", path, node, first, count, self._generation

    def truncate(self, path: str, node: int, size: int) -> Operation:
        """Set the size, in bytes."""
        self._generation += 1
        self.blocks[node] = -(-size // BLOCK)
        return "truncate", path, node, size, self._generation

    def copy(self, path: str, node: int, other: str, source: int, first: int, count: int, to: int) -> Operation:
        """Copy whole blocks from another file."""
        self._generation += 1
        return "copy", path, node, other, source, first, count, to, self._generation

    def whole_file(self, path: str, node: int) -> Iterator[Operation]:
        """Some content for a new file."""
        for _ in range(self.random.randrange(1, 4)):
            yield self.write(path, node, self.blocks[node], self.random.choice((1, 8, 20, 140)))

    def sometimes(self, chance: float) -> bool:
        """True as often as that."""
        return self.random.random() < chance

    # Doing them

    def _do(self, operation: Operation) -> int:
        match operation:
            case ("create", str(path), int(node), int(mode)):
                handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
                self._keep(node, handle)
                return os.fstat(handle).st_ino
            case ("write", str(path), int(node), int(first), int(count), int(generation)):
                data = run_of_blocks(node, first, count, generation)
                if os.pwrite(self._handle(path, node), data, first * BLOCK) != len(data):
                    raise OSError(f"{path}: short write")
            case ("truncate", str(path), int(node), int(size), _):
                os.ftruncate(self._handle(path, node), size)
            case ("fsync", str(path), int(node)):
                os.fsync(self._handle(path, node))
            case ("fsyncdir", str(path)):
                self._fsync_directory(path)
            case ("unlink", str(path)):
                self._forget(path)
                os.unlink(path)
            case ("rename", str(path), str(new)):
                self._forget(new)
                os.rename(path, new)
            case _:
                return self._do_other(operation)
        return 0

    def _do_other(self, operation: Operation) -> int:
        match operation:
            case ("mkdir", str(path), int(_), int(mode)):
                os.mkdir(path, mode)
                return os.stat(path).st_ino
            case ("rmdir", str(path)):
                os.rmdir(path)
            case ("link", str(path), str(new)):
                os.link(path, new)
            case ("nameless", _, int(node), int(mode)):
                handle = os.open(".", os.O_WRONLY | os.O_TMPFILE, mode)
                self._keep(node, handle)
                return os.fstat(handle).st_ino
            case ("publish", _, str(path), int(node), _):
                link_open(self._open[node], path)
            case ("punch" | "zero" as kind, str(path), int(node), int(first), int(count)):
                mode = KEEP_SIZE | PUNCH_HOLE if kind == "punch" else ZERO_RANGE
                fallocate(self._handle(path, node), mode, first * BLOCK, count * BLOCK)
            case ("reserve", str(path), int(node), int(first), int(count)):
                fallocate(self._handle(path, node), KEEP_SIZE, first * BLOCK, count * BLOCK)
            case ("allocate", str(path), int(node), int(size)):
                fallocate(self._handle(path, node), KEEP_SIZE, size, 20 * BLOCK)
                fallocate(self._handle(path, node), 0, 0, size)
            case ("copy", str(path), int(node), str(other), _, int(first), int(count), int(to), _):
                self._copy(self._handle(path, node), other, first * BLOCK, to * BLOCK, count * BLOCK)
            case ("chmod", str(path), int(mode)):
                os.chmod(path, mode)
            case ("setflags", str(path), int(value)):
                set_flags(path, value)
            case ("setxattr", str(path), str(value)):
                os.setxattr(path, XATTR, value.encode())
            case _:
                raise AssertionError(operation)
        return 0

    @staticmethod
    def _copy(target: int, path: str, start: int, to: int, length: int) -> None:
        source, done = os.open(path, os.O_RDONLY), 0
        while done < length:
            more = os.copy_file_range(source, target, length - done, start + done, to + done)
            if not more:
                raise OSError(f"{path}: short copy")
            done += more
        os.close(source)

    def _handle(self, path: str, node: int) -> int:
        if node not in self._open:
            self._keep(node, os.open(path, os.O_WRONLY))
        return self._open[node]

    def _keep(self, node: int, handle: int) -> None:
        if len(self._open) >= MAX_OPEN:
            os.close(self._open.pop(next(iter(self._open))))
        self._open[node] = handle

    def _forget(self, path: str) -> None:
        """Close the handle of a name that goes, lest its space be kept."""
        if not os.path.exists(path):
            return
        inode = os.stat(path).st_ino
        for node, handle in list(self._open.items()):
            if os.fstat(handle).st_ino == inode:
                os.close(self._open.pop(node))

    @staticmethod
    def _fsync_directory(path: str) -> None:
        directory = os.open(path or ".", os.O_RDONLY | os.O_DIRECTORY)
        os.fsync(directory)
        os.close(directory)
