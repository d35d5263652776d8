"""Workers on a mount, until the mount or they are killed, and what they told.

Imports ``expected``, ``workload`` and ``tests.support.mounting``. What they tell goes to files outside the mount.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchfs_core.types import SyncMode
from tests.crash.expected import Expected, Recorder
from tests.support.mounting import TIMEOUT_S, MountedVolume, wait_until

WORKERS = 3
ROOT = Path(__file__).parents[2]
_DONE = json.dumps(["done"]).encode() + b"\n"


class Load:
    """See the module. ``expected`` is kept up to date by ``take_in``."""

    def __init__(self, volume: MountedVolume, sync: SyncMode, expected: dict[str, Expected]) -> None:
        self._volume = volume
        self._sync = sync
        self._expected = expected
        self._workers: list[tuple[subprocess.Popen[bytes], Path]] = []
        self.acknowledged = 0
        self.at_risk = 0
        """Operations that were under way, or acknowledged and not promised to survive, when the kill came."""

    @contextmanager
    def running(self, seed: int, mix: str = "files") -> Iterator[None]:
        """Workers, each of which has got something done; at the end what they told is taken in."""
        assert not self._workers
        for number in range(WORKERS):
            told = self._volume.place_of(f"told-{number}")
            command = [sys.executable, "-m", "tests.crash.workload", str(self._volume.directory), f"w{number}"]
            with told.open("wb") as stream:
                process = subprocess.Popen([*command, str(seed + number), mix], cwd=ROOT, stdout=stream)
            self._workers.append((process, told))
        try:
            wait_until(lambda: min(self._done()) > 0, "every worker gets something done")
            yield
            for process, _ in self._workers:
                assert process.wait(TIMEOUT_S) in (0, -9)
        finally:
            self.kill_workers()
        self._take_in()

    def done(self) -> int:
        """How many operations were acknowledged so far, by what the workers told."""
        return sum(self._done())

    def kill_workers(self) -> None:
        """kill -9; an operation that is under way may be done or not."""
        for process, _ in self._workers:
            process.kill()
            process.wait(TIMEOUT_S)

    def _done(self) -> list[int]:
        for process, told in self._workers:
            assert process.poll() is None, f"a worker ended: {told.read_bytes()[-300:]!r}"
        return [told.read_bytes().count(_DONE) for _, told in self._workers]

    def _take_in(self) -> None:
        for _, told in self._workers:
            recorder = Recorder(self._sync, self._expected)
            for line in told.read_bytes().splitlines():
                recorder.line(json.loads(line))
            self.acknowledged += recorder.acknowledged
            self.at_risk += recorder.interrupted + recorder.unfsynced
            os.unlink(told)
        self._workers.clear()
