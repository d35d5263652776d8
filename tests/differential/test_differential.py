"""Programs cannot tell BenchFS from ext4: any sequence of system calls, as root and as others, answers alike on both.

Bounded and always the same here; ``python -m tests.differential.long`` goes on for as long as one likes.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from benchfs_core.types import SyncMode
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
