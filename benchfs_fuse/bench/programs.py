"""The workloads of programs: a compile, SQLite transactions, several processes at once.

Imports the standard library's sqlite3 (what users' programs have, not what the volume is kept in), ``materials``,
``trees``, ``worker`` and ``workload``.
"""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

from benchfs_fuse.bench import worker
from benchfs_fuse.bench.materials import run_program
from benchfs_fuse.bench.trees import need
from benchfs_fuse.bench.workload import BenchError, Done, Figure, Place, Step, Workload

_JOBS = 2
_ROW = b"x" * 100


def _compile(place: Place) -> Iterator[Step]:
    need("make", "cc", "tar")
    project, objects = place.materials.project, place.materials.objects

    def unpack() -> None:
        run_program("tar", "-xf", project, "-C", place.directory)

    def build() -> Done:
        run_program("make", f"-j{_JOBS}", cwd=place.directory)
        return Done(objects)

    yield Step(None, unpack)
    yield Step("compile", build)


def _sqlite(place: Place) -> Iterator[Step]:
    for mode in ("wal", "delete"):
        path = place.directory / f"{mode}.db"

        def transactions(path: Path = path, mode: str = mode) -> Done:
            return _transactions(path, mode, place.settings.seconds)

        yield Step(f"sqlite-{mode}", transactions)


def _transactions(path: Path, mode: str, seconds: float) -> Done:
    """Insert a row at a time, each in a transaction of its own that is flushed, for a time."""
    try:
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            (got,) = connection.execute(f"PRAGMA journal_mode={mode}").fetchone()
            if got != mode:
                raise BenchError(f"SQLite: journal_mode={mode} became {got}")
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute("CREATE TABLE row (number INTEGER PRIMARY KEY, content BLOB)")
            done, begin = 0, time.perf_counter()
            while time.perf_counter() < begin + seconds:
                connection.execute("INSERT INTO row (content) VALUES (?)", (_ROW,))
                done += 1
            return Done(done, time.perf_counter() - begin)
    except sqlite3.Error as error:
        raise BenchError(f"SQLite: {error}") from error


def _processes(place: Place) -> Iterator[Step]:
    count, files = place.settings.processes, max(1, place.settings.files // place.settings.processes)

    def work() -> Done:
        return _run_workers(place.directory, count, files, place.settings.seed)

    yield Step("processes", work)


def _run_workers(directory: Path, count: int, files: int, seed: int) -> Done:
    """Start processes, have all of them begin at once, wait for the last."""
    with ExitStack() as stack:
        workers = []
        for number in range(count):
            command = [
                sys.executable,
                "-m",
                worker.__name__,
                str(directory / f"p{number}"),
                str(files),
                str(seed + number),
            ]
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            stack.callback(_end, process)
            workers.append(process)
        for process in workers:
            if process.stdout is None or process.stdout.readline() != worker.READY:
                raise BenchError("a process of several did not start")
        begin = time.perf_counter()
        for process in workers:
            assert process.stdin is not None
            process.stdin.close()
        codes = [process.wait() for process in workers]
        seconds = time.perf_counter() - begin
    if any(codes):
        raise BenchError(f"several processes: exit codes {codes}")
    return Done(count * files, seconds)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Leave nothing of it behind, whatever happened."""
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None and not stream.closed:
            stream.close()


WORKLOADS = (
    Workload("compile", (Figure("compile", f"compile (make -j{_JOBS})", "objects"),), _compile),
    Workload(
        "sqlite",
        (
            Figure("sqlite-wal", "SQLite transactions, WAL", "transactions"),
            Figure("sqlite-delete", "SQLite transactions, rollback journal", "transactions"),
        ),
        _sqlite,
    ),
    Workload(
        "processes",
        (Figure("processes", "4 KiB files by several processes at once", "files"),),
        _processes,
    ),
)
