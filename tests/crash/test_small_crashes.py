"""Every sequence of up to three operations, a crash at every point between two effects on disk, parts of it lost.

In memory, seeded. What an operation before the last one did is crashed where it was the last; so each sequence is
crashed within its last operation, with everything that is not flushed by then, from whichever operation, at risk.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from random import Random

import pytest

from benchfs_core.types import SyncMode
from tests.powercut.file_judge import FileJudge
from tests.support.lossy import Disk, Effect, crash
from tests.support.small_crashes import Layers, Session, Step, empty_disk, problems_after_crash

STEPS: tuple[Step, ...] = (
    ("create", "a", 0o644),
    ("write", "a", 0, 2),
    ("write", "a", 127, 3),  # the end of the first chunk and the beginning of the second
    ("truncate", "a", 700),
    ("truncate", "a", 70_000),
    ("truncate", "a", 0),
    ("unlink", "a"),
    ("create", "b", 0o600),
    ("rename", "a", "b"),
    ("link", "a", "b"),
    ("mkdir", "d", 0o755),
    ("fsync", "a"),
    ("settle",),
)
STARTS: dict[str, tuple[Step, ...]] = {
    "empty": (),
    "two files": (
        ("create", "a", 0o644),
        ("write", "a", 0, 2),
        ("write", "a", 127, 3),
        ("create", "b", 0o600),
        ("write", "b", 0, 1),
        ("settle",),
    ),
}
LOSSES = {1: 6, 2: 3, 3: 1, 5: 10}
"""Choices of what is lost at each point, by the length of the sequence."""

SEED = 2


@dataclass(slots=True)
class Tally:
    """What was done."""

    sequences: int = 0
    points: int = 0
    crashes: int = 0
    problems: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Start:
    """A volume that was closed in order, and what is known of it."""

    disk: Disk
    judge: FileJudge
    made: int
    inline_bytes: int

    def session(self, sync: SyncMode) -> Session:
        return Session(Layers(self.disk, sync, self.inline_bytes), copy.deepcopy(self.judge), self.made)


async def begin(steps: Sequence[Step], sync: SyncMode, inline_bytes: int = 0) -> Start:
    session = Start(empty_disk(), FileJudge(sync), 0, inline_bytes).session(sync)
    await session.layers.recover()
    await session.play(steps)
    disk = await session.layers.close()
    session.layers.database.close()
    return Start(disk, session.judge, session.made, inline_bytes)


def sequences(longest: int) -> Iterator[tuple[Step, ...]]:
    for length in range(1, longest + 1):
        yield from itertools.product(STEPS, repeat=length)


async def crash_everywhere(
    start: Start, steps: Sequence[Step], sync: SyncMode, random: Random, tally: Tally, lie: str = ""
) -> None:
    """Play the steps; then crash at each point of the last of them. ``lie``: a kind of flush that did nothing."""
    session = start.session(sync)
    effects = session.layers.effects
    await session.layers.recover()
    try:
        for step in steps[:-1]:
            if not session.applies(step):
                return
            await session.play([step])
        if not session.applies(steps[-1]):
            return
        begun_at = len(effects)
        operation = session.begin(steps[-1])
        in_flight = copy.deepcopy(session.judge)
        session.done(operation, await session.do(operation))
    finally:
        session.layers.database.close()
    tally.sequences += 1
    for end in range(begun_at, len(effects) + 1):
        tally.points += 1
        judge = session.judge if end == len(effects) else in_flight
        seen: set[int] = set()
        had = [effect for effect in effects[:end] if effect.kind != lie]
        for _ in range(LOSSES[len(steps)]):
            disk = crash(start.disk, had, random)
            if disk.fingerprint in seen:
                continue
            seen.add(disk.fingerprint)
            tally.crashes += 1
            found = await problems_after_crash(disk, sync, judge, start.inline_bytes)
            tally.problems += [f"{steps}, after {_said(effects[begun_at:end])}: {problem}" for problem in found]


def _said(effects: Sequence[Effect]) -> list[str]:
    return [f"{effect.kind} {effect.inode}/{effect.chunk}" for effect in effects]


@pytest.mark.parametrize("sync", SyncMode, ids=str)
@pytest.mark.parametrize("name", STARTS)
@pytest.mark.parametrize("inline_bytes", [0, 4096])
async def test_small_crashes(name: str, sync: SyncMode, inline_bytes: int) -> None:
    start, random, tally = await begin(STARTS[name], sync, inline_bytes), Random(f"{SEED} {name} {sync}"), Tally()
    for steps in sequences(3):
        await crash_everywhere(start, steps, sync, random, tally)
    assert not tally.problems, "\n".join(tally.problems[:10])
    assert tally.crashes > tally.sequences > 100


@pytest.mark.parametrize("lie", ["wal", "flush"])
@pytest.mark.parametrize("sync", SyncMode, ids=str)
async def test_a_flush_that_did_nothing_is_found_out(sync: SyncMode, lie: str) -> None:
    start, random, tally = await begin(STARTS["two files"], sync), Random(SEED), Tally()
    for steps in ((("write", "a", 127, 3), ("fsync", "a")), (("truncate", "a", 700), ("fsync", "a"))):
        await crash_everywhere(start, steps, sync, random, tally, lie)
    assert tally.problems


@pytest.mark.parametrize("sync", SyncMode, ids=str)
async def test_a_truncate_into_a_hole_keeps_to_the_size_it_set(sync: SyncMode) -> None:
    start, random, tally = await begin((("create", "a", 0o644),), sync), Random(SEED), Tally()
    steps: tuple[Step, ...] = (
        ("write", "a", 0, 96),
        ("write", "a", 128, 2),
        ("fsync", "a"),
        ("truncate", "a", 50_169),  # between the end of the first chunk's data and its end
        ("settle",),
    )
    await crash_everywhere(start, steps, sync, random, tally)
    assert tally.crashes
    assert not tally.problems, "\n".join(tally.problems)
