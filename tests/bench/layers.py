"""What each layer costs for a small read, a small write and a small file, and what it costs to count that.

    .venv/bin/python -m tests.bench.layers [DIRECTORY] [--seconds N] [--counting] [--rounds N] [--render]

Mounts volumes in DIRECTORY (default: the current one), puts one request after another to them, from one thread, and has
``benchfs profile`` say meanwhile where the time goes. With ``--counting`` instead the CPU time of daemons is compared,
in turns, that count requests and, from a copy of BenchFS of which that is taken out, do not. Writes what it found to
docs/data/layers.json, and the tables of docs/performance.md from it (``--render``: nothing but that). Needs root.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchfs_core.meter import PARTS
from tests.bench.page import between, table

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "docs" / "data" / "layers.json"
BENCHFS = Path(sys.executable).with_name("benchfs")
FILE_BYTES = 256 << 20
_LAUNCHES = 4
_NICE = -15
"""So that other work on the machine has the processors when this has no use for them (nice(2))."""
_MOUNT = "from benchfs_fuse.cli import mount_main; mount_main()"


@dataclass(frozen=True, slots=True)
class Mounted:
    """A mount, and who serves it."""

    source: Path
    directory: Path
    pid: int

    @property
    def cpu_ns(self) -> int:
        """CPU time of the daemon so far (clock_getcpuclockid(3))."""
        return time.clock_gettime_ns((~self.pid << 3) | 2)

    def prepare_chunks(self, *, cold: bool) -> None:
        """Have the kernel cache all of the chunk files, or nothing."""
        os.sync()
        for chunk in self.source.glob("chunks/*/*"):
            with chunk.open("rb") as stream:
                if cold:
                    os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                else:
                    stream.read()


@contextmanager
def mounted(place: Path, options: str, checkout: Path = ROOT) -> Iterator[Mounted]:
    """A new volume with a file of ``FILE_BYTES``, served by the BenchFS in ``checkout``."""
    source, directory = place / "source", place / "mount"
    for one in (source, directory):
        one.mkdir(parents=True)
    command = [sys.executable, "-P", "-c", _MOUNT, str(source), str(directory), "-o", options]
    subprocess.run(command, env={**os.environ, "PYTHONPATH": str(checkout)}, check=True, stdout=sys.stderr)
    try:
        pid = int((source / "lock").read_text().splitlines()[0])
        with (directory / "file").open("wb") as stream:
            for _ in range(FILE_BYTES >> 20):
                stream.write(os.urandom(1 << 20))
            os.fsync(stream.fileno())
        yield Mounted(source, directory, pid)
    finally:
        subprocess.run([BENCHFS, "umount", directory], check=True)


class Load:
    """One kind of operation on a mount, again and again."""

    def __init__(self, mount: Mounted, seed: int = 1) -> None:
        self._file = mount.directory / "file"
        self._directory = mount.directory
        self._random = random.Random(seed)
        self._page = mmap.mmap(-1, 4096)
        self._handle = os.open(self._file, os.O_RDWR | os.O_DIRECT)
        self._made = 0

    def close(self) -> None:
        """Close the file."""
        os.close(self._handle)

    def read(self) -> None:
        """Read 4 KiB somewhere in the file, past the kernel's cache of the mount."""
        os.preadv(self._handle, [self._page], self._random.randrange(FILE_BYTES >> 12) << 12)

    def write(self) -> None:
        """Write 4 KiB there."""
        os.pwritev(self._handle, [self._page], self._random.randrange(FILE_BYTES >> 12) << 12)

    def look(self) -> None:
        """Look for a name that is not there."""
        os.path.lexists(self._directory / f"none-{self._random.random()}")

    def make(self) -> None:
        """Make a file of 4 KiB."""
        self._made += 1
        path = self._directory / f"small-{self._random.random()}-{self._made}"
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        os.write(handle, self._page)
        os.close(handle)


LOADS: tuple[tuple[str, str, str, str, bool], ...] = (
    ("4 KiB read, cached below", "read", "read", "sync=fsync", False),
    ("4 KiB read, from the disk", "read", "read", "sync=fsync", True),
    ("4 KiB write", "write", "write", "sync=fsync", False),
    ("4 KiB write", "write", "write", "sync=write", False),
    ("create, write 4 KiB, close", "make", "create", "sync=fsync", False),
    ("create, write 4 KiB, close", "make", "create", "sync=write", False),
)
"""Title, method of ``Load``, the request that there is one of in each operation, options, whether cold."""


def layers(place: Path, seconds: float) -> list[dict[str, Any]]:
    """What ``benchfs profile`` told of each load."""
    found = []
    for number, (title, method, request, options, cold) in enumerate(LOADS):
        with mounted(place / f"layers{number}", options) as mount:
            load = Load(mount)
            mount.prepare_chunks(cold=cold)
            profile = _profiled(mount, getattr(load, method), seconds)
            load.close()
        found.append({"title": title, "request": request, "options": options, "profile": profile})
        print(f"{title}, {options}: done", file=sys.stderr)
    return found


def _profiled(mount: Mounted, once: Callable[[], None], seconds: float) -> dict[str, Any]:
    command: list[str | Path] = [BENCHFS, "profile", mount.directory, "--json", "--seconds", str(seconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as profiling:
        while profiling.poll() is None:
            once()
        assert profiling.stdout is not None
        operations: dict[str, Any] = json.loads(profiling.stdout.read())["operations"]
    return operations


COSTS = (
    ("4 KiB read", "read", 150),
    ("4 KiB write", "write", 150),
    ("lookup", "look", 150),
    ("create, write 4 KiB, close", "make", 40),
)
"""Title, method of ``Load``, how often in a round."""


COUNTING: tuple[tuple[str, str, str], ...] = (
    (
        "benchfs_fuse/plane/device.py",
        "        slot.arrived_ns = self._now_ns()\n        self.arrived",
        "        self.arrived",
    ),
    (
        "benchfs_fuse/plane/device.py",
        "            slot.arrived_ns = self._now_ns()\n            self.arrived",
        "            self.arrived",
    ),
    (
        "benchfs_fuse/plane/plane.py",
        """            if operation.unsplit:
                operation.unsplit -= 1
                body = await handler(request)
            else:
                timing = operation.split(arrived_ns)
                body = await self._meter.follow(timing, timed_handler(request))
""",
        """            body = await handler(request)
""",
    ),
    (
        "benchfs_fuse/plane/plane.py",
        """        if failed:
            operation.errors += 1
        elif moves and body is not None:
            moved = len(body) if moves == _OUT else len(request.data)
        if timing is not None:
            operation.end(arrived_ns, moved, timing)
        else:  # the same, without a call
            operation.times_ns.append(self._now_ns() - arrived_ns)
            if moves:
                operation.bytes += moved
""",
        "",
    ),
)
"""What has to be replaced, file by file, so that nothing is counted."""


def uncounted(place: Path) -> Path:
    """A copy of BenchFS that counts no requests. AssertionError: it has changed, and ``COUNTING`` must follow."""
    for package in ("benchfs_core", "benchfs_fuse"):
        shutil.copytree(ROOT / package, place / package, ignore=shutil.ignore_patterns("__pycache__"))
    for path, before, after in COUNTING:
        text = (place / path).read_text()
        assert text.count(before) == 1, f"{path} has changed: {before}"
        (place / path).write_text(text.replace(before, after))
    return place


def costs(place: Path, launches: int, rounds: int) -> list[dict[str, Any]]:
    """CPU time of the daemon, microseconds an operation, counting and not, in turns.

    By several daemons each, one after another: how fast one is depends on where its memory happens to lie.
    """
    found: dict[str, dict[str, list[float]]] = {title: {"without": [], "with": []} for title, *_ in COSTS}
    without = uncounted(place / "uncounted")
    for launch in range(launches):
        with (
            mounted(place / f"without{launch}", "sync=fsync", without) as first,
            mounted(place / f"with{launch}", "sync=fsync") as second,
        ):
            mounts = {"without": (first, Load(first)), "with": (second, Load(second))}
            for mount, _ in mounts.values():
                mount.prepare_chunks(cold=False)
            for number in range(rounds):
                for title, method, count in COSTS:
                    for name in sorted(mounts, reverse=bool(number % 2)):
                        found[title][name].append(_cost(*mounts[name], method, count))
            for _, load in mounts.values():
                load.close()
    return [{"title": title, **samples} for title, samples in found.items()]


def _cost(mount: Mounted, load: Load, method: str, count: int) -> float:
    once = getattr(load, method)
    before_ns = mount.cpu_ns
    for _ in range(count):
        once()
    return round((mount.cpu_ns - before_ns) / count / 1000, 3)


def render(document: dict[str, Any], text: str) -> str:
    """The page with the tables of the document in it."""
    text = between(
        text, "layers", "\n\n".join([_setting(document), _whole(document["layers"]), _kinds(document["layers"])])
    )
    return between(text, "counting", _costs(document["costs"])) if document.get("costs") else text


def _setting(document: dict[str, Any]) -> str:
    return (
        f"`{document['command']}`: {document['kernel']}, {document['processors']} processors; one request at a time. "
        "Microseconds."
    )


def _whole(loads: Sequence[dict[str, Any]]) -> str:
    rows = [["an operation", "", "requests", "whole", *PARTS]]
    for load in loads:
        whole, count = load["profile"]["all"], load["profile"][load["request"]]["count"]
        parts = [_us(part / count) for part in whole["parts_ns"].values()]
        rows.append(
            [load["title"], load["options"], f"{whole['count'] / count:.2f}", _us(whole["total_ns"] / count), *parts]
        )
    return table(rows)


def _kinds(loads: Sequence[dict[str, Any]]) -> str:
    rows = [["a request", "", "of them", "p50", "p99", "mean", *PARTS]]
    for load in loads:
        count = load["profile"][load["request"]]["count"]
        for name, told in load["profile"].items():
            if name != "all" and told["count"] >= count / 2:
                parts = [_us(part / told["count"]) for part in told["parts_ns"].values()]
                where = f"{load['title']}, {load['options']}"
                times = (_us(told[key]) for key in ("p50_ns", "p99_ns", "mean_ns"))
                rows.append([name, where, f"{told['count']:,}", *times, *parts])
    return table(rows)


def _costs(found: Sequence[dict[str, Any]]) -> str:
    rows = [["daemon CPU, µs an operation", "not counted", "counted", "ratio", "median of the ratios (quartiles)"]]
    for one in found:
        ratios = [after / before for before, after in zip(one["without"], one["with"], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        without, counted = (statistics.quantiles(one[name], n=10)[0] for name in ("without", "with"))
        best = (f"{without:.1f}", f"{counted:.1f}", f"{counted / without:.3f}")
        rows.append([one["title"], *best, f"{middle:.3f} ({low:.2f} to {high:.2f})"])
    return table(rows)


def _us(time_ns: float) -> str:
    return f"{time_ns / 1000:,.1f}"


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", nargs="?", default=".", type=Path)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--counting", action="store_true")
    parser.add_argument("--rounds", type=int, default=60, help="of the comparison, by each of 4 daemons")
    parser.add_argument("--render", action="store_true")
    given = parser.parse_args()
    document: dict[str, Any] = json.loads(DATA.read_text()) if DATA.exists() else {}
    if not given.render:
        os.nice(_NICE)
        place = Path(tempfile.mkdtemp(prefix="benchfs-layers-", dir=given.directory)).resolve()
        try:
            if given.counting:
                document["costs"] = costs(place, _LAUNCHES, given.rounds)
            else:
                document["layers"] = layers(place, given.seconds)
        finally:
            shutil.rmtree(place)
        if not given.counting:
            document["command"] = f".venv/bin/python -m tests.bench.layers --seconds {given.seconds:g}"
            document["kernel"], document["processors"] = f"Linux {platform.release()}", os.cpu_count()
        DATA.write_text(json.dumps(document, indent=1) + "\n")
    page = ROOT / "docs" / "performance.md"
    page.write_text(render(document, page.read_text()))


if __name__ == "__main__":
    main()
