"""Where io_uring is forbidden: ``store=auto`` says so and works, ``store=io_uring`` is refused and touches nothing."""

from __future__ import annotations

import subprocess

import pytest

from tests.support.mounting import MOUNT, TIMEOUT_S, MountedVolume, Volumes
from tests.support.seccomp import forbid_io_uring

pytestmark = pytest.mark.fuse


def mount_without_io_uring(volume: MountedVolume, options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [MOUNT, volume.source, volume.directory, "-o", f"{options},log={volume.log}"],
        preexec_fn=forbid_io_uring,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


def test_auto_takes_threads_and_says_so(volumes: Volumes) -> None:
    volume = volumes.make(mount=False)
    done = mount_without_io_uring(volume, "store=auto")
    assert done.returncode == 0, done.stderr
    volume.note_daemon()
    assert "store file (io_uring cannot be used here: " in done.stdout
    (volume.directory / "f").write_bytes(b"data")
    volume.remount()
    assert (volume.directory / "f").read_bytes() == b"data"


def test_asked_for_by_name_it_is_refused_and_the_directory_left_empty(volumes: Volumes) -> None:
    volume = volumes.make(mount=False)
    done = mount_without_io_uring(volume, "store=io_uring")
    assert done.returncode == 32
    (line,) = done.stderr.splitlines()
    assert "store=io_uring: io_uring cannot be used here" in line
    assert not list(volume.source.iterdir())
