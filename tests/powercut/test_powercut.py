"""Power cuts, a bounded part of the campaign; that the campaign sees a lie; and what its judges must not accept."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchfs_core.types import SyncMode
from tests.powercut.blocks import BLOCK, block, run_of_blocks
from tests.powercut.campaign import SYNC_MODES, Campaign, Row, plans
from tests.powercut.contents import Content
from tests.powercut.devices import FILESYSTEMS, cloning_directory
from tests.powercut.file_judge import FileJudge
from tests.powercut.workloads import WORKLOADS

CUTS = 6
SEED = 4


@pytest.fixture(scope="module")
def cloning(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with cloning_directory(tmp_path_factory.mktemp("powercut")) as directory:
        yield directory


@pytest.mark.fuse
@pytest.mark.parametrize("sync", SYNC_MODES)
@pytest.mark.parametrize("filesystem", FILESYSTEMS)
def test_what_was_acknowledged_survives_a_power_cut(cloning: Path, filesystem: str, sync: str) -> None:
    campaign = Campaign(cloning)
    for plan in plans([filesystem], [sync], CUTS, SEED, list(WORKLOADS)):
        row = campaign.run(plan)
    assert not row.problems, "\n".join(row.problems)
    assert row.cuts == CUTS
    assert not row.failed, "nothing was at risk"


@pytest.mark.fuse
@pytest.mark.parametrize("sync", SYNC_MODES)
def test_a_mount_that_lies_about_flushes_is_found_out(cloning: Path, sync: str) -> None:
    campaign = Campaign(cloning)
    for plan in plans(["ext4"], [sync], 2, SEED, ["overwrites", "appends", "renames"], lying=True):
        row = campaign.run(plan)
    assert row.bad == row.cuts == 2
    assert row.failed
    assert any(" shows " in problem or " bytes, not " in problem for problem in row.problems), row.problems


def test_a_campaign_with_nothing_at_risk_fails() -> None:
    assert Row("ext4", "write", cuts=5).failed
    assert not Row("ext4", "write", cuts=5, bytes_at_risk=1).failed


def test_the_judge_of_contents() -> None:
    content = Content(7)
    content.write(0, 4, 1)
    for fine in (b"", run_of_blocks(7, 0, 4, 1), run_of_blocks(7, 0, 2, 1), bytes(BLOCK) + block(7, 1, 1)):
        assert content.problem(fine) is None
    assert content.settle() == 4 * BLOCK
    whole = run_of_blocks(7, 0, 4, 1)
    assert content.problem(whole) is None
    content.write(1, 1, 2)
    overwritten = whole[:BLOCK] + block(7, 1, 2) + whole[2 * BLOCK :]
    assert content.problem(overwritten) is None
    assert content.problem(whole) is None
    for bad in (
        b"",
        whole[:-1],
        whole + bytes(1),
        bytes(BLOCK) + whole[BLOCK:],
        run_of_blocks(8, 0, 4, 1),
        run_of_blocks(7, 1, 4, 1),
        run_of_blocks(7, 0, 4, 2),
        whole[: BLOCK + 100] + overwritten[BLOCK + 100 : 2 * BLOCK] + whole[2 * BLOCK :],
    ):
        assert content.problem(bad), bad[:40]
    content.settle()
    assert content.problem(overwritten) is None
    assert content.problem(whole), "from before an acknowledged overwrite"


def test_the_judge_of_cuts() -> None:
    whole, half = run_of_blocks(7, 0, 4, 1), 2 * BLOCK + 100
    content = Content(7)
    content.write(0, 4, 1)
    content.settle()
    content.truncate(half, 2)
    assert content.problem(whole) is None
    assert content.problem(whole[:half]) is None
    content.write(3, 1, 3)
    after = whole[:half] + bytes(BLOCK - 100) + block(7, 3, 3)
    assert content.problem(whole) is None
    assert content.problem(after) is None
    content.write(4, 1, 4)
    assert content.problem(whole + block(7, 4, 4)), "from before the truncate, beside what was written after it"
    content.write(2, 1, 5)
    again = whole[: 2 * BLOCK] + block(7, 2, 5)[:100] + bytes(BLOCK - 100) + block(7, 3, 3) + block(7, 4, 4)
    assert content.problem(again) is None, "the truncate, made once more at recovery"
    content.settle()
    assert content.problem(again)
    content.write(2, 1, 6)
    content.truncate(half, 7)
    content.truncate(5 * BLOCK, 8)
    content.settle()
    zeros = bytes(3 * BLOCK - 100)
    assert content.problem(whole[: 2 * BLOCK] + block(7, 2, 6)[:100] + zeros) is None
    assert content.problem(after + bytes(BLOCK))
    assert content.problem(after + block(7, 4, 4))
    assert content.problem(whole + block(7, 4, 4))


def test_the_judge_of_a_few_bytes_that_may_be_of_several_writes() -> None:
    content = Content(7)
    content.write(0, 3, 1)
    content.settle()
    content.truncate(0, 2)
    content.write(0, 3, 3)
    content.truncate(2 * BLOCK + 14, 4)
    assert content.problem(run_of_blocks(7, 0, 3, 3)[: 2 * BLOCK + 14]) is None, "14 bytes tell file and place alone"
    mixed = run_of_blocks(7, 0, 2, 3) + block(7, 2, 1)
    assert "before a truncate" in str(content.problem(mixed))


def test_the_judge_of_a_write_under_way_where_a_file_ended() -> None:
    content = Content(7)
    content.write(0, 4, 1)
    content.truncate(2 * BLOCK + 100, 2)
    content.truncate(4 * BLOCK, 3)
    content.settle()
    first, rest = run_of_blocks(7, 0, 2, 1), bytes(2 * BLOCK - 100)
    assert content.problem(first + block(7, 2, 1)[:100] + rest) is None
    content.write(2, 1, 4)
    torn = first + block(7, 2, 4)[:100] + rest
    assert content.problem(torn) is None
    assert content.problem(first + block(7, 2, 4)[:105] + rest[5:]), "torn elsewhere"
    content.settle()
    assert content.problem(torn), "acknowledged"


def test_the_judge_of_names(tmp_path: Path) -> None:
    judge = FileJudge(SyncMode.FSYNC)

    def do(*operation: str | int, result: int = 0) -> None:
        judge.begin(operation)
        judge.done(operation, result, at_ns=1)

    assert judge.problems(tmp_path) == []
    first = tmp_path / "first"
    first.touch(0o644)
    assert judge.problems(tmp_path), "a name that nobody made"
    do("create", "first", 1, 0o644, result=first.stat().st_ino)
    assert judge.problems(tmp_path) == []
    first.rename(tmp_path / "second")
    assert judge.problems(tmp_path), "a name that nobody gave"
    do("rename", "first", "second")
    assert judge.problems(tmp_path) == []
    (tmp_path / "first").hardlink_to(tmp_path / "second")
    assert judge.problems(tmp_path), "both names of a rename"
    (tmp_path / "second").unlink()
    assert judge.problems(tmp_path) == []
    do("fsyncdir", "")
    assert judge.problems(tmp_path), "the old name after the new one was made durable"
    (tmp_path / "first").rename(tmp_path / "second")
    assert judge.problems(tmp_path) == []
    do("chmod", "second", 0o600)
    (tmp_path / "second").chmod(0o640)
    assert judge.problems(tmp_path), "a mode that nobody set"
