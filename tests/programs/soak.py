"""The soak: processes that do random things to one tree for minutes, where nothing may go wrong that would not on ext4.

    python -m tests.programs.soak [--minutes M] [--processes N] [--seed S] [--sync write|fsync] [--native]
                                  [--json FILE] --directory DIRECTORY

Makes a volume below DIRECTORY (``--native``: an ordinary directory instead), lets ``soak_worker`` loose on it and
watches: an errno that is not in ``soak_errors``, wrong bytes, an operation that takes more than DEADLINE_S, a process
that dies. After the end the tree must be the same before and after a remount, fsck without findings, the daemon's log
without errors. Every fourth process is not root. Exit code 1 where anything of this failed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import mmap
import multiprocessing.connection
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pytest

from tests.programs.soak_errors import ALLOWED, ALLOWED_BELOW
from tests.programs.soak_worker import ALL_KINDS, PROGRESS
from tests.support.mounting import MountedVolume, assert_same, manifest, volumes_in

DEADLINE_S = 60
NOT_ROOT = 65534
LOOK_EVERY_S = 0.5
ROOT = Path(__file__).resolve().parents[2]
Content = dict[str, str]


@dataclass
class Outcome:
    """What a soak found; ``problems`` is empty where all was well."""

    seconds: float = 0
    operations: int = 0
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    longest_operation_s: float = 0
    """As the watchdog saw it, so of those that took longer than its pause."""
    resident_mib_at_first: float = 0
    """After the first tenth."""
    resident_mib_at_most: float = 0
    descriptors_at_most: int = 0
    own: dict[str, Content] = field(default_factory=dict)


class Daemon:
    """Memory and descriptors of the process that serves the mount."""

    def __init__(self, pid: int) -> None:
        self._process = Path("/proc") / str(pid)

    def resident_mib(self) -> float:
        found = re.search(r"VmRSS:\s+(\d+) kB", (self._process / "status").read_text())
        assert found is not None
        return int(found[1]) / 1024

    def descriptors(self) -> int:
        return len(os.listdir(self._process / "fd"))


class Soak:
    """One run on one tree."""

    def __init__(self, tree: Path, place: Path, *, processes: int, seed: int, seconds: float) -> None:
        self._tree, self._place = tree, place
        self._processes, self._seed, self._seconds = processes, seed, seconds
        self._running: list[subprocess.Popen[bytes]] = []
        self.outcome = Outcome()

    def run(self, daemon: Daemon | None) -> Outcome:
        """Run to the end; on return none of the processes is left, unless one hangs in the kernel."""
        start_s = time.monotonic()
        progress_file = self._place / "progress"
        progress_file.write_bytes(bytes(PROGRESS.size * self._processes))
        try:
            with progress_file.open("r+b") as stream, mmap.mmap(stream.fileno(), 0) as progress:
                self._start(progress_file, start_s + self._seconds)
                self._watch(progress, daemon, start_s)
        finally:
            for process in self._running:
                process.kill()
        self.outcome.seconds = time.monotonic() - start_s
        allowed = ALLOWED_BELOW if daemon is None else ALLOWED
        for number, process in enumerate(self._running):
            self._take_report(number, process, allowed)
        return self.outcome

    def _report_of(self, number: int) -> Path:
        return self._place / f"report-{number}"

    def _start(self, progress: Path, deadline_s: float) -> None:
        (self._tree / "shared").mkdir()
        (self._tree / "shared").chmod(0o777)
        for number in range(self._processes):
            uid = NOT_ROOT if number % 4 == 3 else 0
            own = self._tree / f"own-{number}"
            own.mkdir()
            os.chown(own, uid, uid)
            words = (self._tree, number, self._seed, deadline_s, uid, progress)
            with self._report_of(number).open("wb") as output:
                self._running.append(
                    subprocess.Popen(
                        [sys.executable, "-m", "tests.programs.soak_worker", *map(str, words)], cwd=ROOT, stdout=output
                    )
                )

    def _watch(self, progress: mmap.mmap, daemon: Daemon | None, start_s: float) -> None:
        ends = {os.pidfd_open(process.pid): process for process in self._running}
        try:
            waited_for = list(ends)
            while waited_for:
                for end in multiprocessing.connection.wait(waited_for, LOOK_EVERY_S):
                    assert isinstance(end, int)
                    waited_for.remove(end)
                if daemon is not None:
                    self._look_at(daemon, time.monotonic() - start_s)
                if self._hanging(progress, [self._running.index(ends[end]) for end in waited_for]):
                    return
        finally:
            for end in ends:
                os.close(end)

    def _look_at(self, daemon: Daemon, elapsed_s: float) -> None:
        try:
            resident, descriptors = daemon.resident_mib(), daemon.descriptors()
        except (OSError, AssertionError):
            self.outcome.problems.append("the daemon has ended")
            return
        if elapsed_s < self._seconds / 10 or not self.outcome.resident_mib_at_first:
            self.outcome.resident_mib_at_first = resident
        self.outcome.resident_mib_at_most = max(self.outcome.resident_mib_at_most, resident)
        self.outcome.descriptors_at_most = max(self.outcome.descriptors_at_most, descriptors)

    def _hanging(self, progress: mmap.mmap, numbers: list[int]) -> bool:
        hangs = False
        for number in numbers:
            began_ns, kind, done = PROGRESS.unpack_from(progress, number * PROGRESS.size)
            if not began_ns or ALL_KINDS[kind] == "nothing":
                continue
            age_s = (time.monotonic_ns() - began_ns) / 1e9
            self.outcome.longest_operation_s = max(self.outcome.longest_operation_s, age_s)
            if age_s > DEADLINE_S:
                hangs = True
                pid = self._running[number].pid
                self.outcome.problems.append(
                    f"process {number} (pid {pid}): operation {done}, {ALL_KINDS[kind]}, "
                    f"hangs for {age_s:.0f} s: {_stack(pid)}"
                )
        return hangs

    def _take_report(
        self, number: int, process: subprocess.Popen[bytes], allowed: Mapping[str, frozenset[str]]
    ) -> None:
        try:
            code = process.wait(DEADLINE_S)
            report = json.loads(self._report_of(number).read_text())
        except (subprocess.TimeoutExpired, ValueError) as error:
            self.outcome.problems.append(f"process {number}: no report: {error}")
            return
        if code:
            self.outcome.problems.append(f"process {number}: exit {code}")
        self.outcome.problems += report["wrong"]
        self.outcome.own[f"own-{number}"] = report["own"]
        for kind, result, count in report["counts"]:
            counts = self.outcome.counts.setdefault(kind, {})
            counts[result] = counts.get(result, 0) + count
            self.outcome.operations += count
            if result not in allowed[kind] and result != "wrong content":
                example = report["examples"].get(f"{kind} {result}", "")
                self.outcome.problems.append(f"{kind}: {result}, {count} times; {example}")


def _stack(pid: int) -> str:
    """Where in the kernel a process is."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stack").read_text().replace("\n", " ")
    return "no stack"


def own_files_as_reported(tree: Path, outcome: Outcome) -> list[str]:
    """Problems: files of a process's own that are not, now, what it left."""
    facts = manifest(tree, own=False)
    found: dict[str, Content] = {own: {} for own in outcome.own}
    for name, fact in facts.items():
        own, _, file = name.partition("/")
        if file and own in found:
            found[own][file] = fact.content
    return [f"{own}: {found[own]}, not {outcome.own[own]}" for own in found if found[own] != outcome.own[own]]


def soak_on_volume(volume: MountedVolume, place: Path, *, processes: int, seed: int, seconds: float) -> Outcome:
    """The soak on a mounted volume, the remount, and everything compared."""
    soak = Soak(volume.directory, place, processes=processes, seed=seed, seconds=seconds)
    outcome = soak.run(Daemon(volume.pid))
    if outcome.problems:
        return outcome
    before = manifest(volume.directory)
    try:
        volume.remount()
        assert_same(manifest(volume.directory), before)
    except pytest.fail.Exception as failure:
        outcome.problems.append(str(failure))
        return outcome
    outcome.problems += own_files_as_reported(volume.directory, outcome)
    return outcome


def soak_on_directory(tree: Path, place: Path, *, processes: int, seed: int, seconds: float) -> Outcome:
    """The soak on an ordinary directory: what the table of errnos is measured by."""
    outcome = Soak(tree, place, processes=processes, seed=seed, seconds=seconds).run(None)
    if not outcome.problems:
        outcome.problems += own_files_as_reported(tree, outcome)
    return outcome


@contextlib.contextmanager
def _place(directory: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=directory, prefix="benchfs-soak-") as place:
        Path(place).chmod(0o755)
        yield Path(place)


def _soak(given: argparse.Namespace) -> Outcome:
    words = {"processes": given.processes, "seed": given.seed, "seconds": given.minutes * 60}
    with _place(given.directory) as place:
        if given.native:
            tree = place / "tree"
            tree.mkdir()
            return soak_on_directory(tree, place, **words)
        try:
            with volumes_in(place) as volumes:
                volume = volumes.make(f"sync={given.sync},chunk_size=64K")
                outcome = soak_on_volume(volume, place, **words)
        except pytest.fail.Exception as failure:
            outcome.problems.append(str(failure))
        return outcome


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--sync", choices=("write", "fsync"), default="write")
    parser.add_argument("--native", action="store_true")
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    outcome = _soak(given)
    for kind, counts in sorted(outcome.counts.items()):
        print(f"{kind:20}", *(f"{result} {count}" for result, count in sorted(counts.items())))
    if given.json:
        given.json.write_text(json.dumps({**asdict(outcome), "own": None}, indent=1))
    print(
        f"{outcome.operations} operations in {outcome.seconds:.0f} s, longest seen {outcome.longest_operation_s:.1f} s"
    )
    first, most = outcome.resident_mib_at_first, outcome.resident_mib_at_most
    print(f"daemon: {first:.0f} MiB at first, {most:.0f} MiB and {outcome.descriptors_at_most} descriptors at most")
    for problem in outcome.problems:
        print("FAILED:", problem)
    sys.exit(1 if outcome.problems else 0)


if __name__ == "__main__":
    main()
