"""Programs of the campaign that fit into seconds, in their quick form, on a mount in both modes.

git, tar, sqlite3 and fio are in ``tests/fuse/test_programs.py``. PostgreSQL, the C projects, pip, stress-ng and
dbench are left to ``tests.programs.campaign``: they take minutes, and packages that the other tests do not need.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from benchfs_core.types import SyncMode
from tests.programs import programs
from tests.programs.campaign import FAILED, NOT_RUN, PASSED, Result, Row, attempt, on_mount
from tests.programs.program import Place, Program, ProgramFailed, ToolMissing

pytestmark = pytest.mark.fuse

CHOSEN = tuple(program for program in programs.PROGRAMS if program.name in ("rsync", "maildir", "mapped pages"))


@pytest.mark.parametrize("sync", SyncMode, ids=lambda sync: sync.value)
@pytest.mark.parametrize("program", CHOSEN, ids=lambda program: program.name)
def test_a_program_runs_as_on_the_native_filesystem(program: Program, sync: SyncMode, tmp_path: Path) -> None:
    said = on_mount(program, tmp_path, f"sync={sync.value},chunk_size=64K", quick=True)
    assert said


def test_acls_are_copied_there_and_back(tmp_path: Path) -> None:
    (rsync,) = (program for program in CHOSEN if program.name == "rsync")
    assert on_mount(rsync, tmp_path, "sync=fsync,acl", quick=True).startswith("-aHAX")


def test_every_program_has_a_name_of_its_own() -> None:
    names = [program.name for program in programs.PROGRAMS]
    assert len(set(names)) == len(names) > 20


def test_the_campaign_tells_failures_from_what_is_not_run() -> None:
    def fails() -> str:
        raise ProgramFailed("wrong bytes")

    def cannot() -> str:
        raise ToolMissing("no such tool")

    results = {name: attempt(run) for name, run in (("good", lambda: "done"), ("bad", fails), ("missing", cannot))}
    assert [result.state for result in results.values()] == [PASSED, FAILED, NOT_RUN]
    assert "wrong bytes" in results["bad"].said
    assert Row("a", "", results["good"], results["bad"]).is_failure
    assert Row("a", "", results["good"], results["missing"]).is_failure
    assert not Row("a", "", results["good"], results["missing"], by_design=True).is_failure
    assert not Row("a", "", results["missing"], results["missing"]).is_failure
    assert not Row("a", "", results["bad"], Result(FAILED, "", 0)).is_failure


def test_damage_that_a_program_does_is_found(tmp_path: Path) -> None:
    """A program that damages the volume below the mount: the campaign's fsck must see it."""

    def damages(place: Place) -> str:
        (place.directory / "file").write_bytes(b"x" * 100_000)
        place.remount()
        chunks = place.directory.parents[1] / "source" / "chunks"
        inode = (place.directory / "file").stat().st_ino
        next((chunks / str(inode)).iterdir()).unlink()
        return "done"

    result = attempt(lambda: on_mount(Program("damage", "", damages), tmp_path, "sync=fsync", quick=True))
    assert result.state == FAILED
