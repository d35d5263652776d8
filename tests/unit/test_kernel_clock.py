"""The clock that is in step with what the kernel dates by itself."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from benchfs_fuse.kernel_clock import KernelClock


@pytest.fixture
def clock() -> Iterator[KernelClock]:
    with closing(KernelClock()) as clock:
        yield clock


def test_it_is_never_behind_nor_ahead_of_what_the_kernel_dates(clock: KernelClock, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    for _ in range(1000):
        before_ns = clock.now_ns()
        os.utime(file)
        dated_ns = file.stat().st_ctime_ns  # having been looked at, it is dated finely the next time
        assert before_ns <= dated_ns <= clock.now_ns()


def test_closed_it_leaves_no_descriptor() -> None:
    before = os.listdir("/proc/self/fd")
    KernelClock().close()
    assert os.listdir("/proc/self/fd") == before
