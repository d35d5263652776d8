"""How requests come is chosen at mount and told; both ways serve the same volume, and one stands in for the other."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from benchfs_core.chunks.uring import io_uring_available
from tests.fuse.test_session import UNMOUNTS, fake_fusermount
from tests.support.mounting import BENCHFS, MOUNT, TIMEOUT_S, Volumes, is_mounted, manifest, run

pytestmark = pytest.mark.fuse
needs_ring = pytest.mark.skipif(io_uring_available() is not None, reason=str(io_uring_available()))


def fill(top: Path) -> None:
    (top / "directory").mkdir()
    (top / "directory" / "file").write_bytes(os.urandom(300_000))
    (top / "small").write_text("small")
    os.setxattr(top / "small", "user.name", b"value")
    (top / "link").symlink_to("small")
    os.link(top / "small", top / "directory" / "hard link")


@needs_ring
@pytest.mark.parametrize("options", ["sync=write", "sync=fsync", "sync=fsync,acl", "store=file"])
def test_both_ways_show_the_same_volume(volumes: Volumes, options: str) -> None:
    volume = volumes.make(options, mount=False)
    assert "plane=ring" in volume.mount()
    fill(volume.directory)
    before = manifest(volume.directory)
    assert '"lookup"' in run(BENCHFS, "status", "--json", volume.directory).stdout
    for plane in ("pyfuse3", "ring", "auto"):
        assert f"plane={'ring' if plane == 'auto' else plane}" in volume.remount(f"plane={plane}")
        assert manifest(volume.directory) == before
    with (volume.directory / "small").open("a") as stream:
        stream.write(" and more")
        os.fsync(stream.fileno())
    volume.remount("plane=pyfuse3")
    assert (volume.directory / "directory" / "hard link").read_text() == "small and more"


@needs_ring
def test_a_store_without_a_ring_is_served_through_one_of_the_planes_own(volumes: Volumes) -> None:
    volume = volumes.make("store=memory", mount=False)
    assert "plane=ring" in volume.mount()
    fill(volume.directory)
    assert (volume.directory / "small").read_text() == "small"


def mount_with(volumes: Volumes, place: Path, script: str, options: str) -> tuple[int, str, str]:
    """Mount with a fusermount3 that is this script: exit code, output, complaints."""
    volume = volumes.make(mount=False)
    done = subprocess.run(
        [MOUNT, volume.source, volume.directory, "-o", f"{options},log={volume.log}"],
        env=fake_fusermount(place, script),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    if done.returncode == 0:
        volume.note_daemon()
    else:
        assert not is_mounted(volume.directory)
    return done.returncode, done.stdout, done.stderr


REFUSES = f"{UNMOUNTS}; echo 'fusermount3: not today' >&2; exit 1"


@needs_ring
@pytest.mark.skipif(os.geteuid() != 0, reason="others cannot mount without fusermount3 at all")
def test_where_the_ring_cannot_be_had_pyfuse3_serves_and_the_line_says_why(volumes: Volumes, tmp_path: Path) -> None:
    code, said, _ = mount_with(volumes, tmp_path / "bin", REFUSES, "plane=auto")
    assert code == 0
    assert "plane=pyfuse3 (fusermount3: not today)" in said


@needs_ring
def test_a_ring_that_was_asked_for_and_cannot_be_had_is_an_error(volumes: Volumes, tmp_path: Path) -> None:
    code, _, complained = mount_with(volumes, tmp_path / "bin", REFUSES, "plane=ring")
    assert code == 32
    assert "plane=ring: fusermount3: not today" in complained
    assert complained.count("\n") == 1
