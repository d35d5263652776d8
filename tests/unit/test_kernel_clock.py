"""The clock that is in step with what the kernel dates by itself."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import aclosing, closing
from pathlib import Path

import pytest

from benchfs_core.chunks.thread_io import ThreadIO
from benchfs_core.errors import Vanished
from benchfs_core.volume_io import flush_wal
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


async def test_a_flush_of_the_wal_does_not_have_the_kernel_date_more_finely(clock: KernelClock, tmp_path: Path) -> None:
    file = tmp_path / "wal"
    file.write_bytes(b"x")
    finer = 0
    async with aclosing(ThreadIO(1)) as io:
        for _ in range(100):
            descriptor = os.open(file, os.O_RDWR)
            await flush_wal(io, descriptor)
            before_ns = clock.now_ns()
            os.pwrite(descriptor, b"y", 0)
            finer += file.stat().st_mtime_ns != before_ns
            os.close(descriptor)
            file.unlink()
            file.write_bytes(b"x")
    assert finer < 50, "but for the clock's ticks, and what else goes on"


async def test_a_wal_without_a_name_is_found_out_with_and_without_proc(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once a commit has been flushed, that nobody can look for its name must not turn the mount read-only."""

    def fail(*_: object) -> str:
        raise FileNotFoundError(errno.ENOENT, "there is no /proc")

    file = tmp_path / "wal"
    async with aclosing(ThreadIO(1)) as io:
        for has_proc in (True, False):
            if not has_proc:
                monkeypatch.setattr(os, "readlink", fail)
            descriptor = os.open(file, os.O_RDWR | os.O_CREAT)
            await flush_wal(io, descriptor)
            file.unlink()
            with pytest.raises(Vanished):
                await flush_wal(io, descriptor)
            os.close(descriptor)


def test_closed_it_leaves_no_descriptor() -> None:
    before = os.listdir("/proc/self/fd")
    KernelClock().close()
    assert os.listdir("/proc/self/fd") == before
