"""Random I/O by fio(1), where it is installed: no interpreter between one request and the next.

Imports the standard library and ``workload``. ``parse`` is pure.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from benchfs_fuse.bench.workload import BenchError, Done, NotMeasurable

_FLAGS = {0: (), os.O_DSYNC: ("--sync=dsync",)}


def is_installed() -> bool:
    """Whether fio can be run."""
    return shutil.which("fio") is not None


def at_random(
    path: Path, *, writing: bool, seconds: float, seed: int, flags: int = 0, direct: bool = False, depth: int = 1
) -> Done:
    """As ``data_io.at_random``, with libaio where requests are to be outstanding at the same time."""
    command = [
        *("fio", "--name=bench", f"--filename={os.fspath(path).replace(':', chr(92) + ':')}", "--bs=4k", "--thread"),
        f"--rw={'randwrite' if writing else 'randread'}",
        f"--size={path.stat().st_size}",
        *("--time_based", f"--runtime={max(1, round(seconds * 1000))}ms"),
        f"--direct={int(direct)}",
        *(("--ioengine=libaio", f"--iodepth={depth}") if depth > 1 else ("--ioengine=psync",)),
        *_FLAGS[flags],
        *(f"--randseed={seed}", "--norandommap", "--fallocate=none", "--allow_file_create=0", "--invalidate=0"),
        *("--output-format=json", "--eta=never"),
    ]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    return parse(done.stdout, done.stderr, writing=writing, direct=direct)


def parse(output: str, complaint: str, *, writing: bool, direct: bool) -> Done:
    """What fio reports in JSON: how many requests it made, in which time.

    Raises:
        NotMeasurable: the filesystem has no direct I/O.
        OSError: a request failed.
        BenchError: the report is not understood.
    """
    try:
        job: dict[str, Any] = json.loads(output[output.index("{") :])["jobs"][0]
        number, one = int(job["error"]), job["write" if writing else "read"]
        requests, seconds = int(one["total_ios"]), float(one["runtime"]) / 1000
    except (ValueError, KeyError, IndexError, TypeError):
        line = (complaint.strip() or output.strip() or "it said nothing").splitlines()[-1]
        raise BenchError(f"fio: {line}") from None
    if direct and number == errno.EINVAL:
        raise NotMeasurable("no direct I/O (O_DIRECT) here")
    if number:
        raise OSError(number, f"fio: {os.strerror(number)}")
    if not requests:
        raise BenchError("fio: it made no request in the time it had")
    return Done(requests, seconds)


def version() -> str | None:
    """What fio calls itself; None where there is none."""
    if not is_installed():
        return None
    return subprocess.run(["fio", "--version"], capture_output=True, text=True, check=False).stdout.strip()
