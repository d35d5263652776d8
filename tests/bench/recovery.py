"""How long a mount takes after a crash, however many files there are, and how much memory.

    .venv/bin/python -m tests.bench.recovery [--files N] [--dirty D] [--rounds R] [DIRECTORY]

Makes a volume of N files with a chunk each in DIRECTORY (default: the current one), D of them written to and not yet
clean when the daemon is killed; mounts what is left R times, killing it each time. The rows and chunk files of the
others are put there as BenchFS would have written them, which takes minutes instead of hours. Needs root.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import apsw

from benchfs_core.types import ROOT_INODE
from tests.support.mounting import wait_for_end

MOUNT = Path(sys.executable).with_name("mount.benchfs")
FILES_PER_DIRECTORY = 1000
_FILE, _DIRECTORY = 0o100644, 0o40755


def fill(source: Path, files: int) -> None:
    """Add ``files`` clean files of one chunk with one byte each to a volume that is not mounted."""
    database = apsw.Connection(str(source / "meta" / "benchfs.db"))
    number = int(str(database.execute("SELECT high FROM number").fetchall()[0][0]))
    now_ns, directories = time.time_ns(), -(-files // FILES_PER_DIRECTORY)
    inode = "INSERT INTO inode VALUES (?, ?, ?, 0, 0, 0, ?, ?, ?, ?, ?, ?)"
    dentry = "INSERT INTO dentry VALUES (?, ?, ?, ?)"
    with database:
        for index in range(directories):
            directory, number = number, number + 2
            times = (now_ns, now_ns, now_ns)
            database.execute(inode, (directory, _DIRECTORY, 2, 0, 0, *times, ROOT_INODE))
            database.execute(dentry, (ROOT_INODE, directory + 1, b"d%d" % index, directory))
            for one in range(min(FILES_PER_DIRECTORY, files - index * FILES_PER_DIRECTORY)):
                path = source / "chunks" / str(number)
                path.mkdir()
                (path / "0").write_bytes(b"x")
                blocks = (path / "0").stat().st_blocks
                database.execute(inode, (number, _FILE, 1, 1, blocks, *times, None))
                database.execute(dentry, (directory, number + 1, b"f%d" % one, number))
                database.execute("INSERT INTO chunk VALUES (?, 0, 1, ?)", (number, blocks))
                number += 2
        database.execute("UPDATE inode SET link_count = link_count + ? WHERE inode = ?", (directories, ROOT_INODE))
        database.execute("UPDATE number SET low = ?, high = ?", (number, number))
    database.close()


def mount(source: Path, mount_point: Path) -> tuple[float, int, str]:
    """Seconds until it was ready, the daemon's pid, and the line that was printed."""
    begin = time.perf_counter()
    done = subprocess.run([MOUNT, source, mount_point, "-o", "sync=fsync"], capture_output=True, text=True, check=True)
    seconds = time.perf_counter() - begin
    return seconds, int((source / "lock").read_text().splitlines()[0]), done.stdout.strip()


def kill(pid: int, mount_point: Path) -> float:
    """kill -9; the most memory that the daemon had, in MiB."""
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert peak is not None
    os.kill(pid, signal.SIGKILL)
    wait_for_end(pid)
    subprocess.run(["fusermount3", "-uz", mount_point], check=True)
    return int(peak[1]) / 1024


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Measures mounting after a crash.")
    parser.add_argument("directory", nargs="?", default=".", type=Path)
    parser.add_argument("--files", type=int, default=1_000_000)
    parser.add_argument("--dirty", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    place = Path(tempfile.mkdtemp(prefix="benchfs-recovery-", dir=given.directory))
    source, mount_point = place / "source", place / "mount"
    source.mkdir()
    mount_point.mkdir()
    try:
        subprocess.run([MOUNT.with_name("benchfs"), "mkfs", source], check=True, capture_output=True)
        fill(source, given.files)
        _, pid, _ = mount(source, mount_point)
        for index in range(given.dirty):
            directory, one = divmod(index * (given.files // given.dirty), FILES_PER_DIRECTORY)
            with (mount_point / f"d{directory}" / f"f{one}").open("ab") as stream:
                stream.write(b"y" * 5000)
        kill(pid, mount_point)
        seconds, peaks = [], []
        for _ in range(given.rounds):
            subprocess.run(["sync"], check=True)
            Path("/proc/sys/vm/drop_caches").write_text("3")
            spent, pid, line = mount(source, mount_point)
            assert "recovered" in line, line
            seconds.append(spent)
            peaks.append(kill(pid, mount_point))
        print(
            f"{given.files} files, {given.dirty} dirty: ready after {statistics.median(seconds):.2f} s "
            f"({min(seconds):.2f} to {max(seconds):.2f}) with cold caches, at most {max(peaks):.0f} MiB"
        )
        return 0
    finally:
        subprocess.run(["fusermount3", "-uzq", mount_point], check=False, capture_output=True)
        shutil.rmtree(place)


if __name__ == "__main__":
    sys.exit(main())
