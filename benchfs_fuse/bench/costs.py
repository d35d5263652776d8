"""What a step costs beside time: CPU time of a daemon, FUSE requests, flushes, system calls.

Imports ``mounts``, ``status`` and ``workload``. A *meter* has numbers that only grow; a cost is the difference of two
readings. Invariant: reading costs no request to the mount: the kernel's mount table and the control socket are asked.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchfs_fuse import mounts
from benchfs_fuse.bench.workload import BenchError
from benchfs_fuse.status import StatusError, ask_status

CPU, REQUESTS, FLUSHES, ENTERS, CALLS, DISK_FLUSHES = (
    *("cpu_s", "requests", "flushes", "ring_enters"),
    *("system_calls", "disk_flushes"),
)
"""Kinds of costs. ``requests.KIND`` are the requests of one kind."""

_SECTORS = Path("/proc/diskstats")
_FLUSHES_FIELD = 18
"""Flush requests completed, in Documentation/admin-guide/iostats.rst of Linux: the field of a line, counted from 0."""


_PERF = ("perf", "stat", "-x", ",", "-e", "raw_syscalls:sys_enter")


@dataclass(frozen=True, slots=True)
class Meter:
    """What is known of who serves one directory."""

    pids: tuple[int, ...]
    """The daemon, or daemons; none for a directory that the kernel serves."""
    mount_point: Path | None
    """Of a BenchFS, whose daemon can be asked."""
    disk: str = ""
    """Device number of the disk whose flushes are counted."""

    def read(self) -> dict[str, float]:
        """Everything that grows."""
        values: dict[str, float] = {}
        if self.disk:
            values[DISK_FLUSHES] = disk_flushes(_SECTORS.read_text(), self.disk)
        if self.mount_point is not None:
            values |= counters(ask_status(self.mount_point))
        if self.pids:
            values[CPU] = sum(map(_cpu_seconds, self.pids))
        return values


def difference(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """What came between two readings."""
    return {kind: value - before.get(kind, 0.0) for kind, value in after.items()}


def counters(status: Mapping[str, object]) -> dict[str, float]:
    """The counters that a BenchFS daemon tells with its status; none of those that a release does not tell."""
    values: dict[str, float] = {}
    requests, io = status.get("requests"), status.get("io")
    if isinstance(requests, dict):
        values[REQUESTS] = sum(requests.values())
        values |= {f"{REQUESTS}.{kind}": float(count) for kind, count in requests.items()}
    if isinstance(io, dict):
        values[FLUSHES] = float(io.get("flushes", 0) + io.get("durable_writes", 0))
        values[ENTERS] = float(io.get("ring_enters", 0))
    return values


def meter_of(directory: Path, pids: Sequence[int], disk: str) -> Meter:
    """The meter of a directory; a BenchFS mount that it lies on is found by itself.

    Raises:
        BenchError: a process is not there, or the daemon of the mount does not answer.
    """
    mount_point = directory.resolve()
    while not os.path.ismount(mount_point):
        mount_point = mount_point.parent
    entry = mounts.find_mount(mount_point)
    for pid in pids:
        if not Path(f"/proc/{pid}").exists():
            raise BenchError(f"{directory}: there is no process {pid}")
    if entry is None or entry.type != mounts.FILESYSTEM_TYPE:
        return Meter(tuple(pids), None, disk)
    try:
        daemon = int(ask_status(mount_point)["pid"])
    except StatusError as error:
        raise BenchError(str(error)) from error
    return Meter((daemon, *pids), mount_point, disk)


def disk_flushes(text: str, device: str) -> float:
    """How many flushes a disk has completed, from the text of /proc/diskstats; for all who use it."""
    for line in text.splitlines():
        fields = line.split()
        if ":".join(fields[:2]) == device and len(fields) > _FLUSHES_FIELD:
            return float(fields[_FLUSHES_FIELD])
    return 0.0


def disk_of(directory: Path) -> str:
    """The device number of the whole disk that a directory lies on; empty where that is none."""
    device = os.stat(directory).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    block = Path(f"/sys/dev/block/{number}")
    if not block.exists():
        return ""
    if (block / "partition").exists():
        return (block.resolve().parent / "dev").read_text().strip()
    return number


def _cpu_seconds(pid: int) -> float:
    """CPU time of a process and all its threads, those that have ended included (clock_getcpuclockid(3))."""
    try:
        return time.clock_gettime(~pid << 3 | 2)
    except OSError as error:
        raise BenchError(f"process {pid} has ended") from error


class SystemCalls:
    """Counts the system calls of daemons with perf(1), which must be allowed to."""

    @staticmethod
    def unavailable() -> str | None:
        """Why they cannot be counted; None if they can."""
        if shutil.which("perf") is None:
            return "perf is not installed"
        done = subprocess.run([*_PERF, "true"], capture_output=True, text=True, check=False)
        return None if parse_perf(done.stderr) is not None else "perf may not count raw_syscalls:sys_enter"

    @staticmethod
    @contextmanager
    def counted(pids: Sequence[int], into: dict[str, float]) -> Iterator[None]:
        """Count during the block; the number is in ``into`` after it."""
        if not pids:
            yield
            return
        ready_out, ready_in = os.pipe()
        control_out, control_in = os.pipe()
        command = [*_PERF, "-p", ",".join(map(str, pids)), "--delay=-1", f"--control=fd:{control_out},{ready_in}"]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, pass_fds=(control_out, ready_in))
        try:
            for descriptor in (control_out, ready_in):
                os.close(descriptor)
            os.write(control_in, b"enable\n")
            if not os.read(ready_out, 16):
                raise BenchError("perf ended before it began to count")
            yield
            process.send_signal(signal.SIGINT)
            _, said = process.communicate()
            number = parse_perf(said)
            if number is None:
                raise BenchError(f"perf: {said.strip()[-200:]}")
            into[CALLS] = number
        finally:
            for descriptor in (ready_out, control_in):
                os.close(descriptor)
            process.kill()
            process.wait()
            if process.stderr is not None:
                process.stderr.close()


def parse_perf(text: str) -> float | None:
    """The count in the output of ``perf stat -x ,``; None if there is none. Who never ran was "not counted"."""
    found = re.search(r"^(\d+|<not counted>),[^,]*,raw_syscalls:sys_enter,", text, re.MULTILINE)
    if found is None:
        return None
    return 0.0 if found[1].startswith("<") else float(found[1])
