"""What the host takes away from a mount: descriptors, memory for the ring, SOURCE itself. One clear line, and no hang.

Data is never taken for a hole because its file cannot be found; what was acknowledged is there when SOURCE is back.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from benchfs_core.chunks.uring import io_uring_available
from benchfs_core.types import SyncMode
from tests.support.disks import small_disk
from tests.support.mounting import (
    BENCHFS,
    MOUNT,
    TIMEOUT_S,
    MountedVolume,
    Volumes,
    run,
    volumes_in,
    wait_for_end,
    wait_until,
)

pytestmark = pytest.mark.fuse

LENGTH = 100_000
FILES = 24
FEW_HANDLES = "max_handles=8,commit=1"
"""So that most chunk files are not open."""

REFUSED = (errno.EIO, errno.EROFS)

CAP_IPC_LOCK = 14
PR_CAPBSET_DROP = 24
SHUTDOWN = 0x8004587D
"""EXT4_IOC_SHUTDOWN and XFS_IOC_GOINGDOWN: the filesystem takes its disk for lost."""

both_modes = pytest.mark.parametrize("sync", SyncMode)


def content(number: int) -> bytes:
    return bytes((number * 37 + place) % 251 for place in range(4099)) * (LENGTH // 4099)


def write(path: Path, data: bytes) -> None:
    with path.open("wb", buffering=0) as stream:
        assert stream.write(data) == len(data)
        os.fsync(stream.fileno())


def read(path: Path) -> bytes:
    """What is in a file, not from the page cache of the mount."""
    with path.open("rb", buffering=0) as stream:
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return stream.read()


def fill(volume: MountedVolume) -> None:
    for number in range(FILES):
        write(volume.directory / f"f{number}", content(number))


def check(volume: MountedVolume) -> None:
    for number in range(FILES):
        assert read(volume.directory / f"f{number}") == content(number)


def error_of(call: Callable[[], object]) -> int:
    """The errno that a call fails with; 0 if it does not."""
    try:
        call()
    except OSError as error:
        return error.errno or -1
    return 0


def status(volume: MountedVolume) -> dict[str, object]:
    found = json.loads(run(BENCHFS, "status", "--json", volume.directory, check=False).stdout)
    assert isinstance(found, dict)
    return found


def mount_with(volume: MountedVolume, options: str, prepare: Callable[[], None]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [MOUNT, volume.source, volume.directory, "-o", f"{options},log={volume.log}"],
        preexec_fn=prepare,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


# Descriptors


def test_too_few_descriptors_are_refused_in_one_line(volumes: Volumes) -> None:
    volume = volumes.make(mount=False)
    done = mount_with(volume, "sync=write", lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40)))
    assert (done.returncode, done.stdout) == (32, "")
    (line,) = done.stderr.splitlines()
    assert "RLIMIT_NOFILE" in line
    assert not list(volume.source.iterdir())


@both_modes
def test_a_mount_without_descriptors_works_with_those_it_has_and_says_what_it_lacks(
    volumes: Volumes, sync: SyncMode
) -> None:
    volume = volumes.make(f"sync={sync.value},commit=1")
    volume.expected_errors = ("Too many open files",)
    fill(volume)
    limits = resource.prlimit(volume.pid, resource.RLIMIT_NOFILE)
    in_use = len(list(Path(f"/proc/{volume.pid}/fd").iterdir()))
    resource.prlimit(volume.pid, resource.RLIMIT_NOFILE, (in_use - FILES // 2, limits[1]))
    write(volume.directory / "more", content(99))  # its chunk takes the place of others
    check(volume)

    resource.prlimit(volume.pid, resource.RLIMIT_NOFILE, (0, limits[1]))
    assert error_of(lambda: write(volume.directory / "refused", b"x" * LENGTH)) == errno.EIO
    assert error_of(lambda: check(volume)) == errno.EIO
    (volume.directory / "names need none").mkdir()

    resource.prlimit(volume.pid, resource.RLIMIT_NOFILE, limits)
    check(volume)
    write(volume.directory / "refused", b"y" * LENGTH)
    assert status(volume)["files_with_lost_data"] == 0
    volume.remount()
    check(volume)
    assert read(volume.directory / "refused") == b"y" * LENGTH
    assert read(volume.directory / "more") == content(99)
    assert "Too many open files" in volume.log.read_text()


# Two mounts of one volume

NAMESPACES = {
    "mount": ("unshare", "--mount"),
    "pid": ("unshare", "--mount", "--pid", "--fork", "--mount-proc"),
}


@pytest.mark.parametrize("kind", NAMESPACES)
def test_a_second_mount_is_refused_across_namespaces_and_a_stale_lock_is_none(volumes: Volumes, kind: str) -> None:
    """Neither sees the other's mounts, nor perhaps its process: the lock alone tells."""
    volume, other = volumes.make(), volumes.place / "elsewhere"
    other.mkdir()
    write(volume.directory / "file", content(1))
    mount: list[str | Path] = [MOUNT, volume.source, other, "-o", f"log={volumes.place / 'log of the other'}"]
    before = (volume.source / "lock").read_bytes()
    done = run(*NAMESPACES[kind], *mount, check=False)
    assert (done.returncode, done.stdout) == (32, "")
    (line,) = done.stderr.splitlines()
    assert f"is mounted already at {volume.directory} by process {volume.pid}" in line
    assert (volume.source / "lock").read_bytes() == before
    assert read(volume.directory / "file") == content(1)

    volume.kill()  # the lock file still names it
    assert (volume.source / "lock").read_bytes() == before
    inside = f'"$@" >/dev/null && cmp {volume.place_of("file")} {other}/file && exec {BENCHFS} umount {other}'
    volume.place_of("file").write_bytes(content(1))
    run(*NAMESPACES[kind], "sh", "-ec", inside, "sh", *mount)
    volume.mount()
    assert read(volume.directory / "file") == content(1)


# Memory


def little_memory_to_lock() -> None:
    """Enough for the probe, too little for the ring; before exec."""
    if ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, CAP_IPC_LOCK, 0, 0, 0) != 0:
        os._exit(99)
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (32 << 10, 32 << 10))


@pytest.fixture
def memory_is_counted() -> None:
    """Linux counts a ring's memory (again) since 6.14 or so."""
    if reason := io_uring_available():
        pytest.skip(reason)
    script = "from benchfs_core.chunks import uring; uring.io_uring_available() and exit(2); uring.UringDriver(512)"
    command: list[str | Path] = [MOUNT.with_name("python"), "-c", script]
    done = subprocess.run(command, preexec_fn=little_memory_to_lock, capture_output=True, check=False)
    if done.returncode == 0:
        pytest.skip("this kernel does not count a ring's memory")
    assert b"Cannot allocate memory" in done.stderr, done


@pytest.mark.usefixtures("memory_is_counted")
def test_memory_for_the_ring_refused_after_a_good_probe_leaves_threads(volumes: Volumes) -> None:
    volume = volumes.make(mount=False)
    done = mount_with(volume, "store=auto", little_memory_to_lock)
    assert done.returncode == 0, done.stderr
    volume.note_daemon()
    assert "store file (io_uring cannot be used here: io_uring got no memory (ENOMEM): RLIMIT_MEMLOCK" in done.stdout
    fill(volume)
    volume.remount()
    check(volume)


@pytest.mark.usefixtures("memory_is_counted")
def test_memory_for_the_ring_refused_is_said_where_io_uring_was_asked_for(volumes: Volumes) -> None:
    volume = volumes.make(mount=False)
    done = mount_with(volume, "store=io_uring", little_memory_to_lock)
    assert (done.returncode, done.stdout) == (32, "")
    (line,) = done.stderr.splitlines()
    assert "io_uring got no memory (ENOMEM): RLIMIT_MEMLOCK" in line
    assert not (volume.source / "benchfs.toml").exists()


# SOURCE renamed, or its filesystem unmounted


@both_modes
def test_a_source_that_is_renamed_keeps_working_and_what_takes_its_place_is_left_alone(
    volumes: Volumes, sync: SyncMode
) -> None:
    volume = volumes.make(f"sync={sync.value},{FEW_HANDLES}")
    fill(volume)
    old, new = volume.source, volume.place_of("renamed")
    old.rename(new)
    shutil.copytree(new, old)
    for path in (path for path in old.rglob("*") if path.is_file()):
        path.write_bytes(b"\xff" * path.stat().st_size)  # whatever is read from here is false
    before = {path: path.read_bytes() for path in old.rglob("*") if path.is_file()}

    check(volume)
    assert os.statvfs(volume.directory).f_blocks > 0
    write(volume.directory / "new", content(50))
    (volume.directory / "f0").unlink()
    os.truncate(volume.directory / "f1", 10)
    os.rename(volume.directory / "new", volume.directory / "f0")
    volume.unmount()
    assert {path: path.read_bytes() for path in old.rglob("*") if path.is_file()} == before
    shutil.rmtree(old)
    volume.source = new
    volume.fsck()
    volume.mount()
    assert read(volume.directory / "f0") == content(50)
    assert read(volume.directory / "f1") == content(1)[:10]
    assert read(volume.directory / "f2") == content(2)


@pytest.fixture(params=["ext4", "xfs", "btrfs"])
def any_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path, request.param) as directory:
        yield directory


@pytest.fixture(params=["ext4", "xfs"])
def losable_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path, request.param) as directory:
        yield directory


@pytest.fixture
def ext4_disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path, "ext4") as directory:
        yield directory


def volume_on(volumes: Volumes, disk: Path, options: str) -> MountedVolume:
    volume = volumes.make(options, mount=False)
    volume.source = disk / "source"
    volume.source.mkdir()
    volume.mount()
    return volume


def mount_again(disk: Path) -> None:
    """Mount the filesystem that was there, as after a repair of the disk."""
    (image,) = disk.parent.glob("*.image")
    wait_until(lambda: not run("losetup", "-j", image).stdout, "the loop device is free")
    run("mount", "-o", "loop", image, disk)


def test_a_filesystem_that_is_unmounted_lazily_keeps_working(any_disk: Path, tmp_path: Path) -> None:
    with volumes_in(tmp_path / "volumes") as volumes:
        volume = volume_on(volumes, any_disk, FEW_HANDLES)
        fill(volume)
        run("umount", "-l", any_disk)
        assert not list(any_disk.iterdir())
        check(volume)
        write(volume.directory / "new", content(50))
        volume.unmount()
        assert not list(any_disk.iterdir()), "written to what lies below the mount point"
        mount_again(any_disk)
        volume.mount()
        check(volume)
        assert read(volume.directory / "new") == content(50)


# SOURCE lost


def judge_a_lost_disk(volume: MountedVolume) -> None:
    """Nothing hangs, nothing is shown that is not so, and the mount says in one line what is wrong."""
    for number in range(FILES):
        assert error_of(partial(_same, volume, number)) in (0, errno.EIO)
    assert error_of(lambda: write(volume.directory / "new", content(50))) in REFUSED
    assert error_of(lambda: write(volume.directory / "f0", content(50))) in REFUSED
    assert error_of(lambda: _make_durable(volume.directory)) in REFUSED
    assert error_of(lambda: (volume.directory / "another").mkdir()) in REFUSED
    assert status(volume)["failure"]
    critical = [line for line in volume.log.read_text().splitlines() if " CRITICAL " in line]
    assert len(critical) == 1
    assert "the mount is read-only from now on" in critical[0]


def _same(volume: MountedVolume, number: int) -> None:
    assert read(volume.directory / f"f{number}") == content(number)


def _make_durable(directory: Path) -> None:
    (directory / "made").mkdir()
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@both_modes
def test_a_disk_that_is_lost(losable_disk: Path, tmp_path: Path, sync: SyncMode) -> None:
    with volumes_in(tmp_path / "volumes") as volumes:
        volume = volume_on(volumes, losable_disk, f"sync={sync.value},{FEW_HANDLES}")
        volume.expected_errors = ("",)
        fill(volume)
        descriptor = os.open(losable_disk, os.O_RDONLY)
        fcntl.ioctl(descriptor, SHUTDOWN, (2).to_bytes(4, "little"))
        os.close(descriptor)
        judge_a_lost_disk(volume)
        done = run(BENCHFS, "umount", volume.directory, check=False)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert "not everything is on disk" in done.stderr
        assert volume.log.read_text().count("stays dirty") <= 1
        run("umount", losable_disk)
        mount_again(losable_disk)
        volume.mount()
        check(volume)


def test_a_filesystem_that_turns_read_only(ext4_disk: Path, tmp_path: Path) -> None:
    """By hand Linux refuses it while files are open for writing; ext4 does it by itself after an error (remount-ro)."""
    with volumes_in(tmp_path / "volumes") as volumes:
        volume = volume_on(volumes, ext4_disk, FEW_HANDLES)
        volume.expected_errors = ("",)
        fill(volume)
        done = run("mount", "-o", "remount,ro", ext4_disk, check=False)
        assert done.returncode != 0
        assert "busy" in done.stderr
        write(volume.directory / "still", content(70))
        run("mount", "-o", "remount,abort", ext4_disk)
        judge_a_lost_disk(volume)
        run(BENCHFS, "umount", volume.directory, check=False)
        run("umount", ext4_disk)
        mount_again(ext4_disk)
        volume.mount()
        check(volume)
        assert read(volume.directory / "still") == content(70)


@both_modes
def test_a_source_that_is_removed_shows_no_zeros_and_makes_the_mount_read_only(
    volumes: Volumes, sync: SyncMode
) -> None:
    volume = volumes.make(f"sync={sync.value},{FEW_HANDLES}")
    volume.expected_errors = ("",)
    fill(volume)
    gone = volume.source.iterdir()
    pid = volume.pid
    for path in gone:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    judge_a_lost_disk(volume)
    assert error_of(lambda: read(volume.directory / "f1")) == errno.EIO
    assert "removed below the mount" in str(status(volume)["failure"])
    run(BENCHFS, "umount", volume.directory, check=False)
    wait_for_end(pid)
