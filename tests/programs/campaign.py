"""Runs programs that people use on a native directory and on a BenchFS mount beside it, and compares how they end.

    python -m tests.programs.campaign [--sync write|fsync] [--only NAME…] [--quick] [--json FILE] --directory DIRECTORY

Every program gets a volume of its own, which is unmounted and checked by fsck after it; a finding, or an error in the
daemon's log, is a failure of the program. Prints a table. Exit code 1 where BenchFS fails what the native directory
passes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import pytest

from tests.programs import programs
from tests.programs.program import Place, Program, ProgramFailed, ToolMissing
from tests.support.mounting import volumes_in

PASSED, FAILED, NOT_RUN = "passed", "failed", "not run"
MAX_WORDS = 400
FAILURES = (ProgramFailed, pytest.fail.Exception, OSError, subprocess.SubprocessError, AssertionError)


@dataclass(frozen=True, slots=True)
class Result:
    """How a program ended in one place."""

    state: str
    said: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Row:
    """A program in both places."""

    program: str
    does: str
    native: Result
    benchfs: Result
    by_design: bool = False
    """Not run on the mount, as no FUSE filesystem can do it."""

    @property
    def is_failure(self) -> bool:
        """Whether BenchFS does less than the native directory."""
        return self.native.state == PASSED and self.benchfs.state != PASSED and not self.by_design


def attempt(run: Callable[[], str]) -> Result:
    """Run, and put into words how it ended."""
    start_s = time.perf_counter()
    try:
        state, said = PASSED, run()
    except ToolMissing as reason:
        state, said = NOT_RUN, str(reason)
    except FAILURES as failure:
        state, said = FAILED, f"{type(failure).__name__}: {failure}"[-MAX_WORDS:]
    return Result(state, said, round(time.perf_counter() - start_s, 2))


@contextlib.contextmanager
def _beside(directory: Path) -> Iterator[Path]:
    """A directory that everyone may enter, and that is gone at the end."""
    with tempfile.TemporaryDirectory(dir=directory, prefix="benchfs-campaign-", ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o755)
        yield Path(name)


def natively(program: Program, directory: Path, *, quick: bool) -> str:
    with _beside(directory) as beside:
        for name in ("work", "scratch"):
            (beside / name).mkdir()
        return program.run(Place(beside / "work", beside / "scratch", quick, acl=True))


def on_mount(program: Program, directory: Path, options: str, *, quick: bool) -> str:
    with _beside(directory) as beside:
        scratch = beside / "scratch"
        scratch.mkdir()
        with volumes_in(beside) as volumes:
            volume = volumes.make(options)

            def remount() -> None:
                volume.remount()

            work = volume.directory / "work"
            work.mkdir()
            said = program.run(Place(work, scratch, quick, remount, acl="acl" in options.split(",")))
            volume.remount()  # fsck sees what the program made, and then that nothing is left of it
            shutil.rmtree(work)
            return said


def print_row(row: Row) -> None:
    """One line of the table, as Markdown."""
    cells = [row.program, row.does]
    for result in (row.native, row.benchfs):
        words = result.said if result.state == PASSED else f"{result.state}: {result.said}"
        cells.append(" ".join(words.replace("|", "/").split()))
    seconds = f"{row.native.seconds:.1f} | {row.benchfs.seconds:.1f}"
    print(f"| {' | '.join(cells)} | {seconds} |{' FAILED' if row.is_failure else ''}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directory", type=Path, required=True, help="on the native filesystem to compare with")
    parser.add_argument("--sync", choices=("write", "fsync"), default="write")
    parser.add_argument("--options", default="", help="further options of the mount")
    parser.add_argument("--only", nargs="*", default=[], help="programs whose names begin so")
    parser.add_argument("--quick", action="store_true", help="less of everything")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    options = ",".join(filter(None, (f"sync={given.sync}", given.options)))
    chosen = [
        program
        for program in programs.PROGRAMS
        if not given.only or any(program.name.startswith(name) for name in given.only)
    ]
    rows = []
    print(
        f"| program | what was done | native | BenchFS, {options} | s native | s BenchFS |\n|---|---|---|---|---|---|"
    )
    for program in chosen:
        native = attempt(partial(natively, program, given.directory, quick=given.quick))
        benchfs = Result(NOT_RUN, program.native_only, 0)
        if not program.native_only:
            benchfs = attempt(partial(on_mount, program, given.directory, options, quick=given.quick))
        rows.append(Row(program.name, program.does, native, benchfs, bool(program.native_only)))
        print_row(rows[-1])
    failed = [row.program for row in rows if row.is_failure]
    states = [row.benchfs.state for row in rows]
    passed = states.count(PASSED)
    print(f"\n{passed} passed, {len(failed)} failed, {len(rows) - passed - len(failed)} not run")
    if given.json:
        given.json.write_text(json.dumps({"options": options, "rows": [asdict(row) for row in rows]}, indent=1))
    sys.exit(1 if failed or not rows else 0)


if __name__ == "__main__":
    main()
