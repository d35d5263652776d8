"""kill -9 in the middle of a workload, again and again on one volume: what was acknowledged is there, byte for byte.

Workers on the mount tell a recorder outside it what they begin and what was acknowledged. After each kill the volume
mounts by itself and every file is compared with what it may contain: with ``sync=write`` what every write(2) that
returned left there, with ``sync=fsync`` what the last fsync(2) that returned left there, and in both cases, where
something later was under way, that or what was there before. A round in which nothing was at risk fails the test.
"""

from __future__ import annotations

import random

import pytest

from tests.crash.expected import Expected, judge, look
from tests.crash.load import Load
from tests.support.mounting import SETUPS, Setup, Volumes, wait_until

pytestmark = pytest.mark.fuse

ROUNDS = 4
CHUNK = 64 * 1024


@pytest.mark.parametrize("setup", SETUPS, ids=str)
def test_what_was_acknowledged_survives_kill_9(volumes: Volumes, setup: Setup) -> None:
    volume = volumes.make(setup, options=f"chunk_size={CHUNK}")
    rng = random.Random(f"kill {setup}")
    expected: dict[str, Expected] = {}
    load = Load(volume, setup.sync, expected)
    for number in range(ROUNDS):
        with load.running(seed=rng.getrandbits(32)):
            kill_after = rng.randrange(40, 150)
            wait_until(lambda least=kill_after: load.done() >= least, "the workers work")  # type: ignore[misc]
            volume.kill()
        volume.fsck()
        assert "recovered" in volume.mount()
        problems = judge(volume.directory, expected)
        assert not problems, f"round {number}:\n" + "\n".join(problems)
        volume.remount()
        for name, file in expected.items():
            found, attribute = look(volume.directory / name)
            assert (found is not None) == file.exists, f"{name} came or went with a remount"
            assert (found or b"", [attribute]) == (bytes(file.durable), file.attributes), (
                f"{name} changed with a remount"
            )
    assert load.at_risk, "in no round was anything under way or unflushed when the daemon was killed"


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
    file = Expected(exists=True, attributes=[b"durable", b"later"])
    assert [file.problem(b"", attribute) is None for attribute in (b"durable", b"later", b"", b"late")] == [
        *(True, True),
        *(False, False),
    ]
