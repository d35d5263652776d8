"""``worker.py DIRECTORY WORKLOAD NUMBER SEED SYNC RECORD``: one worker, in a process of its own, until it is killed."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from benchfs_core.types import SyncMode
from tests.powercut.record import Teller
from tests.powercut.workloads import WORKLOADS


def main(directory: str, workload: str, number: str, seed: str, sync: str, record: str) -> None:
    os.umask(0)
    place = Path(directory)
    place.mkdir()
    parent = os.open(place.parent, os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(parent)
    os.close(parent)
    WORKLOADS[workload](int(number), int(seed), SyncMode(sync)).work(place, Teller(Path(record)))


if __name__ == "__main__":
    main(*sys.argv[1:])
