"""A mount with ``-o acl``, whose session we make: whatever goes wrong before it is ready leaves nothing."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.support.mounting import MOUNT, TIMEOUT_S, Volumes, is_mounted, wait_until

pytestmark = pytest.mark.fuse

INTERRUPTED, FAILED = 8, 32


def fake_fusermount(place: Path, script: str) -> dict[str, str]:
    """An environment in which fusermount3 is this script, with the real one as $REAL."""
    place.mkdir()
    fake = place / "fusermount3"
    fake.write_text(f"#!/bin/sh\n{script}\n")
    fake.chmod(0o755)
    real = subprocess.run(["which", "fusermount3"], capture_output=True, text=True, check=True).stdout.strip()
    return {**os.environ, "PATH": f"{place}:{os.environ['PATH']}", "REAL": real}


UNMOUNTS = 'case "$1" in -u) exec "$REAL" "$@";; esac'
HANDS_OVER_NULL = """
import os, socket
commands = socket.socket(fileno=int(os.environ["_FUSE_COMMFD"]))
socket.send_fds(commands, [b"x"], [os.open("/dev/null", os.O_RDWR)])
"""
BAD = {
    "refuses": (f"{UNMOUNTS}; echo 'fusermount3: no' >&2; exit 1", "no"),
    "hands over nothing": (f"{UNMOUNTS}; exit 0", "handed over no descriptor"),
    "hands over what is no FUSE": (f"{UNMOUNTS}; exec python3 -c '{HANDS_OVER_NULL}'", "INIT"),
}


@pytest.mark.parametrize(("script", "says"), BAD.values(), ids=BAD)
def test_a_fusermount_that_does_not_mount_is_told_in_one_line_and_leaves_nothing(
    volumes: Volumes, tmp_path: Path, script: str, says: str
) -> None:
    volume = volumes.make("acl", mount=False)
    done = subprocess.run(
        [MOUNT, volume.source, volume.directory, "-o", f"acl,log={volume.log}"],
        env=fake_fusermount(tmp_path / "bin", script),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert (done.returncode, done.stderr.count("\n"), done.stdout) == (FAILED, 1, "")
    assert says in done.stderr
    assert not is_mounted(volume.directory)
    volume.mount()


def test_a_signal_while_it_is_being_mounted_leaves_nothing(volumes: Volumes, tmp_path: Path) -> None:
    volume = volumes.make("acl", mount=False)
    fifo = tmp_path / "go"
    os.mkfifo(fifo)
    script = f'{UNMOUNTS}; "$REAL" "$@"; code=$?; read line < {fifo}; exit $code'
    process = subprocess.Popen(
        [MOUNT, volume.source, volume.directory, "--foreground", "-o", f"acl,log={volume.log}"],
        env=fake_fusermount(tmp_path / "bin", script),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until(lambda: is_mounted(volume.directory), "fusermount3 has mounted")
    process.send_signal(signal.SIGTERM)
    fifo.write_text("go\n")
    said, complained = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, said) == (INTERRUPTED, ""), complained
    assert "SIGTERM while mounting: nothing is mounted" in complained
    assert not is_mounted(volume.directory)
    volume.mount()
