"""kill -9 hundreds of times: under load, and in the middle of all that a volume does beside serving requests.

    python -m tests.crash.campaign --directory DIRECTORY [--kills N] [--seed S] [--phases NAME,…] [--sync write,fsync]
        [--json FILE]

``--kills`` is for each phase and mode. Each kill is aimed at a moment of its phase (``phases``), and afterwards it is
seen whether it hit. Then fsck must find nothing, the volume must mount by itself, what was acknowledged must be there
byte for byte, and nothing that was not written. Prints a table. Exit code 1 if anything was wrong, or if in some phase
no kill hit.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pytest

from benchfs_core.fsck import check_volume
from benchfs_core.types import SyncMode
from tests.crash import phases
from tests.crash.expected import Expected, judge
from tests.crash.load import Load
from tests.support.mounting import MountedVolume, volumes_in

PHASES = ("load", "checkpoint", "deletion", "recovery", "unmount", "format")
FAILURES = (Exception, pytest.fail.Exception)
MAX_KILLS_IN_A_ROW = 4
"""So often at most a recovery is killed before one is let through."""

KILLS_OF_ONE_VOLUME = 12


@dataclass(slots=True)
class Row:
    """What came of one phase in one mode."""

    phase: str
    sync: str
    kills: int = 0
    hits: int = 0
    """Kills that were in the middle of what they were aimed at; under load: every one."""
    acknowledged: int = 0
    at_risk: int = 0
    """Operations that were under way, or acknowledged and not promised to survive."""
    problems: list[str] = field(default_factory=list)
    seconds: float = 0

    @property
    def failed(self) -> bool:
        """Something was wrong, or nothing was at risk."""
        return bool(self.problems) or not self.hits or (self.phase == "load" and not self.at_risk)


class Campaign:
    """Kills of one phase in one mode, in volumes below ``place``."""

    def __init__(self, place: Path, phase: str, sync: SyncMode, seed: int) -> None:
        self.row = Row(phase, sync.value)
        self._place = place
        self._sync = sync
        self._rng = random.Random(f"{phase} {sync.value} {seed}")
        self._volumes = 0

    def run(self, kills: int) -> Row:
        """So many kills; the row."""
        begin, row = time.monotonic(), self.row
        while row.kills < kills and not row.problems:
            until = min(kills, row.kills + KILLS_OF_ONE_VOLUME)
            self._volumes += 1
            place = self._place / f"{row.phase}-{row.sync}-{self._volumes}"
            try:
                with volumes_in(place) as volumes:
                    volume = volumes.make(f"sync={row.sync}", options=f"chunk_size={phases.CHUNK}", mount=False)
                    self._kill_until(until, volume)
            except FAILURES as failure:
                row.problems.append(f"{place.name}, after {row.kills} kills: {type(failure).__name__}: {failure}")
        row.seconds += time.monotonic() - begin
        return row

    def _kill_until(self, until: int, volume: MountedVolume) -> None:
        if self.row.phase == "format":
            while self.row.kills < until and not self.row.problems:
                self._format(volume.place_of(f"format-{self.row.kills}"), volume)
            return
        volume.mount()
        expected: dict[str, Expected] = {}
        load = Load(volume, self._sync, expected)
        doomed: list[phases.Doomed] = []
        while self.row.kills < until and not self.row.problems:
            self._round(volume, load, doomed)
            self.row.problems += judge(volume.directory, expected)
            self.row.problems += [problem for one in doomed for problem in one.problems()]
        self.row.acknowledged += load.acknowledged
        self.row.at_risk += load.at_risk
        volume.unmount()
        self.row.problems += [left for one in doomed for left in one.leftovers()]

    def _round(self, volume: MountedVolume, load: Load, doomed: list[phases.Doomed]) -> None:
        """One kill, or for recoveries several; on return the volume is mounted again."""
        rng, phase = self._rng, self.row.phase
        if phase == "deletion":
            doomed.append(phases.Doomed(volume, f"doomed-{self.row.kills}"))
        with load.running(rng.getrandbits(32), "metadata" if phase == "checkpoint" else "files"):
            if phase == "unmount":
                phases.linger(rng, 1.0)
                load.kill_workers()
            else:
                self._count(self._kill(volume, doomed))
        if phase == "unmount":
            self._count(phases.kill_in_unmount(volume, rng))
        phases.clear(volume)
        self._see_that_fsck_finds_nothing(volume)
        if phase == "recovery":
            for _ in range(rng.randint(1, MAX_KILLS_IN_A_ROW)):
                self._count(phases.kill_in_recovery(volume, rng))
                phases.clear(volume)
                self._see_that_fsck_finds_nothing(volume)
        volume.mount()

    def _kill(self, volume: MountedVolume, doomed: list[phases.Doomed]) -> bool | None:
        """Kill in the middle of a load; None where that is only what a recovery needs."""
        kills: dict[str, Callable[[], bool]] = {
            "load": lambda: phases.kill_under_load(volume, self._rng),
            "recovery": lambda: phases.kill_under_load(volume, self._rng),
            "checkpoint": lambda: phases.kill_in_checkpoint(volume, self._rng),
            "deletion": lambda: doomed[-1].kill_in_deletion(self._rng),
        }
        hit = kills[self.row.phase]()
        return None if self.row.phase == "recovery" else hit

    def _count(self, hit: bool | None) -> None:
        if hit is not None:
            self.row.kills += 1
            self.row.hits += hit

    def _see_that_fsck_finds_nothing(self, volume: MountedVolume) -> None:
        found = [str(finding) for finding in check_volume(volume.source)]
        self.row.problems += [f"after kill {self.row.kills}: fsck: {finding}" for finding in found]

    def _format(self, source: Path, volume: MountedVolume) -> None:
        """Kill a format, then let a mount do what is left of it: there is an empty volume."""
        source.mkdir()
        self._count(phases.kill_in_format(source, self._rng))
        volume.source = source
        volume.mount()
        if left := list(volume.directory.iterdir()):
            self.row.problems.append(f"a new volume holds {left}")
        (volume.directory / "file").write_bytes(b"content")
        volume.unmount()
        self._see_that_fsck_finds_nothing(volume)


def table(rows: Sequence[Row]) -> str:
    """As Markdown."""
    lines = ["| killed in | sync | kills | hit | wrong | acknowledged | at risk |", "|---|---|---|---|---|---|---|"]
    lines += [
        f"| {row.phase} | {row.sync} | {row.kills} | {row.hits} | {len(row.problems)} | {row.acknowledged} "
        f"| {row.at_risk} |"
        for row in rows
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directory", type=Path, required=True, help="where volumes may be made")
    parser.add_argument("--kills", type=int, default=20, help="for each phase and mode")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--phases", default=",".join(PHASES))
    parser.add_argument("--sync", default=",".join(mode.value for mode in SyncMode))
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(2))  # leaving every block, so that no mount stays
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(dir=given.directory, prefix="benchfs-kills-") as place:
        for phase in given.phases.split(","):
            for sync in map(SyncMode, given.sync.split(",")):
                if phase == "format" and rows and rows[-1].phase == "format":
                    continue  # the same in both modes
                row = Campaign(Path(place), phase, sync, given.seed).run(given.kills)
                rows.append(row)
                print(f"{phase} {sync.value}: {row.kills} kills, {row.hits} hit, {row.seconds:.0f} s", flush=True)
                for problem in row.problems:
                    print(f"  {problem[:3000]}", flush=True)
                if given.json:
                    given.json.write_text(json.dumps([asdict(one) for one in rows], indent=1))
    print(f"\n{table(rows)}")
    sys.exit(1 if any(row.failed for row in rows) else 0)


if __name__ == "__main__":
    main()
