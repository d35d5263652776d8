"""The workloads on small files: the same operations in one directory and spread over many.

Imports ``workload``. Everything is done by plain system calls, one after the other.
"""

from __future__ import annotations

import functools
import os
import random
from collections.abc import Iterator
from pathlib import Path

from benchfs_fuse.bench.workload import Done, Figure, Place, Step, Workload

SIZE = 4096
_FILES_PER_DIRECTORY = 20
_FSYNC_SHARE = 4
"""One file in so many is made once more with an fsync."""
_STATS = 3
"""How often each is asked for what the cache knows, which takes little time."""

_OPERATIONS = (
    ("create", "create, write 4 KiB, close", "files"),
    ("create-fsync", "create, write 4 KiB, fsync, close", "files"),
    ("stat", "stat, cached", "files"),
    ("read", "open, read 4 KiB, close, cached", "files"),
    ("read-cold", "open, read 4 KiB, close, cold", "files"),
    ("rename", "rename", "files"),
    ("unlink", "unlink", "files"),
)


def create(paths: list[Path], content: bytes, *, fsync: bool = False) -> Done:
    """Make new files with ``content``."""
    for path in paths:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            os.write(descriptor, content)
            if fsync:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
    return Done(len(paths))


def stat(paths: list[Path], times: int = 1) -> Done:
    """Ask for the attributes of each."""
    for _ in range(times):
        for path in paths:
            os.stat(path)
    return Done(times * len(paths))


def read(paths: list[Path]) -> Done:
    """Open each, read it, close it."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.read(descriptor, SIZE)
        finally:
            os.close(descriptor)
    return Done(len(paths))


def rename(paths: list[Path], new: list[Path]) -> Done:
    """Give each its new name."""
    for path, other in zip(paths, new, strict=True):
        os.rename(path, other)
    return Done(len(paths))


def unlink(paths: list[Path]) -> Done:
    """Remove each."""
    for path in paths:
        os.unlink(path)
    return Done(len(paths))


def content(seed: int) -> bytes:
    """What is in every file: nothing that could be stored as a hole."""
    return random.Random(seed).randbytes(SIZE)


def _steps(prefix: str, spread: bool, place: Place) -> Iterator[Step]:
    files, top = place.settings.files, place.directory
    directories = [top / f"d{number}" for number in range(max(1, files // _FILES_PER_DIRECTORY) if spread else 1)]
    paths = [directories[number % len(directories)] / f"f{number}" for number in range(files)]
    renamed = [directories[(number + 1) % len(directories)] / f"r{number}" for number in range(files)]
    synced = [path.with_name(f"s{number}") for number, path in enumerate(paths[: max(1, files // _FSYNC_SHARE)])]
    order = list(range(files))
    random.Random(place.settings.seed).shuffle(order)
    shuffled, shuffled_new = [paths[number] for number in order], [renamed[number] for number in order]
    data = content(place.settings.seed)

    def make_directories() -> None:
        for directory in directories:
            directory.mkdir()

    def look() -> None:
        read(paths)
        stat(paths)

    yield Step(None, make_directories)
    yield Step(f"{prefix}-create", lambda: create(paths, data))
    yield Step(None, look)
    yield Step(f"{prefix}-stat", lambda: stat(shuffled, _STATS))
    yield Step(f"{prefix}-read", lambda: read(shuffled))
    yield Step(f"{prefix}-read-cold", lambda: read(shuffled), cold=True)
    yield Step(None, look)
    yield Step(f"{prefix}-rename", lambda: rename(shuffled, shuffled_new))
    yield Step(f"{prefix}-unlink", lambda: unlink(shuffled_new))
    yield Step(f"{prefix}-create-fsync", lambda: create(synced, data, fsync=True))


def _workload(name: str, prefix: str, spread: bool) -> Workload:
    where = "many directories" if spread else "one directory"
    figures = tuple(Figure(f"{prefix}-{key}", f"{title} ({where})", unit) for key, title, unit in _OPERATIONS)
    return Workload(name, figures, functools.partial(_steps, prefix, spread))


WORKLOADS = (_workload("small-files", "one", spread=False), _workload("small-files-spread", "many", spread=True))
