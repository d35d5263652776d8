"""Runs workloads on directories in turns, round by round, and collects samples.

Imports its neighbours. Invariants: the same step of a workload is done in every directory before the next one is, in an
order that moves on with each round, so that what the machine does meanwhile falls on all; whatever happens, nothing of
a workload is left in a directory afterwards, unless removing it fails.
"""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from benchfs_core.host import flush_filesystem
from benchfs_fuse.bench.caches import Caches
from benchfs_fuse.bench.costs import Meter, SystemCalls, difference
from benchfs_fuse.bench.figures import Sample
from benchfs_fuse.bench.materials import Materials
from benchfs_fuse.bench.workload import BenchError, NotMeasurable, Place, Settings, Step, Workload

PREFIX = "benchfs-bench-"
"""Of the directory that the bench makes in each directory it is given."""


@dataclass(frozen=True, slots=True)
class Target:
    """A directory to be measured."""

    name: str
    directory: Path
    meter: Meter


@dataclass(frozen=True, slots=True)
class Missing:
    """What could not be measured, and why."""

    directory: str
    what: str
    """The name of a workload, or the key of a figure."""
    reason: str


@dataclass(slots=True)
class Results:
    """What came of it."""

    samples: list[Sample] = field(default_factory=list)
    counted: list[Sample] = field(default_factory=list)
    """Of the round in which system calls were counted: not for speed."""
    missing: list[Missing] = field(default_factory=list)
    failed: bool = False
    """Whether something went wrong, apart from what cannot be measured here."""


class Runner:
    """One bench."""

    def __init__(
        self,
        targets: Sequence[Target],
        workloads: Sequence[Workload],
        settings: Settings,
        materials: Materials,
        caches: Caches,
        *,
        keep_going: bool = False,
        count_calls: bool = False,
        tell: Callable[[str], None] = lambda line: None,
    ) -> None:
        """Measure ``workloads`` on ``targets``.

        Args:
            targets: where; the first is what the others are compared with.
            workloads: what.
            settings: how much.
            materials: what workloads work on.
            caches: how things are made cold.
            keep_going: note what fails, and go on with the next workload.
            count_calls: count system calls in a round more.
            tell: told what is done now, for a line of progress.
        """
        self._targets = tuple(targets)
        self._workloads = tuple(workloads)
        self._settings = settings
        self._materials = materials
        self._caches = caches
        self._keep_going = keep_going
        self._count_calls = count_calls
        self._tell = tell
        self._results = Results()
        self._places: dict[str, Path] = {}

    def run(self) -> Results:
        """Everything, round by round.

        Raises:
            BenchError: a workload failed, and ``keep_going`` was not said.
        """
        with ExitStack() as stack:
            for target in self._targets:
                self._places[target.name] = stack.enter_context(_own_directory(target))
            rounds = self._settings.rounds
            for number in range(rounds + self._count_calls):
                counting = number == rounds
                name = "counting system calls" if counting else f"round {number + 1} of {rounds}"
                turn = number % len(self._targets)
                order = self._targets[turn:] + self._targets[:turn]
                for workload in self._workloads:
                    self._run_workload(workload, number, name, order, counting=counting)
        return self._results

    def _run_workload(
        self, workload: Workload, number: int, name: str, order: Sequence[Target], *, counting: bool
    ) -> None:
        left = {
            target.name: workload.steps(self._place(target)) for target in order if self._may_run(target, workload.name)
        }
        while left:
            for target in order:
                if target.name not in left:
                    continue
                self._tell(f"{name}: {workload.name} on {target.name}")
                try:
                    step = next(left[target.name], None)
                    if step is None:
                        del left[target.name]
                        continue
                    sample = self._run_step(step, target, number, counting=counting)
                except (NotMeasurable, BenchError, OSError, subprocess.CalledProcessError) as error:
                    self._note(target, workload.name, error)
                    del left[target.name]
                    continue
                if sample is not None:
                    (self._results.counted if counting else self._results.samples).append(sample)
        for target in order:
            self._clear(target)

    def _run_step(self, step: Step, target: Target, number: int, *, counting: bool) -> Sample | None:
        """One step; None where it gives no figure, or cannot be measured here."""
        if step.figure is not None and not self._may_run(target, step.figure):
            return None
        try:
            return self._measure(step, target, number, counting=counting)
        except NotMeasurable as error:
            if step.figure is None:
                raise
            self._note(target, step.figure, error)
            return None

    def _measure(self, step: Step, target: Target, number: int, *, counting: bool) -> Sample | None:
        place = self._places[target.name]
        if step.settle:
            self._settle()
        if step.cold:
            self._caches.drop(place)
        if step.figure is None:
            step.run()
            return None
        before, calls = target.meter.read(), dict[str, float]()
        with SystemCalls.counted(target.meter.pids, calls) if counting else nullcontext():
            begin = time.perf_counter()
            done = step.run()
            seconds = time.perf_counter() - begin
        costs = {**difference(before, target.meter.read()), **calls}
        assert done is not None, step.figure
        seconds = seconds if done.seconds is None else done.seconds
        return Sample(number, target.name, step.figure, done.operations, seconds, costs)

    def _settle(self) -> None:
        """Have what earlier steps left to be written written: mounts first, then what is likely to lie below."""
        for place in reversed(self._places.values()):
            descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                flush_filesystem(descriptor)
            finally:
                os.close(descriptor)

    def _may_run(self, target: Target, what: str) -> bool:
        """Whether it has not failed here before."""
        return not any((one.directory, one.what) == (target.name, what) for one in self._results.missing)

    def _note(self, target: Target, what: str, error: Exception) -> None:
        reason = explain(error)
        if not isinstance(error, NotMeasurable):
            if not self._keep_going:
                raise BenchError(f"{target.directory}: {what}: {reason}") from error
            self._results.failed = True
        self._results.missing.append(Missing(target.name, what, reason))

    def _place(self, target: Target) -> Place:
        top = self._places[target.name]
        (top / "round").mkdir(exist_ok=True)
        (top / "kept").mkdir(exist_ok=True)
        return Place(top / "round", top / "kept", self._settings, self._materials)

    def _clear(self, target: Target) -> None:
        if (self._places[target.name] / "round").exists():
            shutil.rmtree(self._places[target.name] / "round")


def explain(error: Exception) -> str:
    """A failure in one line."""
    if isinstance(error, subprocess.CalledProcessError):
        said = (error.stderr or "").strip().splitlines()
        return f"{Path(error.cmd[0]).name} ended with {error.returncode}{': ' + said[-1] if said else ''}"
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return f"no space left{f': {error.filename}' if error.filename else ''}: give more, or a smaller --size"
    return str(error)


@contextmanager
def _own_directory(target: Target) -> Iterator[Path]:
    """A directory in a target that is gone after the block."""
    try:
        path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=target.directory))
    except OSError as error:
        raise BenchError(f"{target.directory}: {error.strerror}") from error
    try:
        yield path
    finally:
        shutil.rmtree(path)
