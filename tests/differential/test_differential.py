"""Programs cannot tell BenchFS from ext4: any sequence of system calls, as root and as others, answers alike on both.

Bounded and always the same here; ``python -m tests.differential.long`` goes on for as long as one likes.
"""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from benchfs_core.types import SyncMode
from tests.differential.calls import Status
from tests.differential.judge import Judge
from tests.differential.session import session

BOUNDED = settings(
    derandomize=True,
    database=None,
    max_examples=30,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.fuse
@pytest.mark.slow
@pytest.mark.parametrize("acl", [False, True], ids=["plain", "acl"])
@pytest.mark.parametrize("sync", SyncMode)
def test_ext4_and_benchfs_answer_alike(tmp_path: Path, sync: SyncMode, acl: bool) -> None:
    with session(tmp_path, sync, acl=acl) as (machine, worker):
        run_state_machine_as_test(machine, settings=BOUNDED)
        succeeded = {name for name, error in worker.answers if not error}
        assert len(succeeded) > 30, "the machine does little but fail"


def _file(inode: int, blocks: int) -> Status:
    return Status(stat.S_IFREG | 0o644, 0, 0, 1, 4096, 0, blocks, 1, 1, 1, inode)


def test_what_is_said_of_blocks_is_forgiven_only_where_something_was_copied_or_allocated() -> None:
    judge = Judge(writes_through=True)
    judge.copied.add(7)
    judge.allocated.add(8)

    def differences(inode: int, native: int, mounted: int) -> int:
        return len(list(judge.status(_file(inode, native), _file(99, mounted), is_open=False)))

    assert differences(6, 8, 8) == 0
    assert [differences(inode, 8, 0) for inode in (6, 7, 8)] == [1, 0, 1]
    assert [differences(inode, 800, 800) for inode in (6, 7, 8)] == [1, 1, 0]
    assert differences(8, 800, 1000) == 1
