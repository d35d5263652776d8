"""fio with verification over engines, patterns, block sizes and O_DIRECT, and dbench with several clients.

Imports its neighbours and ``tests.support.mounting``. The figures of these programs are not judged here; that they
end well is.
"""

from __future__ import annotations

import json
import re
from functools import partial

from tests.programs.program import Place, Program, ProgramFailed, ToolMissing, expect, need
from tests.support.mounting import run

ENGINES = ("psync", "libaio", "io_uring", "mmap", "pvsync2", "posixaio")
PATTERNS = ("randrw", "rw", "randwrite")
SIZES = ("512", "4k", "64k", "1m")
CLIENTS = 4


def fio(engine: str, place: Place) -> str:
    """Every pattern with every block size, buffered and direct; one after the other."""
    need("fio")
    size_mib = 2 if place.quick else 8
    jobs = [
        "[global]",
        f"directory={place.directory}",
        f"ioengine={engine}",
        "verify=crc32c",
        "verify_fatal=1",
        "do_verify=1",
    ]
    jobs += ["randrepeat=1", "iodepth=8", "stonewall"]
    names = []
    for direct in (0,) if engine == "mmap" else (0, 1):
        for pattern in PATTERNS:
            for block in SIZES:
                names.append(f"{pattern}-{block}-{'direct' if direct else 'buffered'}")
                total = f"{min(size_mib, 1)}m" if block == "512" else f"{size_mib}m"
                jobs += [f"[{names[-1]}]", f"rw={pattern}", f"bs={block}", f"direct={direct}", f"size={total}"]
    file = place.scratch / "jobs.fio"
    file.write_text("\n".join(jobs))
    done = run("fio", "--output-format=json", file, cwd=place.scratch, check=False, timeout_s=600)
    if "engine" in done.stderr and "not loadable" in done.stderr:
        raise ToolMissing(f"this fio has no {engine}")
    if done.returncode:
        raise ProgramFailed(f"exit {done.returncode}: {done.stderr[-300:]}")
    result = json.loads(done.stdout[done.stdout.index("{") :])
    expect([job["jobname"] for job in result["jobs"]] == names, "fio left jobs out")
    bad = [job["jobname"] for job in result["jobs"] if job["error"] or not job["write"]["io_bytes"]]
    expect(not bad, f"errors in {bad}")
    return f"{len(names)} jobs verified"


def dbench(place: Place) -> str:
    need("dbench")
    seconds = 2 if place.quick else 15
    # -F fsyncs the files that the trace flushes.
    done = run("dbench", "-D", place.directory, "-t", str(seconds), "-F", str(CLIENTS))
    found = re.search(r"Throughput ([\d.]+) MB/sec.*max_latency=([\d.]+) ms", done.stdout)
    if found is None:
        raise ProgramFailed(done.stdout[-300:])
    expect("failed" not in done.stdout.lower(), done.stdout[-300:])
    return f"{CLIENTS} clients, {seconds} s: {found[1]} MB/s, longest {found[2]} ms"


PROGRAMS = (
    *(
        Program(f"fio {engine}", f"{', '.join(PATTERNS)}; {', '.join(SIZES)}; crc32c", partial(fio, engine))
        for engine in ENGINES
    ),
    Program("dbench", f"{CLIENTS} clients with fsync", dbench),
)
