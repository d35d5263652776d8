"""Crashes at every point between two effects of an operation, parts of what was not flushed lost, and once more after.

Imports ``tests.support.small_crashes`` and ``tests.support.lossy``, and the judge of the power-cut campaign. In memory.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

from benchfs_core.types import SyncMode
from tests.powercut.file_judge import FileJudge
from tests.support.lossy import Disk, Effect, crash
from tests.support.small_crashes import Layers, Session, Step, empty_disk, problems_after_crash


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


async def crash_everywhere(
    start: Start,
    steps: Sequence[Step],
    sync: SyncMode,
    random: Random,
    tally: Tally,
    losses: int,
    *,
    lie: str = "",
    twice: bool = False,
) -> None:
    """Play the steps that apply; then crash at each point of the last one, with so many choices of what is lost.

    ``lie``: a kind of flush that did nothing. ``twice``: what recovers is crashed as well, at some point of it.
    """
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
        for _ in range(losses):
            disk = crash(start.disk, had, random)
            if disk.fingerprint in seen:
                continue
            seen.add(disk.fingerprint)
            tally.crashes += 1
            found = await problems_after_crash(disk, sync, judge, start.inline_bytes)
            if twice and not found:
                again = await crash_recovery(disk, sync, random, start.inline_bytes)
                found = [
                    f"crashed twice: {one}"
                    for one in await problems_after_crash(again, sync, judge, start.inline_bytes)
                ]
            tally.problems += [f"{steps}, after {_said(effects[begun_at:end])}: {problem}" for problem in found]


async def crash_recovery(disk: Disk, sync: SyncMode, random: Random, inline_bytes: int) -> Disk:
    """Recover, bring everything in order, and crash at some point of that: what is left."""
    layers = Layers(disk, sync, inline_bytes)
    try:
        await layers.recover()
        await layers.settle()
    finally:
        layers.database.close()
    return crash(disk, layers.effects[: random.randint(0, len(layers.effects))], random)


def _said(effects: Sequence[Effect]) -> list[str]:
    return [f"{effect.kind} {effect.inode}/{effect.chunk}" for effect in effects]
