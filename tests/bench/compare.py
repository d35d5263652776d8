"""Compares a BenchFS mount with the native directory below it: alternating rounds, medians, ratios.

    .venv/bin/python -m tests.bench.compare [--rounds N] [--sync write|fsync] [DIRECTORY]

Makes a volume and a native directory side by side in DIRECTORY (default: the current one), runs each workload on both
in turn and prints, for each, the median of either and the median of the rounds' ratios (above 1: BenchFS is faster).
Needs root, for dropping caches.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

MIB = 1 << 20
FILE_MIB = 256
SMALL_FILES = 1000
COMMANDS = Path(sys.executable).parent


@dataclass(frozen=True)
class Workload:
    """Something to do in a directory: ``prepare`` is not timed. ``amount`` per second, in ``unit``, is the figure."""

    name: str
    amount: int
    unit: str
    run: Callable[[Path], None]
    prepare: Callable[[Path], None] = lambda directory: None


def write_sequentially(directory: Path) -> None:
    data = os.urandom(MIB)
    descriptor = os.open(directory / "large", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for _ in range(FILE_MIB):
        os.write(descriptor, data)
    os.fsync(descriptor)
    os.close(descriptor)


def read_sequentially(directory: Path) -> None:
    with open(directory / "large", "rb", buffering=0) as file:
        while file.read(MIB):
            pass


def drop_caches(directory: Path) -> None:
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")


def make_small_files(directory: Path) -> None:
    shutil.rmtree(directory / "small", ignore_errors=True)
    (directory / "small").mkdir()
    for number in range(SMALL_FILES):
        (directory / "small" / str(number)).write_bytes(b"x" * 4096)


def stat_small_files(directory: Path) -> None:
    for number in range(SMALL_FILES):
        os.stat(directory / "small" / str(number))


def read_small_files(directory: Path) -> None:
    for number in range(SMALL_FILES):
        (directory / "small" / str(number)).read_bytes()


def remove_small_files(directory: Path) -> None:
    shutil.rmtree(directory / "small")


def random_writes_dsync(directory: Path) -> None:
    descriptor = os.open(directory / "large", os.O_WRONLY | os.O_DSYNC)
    for number in range(200):
        os.pwrite(descriptor, b"y" * 4096, number * 7919 % (FILE_MIB * 256) * 4096)
    os.close(descriptor)


WORKLOADS = (
    Workload("sequential write + fsync, 1 MiB", FILE_MIB, "MiB/s", write_sequentially),
    Workload("sequential read, cold", FILE_MIB, "MiB/s", read_sequentially, drop_caches),
    Workload("sequential read, cached", FILE_MIB, "MiB/s", read_sequentially, read_sequentially),
    Workload("4 KiB random write, O_DSYNC", 200, "writes/s", random_writes_dsync),
    Workload("create + write 4 KiB", SMALL_FILES, "files/s", make_small_files),
    Workload("stat, cached", SMALL_FILES, "files/s", stat_small_files, stat_small_files),
    Workload("open + read 4 KiB, cached", SMALL_FILES, "files/s", read_small_files, read_small_files),
    Workload("unlink", SMALL_FILES, "files/s", remove_small_files),
)


@contextmanager
def mounted(place: Path, sync: str) -> Iterator[Path]:
    source, mount_point = place / "volume", place / "mount"
    source.mkdir()
    mount_point.mkdir()
    subprocess.run([COMMANDS / "mount.benchfs", source, mount_point, "-o", f"sync={sync}"], check=True)
    try:
        yield mount_point
    finally:
        subprocess.run([COMMANDS / "benchfs", "umount", mount_point], check=True)


def figure(workload: Workload, directory: Path) -> float:
    workload.prepare(directory)
    start_s = time.perf_counter()
    workload.run(directory)
    return workload.amount / (time.perf_counter() - start_s)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", nargs="?", default=".", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sync", choices=("write", "fsync"), default="fsync")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.directory, prefix="benchfs-compare-") as temporary:
        place = Path(temporary)
        native = place / "native"
        native.mkdir()
        figures: dict[Workload, list[tuple[float, float]]] = {workload: [] for workload in WORKLOADS}
        with mounted(place, given.sync) as ours:
            for _ in range(given.rounds):
                for workload in WORKLOADS:
                    figures[workload].append((figure(workload, native), figure(workload, ours)))
    print(f"| sync={given.sync}, median of {given.rounds} rounds | native | BenchFS | ratio |\n|---|---|---|---|")
    for workload, rounds in figures.items():
        below, mine = (statistics.median(column) for column in zip(*rounds, strict=True))
        ratio = statistics.median(one / other for other, one in rounds)
        print(f"| {workload.name} | {below:,.0f} {workload.unit} | {mine:,.0f} {workload.unit} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
