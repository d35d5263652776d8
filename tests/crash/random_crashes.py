"""Small crashes beyond the exhaustive ones: longer sequences of more operations, at random, and two crashes in a row.

    python -m tests.crash.random_crashes [--minutes M | --sequences N] [--longest L] [--seed S]

In memory (``everywhere``). Prints what is wrong with the sequence that leads to it, and at the end what was done. Exit
code 1 if anything was wrong.
"""

from __future__ import annotations

import argparse
import sys
import time
from random import Random

import trio

from benchfs_core.flags import NOATIME, NODUMP
from benchfs_core.types import SyncMode
from tests.crash.everywhere import Start, Tally, begin, crash_everywhere
from tests.support.small_crashes import NAMELESS, PUBLISHED_MODE, Step

LOSSES = 4
MAX_PROBLEMS = 5
INLINE_BYTES = (0, 4096)
SIZES = (0, 100, 700, 3000, 4096, 5000, 65_536, 66_000, 70_000)
"""Within and beyond what is kept inline, and a chunk."""

BEGINNINGS, COUNTS = (0, 1, 5, 7, 120, 127, 128), (1, 2, 3, 9)
"""Blocks of 512 bytes."""


WEIGHTS = {
    "create": 3,
    "write": 9,
    "truncate": 6,
    "unlink": 2,
    "rename": 2,
    "link": 1,
    "fsync": 5,
    "settle": 3,
    "mkdir": 1,
    "nameless": 2,
    "publish": 2,
    "setflags": 1,
}
"""How often each operation is drawn."""


def random_step(random: Random) -> Step:
    """One operation on one of two files, or on one without a name."""
    path, other = random.sample(("a", "b"), 2)
    kind = random.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
    if kind in ("write", "truncate", "fsync") and random.random() < 0.25:
        path = NAMELESS
    match kind:
        case "nameless":
            return "nameless", NAMELESS, PUBLISHED_MODE
        case "publish":
            return "publish", NAMELESS, path
        case "create":
            return "create", path, random.choice((0o644, 0o600))
        case "write":
            return "write", path, random.choice(BEGINNINGS), random.choice(COUNTS)
        case "truncate":
            return "truncate", path, random.choice(SIZES)
        case "punch" | "zero" as kind:
            return kind, path, random.choice(BEGINNINGS), random.choice((*COUNTS, 128))
        case "allocate":
            return "allocate", path, random.choice(SIZES[1:])
        case "copy":
            source = random.choice((other, other, path))
            return "copy", path, source, random.choice(BEGINNINGS), random.choice(COUNTS), random.choice(BEGINNINGS)
        case "rename" | "link" as kind:
            return kind, path, other
        case "mkdir":
            return "mkdir", "d", 0o755
        case "setflags":
            return "setflags", path, random.choice((0, NODUMP, NOATIME))
        case "settle":
            return ("settle",)
        case kind:
            return kind, path


def is_possible(step: Step, there: frozenset[str]) -> bool:
    """Whether the operation succeeds where these names are there."""
    match step:
        case ("create" | "mkdir" | "nameless", str(path), *_):
            return path not in there
        case ("copy", str(path), str(other), *_):
            return path in there and other in there
        case ("link" | "publish", str(path), str(new)):
            return path in there and new not in there
        case (_, str(path), *_):
            return path in there
    return True


def names_after(step: Step, there: frozenset[str]) -> frozenset[str]:
    """The names once it is done; a rename from one name to another of the same file is taken for any other."""
    match step:
        case ("create" | "mkdir" | "nameless", str(path), *_):
            return there | {path}
        case ("link", _, str(new)):
            return there | {new}
        case ("rename" | "publish", str(path), str(new)):
            return there - {path} | {new}
        case ("unlink", str(path)):
            return there - {path}
    return there


def possible_steps(random: Random, length: int) -> tuple[Step, ...]:
    """So many operations of which each succeeds after those before it."""
    there: frozenset[str] = frozenset()
    steps: list[Step] = []
    while len(steps) < length:
        step = random_step(random)
        if is_possible(step, there):
            there = names_after(step, there)
            steps.append(step)
    return tuple(steps)


async def starts() -> list[tuple[SyncMode, Start]]:
    """Empty volumes, in both modes, with and without inline files."""
    return [(sync, await begin((), sync, limit)) for sync in SyncMode for limit in INLINE_BYTES]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--sequences", type=float, default=float("inf"))
    parser.add_argument("--longest", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    if given.minutes == given.sequences:
        parser.error("give --minutes or --sequences")
    tally = trio.run(run, given.seed, given.longest, given.sequences, time.monotonic() + given.minutes * 60)
    for problem in tally.problems:
        print(problem)
    print(f"{tally.sequences} sequences, {tally.points} points, {tally.crashes} crashes, {len(tally.problems)} wrong")
    sys.exit(bool(tally.problems) or not tally.crashes)


async def run(seed: int, longest: int, sequences: float, until_s: float) -> Tally:
    """Sequences until there are enough, or it is time, or enough went wrong."""
    random, tally, on = Random(seed), Tally(), await starts()
    while tally.sequences < sequences and time.monotonic() < until_s and len(tally.problems) < MAX_PROBLEMS:
        steps = possible_steps(random, random.randint(1, longest))
        for sync, start in on:
            before = len(tally.problems)
            await crash_everywhere(start, steps, sync, random, tally, LOSSES, twice=True)
            tally.problems[before:] = [
                f"{sync}, inline {start.inline_bytes}: {problem}" for problem in tally.problems[before:]
            ]
    return tally


if __name__ == "__main__":
    main()
