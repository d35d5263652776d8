"""The same machine for as long as one likes: ``python -m tests.differential.long --minutes M --seed S [--sync MODE]``.

Needs root. Prints each round's seed before it runs, and at the end what was done; exit code 1 on the first difference,
which is shrunk unless told otherwise. A round with the same seed repeats its examples.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from pathlib import Path

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from benchfs_core.types import SyncMode
from tests.differential.client import Worker
from tests.differential.machine import DifferentialMachine
from tests.differential.session import session

EXAMPLES_PER_ROUND = 50
STEPS_PER_EXAMPLE = 60


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compares BenchFS with ext4, step by step.")
    parser.add_argument("--minutes", type=float, required=True, help="no round begins later than this")
    parser.add_argument("--seed", type=int, required=True, help="of the first round; each further one has the next")
    parser.add_argument("--sync", type=SyncMode, choices=list(SyncMode), default=SyncMode.WRITE)
    parser.add_argument("--acl", action="store_true", help="with POSIX ACLs")
    parser.add_argument("--no-shrink", action="store_true", help="show a difference as it was found")
    return parser.parse_args()


def _rounds(machine: type[DifferentialMachine], worker: Worker, arguments: argparse.Namespace) -> None:
    phases = [Phase.generate] if arguments.no_shrink else [Phase.generate, Phase.shrink]
    options = settings(
        database=None,
        max_examples=EXAMPLES_PER_ROUND,
        stateful_step_count=STEPS_PER_EXAMPLE,
        deadline=None,
        phases=phases,
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )
    begin = time.monotonic()
    number = arguments.seed
    while time.monotonic() - begin < arguments.minutes * 60:
        print(f"seed {number}", flush=True)
        run_state_machine_as_test(seed(number)(machine), settings=options)
        number += 1
    minutes = (time.monotonic() - begin) / 60
    mode = f"sync={arguments.sync.value}{',acl' if arguments.acl else ''}"
    print(
        f"{mode}: seeds {arguments.seed} to {number - 1}, {worker.examples} examples, "
        f"{worker.steps} steps, {minutes:.1f} minutes: no difference"
    )


def main() -> int:
    """Run rounds until the time is over."""
    arguments = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(2))  # so that mounts go
    with tempfile.TemporaryDirectory(prefix="benchfs-differential-") as place:
        try:
            with session(Path(place), arguments.sync, acl=arguments.acl) as (machine, worker):
                _rounds(machine, worker, arguments)
        except AssertionError as difference:
            print(difference)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
