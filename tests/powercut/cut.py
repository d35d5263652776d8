"""One cut: the clone of a device, mounted, recovered and judged.

Imports ``devices``, ``record``, the core's ``fsck`` and ``tests.support.mounting``. Thread-safe: several cuts may be
judged at a time, beside the workload that goes on.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchfs_core.fsck import check_volume
from tests.powercut.devices import mounted
from tests.powercut.record import Judge
from tests.support.mounting import MOUNT, is_mounted, run, wait_for_end

FAILURES = (Exception, pytest.fail.Exception)
"""Whatever goes wrong while a clone is looked at is told: what was lost may be what the judge needs to look."""

VOLUME = "volume"
"""The volume's directory on its device."""


@dataclass(frozen=True, slots=True)
class Cut:
    """What is known of an instant."""

    name: str
    filesystem: str
    sync: str
    image: Path
    """The clone."""
    judges: dict[str, Judge]
    """By the worker's directory; nobody else uses them."""
    acknowledgements: int
    """How many there were in the last second before the cut."""
    bytes_at_risk: int
    """How many bytes they were about."""
    look_before: bool
    """Whether fsck looks at the volume before it is recovered."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found."""

    cut: Cut
    problems: list[str]
    recovered: bool
    """The mount said that it recovered."""


def judge_cut(cut: Cut, place: Path) -> Verdict:
    """Mount the clone, let the volume recover, look at everything, unmount, and have fsck look again."""
    problems: list[str] = []
    said = ""
    try:
        place.mkdir()
        with mounted(cut.image, cut.filesystem, place / "device") as device:
            source = device / VOLUME
            if cut.look_before:
                problems += [f"fsck before recovery: {finding}" for finding in check_volume(source)]
            said = _mount(source, place, cut.sync)
            try:
                for name, judge in cut.judges.items():
                    problems += [f"{name}: {problem}" for problem in judge.problems(place / "mount" / name)]
            finally:
                _unmount(source, place / "mount")
            problems += [f"fsck after recovery: {finding}" for finding in check_volume(source)]
            problems += _log_problems(place / "log")
    except FAILURES as failure:
        problems.append(f"{type(failure).__name__}: {failure}")
    return Verdict(cut, problems, "recovered" in said)


def _mount(source: Path, place: Path, sync: str) -> str:
    (place / "mount").mkdir()
    return run(MOUNT, source, place / "mount", "-o", f"sync={sync},log={place / 'log'}").stdout


def _unmount(source: Path, directory: Path) -> None:
    """umount(8), and wait for the daemon: sooner done than ``benchfs umount``, which other tests use."""
    pid = int((source / "lock").read_text().splitlines()[0])
    run("umount", directory)
    wait_for_end(pid)
    assert not is_mounted(directory)
    os.rmdir(directory)


def _log_problems(log: Path) -> list[str]:
    lines = log.read_text().splitlines()
    return [f"log: {line}" for line in lines if any(word in line for word in (" ERROR ", " CRITICAL ", "Traceback"))]
