"""How cost grows: the same operations in one directory while it holds ever more files, and in ever larger sparse files.

Imports ``small_files``, ``data_io`` and their neighbours. A *point* is a number of files or a size; the first point is
what the others are compared with, as the first directory is elsewhere. Points cannot be taken in turns, since the
directory grows; within a point every operation is done once a round.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchfs_fuse.bench import data_io, small_files
from benchfs_fuse.bench.caches import Caches
from benchfs_fuse.bench.costs import difference
from benchfs_fuse.bench.figures import Sample
from benchfs_fuse.bench.runner import PREFIX, Target
from benchfs_fuse.bench.workload import BenchError, Done, Figure

FILES = (10_000, 100_000, 1_000_000)
SIZES = (1 << 30, 8 << 30, 64 << 30)

_FILES_PER_DIRECTORY = 1000
_FILL = b"x" * 100

FIGURES = {
    figure.key: figure
    for figure in (
        Figure("scale-stat-cold", "stat, cold", "files"),
        Figure("scale-read-cold", "open, read 100 bytes, close, cold", "files"),
        Figure("scale-create", "create, write 4 KiB, close", "files"),
        Figure("scale-rename", "rename", "files"),
        Figure("scale-unlink", "unlink", "files"),
        Figure("scale-list", f"list a directory of {_FILES_PER_DIRECTORY} with attributes, cold", "entries"),
        Figure("scale-hole", "write 4 KiB into holes, then fsync", "writes"),
        Figure("scale-overwrite", "write 4 KiB again, then fsync", "writes"),
        Figure("scale-read-4k", "read 4 KiB, cold", "reads"),
        Figure("scale-append", "write 1 MiB at the end, then fsync", "MiB"),
    )
}


class Scale:
    """Measures one directory at growing points."""

    def __init__(
        self, target: Target, caches: Caches, *, rounds: int, operations: int, seed: int, tell: Callable[[str], None]
    ) -> None:
        """Measure ``target``: ``operations`` of each kind in each of ``rounds`` rounds."""
        self._target = target
        self._caches = caches
        self._rounds = rounds
        self._operations = operations
        self._seed = seed
        self._tell = tell
        self.samples: list[Sample] = []
        self.notes: list[str] = []

    def run_files(self, points: Sequence[int]) -> None:
        """Grow a tree to each number of files, and measure there."""
        with self._own_directory() as top:
            there = 0
            for point in sorted(points):
                name = files_point(point)
                self._tell(f"{self._target.name}: making files until there are {point:,}")
                begin = time.perf_counter()
                _fill(top, there, point)
                os.sync()
                rate = (point - there) / (time.perf_counter() - begin)
                there = point
                self._note(f"{name}: filled at {rate:,.0f} files/s")
                for number in range(self._rounds):
                    self._tell(f"{self._target.name}: {name}, round {number + 1} of {self._rounds}")
                    self._measure_files(top, point, name, number)

    def run_sizes(self, points: Sequence[int]) -> None:
        """Make a sparse file of each size, and measure in it."""
        with self._own_directory() as top:
            for point in sorted(points):
                name = size_point(point)
                for number in range(self._rounds):
                    self._tell(f"{self._target.name}: {name}, round {number + 1} of {self._rounds}")
                    self._measure_size(top / f"sparse{number}", point, name, number)
                self._note(name)

    def _measure_files(self, top: Path, there: int, point: str, number: int) -> None:
        order = random.Random(self._seed + number)
        some = [_path(top, order.randrange(there)) for _ in range(min(self._operations, there))]
        some = list(dict.fromkeys(some))
        new = [path.with_name(f"new{index}") for index, path in enumerate(some)]
        renamed = [path.with_name(f"renamed{index}") for index, path in enumerate(some)]
        data = small_files.content(self._seed)
        one = some[0].parent
        self._take(point, number, "scale-stat-cold", lambda: small_files.stat(some), cold=True)
        self._take(point, number, "scale-read-cold", lambda: small_files.read(some), cold=True)
        self._take(point, number, "scale-list", lambda: _list(one), cold=True)
        self._take(point, number, "scale-create", lambda: small_files.create(new, data))
        self._take(point, number, "scale-rename", lambda: small_files.rename(new, renamed))
        self._take(point, number, "scale-unlink", lambda: small_files.unlink(renamed))

    def _measure_size(self, path: Path, size: int, point: str, number: int) -> None:
        with path.open("wb") as stream:
            stream.truncate(size)
        blocks, count = size // data_io.BLOCK, self._operations
        offsets = sorted(random.Random(self._seed + number).sample(range(blocks), min(count, blocks)))
        random.Random(self._seed).shuffle(offsets)
        places = [block * data_io.BLOCK for block in offsets]
        self._take(point, number, "scale-hole", lambda: data_io.write_at(path, places))
        self._take(point, number, "scale-overwrite", lambda: data_io.write_at(path, places))
        self._take(point, number, "scale-read-4k", lambda: data_io.read_at(path, places), cold=True)
        self._take(point, number, "scale-append", lambda: data_io.append(path, mib=32))
        path.unlink()

    def _take(self, point: str, number: int, figure: str, run: Callable[[], Done], *, cold: bool = False) -> None:
        os.sync()
        if cold:
            self._caches.drop(self._target.directory)
        before = self._target.meter.read()
        begin = time.perf_counter()
        done = run()
        seconds = time.perf_counter() - begin
        costs = difference(before, self._target.meter.read())
        self.samples.append(Sample(number, point, figure, done.operations, seconds, costs))

    def _note(self, what: str) -> None:
        """How much memory the daemon has at this point."""
        memory = sum(map(_resident_mib, self._target.meter.pids))
        more = f", {memory:,.0f} MiB resident, {_peak(self._target.meter.pids):,.0f} MiB at most" if memory else ""
        self.notes.append(f"{self._target.name}, {what}{more}")

    @contextmanager
    def _own_directory(self) -> Iterator[Path]:
        try:
            path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=self._target.directory))
        except OSError as error:
            raise BenchError(f"{self._target.directory}: {error.strerror}") from error
        try:
            yield path
        finally:
            self._tell(f"{self._target.name}: removing what was made")
            shutil.rmtree(path)


def files_point(files: int) -> str:
    """How a point is called."""
    return f"{files:,} files"


def size_point(size: int) -> str:
    """How a point is called."""
    return f"{size >> 30} GiB" if size >= 1 << 30 else f"{size >> 20} MiB"


def _fill(top: Path, begin: int, end: int) -> None:
    for number in range(begin, end):
        path = _path(top, number)
        if number % _FILES_PER_DIRECTORY == 0 or number == begin:
            path.parent.mkdir(exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            os.write(descriptor, _FILL)
        finally:
            os.close(descriptor)


def _path(top: Path, number: int) -> Path:
    return top / f"d{number // _FILES_PER_DIRECTORY}" / f"f{number}"


def _list(directory: Path) -> Done:
    with os.scandir(directory) as entries:
        return Done(sum(entry.stat(follow_symlinks=False).st_nlink > 0 for entry in entries))


def _resident_mib(pid: int) -> float:
    return _memory(pid, "VmRSS")


def _peak(pids: Sequence[int]) -> float:
    return sum(_memory(pid, "VmHWM") for pid in pids)


def _memory(pid: int, field: str) -> float:
    """A line of proc_pid_status(5), in MiB."""
    found = re.search(rf"^{field}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return int(found[1]) / 1024 if found else 0.0
