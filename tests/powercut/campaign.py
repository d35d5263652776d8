"""Power cuts on real kernels: a volume under load on ext4, xfs or btrfs, cloned again and again, each clone judged.

    python -m tests.powercut.campaign --directory DIRECTORY [--below ext4,xfs,btrfs] [--sync write,fsync] [--cuts N]
        [--seed S] [--workloads NAME,…] [--json FILE] [--keep DIRECTORY]

DIRECTORY lies on a filesystem that clones files, or gets an xfs in a sparse file. A clone of a device taken while its
filesystem is in use is what a power cut at that instant leaves. ``--cuts`` is for each filesystem and mode. Prints one
line for each run and a table at the end. Exit code 1 if anything was lost, or shown that should not be, or if in some
combination nothing was at risk.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import signal
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random

from tests.powercut.cut import FAILURES, Cut, Verdict, judge_cut
from tests.powercut.devices import FILESYSTEMS, clone, cloning_directory
from tests.powercut.running import Plan, Run, directory_for
from tests.powercut.workloads import WORKLOADS

CUTS_IN_A_RUN = 12
WORKERS_IN_A_RUN = 4
JUDGED_AT_A_TIME = 2
SYNC_MODES = ("write", "fsync")


@dataclass(slots=True)
class Row:
    """What came of one filesystem and mode."""

    filesystem: str
    sync: str
    cuts: int = 0
    bad: int = 0
    recovered: int = 0
    """Mounts that said that they recovered."""
    acknowledged: int = 0
    acknowledgements_at_risk: int = 0
    """In the last second before each cut."""
    bytes_at_risk: int = 0
    cuts_with_risk: int = 0
    seeds: list[int] = field(default_factory=list)
    by_workload: dict[str, int] = field(default_factory=dict)
    """Cuts each workload was in."""
    problems: list[str] = field(default_factory=list)

    def add(self, verdict: Verdict) -> None:
        self.cuts += 1
        self.recovered += verdict.recovered
        self.acknowledgements_at_risk += verdict.cut.acknowledgements
        self.bytes_at_risk += verdict.cut.bytes_at_risk
        self.cuts_with_risk += verdict.cut.bytes_at_risk > 0
        self.bad += bool(verdict.problems)
        self.problems += [f"{verdict.cut.name}: {problem}" for problem in verdict.problems]
        for name in verdict.cut.judges:
            workload = name.partition("-")[2]
            self.by_workload[workload] = self.by_workload.get(workload, 0) + 1

    @property
    def failed(self) -> bool:
        """Something was wrong, or nothing was at risk."""
        return bool(self.problems) or not self.bytes_at_risk


def plans(
    filesystems: Sequence[str],
    modes: Sequence[str],
    cuts: int,
    seed: int,
    workloads: Sequence[str],
    *,
    lying: bool = False,
) -> Iterator[Plan]:
    """The runs of a campaign: each combination in turn, each workload as often as any other."""
    left = {(filesystem, sync): cuts for filesystem in filesystems for sync in modes}
    order = {combination: _in_turn(workloads, Random(f"{seed} {combination}")) for combination in left}
    for number in itertools.count():
        for (filesystem, sync), there in left.items():
            now = min(there, CUTS_IN_A_RUN)
            if now:
                left[filesystem, sync] -= now
                chosen = tuple(itertools.islice(order[filesystem, sync], WORKERS_IN_A_RUN))
                name = f"{filesystem}-{sync}-{number}"
                yield Plan(name, filesystem, sync, seed + number, now, chosen, lying)
        if not any(left.values()):
            return


def _in_turn(workloads: Sequence[str], random: Random) -> Iterator[str]:
    while True:
        yield from random.sample(workloads, len(workloads))


class Campaign:
    """Runs plans below one directory where files can be cloned."""

    def __init__(self, directory: Path, keep: Path | None = None) -> None:
        self.rows: dict[tuple[str, str], Row] = {}
        self._directory = directory
        self._keep = keep

    def run(self, plan: Plan) -> Row:
        """One run, and its cuts; the row it was added to."""
        key = plan.filesystem, plan.sync
        row = self.rows.setdefault(key, Row(*key))
        row.seeds.append(plan.seed)
        with directory_for(self._directory / plan.name) as place, ThreadPoolExecutor(JUDGED_AT_A_TIME) as pool:
            run, waiting = Run(plan, place), list[Future[Verdict]]()
            try:
                with run.running():
                    for _ in range(plan.cuts):
                        waiting.append(pool.submit(self._judge, run.take_cut()))
                        if len(waiting) > JUDGED_AT_A_TIME:
                            row.add(waiting.pop(0).result())
            except FAILURES as failure:
                row.problems.append(f"{plan.name}: {type(failure).__name__}: {failure}")
            for future in waiting:
                row.add(future.result())
            row.acknowledged += run.acknowledged
        return row

    def _judge(self, cut: Cut) -> Verdict:
        place = cut.image.with_name(f"{cut.image.name}-judged")
        untouched = cut.image.with_name(f"{cut.image.name}-untouched")
        if self._keep is not None:
            clone(cut.image, untouched)
        verdict = judge_cut(cut, place)
        if verdict.problems and self._keep is not None:
            kept = self._keep / cut.name.replace(" ", "-")
            shutil.copyfile(untouched, kept)
            verdict.problems.append(f"the device as it was: {kept}")
        untouched.unlink(missing_ok=True)
        cut.image.unlink()
        shutil.rmtree(place)
        return verdict


def table(rows: Sequence[Row]) -> str:
    """As Markdown."""
    lines = [
        "| below | sync | cuts | bad | recovered | acknowledged in all | at risk: acknowledgements | bytes | cuts |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.filesystem} | {row.sync} | {row.cuts} | {row.bad} | {row.recovered} | {row.acknowledged} "
        f"| {row.acknowledgements_at_risk} | {row.bytes_at_risk} | {row.cuts_with_risk} |"
        for row in rows
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directory", type=Path, required=True, help="where images may be made")
    parser.add_argument("--below", default=",".join(FILESYSTEMS))
    parser.add_argument("--sync", default=",".join(SYNC_MODES))
    parser.add_argument("--cuts", type=int, default=CUTS_IN_A_RUN, help="for each filesystem and mode")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workloads", default=",".join(WORKLOADS))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--keep", type=Path, help="an existing directory for the devices of bad cuts")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(2))  # leaving every block, so that no mount stays
    chosen = given.below.split(","), given.sync.split(","), given.cuts, given.seed, given.workloads.split(",")
    with cloning_directory(given.directory) as directory:
        campaign = Campaign(directory, given.keep)
        for plan in plans(*chosen):
            known = sum(len(row.problems) for row in campaign.rows.values())
            row = campaign.run(plan)
            print(f"{plan.name} seed {plan.seed} ({' '.join(plan.workloads)}): {row.cuts} cuts, {row.bad} bad so far")
            problems = [problem for row in campaign.rows.values() for problem in row.problems]
            for problem in row.problems[len(row.problems) - (len(problems) - known) :]:
                print(f"  {problem[:2000]}", flush=True)
            rows = list(campaign.rows.values())
            if given.json:
                given.json.write_text(json.dumps([asdict(one) for one in rows], indent=1))
    print(f"\n{table(rows)}")
    sys.exit(1 if any(row.failed for row in rows) else 0)


if __name__ == "__main__":
    main()
