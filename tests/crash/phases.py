"""Kills at chosen moments: while the volume is formatted, recovers, checkpoints its WAL, deletes chunks, is unmounted.

Imports ``load`` and ``tests.support.mounting``. A moment is recognised from outside, by what the daemon leaves on disk
for everybody to see, and the kill comes a random instant later; whether it came in time is told afterwards by the same
signs, which a process that is dead does not change any more.
"""

from __future__ import annotations

import os
import random
import signal
import struct
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from benchfs_core.superblock import DATABASE, LOCK, SUPERBLOCK
from benchfs_fuse import mounts
from tests.support.mounting import BENCHFS, MOUNT, TIMEOUT_S, MountedVolume, wait_for_end

CHUNK = 64 * 1024
DOOMED_CHUNKS = 300
FORMAT_STAGES = (LOCK, "chunks", "meta", DATABASE, f"{DATABASE}-wal", f"{SUPERBLOCK}.new")

_BACKFILLED, _BACKFILL_BEGUN = 96, 128
"""Places of nBackfill and nBackfillAttempted in the index of a WAL (https://www.sqlite.org/walformat.html#the_wal_index)."""


def linger(rng: random.Random, longest_s: float) -> None:
    """Let pass a random time, more often short than long: what is to be hit may soon be over."""
    end = time.perf_counter() + longest_s * 1000 ** -rng.random()
    while time.perf_counter() < end:
        pass


def watch(condition: Callable[[], bool], what: str) -> None:
    """As ``wait_until``, without a pause: moments are short."""
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline, f"not within {TIMEOUT_S} s: {what}"


def kill_under_load(volume: MountedVolume, rng: random.Random) -> bool:
    """At no particular moment."""
    linger(rng, 1.0)
    volume.kill()
    return True


# WAL checkpoints


def kill_in_checkpoint(volume: MountedVolume, rng: random.Random) -> bool:
    """While the WAL is copied into the database; whether it was."""
    index = os.open(f"{volume.source / DATABASE}-shm", os.O_RDONLY)
    try:
        watch(lambda: _is_checkpointing(index), "a WAL checkpoint")
        linger(rng, 0.03)
        volume.kill()
        return _is_checkpointing(index)
    finally:
        os.close(index)


def _is_checkpointing(index: int) -> bool:
    (done,) = struct.unpack("=I", os.pread(index, 4, _BACKFILLED))
    (begun,) = struct.unpack("=I", os.pread(index, 4, _BACKFILL_BEGUN))
    return bool(begun > done)


# Deletion of chunks


class Doomed:
    """A file of many chunks that is unlinked, and its chunks watched."""

    def __init__(self, volume: MountedVolume, name: str) -> None:
        self._volume = volume
        self.path = volume.directory / name
        handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        for number in range(DOOMED_CHUNKS):
            os.pwrite(handle, b"d", number * CHUNK)
        os.fsync(handle)
        os.close(handle)
        self.chunks = volume.chunk_directory(self.path)
        assert self.left() == DOOMED_CHUNKS

    def left(self) -> int:
        """How many chunks are there."""
        try:
            return len(os.listdir(self.chunks))
        except FileNotFoundError:
            return 0

    def kill_in_deletion(self, rng: random.Random) -> bool:
        """Unlink, and kill while the chunks go; whether some were gone and others not."""
        self.path.unlink()
        watch(lambda: self.left() < DOOMED_CHUNKS, "chunks of an unlinked file go")
        linger(rng, 0.005)
        self._volume.kill()
        return 0 < self.left() < DOOMED_CHUNKS

    def problems(self) -> list[str]:
        """The name is gone, or all of the file is there."""
        if not self.path.exists():
            return []
        content = self.path.read_bytes()
        whole = (b"d" + bytes(CHUNK - 1)) * (DOOMED_CHUNKS - 1) + b"d"
        return [] if content == whole else [f"{self.path}: has a name, but not all of its content"]

    def leftovers(self) -> list[str]:
        """What is left of it on the volume, which is not mounted, though it has no name any more."""
        return [f"{self.chunks}: chunks of an unlinked file"] if self.left() else []


# Recovery, and the orderly end


def _owner(volume: MountedVolume) -> tuple[int, str]:
    """The process that has the volume, and what it is about to do, by the lock's text."""
    lines = (volume.source / LOCK).read_text().split("\n")
    return (int(lines[0]), lines[1]) if len(lines) > 2 else (0, "")


def kill_in_recovery(volume: MountedVolume, rng: random.Random) -> bool:
    """Mount a volume that was not closed in order, and kill the daemon; whether it was before the mount was ready."""
    before = _owner(volume)
    command: list[str | Path] = [MOUNT, volume.source, volume.directory, "-o", f"{volume.options},log={volume.log}"]
    null = subprocess.DEVNULL
    with subprocess.Popen(command, stdin=null, stdout=null, stderr=null) as waiting:
        try:
            watch(lambda: _owner(volume) not in (before, (0, "")), "a daemon has the lock")
            linger(rng, 0.5)
            pid, _ = _owner(volume)
            os.kill(pid, signal.SIGKILL)
            waiting.wait(TIMEOUT_S)  # ends once all of the daemon has
        finally:
            waiting.kill()
        wait_for_end(pid)
    return _owner(volume) == (pid, "open")


def kill_in_unmount(volume: MountedVolume, rng: random.Random) -> bool:
    """Unmount, and kill the daemon while it brings everything to disk; whether it had not closed its database yet."""
    pid = volume.pid
    with subprocess.Popen([BENCHFS, "umount", volume.directory], stderr=subprocess.DEVNULL):
        watch(lambda: _owner(volume)[1] == "closing", "the daemon is closing")
        linger(rng, 0.1)
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return False
        wait_for_end(pid)
    return Path(f"{volume.source / DATABASE}-wal").exists()


# Formatting


def kill_in_format(source: Path, rng: random.Random) -> bool:
    """Have an empty directory formatted, and kill that; whether there was something, but no superblock."""
    stage = rng.choice(FORMAT_STAGES)
    with subprocess.Popen(
        [BENCHFS, "mkfs", "--chunk-size", f"{CHUNK >> 10}K", source], stdout=subprocess.DEVNULL
    ) as process:
        watch(lambda: (source / stage).exists() or (source / SUPERBLOCK).exists(), f"{stage} is there")
        linger(rng, 0.02)
        process.kill()
    return bool(os.listdir(source)) and not (source / SUPERBLOCK).exists()


def clear(volume: MountedVolume) -> None:
    """Take away the dead mount, if there is one, so that the volume can be looked at."""
    mounts.clear_dead_mount(volume.directory)
