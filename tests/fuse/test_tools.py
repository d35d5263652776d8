"""The tools on volumes in use and at the command line: no false findings under load, exit codes, output."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.damage import run_sql
from tests.support.mounting import BENCHFS, SETUPS, MountedVolume, Setup, Volumes, run

pytestmark = pytest.mark.fuse

CHECKS = 4
WORKERS = 3


def load(volume: MountedVolume) -> list[subprocess.Popen[bytes]]:
    """Programs that write, fsync, replace and unlink until the mount is gone."""
    return [
        subprocess.Popen(
            [sys.executable, "-m", "tests.crash.workload", str(volume.directory), f"w{number}", str(number)],
            cwd=Path(__file__).parents[2],
            stdout=subprocess.DEVNULL,
        )
        for number in range(WORKERS)
    ]


@pytest.mark.parametrize("setup", SETUPS, ids=str)
def test_a_mount_under_load_has_no_findings(volumes: Volumes, setup: Setup, tmp_path: Path) -> None:
    volume = volumes.make(setup, options="chunk_size=64K")
    workers = load(volume)
    try:
        for number in range(CHECKS):
            done = run(BENCHFS, "fsck", "--data", volume.source)
            assert (done.stdout, done.stderr) == (f"{volume.source}: clean\n", "")
            assert (
                "would be removed\n" not in run(BENCHFS, "gc", "--dry-run", "--older-than", "0", volume.source).stdout
            )
            run(BENCHFS, "dump", volume.source, tmp_path / f"dump{number}")
        assert [worker.poll() for worker in workers] == [None] * WORKERS, "the load had ended"
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    volume.unmount()
    # A dump of the volume in use is a whole state of its database.
    (volume.source / "meta").rename(tmp_path / "meta")
    run(BENCHFS, "restore", tmp_path / "dump0", volume.source)
    done = run(BENCHFS, "fsck", "--json", volume.source, check=False)
    codes = {finding["code"] for finding in json.loads(done.stdout)["findings"]}
    assert codes <= {"chunk-unowned", "chunk-missing", "chunk-unknown", "chunk-length"}  # what went on after it
    run(BENCHFS, "fsck", "--repair", volume.source, check=False)
    volume.fsck()


def test_a_mounted_volume_is_neither_repaired_nor_restored(volumes: Volumes, tmp_path: Path) -> None:
    volume = volumes.make()
    (volume.directory / "file").write_bytes(b"x")
    run(BENCHFS, "dump", volume.source, tmp_path / "dump")
    for command in (("fsck", "--repair", volume.source), ("restore", tmp_path / "dump", volume.source)):
        done = run(BENCHFS, *command, check=False)
        assert (done.returncode, done.stdout) == (8 if command[0] == "fsck" else 2, "")
        assert "is mounted already" in done.stderr
        assert done.stderr.count("\n") == 1


def test_exit_codes_and_json_of_fsck(volumes: Volumes) -> None:
    volume = volumes.make()
    (volume.directory / "a\nfile").write_bytes(b"x")
    inode = (volume.directory / "a\nfile").stat().st_ino
    volume.unmount()
    run_sql(volume.source, "UPDATE inode SET link_count = 2 WHERE inode = ?", (inode,))
    done = run(BENCHFS, "fsck", volume.source, check=False)
    text = f"link-count: inode {inode} (/a\\nfile): link count 2, but 1 names"
    assert (done.returncode, done.stdout) == (4, f"{text}\n{volume.source}: 1 finding\n")
    done = run(BENCHFS, "fsck", "--json", "--repair", volume.source, check=False)
    document = json.loads(done.stdout)
    assert (done.returncode, document["exit_code"], document["left"]) == (1, 1, [])
    (finding,) = document["findings"]
    assert (finding["code"], finding["inode"], finding["path"]) == ("link-count", inode, "/a\nfile")
    assert finding["repair"].startswith("counted anew")
    assert run(BENCHFS, "fsck", "--repair", volume.source).stdout == f"{volume.source}: clean\n"
    assert run(BENCHFS, "fsck", check=False).returncode == 16
    done = run(BENCHFS, "fsck", volume.directory, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (8, 1)


def test_progress_is_for_terminals(volumes: Volumes) -> None:
    volume = volumes.make(mount=False)
    volume.mount()
    for number in range(300):
        (volume.directory / str(number)).write_bytes(bytes(10_000))
    volume.unmount()
    leader, follower = pty.openpty()
    try:
        done = subprocess.run(
            [BENCHFS, "fsck", "--data", volume.source], stderr=follower, stdout=subprocess.PIPE, text=True, check=True
        )
    finally:
        os.close(follower)
    assert done.stdout == f"{volume.source}: clean\n"
    shown = b""
    with contextlib.suppress(OSError):  # EIO: the other end is closed, and everything was read
        while data := os.read(leader, 1 << 16):
            shown += data
    os.close(leader)
    assert not shown or (b"files" in shown and shown.endswith(b"\r\x1b[K"))
