"""sqlite3 in every journal mode, with several processes at once, killed and recovered, checked after a remount.

Imports its neighbours and ``tests.support.mounting``. OFF and MEMORY keep no journal on the disk, so that only one
process writes there and nobody is killed.
"""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from pathlib import Path

from tests.programs.program import Place, Program, end_well, expect, need
from tests.support.mounting import run

MODES = ("wal", "delete", "truncate", "persist", "memory", "off")
SAFE = MODES[:4]
WRITERS, ROWS, ROWS_QUICK = 4, 150, 20

WRITER = """
import sqlite3, sys
path, writer, rows = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
connection = sqlite3.connect(path, timeout=60, isolation_level=None)
print("ready", flush=True)
for number in range(rows):
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("INSERT INTO entry VALUES (?, ?, randomblob(3000))", (writer, number))
    connection.execute("UPDATE total SET count = count + 1")
    connection.execute("COMMIT")
"""
ALLOCATING_WRITER = """
import apsw, ctypes, sys
path, writer, rows = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
connection = apsw.Connection(path)
connection.set_busy_timeout(60000)
chunk = ctypes.c_int(1 << 20)
assert connection.file_control("main", apsw.SQLITE_FCNTL_CHUNK_SIZE, ctypes.addressof(chunk))
assert connection.execute("PRAGMA mmap_size=268435456").fetchall() == [(268435456,)]
print("ready", flush=True)
for number in range(rows):
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("INSERT INTO entry VALUES (?, ?, randomblob(3000))", (writer, number))
    connection.execute("UPDATE total SET count = count + 1")
    connection.execute("COMMIT")
    if not number % 50:
        connection.execute("SELECT sum(length(content)) FROM entry").fetchall()
"""
"""The file grows by SQLite's own allocation, a mebibyte at a time, and is read through a shared mapping."""

ALLOCATED_BYTES = 1 << 20
CHECK = (
    "PRAGMA integrity_check; SELECT (SELECT count(*) FROM entry) = (SELECT count FROM total); SELECT count FROM total;"
)


def writer(path: Path, number: int, rows: int, program: str = WRITER) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", program, path, str(number), str(rows)], stdout=subprocess.PIPE)


def checked(path: Path) -> int:
    integrity, equal, count = run("sqlite3", path, CHECK).stdout.split()
    expect((integrity, equal) == ("ok", "1"), f"{integrity}, {equal}")
    return int(count)


def work(mode: str, place: Place, program: str = WRITER) -> str:
    need("sqlite3")
    path, rows = place.directory / "a.db", ROWS_QUICK if place.quick else ROWS
    schema = "CREATE TABLE entry (writer, number, content); CREATE TABLE total (count); INSERT INTO total VALUES (0);"
    expect(run("sqlite3", path, f"PRAGMA journal_mode={mode}; {schema}").stdout == f"{mode}\n", "no such journal mode")
    writers = WRITERS if mode in SAFE else 1
    end_well(*(writer(path, number, rows, program) for number in range(writers)))
    expect(checked(path) == writers * rows, "rows are missing")
    if mode in SAFE:
        killed = writer(path, 99, 10**9, program)
        assert killed.stdout is not None
        killed.stdout.readline()
        end_well(writer(path, 98, rows, program))  # some transactions of both
        killed.kill()
        killed.communicate()
        expect(checked(path) >= (writers + 1) * rows, "rows are missing after a kill")
    before = checked(path)
    place.remount()
    expect(checked(path) == before, "rows are missing after a remount")
    return f"{before} transactions of {writers} processes, integrity_check ok after a remount"


def work_allocating(mode: str, place: Place) -> str:
    done = work(mode, place, ALLOCATING_WRITER)
    size = (place.directory / "a.db").stat().st_size
    if mode != "wal":  # a WAL checkpoint cuts off what is not used
        expect(size > 0 and size % ALLOCATED_BYTES == 0, f"{size} bytes: nothing was allocated")
    return f"{done}; {size >> 20} MiB"


PROGRAMS = (
    *(Program(f"sqlite3 {mode}", "several writers, kill -9, integrity_check", partial(work, mode)) for mode in MODES),
    *(
        Program(
            f"sqlite3 {mode} allocating",
            "SQLITE_FCNTL_CHUNK_SIZE and mmap_size, several writers, kill -9, integrity_check",
            partial(work_allocating, mode),
        )
        for mode in ("wal", "delete")
    ),
)
