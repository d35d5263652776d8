"""When inodes were made, on real mounts: what becomes of it, and what programs see with either plane."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from benchfs_core.chunks.uring import io_uring_available
from tests.conformance.calls import STATX_BTIME, statx
from tests.support.mounting import Volumes, run

pytestmark = pytest.mark.fuse
needs_ring = pytest.mark.skipif(io_uring_available() is not None, reason=str(io_uring_available()))


@needs_ring
@pytest.mark.parametrize("options", ["sync=write", "sync=fsync"])
def test_a_remount_and_a_kill_leave_it(volumes: Volumes, options: str) -> None:
    volume = volumes.make(options)
    names = [str(volume.directory / name) for name in ("directory", "small", "large", "")]
    os.mkdir(names[0])
    Path(names[1]).write_bytes(b"small")
    Path(names[2]).write_bytes(bytes(5 << 20))
    made = [statx(name).birth_ns for name in names]
    assert 0 not in made
    volume.remount()
    assert [statx(name).birth_ns for name in names] == made
    for name in names[1:3]:
        with open(name, "ab") as stream:
            stream.write(b"more")
            os.fsync(stream.fileno())
    volume.kill()
    run("umount", "-l", volume.directory)
    volume.mount()
    assert [statx(name).birth_ns for name in names] == made


def test_through_pyfuse3_it_is_not_told(volumes: Volumes) -> None:
    volume = volumes.make("plane=pyfuse3")
    file = str(volume.directory / "file")
    Path(file).write_bytes(b"")
    assert statx(file).mask & STATX_BTIME == 0
    assert run("stat", "-c", "%w", file).stdout == "-\n"
