"""What a workload is made of: steps that are timed or prepare, in a directory of its own; and how big everything is.

Imports the core's ``errors``. Invariants: a step says how many operations it did, so that every figure is a number of
operations per second, higher is better; everything a workload makes lies in its ``Place``, of which ``kept`` stays from
round to round and the rest does not; the same seed gives the same content and the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchfs_core.errors import BenchFSError
from benchfs_fuse.bench.materials import Materials


class BenchError(BenchFSError):
    """The bench cannot go on; one line for the user."""


class NotMeasurable(Exception):
    """A figure cannot be had here, and why: a tool is missing, or the filesystem refuses what it takes."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How much of everything."""

    rounds: int = 5
    size_bytes: int = 128 << 20
    """Of the file that data is read from and written to."""
    files: int = 2000
    """Small files."""
    entries: int = 10_000
    """What ``ls -lR`` lists."""
    seconds: float = 1.0
    """Length of a step that goes on for a time instead of a number of operations."""
    processes: int = 4
    seed: int = 1


QUICK = Settings(rounds=2, size_bytes=4 << 20, files=60, entries=200, seconds=0.1, processes=2)
"""Everything once in seconds: to see that it works, not how fast it is."""


@dataclass(frozen=True, slots=True)
class Done:
    """What a step did."""

    operations: int
    seconds: float | None = None
    """How long it took, where the step knows better than who calls it (a program that starts up first)."""


@dataclass(frozen=True, slots=True)
class Step:
    """A part of a workload; the same step of all directories is run in turns."""

    figure: str | None
    """Key of the figure it gives; None: it prepares."""
    run: Callable[[], Done | None]
    """None may be returned by what prepares."""
    cold: bool = False
    """Caches are dropped before, which may be those of all directories: a step after it that is not cold needs one that
    warms first."""
    settle: bool = True
    """Data that earlier steps left to be written is written before."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a workload runs."""

    directory: Path
    """Empty when a round begins, and removed when it ends."""
    kept: Path
    """May be there from an earlier round; removed when the bench ends."""
    settings: Settings
    materials: Materials


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table."""

    key: str
    title: str
    unit: str
    """The operation, in the plural; a figure is so many a second."""


@dataclass(frozen=True, slots=True)
class Workload:
    """A sequence of steps that yields some figures."""

    name: str
    figures: tuple[Figure, ...]
    steps: Callable[[Place], Iterator[Step]]
    """May raise NotMeasurable, as its steps may."""
