"""How long a mount takes after a crash, however many files there are, and how much memory.

    .venv/bin/python -m tests.bench.recovery [--files N] [--dirty D] [--rounds R] [--keep] [DIRECTORY]

Makes a volume of N files with a chunk each in DIRECTORY (default: the current one), D of them written to and not yet
clean when the daemon is killed; mounts what is left R times, killing it each time, with cold caches and with warm ones.
The rows and chunk files of the others are put there as BenchFS would have written them, which takes minutes instead of
hours; with --keep the volume stays, and is used again. Exit code 1 if a mount took longer than two seconds, recovered
fewer files, or had more memory than --memory. Needs root.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import apsw

from benchfs_core.types import ROOT_INODE
from tests.support.mounting import wait_for_end

READY_WITHIN_S = 2.0
MOUNT = Path(sys.executable).with_name("mount.benchfs")
FILES_PER_DIRECTORY = 1000
_FILE, _DIRECTORY = 0o100644, 0o40755


def fill(source: Path, files: int) -> None:
    """Add ``files`` clean files of one chunk with one byte each to a volume that is not mounted."""
    database = apsw.Connection(str(source / "meta" / "benchfs.db"))
    number = int(str(database.execute("SELECT high FROM number").fetchall()[0][0]))
    now_ns, directories = time.time_ns(), -(-files // FILES_PER_DIRECTORY)
    inode = "INSERT INTO inode VALUES (?, ?, ?, 0, 0, 0, ?, ?, ?, ?, ?, ?, 0, 0)"
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


def mount(source: Path, mount_point: Path) -> tuple[float, int]:
    """Seconds until it was ready, and the daemon's pid."""
    begin = time.perf_counter()
    subprocess.run([MOUNT, source, mount_point, "-o", f"log={_log(source)}"], capture_output=True, check=True)
    return time.perf_counter() - begin, int((source / "lock").read_text().splitlines()[0])


def kill(pid: int, mount_point: Path) -> tuple[float, float]:
    """kill -9; the most memory that the daemon had, in MiB, and the CPU seconds that it took."""
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert peak is not None
    times = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    os.kill(pid, signal.SIGKILL)
    wait_for_end(pid)
    subprocess.run(["fusermount3", "-uz", mount_point], check=True)
    return int(peak[1]) / 1024, sum(map(int, times)) / os.sysconf("SC_CLK_TCK")


def make_dirty(source: Path, mount_point: Path, files: int, dirty: int) -> None:
    """Write to so many files, all over the tree, and kill the daemon while they are open: they are dirty."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (dirty + 100, max(dirty + 100, 4096)))
    _, pid = mount(source, mount_point)
    handles = []
    for index in range(dirty):
        directory, one = divmod(index * (files // dirty), FILES_PER_DIRECTORY)
        handles.append(os.open(mount_point / f"d{directory}" / f"f{one}", os.O_WRONLY | os.O_APPEND))
        os.write(handles[-1], b"y" * 5000)
    kill(pid, mount_point)
    for handle in handles:
        with contextlib.suppress(OSError):  # the mount is dead, which is what was wanted
            os.close(handle)


def measure(source: Path, mount_point: Path, dirty: int, rounds: int, *, cold: bool) -> tuple[float, float]:
    """Mount and kill so often, and print; the longest time in seconds, and the most memory in MiB."""
    seconds, peaks, cpu_s = [], [], []
    for _ in range(rounds):
        if cold:
            subprocess.run(["sync"], check=True)
            Path("/proc/sys/vm/drop_caches").write_text("3")
        _log(source).unlink(missing_ok=True)
        spent, pid = mount(source, mount_point)
        found = re.search(r"recovered: (\d+) dirty files", _log(source).read_text())
        assert found is not None
        assert int(found[1]) == dirty, found[0]
        seconds.append(spent)
        peak, cpu = kill(pid, mount_point)
        peaks.append(peak)
        cpu_s.append(cpu)
    print(
        f"{'cold' if cold else 'warm'} caches: ready after {statistics.median(seconds):.2f} s ({min(seconds):.2f} to "
        f"{max(seconds):.2f}), {statistics.median(cpu_s):.2f} s of CPU in the daemon, at most {max(peaks):.1f} MiB"
    )
    return max(seconds), max(peaks)


def _log(source: Path) -> Path:
    return source.with_name("log")


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Measures mounting after a crash.")
    parser.add_argument("directory", nargs="?", default=".", type=Path)
    parser.add_argument("--files", type=int, default=1_000_000)
    parser.add_argument("--dirty", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory", type=float, default=48, help="MiB that a mount may have at most")
    parser.add_argument("--keep", action="store_true", help="leave the volume, and use one that was left")
    given = parser.parse_args()
    place = given.directory / f"benchfs-recovery-{given.files}"
    source, mount_point = place / "source", place / "mount"
    try:
        if not (given.keep and place.exists()):
            source.mkdir(parents=True)
            mount_point.mkdir()
            subprocess.run([MOUNT.with_name("benchfs"), "mkfs", source], check=True, capture_output=True)
            fill(source, given.files)
        make_dirty(source, mount_point, given.files, given.dirty)
        print(f"{given.files} files, {given.dirty} dirty; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")
        figures = [measure(source, mount_point, given.dirty, given.rounds, cold=cold) for cold in (True, False)]
        return int(any(seconds > READY_WITHIN_S or peak > given.memory for seconds, peak in figures))
    finally:
        subprocess.run(["fusermount3", "-uzq", mount_point], check=False, capture_output=True)
        if not given.keep:
            shutil.rmtree(place)


if __name__ == "__main__":
    sys.exit(main())
