"""The workloads on the content of one large file: in order, and at random.

Imports ``data_io``, ``fio`` and ``workload``. Random I/O is fio's where it is installed, and its time is then what fio
says, without its start.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchfs_fuse.bench import data_io, fio
from benchfs_fuse.bench.workload import Done, Figure, Place, Step, Workload

_DEPTH = 16
_FSYNC_SHARE = 16
"""One block in so many of the file is written before the fsync of ``rand-write-fsync``."""


def _in_order(place: Place) -> Iterator[Step]:
    size, seed = place.settings.size_bytes, place.settings.seed
    path, other = place.directory / "large", place.directory / "direct"
    read = functools.partial(data_io.read_in_order, path)
    yield Step("seq-write", lambda: data_io.write_in_order(path, size, direct=False, seed=seed))
    yield Step("seq-write-direct", lambda: data_io.write_in_order(other, size, direct=True, seed=seed))
    yield Step("seq-read-cold", lambda: read(direct=False), cold=True)
    yield Step(None, lambda: read(direct=False))
    yield Step("seq-read-cached", lambda: _several(lambda: read(direct=False)))
    yield Step("seq-read-direct", lambda: read(direct=True), cold=True)


def _several(read: Callable[[], Done], times: int = 3) -> Done:
    """What the cache answers takes so little time that it is done more than once."""
    return Done(sum(read().operations for _ in range(times)))


@dataclass(frozen=True, slots=True)
class _Random:
    """One way of random I/O."""

    key: str
    title: str
    writing: bool
    flags: int = 0
    direct: bool = False
    depth: int = 1
    cold: bool = False

    def run(self, path: Path, place: Place) -> Done:
        at_random = fio.at_random if fio.is_installed() else data_io.at_random
        return at_random(
            path,
            writing=self.writing,
            seconds=place.settings.seconds,
            seed=place.settings.seed,
            flags=self.flags,
            direct=self.direct,
            depth=self.depth,
        )


_RANDOM = (
    _Random("rand-read", "4 KiB random read, buffered, cold", writing=False, cold=True),
    _Random("rand-read-direct-1", "4 KiB random read, direct, depth 1", writing=False, direct=True, cold=True),
    _Random(
        f"rand-read-direct-{_DEPTH}",
        f"4 KiB random read, direct, depth {_DEPTH}",
        writing=False,
        direct=True,
        depth=_DEPTH,
        cold=True,
    ),
    _Random("rand-write", "4 KiB random write, buffered", writing=True),
    _Random("rand-write-direct-1", "4 KiB random write, direct, depth 1", writing=True, direct=True),
    _Random(
        f"rand-write-direct-{_DEPTH}",
        f"4 KiB random write, direct, depth {_DEPTH}",
        writing=True,
        direct=True,
        depth=_DEPTH,
    ),
    _Random("rand-write-dsync", "4 KiB random write, O_DSYNC", writing=True, flags=os.O_DSYNC),
)


def _at_random(place: Place) -> Iterator[Step]:
    size, seed = place.settings.size_bytes, place.settings.seed
    path = place.directory / "large"

    def prepare() -> None:
        data_io.write_in_order(path, size, direct=False, seed=seed)

    def read() -> None:
        data_io.read_in_order(path, direct=False)

    yield Step(None, prepare)
    for one in _RANDOM:
        if not one.cold:
            yield Step(None, read)
        yield Step(one.key, functools.partial(one.run, path, place), cold=one.cold)
    count = max(16, size // data_io.BLOCK // _FSYNC_SHARE)
    yield Step("rand-write-fsync", lambda: data_io.some_writes_and_fsync(path, count=count, seed=seed))


WORKLOADS = (
    Workload(
        "sequential",
        (
            Figure("seq-write", "write 1 MiB, then fsync", "MiB"),
            Figure("seq-write-direct", "write 1 MiB, direct, then fsync", "MiB"),
            Figure("seq-read-cold", "read 1 MiB, cold", "MiB"),
            Figure("seq-read-direct", "read 1 MiB, direct, cold", "MiB"),
            Figure("seq-read-cached", "read 1 MiB again, cached", "MiB"),
        ),
        _in_order,
    ),
    Workload(
        "random",
        (
            *(Figure(one.key, one.title, "reads" if not one.writing else "writes") for one in _RANDOM),
            Figure("rand-write-fsync", "4 KiB random write, buffered, then fsync", "writes"),
        ),
        _at_random,
    ),
)
