"""What the campaign runs: a program, where it runs, and the ways in which it may end.

Imports ``tests.support.mounting`` for running commands. A program is a function that works in ``Place.directory``,
which is on the filesystem under test, and returns in a few words what it did; anything wrong is an exception. It must
leave no process.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


class ToolMissing(Exception):
    """The program cannot run on this machine, and why; says nothing of the filesystem."""


class ProgramFailed(Exception):
    """The program did not do what it does on a filesystem in order."""


def nothing_to_remount() -> None:
    """A native directory stays as it is."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a program runs."""

    directory: Path
    """Empty, and on the filesystem under test."""
    scratch: Path
    """Empty, and beside it on the native filesystem."""
    quick: bool = False
    remount: Callable[[], None] = nothing_to_remount
    """Unmounts, has fsck look, mounts again."""
    acl: bool = False
    """Whether the filesystem is expected to keep POSIX ACLs."""


@dataclass(frozen=True, slots=True)
class Program:
    """One row of the table."""

    name: str
    does: str
    run: Callable[[Place], str]
    native_only: str = ""
    """Why the program is not run on the mount, where it asks for what no FUSE filesystem can do."""


def need(*tools: str) -> None:
    """Skip unless these commands are there."""
    if missing := [tool for tool in tools if shutil.which(tool) is None]:
        raise ToolMissing(f"not installed: {', '.join(missing)}")


def expect(condition: bool, otherwise: str) -> None:
    """Fail unless it is so."""
    if not condition:
        raise ProgramFailed(otherwise)


@contextmanager
def started(*processes: subprocess.Popen[bytes]) -> Iterator[None]:
    """Processes that are gone after the block, whatever happens in it."""
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def end_well(*processes: subprocess.Popen[bytes], timeout_s: float = 120) -> None:
    """Wait for all; each must exit with 0."""
    with started(*processes):
        codes = [process.wait(timeout_s) for process in processes]
    expect(not any(codes), f"exit codes {codes}")
