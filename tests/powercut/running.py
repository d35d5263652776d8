"""One volume under load, and cuts of it: the device, the mount, the workers and their records.

Imports the rest of this package but ``campaign``. Invariant: when a run has ended, well or not, its workers and mounts
are gone.
"""

from __future__ import annotations

import contextlib
import copy
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

from benchfs_core.fsck import check_volume
from benchfs_core.types import SyncMode
from tests.powercut.cut import VOLUME, Cut
from tests.powercut.devices import clone, make_image, mounted
from tests.powercut.record import Follower, Judge
from tests.powercut.workloads import WORKLOADS
from tests.support.mounting import BENCHFS, MOUNT, TIMEOUT_S, run, wait_until

ROOT = Path(__file__).parents[2]
AT_RISK_NS = 10**9
"""What was acknowledged so shortly before a cut is at rest only if it was flushed: no kernel writes back sooner."""

PAUSE_S = (0.1, 0.6)
"""A cut comes so long after the one before, at random: power fails at no particular moment."""


@dataclass(frozen=True, slots=True)
class Plan:
    """One run."""

    name: str
    filesystem: str
    sync: str
    seed: int
    cuts: int
    workloads: tuple[str, ...]
    lying: bool = False
    """Whether the mount only says that it flushes."""


@dataclass(slots=True)
class _Worker:
    process: subprocess.Popen[bytes]
    follower: Follower
    errors: Path


class Run:
    """A volume under load; ``take_cut`` while ``running`` lasts."""

    def __init__(self, plan: Plan, place: Path) -> None:
        """``place``: an empty directory where files can be cloned."""
        self.plan = plan
        self.place = place
        self.acknowledged = 0
        self._workers: dict[str, _Worker] = {}
        self._taken = 0
        self._random = Random(f"{plan.seed} {plan.name}")

    @property
    def source(self) -> Path:
        return self.place / "device" / VOLUME

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Make the volume and set the workers to work; at the end all is unmounted, and fsck finds nothing."""
        image, directory = self.place / "image", self.place / "mount"
        make_image(image, self.plan.filesystem)
        directory.mkdir()
        with mounted(image, self.plan.filesystem, self.place / "device"):
            self.source.mkdir()
            with self._serving(directory):
                try:
                    self._start_workers(directory)
                    yield
                finally:
                    self._end_workers()
            findings = [str(finding) for finding in check_volume(self.source)]
            assert not findings, f"fsck after the run: {findings}"

    def take_cut(self) -> Cut:
        """Clone the device at a random instant; what was acknowledged before is to be found in it."""
        plan, followers = self.plan, {name: worker.follower for name, worker in self._workers.items()}
        threading.Event().wait(self._random.uniform(*PAUSE_S))
        self._taken += 1
        image = self.place / f"cut-{self._taken}"
        before = {name: follower.length() for name, follower in followers.items()}
        at_ns = time.monotonic_ns()
        clone(self.place / "image", image)
        after = {name: follower.length() for name, follower in followers.items()}
        self._see_that_workers_work()
        judges: dict[str, Judge] = {}
        acknowledgements = size_bytes = 0
        for name, follower in followers.items():
            follower.advance(before[name])
            judges[name] = copy.deepcopy(follower.judge)
            follower.peek(after[name], judges[name])
            count, size = follower.judge.settled.since(at_ns - AT_RISK_NS)
            acknowledgements += count
            size_bytes += size
        self.acknowledged = sum(follower.acknowledged for follower in followers.values())
        look_before = self._random.random() < 0.5
        name = f"{plan.name} cut {self._taken}"
        return Cut(name, plan.filesystem, plan.sync, image, judges, acknowledgements, size_bytes, look_before)

    @contextlib.contextmanager
    def _serving(self, directory: Path) -> Iterator[None]:
        if self.plan.lying:
            words = ["tests.powercut.lying_mount", str(self.source), str(directory), self.plan.sync]
            with subprocess.Popen([sys.executable, "-m", *words], cwd=ROOT, stdout=subprocess.PIPE) as process:
                assert process.stdout is not None
                assert process.stdout.readline() == b"ready\n"
                try:
                    yield
                finally:
                    run("umount", directory)
                    process.wait(TIMEOUT_S)
            return
        chunk = max(WORKLOADS[name].chunk_size for name in self.plan.workloads)
        options = f"sync={self.plan.sync},chunk_size={chunk},log={self.place / 'log'}"
        run(MOUNT, self.source, directory, "-o", options)
        try:
            yield
        finally:
            run(BENCHFS, "umount", directory)

    def _start_workers(self, directory: Path) -> None:
        sync = SyncMode(self.plan.sync)
        for number, workload in enumerate(self.plan.workloads):
            name = f"{number}-{workload}"
            record, errors = self.place / f"record-{name}", self.place / f"errors-{name}"
            words = [directory / name, workload, number + 1, self._random.getrandbits(32), self.plan.sync, record]
            with errors.open("wb") as stream:
                process = subprocess.Popen(
                    [sys.executable, "-m", "tests.powercut.worker", *map(str, words)],
                    cwd=ROOT,
                    stdout=subprocess.DEVNULL,
                    stderr=stream,
                    start_new_session=True,
                )
            self._workers[name] = _Worker(process, Follower(record, WORKLOADS[workload].judge(sync)), errors)
        for name, worker in self._workers.items():
            wait_until(lambda w=worker: self._works(w), f"{name} does something")  # type: ignore[misc]

    def _works(self, worker: _Worker) -> bool:
        self._see_that_workers_work()
        return worker.follower.length() > 0

    def _see_that_workers_work(self) -> None:
        for name, worker in self._workers.items():
            if worker.process.poll() is not None:
                raise AssertionError(f"worker {name} ended: {worker.errors.read_text()}")

    def _end_workers(self) -> None:
        for worker in self._workers.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(worker.process.pid, signal.SIGKILL)
            worker.process.wait(TIMEOUT_S)
        wait_until(self._is_left_alone, "nobody uses the mount")

    def _is_left_alone(self) -> bool:
        """Whether the processes that git had started are gone, too."""
        sessions = {worker.process.pid for worker in self._workers.values()}
        return not any(_session(entry) in sessions for entry in os.listdir("/proc") if entry.isdigit())


def _session(pid: str) -> int:
    with contextlib.suppress(OSError):  # it has ended
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[3]) if fields[0] != "Z" else 0
    return 0


@contextlib.contextmanager
def directory_for(place: Path) -> Iterator[Path]:
    """A new directory that is gone at the end, with all that is in it."""
    place.mkdir()
    try:
        yield place
    finally:
        shutil.rmtree(place)
