"""kill -9 in the middle of a workload, again and again on one volume: what was acknowledged is there, byte for byte.

Workers on the mount tell a recorder outside it what they begin and what was acknowledged. After each kill the volume
mounts by itself and every file is compared with what it may contain: with ``sync=write`` what every write(2) that
returned left there, with ``sync=fsync`` what the last fsync(2) that returned left there, and in both cases, where
something later was under way, that or what was there before. A round in which nothing was at risk fails the test.
"""

from __future__ import annotations

import errno
import json
import os
import random
import select
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from benchfs_core.types import SyncMode
from tests.crash.workload import content
from tests.support.mounting import SETUPS, TIMEOUT_S, MountedVolume, Setup, Volumes

pytestmark = pytest.mark.fuse

ROUNDS = 4
WORKERS = 3
CHUNK = 64 * 1024


@dataclass(slots=True)
class Expected:
    """What one file may look like."""

    exists: bool | None = False
    """None: it may or may not be there."""
    durable: bytearray = field(default_factory=bytearray)
    """What is there for certain, unless ``later`` says that it may have changed."""
    later: list[tuple[int, bytes]] = field(default_factory=list)
    """Writes that may be there, in part or not at all, in their order."""
    instead: list[bytes] = field(default_factory=list)
    """Whole contents that may have taken the file's place."""

    def settle(self) -> None:
        """Everything written so far is there for certain."""
        for offset, data in self.later:
            self._apply(self.durable, offset, data)
        self.later.clear()

    def problem(self, found: bytes | None) -> str | None:
        """What is wrong with a file that was found, or not found."""
        if found is None:
            return "is missing" if self.exists is True else None
        if self.exists is False:
            return "is there though it was unlinked"
        if any(found == whole for whole in self.instead):
            return None
        most = max([len(self.durable), *(offset + len(data) for offset, data in self.later)])
        if not len(self.durable) <= len(found) <= most:
            return f"has {len(found)} bytes, not {len(self.durable)} to {most}"
        if found == self.durable:
            return None
        return self._wrong_bytes(found)

    def _wrong_bytes(self, found: bytes) -> str | None:
        """Each byte must be the durable one, or one that was written there later, or beyond the durable end zero."""
        padded = bytes(self.durable) + bytes(len(found) - len(self.durable))
        wrong = {index for index, (one, other) in enumerate(zip(found, padded, strict=True)) if one != other}
        for offset, data in self.later:
            same = {
                index for index in wrong if 0 <= index - offset < len(data) and found[index] == data[index - offset]
            }
            wrong -= same
        return f"has {len(wrong)} wrong bytes, the first at {min(wrong)}" if wrong else None

    @staticmethod
    def _apply(to: bytearray, offset: int, data: bytes) -> None:
        if len(to) < offset:
            to.extend(bytes(offset - len(to)))
        to[offset : offset + len(data)] = data


class Recorder:
    """What one worker was told, and so what its files may look like."""

    def __init__(self, sync: SyncMode, expected: dict[str, Expected]) -> None:
        self._every_write_is_durable = sync is SyncMode.WRITE
        self._expected = expected
        self._begun: list[object] | None = None
        self.acknowledged = 0
        self.unfsynced = 0
        """Writes that were acknowledged and not promised to survive."""
        self.interrupted = False
        """Whether an operation was under way when the daemon was killed."""

    def line(self, words: list[object]) -> None:
        """Take in one line."""
        if words == ["done"]:
            assert self._begun is not None
            self._acknowledge(self._begun)
            self._begun = None
            self.acknowledged += 1
        elif words[0] == "failed":
            # ENOTCONN: begun after the daemon had died; ECONNABORTED: the daemon had the request
            assert words[1] in (errno.ENOTCONN, errno.ECONNABORTED, errno.EIO), os.strerror(int(str(words[1])))
            self.interrupted = words[1] == errno.ECONNABORTED
        else:
            self._begun = words
            self._begin(words)

    def _begin(self, words: list[object]) -> None:
        file = self._file(words)
        match words:
            case ["write", _, int(offset), int(seed), int(length)]:
                file.later.append((offset, content(seed, length)))
                if file.exists is False:
                    file.exists = None
            case ["fsync", _]:
                if file.exists is False:
                    file.exists = None  # made by opening it
            case ["replace", _, int(seed), int(length)]:
                file.instead.append(content(seed, length))
                if file.exists is False:
                    file.exists = None
            case ["unlink", _]:
                file.exists = None
            case _:
                raise AssertionError(words)

    def _acknowledge(self, words: list[object]) -> None:
        file = self._file(words)
        match words:
            case ["write", *_]:
                if self._every_write_is_durable:
                    file.settle()
                    file.exists = True
                else:
                    self.unfsynced += 1
            case ["fsync", _]:
                file.settle()
                file.exists = True
            case ["replace", _, int(seed), int(length)]:
                self._expected[str(words[1])] = Expected(exists=True, durable=bytearray(content(seed, length)))
            case ["unlink", _]:
                self._expected[str(words[1])] = Expected()

    def _file(self, words: list[object]) -> Expected:
        return self._expected.setdefault(str(words[1]), Expected())


def run_until_killed(volume: MountedVolume, recorders: list[Recorder], seed: int, kill_after: int) -> None:
    """Let the workers work, kill the daemon after so many acknowledgements of all of them, and read to the end."""
    command = [sys.executable, "-m", "tests.crash.workload", str(volume.directory)]
    root = Path(__file__).parents[2]
    workers = [
        subprocess.Popen([*command, f"w{number}", str(seed + number)], cwd=root, stdout=subprocess.PIPE)
        for number in range(WORKERS)
    ]
    unread = {worker.stdout.fileno(): b"" for worker in workers if worker.stdout is not None}
    recorder_of = dict(zip(unread, recorders, strict=True))
    killed = False
    deadline = time.monotonic() + TIMEOUT_S
    try:
        while unread:
            readable, _, _ = select.select(list(unread), [], [], deadline - time.monotonic())
            assert readable, "the workers have stopped telling"
            for descriptor in readable:
                data = os.read(descriptor, 1 << 16)
                *lines, rest = (unread[descriptor] + data).split(b"\n")
                for line in lines:
                    recorder_of[descriptor].line(json.loads(line))
                unread[descriptor] = rest
                if not data:
                    assert not unread.pop(descriptor)
            if not killed and sum(recorder.acknowledged for recorder in recorders) >= kill_after:
                killed = True
                volume.kill()
        assert [worker.wait(TIMEOUT_S) for worker in workers] == [0] * WORKERS
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
            assert worker.stdout is not None
            worker.stdout.close()
    assert killed, "the workers ended before the daemon was killed"


def read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


@pytest.mark.parametrize("setup", SETUPS, ids=str)
def test_what_was_acknowledged_survives_kill_9(volumes: Volumes, setup: Setup) -> None:
    volume = volumes.make(setup, options=f"chunk_size={CHUNK}")
    rng = random.Random(f"kill {setup}")
    expected: dict[str, Expected] = {}
    at_risk = 0
    for number in range(ROUNDS):
        recorders = [Recorder(setup.sync, expected) for _ in range(WORKERS)]
        run_until_killed(volume, recorders, seed=rng.getrandbits(32), kill_after=rng.randrange(40, 150))
        assert all(recorder.acknowledged for recorder in recorders), "a worker got nothing done"
        at_risk += sum(recorder.interrupted + recorder.unfsynced for recorder in recorders)
        volume.fsck()
        assert "recovered" in volume.mount()
        problems = []
        for name, file in sorted(expected.items()):
            found = read(volume.directory / name)
            if problem := file.problem(found):
                problems.append(f"round {number}: {name}: {problem}")
            expected[name] = Expected(exists=found is not None, durable=bytearray(found or b""))
        assert not problems, "\n".join(problems)
        volume.remount()
        for name, file in expected.items():
            found = read(volume.directory / name)
            assert (found is not None) == file.exists, f"{name} came or went with a remount"
            assert file.durable == (found or b""), f"{name} changed with a remount"
    assert at_risk, "in no round was anything under way or unflushed when the daemon was killed"


def test_what_the_judge_must_not_accept_it_does_not() -> None:
    file = Expected(exists=True, durable=bytearray(b"durable"), later=[(5, b"LATER")])
    good = (b"durable", b"durabLATER", b"durabLe", b"durablA", b"durabLA\0ER")
    assert [file.problem(found) for found in good] == [None] * len(good)
    bad = (None, b"durabl", b"durable.....", b"Durable", b"durabXe", b"durable\0\0\0\0", b"durabLATERx")
    assert all(file.problem(found) for found in bad)
    file.settle()
    assert file.problem(b"durabLATER") is None
    assert file.problem(b"durable")
    assert Expected().problem(b"") == "is there though it was unlinked"
    assert Expected().problem(None) is None
