"""``benchfs status``: what users see of a mount that is well, one that is not theirs, and one whose daemon is gone."""

from __future__ import annotations

import collections
import json
import os
from pathlib import Path

import pytest

from benchfs_core.types import StoreKind, SyncMode
from benchfs_fuse import mounts
from tests.fuse.user_mount import become_nobody
from tests.support.mounting import BENCHFS, SETUPS, Setup, Volumes, run

pytestmark = pytest.mark.fuse

USAGE, SYSTEM = 1, 2


def test_a_mount_says_how_it_is(volumes: Volumes) -> None:
    volume = volumes.make("sync=fsync,acl")
    with (volume.directory / "file").open("wb") as stream:
        stream.write(b"x" * 100_000)
        stream.flush()
        os.fsync(stream.fileno())
        done = run(BENCHFS, "status", volume.directory)
        status = json.loads(run(BENCHFS, "status", "--json", volume.directory).stdout)
    assert f"{volume.source} on {volume.directory}, process {volume.pid}" in done.stdout
    assert "state     writable" in done.stdout
    assert (status["sync"], status["acl"], status["failure"], status["open_handles"]) == ("fsync", True, None, 1)
    volume.remount("ro")
    assert "read-only, as asked for" in run(BENCHFS, "status", volume.directory).stdout


@pytest.mark.parametrize("setup", SETUPS, ids=str)
def test_a_mount_counts_requests_and_what_they_ask_of_the_disk(volumes: Volumes, setup: Setup) -> None:
    volume = volumes.make(setup)

    def counted() -> tuple[collections.Counter[str], dict[str, int]]:
        status = json.loads(run(BENCHFS, "status", "--json", volume.directory).stdout)
        return collections.Counter(status["requests"]), status["io"]

    (volume.directory / "directory").mkdir()
    requests, io = counted()
    with (volume.directory / "file").open("wb", buffering=0) as stream:
        for _ in range(3):
            stream.write(b"x" * 262_144)
        os.fsync(stream.fileno())
        later, io_later = counted()
    made = later - requests
    assert (made["create"], made["fsync"], made["mkdir"]) == (1, 1, 0)
    durable = setup.sync is SyncMode.WRITE
    assert made["write"] == (3 if durable else 1)  # the write-back cache joins them
    gained = {name: io_later[name] - io[name] for name in io}
    assert gained["writes"] == made["write"]
    assert gained["durable_writes"] == (made["write"] if durable else 0)
    assert gained["flushes"] >= 1
    assert gained["commits"] >= 1
    assert (gained["ring_enters"] > 0) == (setup.store is StoreKind.IO_URING)


@pytest.mark.parametrize("setup", SETUPS, ids=str)
def test_a_synchronous_write_costs_one_flush(volumes: Volumes, setup: Setup) -> None:
    """With a write-back cache the kernel tells the times of each: no reason to flush the metadata as well."""
    volume = volumes.make(setup)
    descriptor = os.open(volume.directory / "file", os.O_RDWR | os.O_CREAT | os.O_DSYNC)
    os.pwrite(descriptor, b"x" * 262_144, 0)

    def flushes() -> int:
        io = json.loads(run(BENCHFS, "status", "--json", volume.directory).stdout)["io"]
        return int(io["flushes"]) + int(io["durable_writes"])

    before = flushes()
    for number in range(100):
        os.pwrite(descriptor, b"y" * 4096, 4096 * (number * 7 % 64))
    assert 100 <= flushes() - before <= 130  # beside the commits of every second
    os.close(descriptor)


def test_what_cannot_be_asked_is_told_in_one_line(volumes: Volumes, tmp_path: Path) -> None:
    volume = volumes.make()
    done = run(BENCHFS, "status", tmp_path, check=False)
    assert (done.returncode, done.stderr.count("\n"), done.stdout) == (SYSTEM, 1, "")
    assert "no BenchFS is mounted there" in done.stderr
    volume.kill()
    done = run(BENCHFS, "status", volume.directory, check=False)
    assert (done.returncode, done.stderr.count("\n"), done.stdout) == (SYSTEM, 1, "")
    assert "its daemon is gone" in done.stderr
    volume.mount()


def test_nothing_of_the_socket_is_left_when_the_mount_has_ended(volumes: Volumes) -> None:
    volume = volumes.make()
    entry = mounts.find_mount(volume.directory)
    assert entry is not None
    found = mounts.find_daemon(entry)
    assert found is not None
    path = mounts.control_socket(found[0])
    assert path.is_socket()
    volume.unmount()
    assert not path.exists()
    volume.mount()
    volume.kill()
    left = [one for one in path.parent.iterdir() if one.name.endswith(f"-{volume.pid}.sock")]
    assert len(left) == 1
    volume.mount()  # clears away the dead mount and what is left of its daemon
    assert not left[0].exists()


def test_other_users_cannot_ask(volumes: Volumes) -> None:
    volume = volumes.make()
    entry = mounts.find_mount(volume.directory)
    assert entry is not None
    found = mounts.find_daemon(entry)
    assert found is not None
    path = mounts.control_socket(found[0])
    child = os.fork()
    if child == 0:
        become_nobody()
        try:
            os.stat(path)
        except PermissionError:
            os._exit(0)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
