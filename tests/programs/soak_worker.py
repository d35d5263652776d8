"""``python -m tests.programs.soak_worker TREE WORKER SEED DEADLINE UID PROGRESS``: one process of the soak.

Most of its operations are on the tree that all share (``soak_operations``); the others are on files of its own, whose
every byte it knows and compares. Imports the standard library and its neighbours; knows nothing of BenchFS. Before
each operation it writes to its place in the file PROGRESS when it began and which, for the watchdog. At DEADLINE
(CLOCK_MONOTONIC, seconds) it prints one JSON object: how often each kind gave which errno, examples, what was wrong,
and the digests of its own files.
"""

from __future__ import annotations

import collections
import errno
import hashlib
import json
import mmap
import os
import random
import struct
import sys
import time
import traceback
from pathlib import Path

from tests.programs.soak_operations import (
    KEEP_SIZE,
    KINDS,
    PUNCH_HOLE,
    ZERO_RANGE,
    SharedTree,
    WrongContent,
    fallocate,
)

PROGRESS = struct.Struct("<QQQ")
"""When the operation began (ns), its kind (index into ALL_KINDS), how many were done before."""

ALL_KINDS = (*KINDS, "own_file", "nothing")
OWN_FILES = 4
MAX_OWN_BYTES = 300_000
OWN_SHARE = 0.25
"""The part of all operations that goes to a process's own files."""


class OwnFiles:
    """Files that only this process changes; after each change one of them is compared with what it must be."""

    def __init__(self, rng: random.Random, directory: Path) -> None:
        self._rng = rng
        self._directory = directory
        self.contents: dict[str, bytearray] = {}

    def perform(self) -> None:
        """Change one file, then compare one."""
        name = f"own {self._rng.randrange(OWN_FILES)}"
        change = self._rng.choice(
            (
                *(self._write, self._write, self._append, self._cut, self._map, self._move, self._drop),
                *(self._allocate, self._clear, self._copy),
            )
        )
        change(name)
        self.compare(self._rng.choice(sorted(self.contents)) if self.contents else None)

    def compare(self, name: str | None) -> None:
        """The file's bytes and size, as stat(2) and read(2) tell them."""
        if name is None:
            return
        expected, path = self.contents[name], self._directory / name
        found = path.read_bytes() if self._rng.random() < 0.7 else _data_of(path)
        if found != expected or path.stat().st_size != len(expected):
            differing = [place for place, pair in enumerate(zip(found, expected, strict=False)) if pair[0] != pair[1]]
            raise WrongContent(
                f"{path}: {len(found)} bytes read, size {path.stat().st_size}, {len(expected)} expected; "
                f"{len(differing)} differ, the first at {differing[:1]}"
            )

    def _open(self, name: str, flags: int) -> int:
        self.contents.setdefault(name, bytearray())
        return os.open(self._directory / name, flags | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def _put(self, name: str, offset: int, data: bytes) -> None:
        content = self.contents[name]
        content.extend(bytes(max(0, offset - len(content))))
        content[offset : offset + len(data)] = data

    def _write(self, name: str) -> None:
        data = self._rng.randbytes(self._rng.choice((1, 100, 4096, 70_000)))
        offset = self._rng.randrange(MAX_OWN_BYTES - len(data))
        descriptor = self._open(name, os.O_WRONLY)
        written = os.pwrite(descriptor, data, offset)
        if self._rng.random() < 0.1:
            os.fsync(descriptor)
        os.close(descriptor)
        self._put(name, offset, data[:written])

    def _append(self, name: str) -> None:
        data = self._rng.randbytes(self._rng.randrange(1, 5000))
        descriptor = self._open(name, os.O_WRONLY | os.O_APPEND)
        if len(self.contents[name]) < MAX_OWN_BYTES:
            written = os.write(descriptor, data)
            self._put(name, len(self.contents[name]), data[:written])
        os.close(descriptor)

    def _cut(self, name: str) -> None:
        size = self._rng.randrange(MAX_OWN_BYTES)
        descriptor = self._open(name, os.O_WRONLY)
        os.ftruncate(descriptor, size)
        os.close(descriptor)
        content = self.contents[name]
        content.extend(bytes(max(0, size - len(content))))
        del content[size:]

    def _map(self, name: str) -> None:
        if size := len(self.contents.get(name, b"")):
            descriptor = self._open(name, os.O_RDWR)
            data = self._rng.randbytes(min(size, 9000))
            offset = self._rng.randrange(size - len(data) + 1)
            with mmap.mmap(descriptor, size) as mapped:
                mapped[offset : offset + len(data)] = data
                if self._rng.random() < 0.5:
                    mapped.flush()
            os.close(descriptor)
            self._put(name, offset, data)

    def _allocate(self, name: str) -> None:
        descriptor = self._open(name, os.O_WRONLY)
        length, mode = self._rng.randrange(1, MAX_OWN_BYTES), self._rng.choice((0, KEEP_SIZE))
        fallocate(descriptor, mode, 0, length)
        os.close(descriptor)
        if not mode:
            content = self.contents[name]
            content.extend(bytes(max(0, length - len(content))))

    def _clear(self, name: str) -> None:
        descriptor = self._open(name, os.O_WRONLY)
        mode = KEEP_SIZE | self._rng.choice((PUNCH_HOLE, ZERO_RANGE))
        offset, length = self._rng.randrange(MAX_OWN_BYTES), self._rng.randrange(1, 100_000)
        fallocate(descriptor, mode, offset, length)
        os.close(descriptor)
        content = self.contents[name]
        if (end := min(offset + length, len(content))) > offset:
            content[offset:end] = bytes(end - offset)

    def _copy(self, name: str) -> None:
        other = f"own {self._rng.randrange(OWN_FILES)}"
        if other == name or not (size := len(self.contents.get(other, b""))):
            return
        source, target = self._open(other, os.O_RDONLY), self._open(name, os.O_WRONLY)
        at = self._rng.randrange(size)
        to, length = self._rng.choice((at, self._rng.randrange(MAX_OWN_BYTES))), self._rng.randrange(1, 200_000)
        copied = (
            os.copy_file_range(source, target, min(length, MAX_OWN_BYTES - to), at, to) if to < MAX_OWN_BYTES else 0
        )
        os.close(source)
        os.close(target)
        if copied:
            self._put(name, to, bytes(self.contents[other][at : at + copied]))

    def _move(self, name: str) -> None:
        if name in self.contents:
            to = f"own {self._rng.randrange(OWN_FILES)}"
            os.rename(self._directory / name, self._directory / to)
            self.contents[to] = self.contents.pop(name)

    def _drop(self, name: str) -> None:
        if self.contents.pop(name, None) is not None:
            os.unlink(self._directory / name)


def _data_of(path: Path) -> bytes:
    """The content, read where lseek(2) says that there is data alone."""
    with path.open("rb", buffering=0) as stream:
        descriptor, end = stream.fileno(), 0
        content = bytearray(os.fstat(descriptor).st_size)
        while end < len(content):
            try:
                start = os.lseek(descriptor, end, os.SEEK_DATA)
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise
                break
            end = os.lseek(descriptor, start, os.SEEK_HOLE)
            content[start:end] = os.pread(descriptor, end - start, start)
    return bytes(content)


class Worker:
    """One process's operations, and what came of them."""

    def __init__(self, tree: Path, number: int, seed: int, progress: Path) -> None:
        self._rng = random.Random(f"{seed}-{number}")
        self._number = number
        with progress.open("r+b") as stream:
            self._progress = mmap.mmap(stream.fileno(), 0)
        self.own = OwnFiles(self._rng, tree / f"own-{number}")
        self.shared = SharedTree(self._rng, number)
        self.counts: collections.Counter[tuple[str, str]] = collections.Counter()
        self.examples: dict[str, str] = {}
        self.wrong: list[str] = []
        self._done = 0

    def _tell(self, kind: str) -> None:
        at = self._number * PROGRESS.size
        PROGRESS.pack_into(self._progress, at, time.monotonic_ns(), ALL_KINDS.index(kind), self._done)

    def step(self) -> None:
        """One operation."""
        kind = "own_file" if self._rng.random() < OWN_SHARE else self._rng.choice(KINDS)
        self._tell(kind)
        result = "ok"
        try:
            if kind == "own_file":
                self.own.perform()
            else:
                getattr(self.shared, kind)()
        except OSError as error:
            result = errno.errorcode.get(error.errno or 0, str(error))
            self.examples.setdefault(f"{kind} {result}", f"operation {self._done} of process {self._number}: {error}")
        except WrongContent as error:
            result = "wrong content"
            self.wrong.append(f"process {self._number}, operation {self._done}, {kind}: {error}")
        self._done += 1
        self.counts[kind, result] += 1
        self._tell("nothing")

    def report(self) -> dict[str, object]:
        """What is printed at the end."""
        for name in self.own.contents:
            self.own.compare(name)
        return {
            "counts": [[kind, result, count] for (kind, result), count in sorted(self.counts.items())],
            "examples": self.examples,
            "wrong": self.wrong,
            "own": {name: hashlib.sha256(content).hexdigest() for name, content in self.own.contents.items()},
        }


def main() -> None:
    tree, number, seed, deadline_s, uid, progress = sys.argv[1:]
    worker = Worker(Path(tree), int(number), int(seed), Path(progress))
    os.umask(0)
    os.chdir(Path(tree) / "shared")
    if int(uid):
        os.setgroups([])
        os.setresgid(int(uid), int(uid), int(uid))
        os.setresuid(int(uid), int(uid), int(uid))
    try:
        while time.monotonic() < float(deadline_s):
            worker.step()
        worker.shared.close()
        report = worker.report()
    except Exception:  # what went wrong is the report
        worker.wrong.append(traceback.format_exc())
        report = {"counts": [], "examples": {}, "wrong": worker.wrong, "own": {}}
    print(json.dumps(report))


if __name__ == "__main__":
    main()
