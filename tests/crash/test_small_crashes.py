"""Every sequence of up to three operations, a crash at every point between two effects on disk, parts of it lost.

In memory, seeded. What an operation before the last one did is crashed where it was the last; so each sequence is
crashed within its last operation, with everything that is not flushed by then, from whichever operation, at risk.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from random import Random

import pytest

from benchfs_core.types import SyncMode
from tests.crash.everywhere import Tally, begin, crash_everywhere
from tests.crash.random_crashes import run
from tests.support.small_crashes import NAMELESS, PUBLISHED_MODE, Step

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
    "a small file": (("create", "a", 0o644), ("write", "a", 0, 2), ("settle",)),
    "two files": (
        ("create", "a", 0o644),
        ("write", "a", 0, 2),
        ("write", "a", 127, 3),
        ("create", "b", 0o600),
        ("write", "b", 0, 1),
        ("settle",),
    ),
}
LOSSES = {1: 6, 2: 3, 3: 1}
"""Choices of what is lost at each point, by the length of the sequence."""

SEED = 2


def sequences(longest: int) -> Iterator[tuple[Step, ...]]:
    for length in range(1, longest + 1):
        yield from itertools.product(STEPS, repeat=length)


@pytest.mark.parametrize("sync", SyncMode, ids=str)
@pytest.mark.parametrize("name", ["empty", "two files"])
@pytest.mark.parametrize("inline_bytes", [0, 4096])
async def test_small_crashes(name: str, sync: SyncMode, inline_bytes: int) -> None:
    start, random, tally = await begin(STARTS[name], sync, inline_bytes), Random(f"{SEED} {name} {sync}"), Tally()
    for steps in sequences(3):
        await crash_everywhere(start, steps, sync, random, tally, LOSSES[len(steps)])
    assert not tally.problems, "\n".join(tally.problems[:10])
    assert tally.crashes > tally.sequences > 100


FLAG_STEPS: tuple[Step, ...] = (
    ("setflags", "a", 0x40),
    ("setflags", "a", 0),
    ("write", "a", 0, 2),
    ("fsync", "a"),
    ("rename", "a", "b"),
    ("settle",),
)


@pytest.mark.parametrize("sync", SyncMode, ids=str)
async def test_flags_are_those_of_one_instant_and_durable_after_fsync(sync: SyncMode) -> None:
    start, random, tally = await begin(STARTS["two files"], sync), Random(f"{SEED} {sync}"), Tally()
    for length in (1, 2, 3):
        for steps in itertools.product(FLAG_STEPS, repeat=length):
            await crash_everywhere(start, steps, sync, random, tally, 2)
    assert not tally.problems, "\n".join(tally.problems[:10])
    assert tally.crashes > tally.sequences > 50


RANGE_STEPS: tuple[Step, ...] = (
    ("truncate", "a", 700),
    ("punch", "a", 1, 127),
    ("zero", "a", 0, 200),
    ("allocate", "a", 70_000),
    ("copy", "a", "b", 0, 1, 129),
    ("copy", "b", "a", 0, 2, 0),
    ("fsync", "a"),
    ("settle",),
)


MORE_RANGE_STEPS: tuple[Step, ...] = (("write", "a", 1, 1), ("copy", "a", "a", 0, 1, 200), *RANGE_STEPS)
"""With inline files in sequences of two only, which are most of what they change."""


@pytest.mark.parametrize("sync", SyncMode, ids=str)
@pytest.mark.parametrize("inline_bytes", [0, 4096])
async def test_small_crashes_of_operations_on_ranges(sync: SyncMode, inline_bytes: int) -> None:
    start, random, tally = await begin(STARTS["two files"], sync, inline_bytes), Random(f"{SEED} {sync}"), Tally()
    for length in (1, 2, 3):
        chosen = RANGE_STEPS if inline_bytes and length == 3 else MORE_RANGE_STEPS
        for steps in itertools.product(chosen, repeat=length):
            await crash_everywhere(start, steps, sync, random, tally, LOSSES[length])
    assert not tally.problems, "\n".join(tally.problems[:10])
    assert tally.crashes > tally.sequences > 100


@pytest.mark.parametrize("sync", SyncMode, ids=str)
@pytest.mark.parametrize(
    ("lie", "step"),
    [
        ("flush", ("punch", "a", 0, 2)),
        ("flush", ("copy", "a", "b", 0, 1, 300)),
        ("wal", ("allocate", "a", 200_000)),
        ("wal", ("zero", "a", 129, 300)),
    ],
)
async def test_a_flush_of_ranges_that_did_nothing_is_found_out(sync: SyncMode, lie: str, step: Step) -> None:
    start, random, tally = await begin(STARTS["two files"], sync), Random(SEED), Tally()
    await crash_everywhere(start, (step, ("fsync", "a")), sync, random, tally, 6, lie=lie)
    assert tally.problems


NAMELESS_STEPS: tuple[Step, ...] = (
    ("write", NAMELESS, 0, 2),
    ("write", NAMELESS, 127, 3),
    ("truncate", NAMELESS, 700),
    ("fsync", NAMELESS),
    ("publish", NAMELESS, "a"),
    ("write", "a", 1, 1),
    ("fsync", "a"),
    ("rename", "a", "b"),
    ("unlink", "a"),
    ("settle",),
)


@pytest.mark.parametrize("sync", SyncMode, ids=str)
@pytest.mark.parametrize("inline_bytes", [0, 4096])
async def test_a_file_without_a_name_is_there_whole_or_not_at_all(sync: SyncMode, inline_bytes: int) -> None:
    start, random, tally = await begin((), sync, inline_bytes), Random(f"{SEED} {sync}"), Tally()
    first: Step = ("nameless", NAMELESS, PUBLISHED_MODE)
    for steps in [(), *(steps for length in (1, 2, 3) for steps in itertools.product(NAMELESS_STEPS, repeat=length))]:
        await crash_everywhere(start, (first, *steps), sync, random, tally, 2)
    for kind in NAMELESS_STEPS[:2]:
        for last in (("fsync", "a"), ("settle",)):
            steps = (first, kind, ("fsync", NAMELESS), ("publish", NAMELESS, "a"), last)
            await crash_everywhere(start, steps, sync, random, tally, 6, twice=True)
    assert not tally.problems, "\n".join(tally.problems[:10])
    assert tally.crashes > tally.sequences > 100


@pytest.mark.parametrize("lie", ["wal", "flush"])
@pytest.mark.parametrize("sync", SyncMode, ids=str)
async def test_a_flush_that_did_nothing_is_found_out(sync: SyncMode, lie: str) -> None:
    start, random, tally = await begin(STARTS["two files"], sync), Random(SEED), Tally()
    for steps in ((("write", "a", 127, 3), ("fsync", "a")), (("truncate", "a", 700), ("fsync", "a"))):
        await crash_everywhere(start, steps, sync, random, tally, 3, lie=lie)
    assert tally.problems


@pytest.mark.parametrize("sync", SyncMode, ids=str)
async def test_a_lying_flush_of_inline_files_is_found_out(sync: SyncMode) -> None:
    start, random, tally = await begin(STARTS["a small file"], sync, 4096), Random(SEED), Tally()
    for steps in ((("write", "a", 1, 3), ("fsync", "a")), (("truncate", "a", 700), ("fsync", "a"))):
        await crash_everywhere(start, steps, sync, random, tally, 3, lie="wal")
    assert tally.problems


async def test_longer_sequences_and_two_crashes_in_a_row() -> None:
    tally = await run(SEED, longest=8, sequences=120, until_s=float("inf"))
    assert not tally.problems, "\n".join(tally.problems)
    assert tally.crashes > tally.sequences


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
    await crash_everywhere(start, steps, sync, random, tally, 10)
    assert tally.crashes
    assert not tally.problems, "\n".join(tally.problems)


async def test_a_truncate_that_changes_no_size_makes_the_name_durable_that_led_to_it() -> None:
    """With ``sync=write``, as any other truncate does."""
    first: tuple[Step, ...] = (("create", "b", 0o600), ("write", "b", 127, 1))
    start, random, tally = await begin(first, SyncMode.WRITE), Random(SEED), Tally()
    steps: tuple[Step, ...] = (("settle",), ("rename", "b", "a"), ("truncate", "a", 65_536), ("truncate", "a", 5000))
    await crash_everywhere(start, steps, SyncMode.WRITE, random, tally, 10)
    assert tally.crashes
    assert not tally.problems, "\n".join(tally.problems)
