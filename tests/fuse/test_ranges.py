"""Allocation, holes and copies on real mounts: what the kernel holds back, what programs make of it, and fallbacks."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import mmap
import os
import random
import shutil
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from benchfs_core.chunks.uring import io_uring_available
from tests.support.disks import small_disk
from tests.support.mounting import TIMEOUT_S, MountedVolume, Volumes, run, volumes_in, wait_for_end, wait_until

pytestmark = [
    pytest.mark.fuse,
    pytest.mark.skipif(io_uring_available() is not None, reason=str(io_uring_available())),
]
is_root = pytest.mark.skipif(os.geteuid() != 0, reason="opening files by number takes root")
both_modes = pytest.mark.parametrize("sync", ["sync=write", "sync=fsync"])

MIB = 1 << 20
PUNCH, ZERO, KEEP_SIZE = 3, 16, 1
PAGE = 4096


def fallocate(descriptor: int, mode: int, offset: int, length: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.fallocate(descriptor, mode, ctypes.c_longlong(offset), ctypes.c_longlong(length)) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def holes(descriptor: int) -> list[tuple[int, int]]:
    """Where data begins and ends, as a program that copies a file sparsely finds it."""
    found: list[tuple[int, int]] = []
    end = 0
    while True:
        try:
            data = os.lseek(descriptor, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            return found
        end = os.lseek(descriptor, data, os.SEEK_HOLE)
        found.append((data, end))


def opened(path: Path, flags: int = os.O_RDWR | os.O_CREAT) -> int:
    return os.open(path, flags, 0o644)


def helpers(volume: MountedVolume) -> list[int]:
    """Processes that have the kernel write back, for this volume."""
    tasks = Path(f"/proc/{volume.pid}/task").glob("*/children")  # a worker thread starts them
    children = [int(pid) for task in tasks for pid in task.read_text().split()]
    return [pid for pid in children if b"write_back_program" in cmdline(pid)]


# What the kernel holds back


@is_root
@both_modes
def test_what_was_written_is_no_hole_before_it_has_left_the_page_cache(volumes: Volumes, sync: str) -> None:
    volume = volumes.make(sync)
    writer = opened(volume.directory / "file")
    reader = opened(volume.directory / "file", os.O_RDONLY)
    os.pwrite(writer, b"d" * PAGE, 100 * MIB)
    for descriptor in (writer, reader):
        assert holes(descriptor) == [(100 * MIB, 100 * MIB + PAGE)]
        assert os.lseek(descriptor, 0, os.SEEK_END) == 100 * MIB + PAGE
    os.pwrite(writer, b"d", 30 * MIB + 17)
    os.pwrite(writer, b"d" * 10, 200 * MIB)
    expected = [(30 * MIB, 30 * MIB + PAGE), (100 * MIB, 100 * MIB + PAGE), (200 * MIB, 200 * MIB + 10)]
    assert holes(reader) == expected
    os.ftruncate(writer, 300 * MIB)
    with pytest.raises(OSError, match="No such device or address"):
        os.lseek(reader, 250 * MIB, os.SEEK_DATA)
    assert os.lseek(reader, 250 * MIB, os.SEEK_HOLE) == 250 * MIB
    os.close(writer)
    os.close(reader)
    assert helpers(volume)


@is_root
@both_modes
def test_what_was_written_through_a_mapping_is_no_hole(volumes: Volumes, sync: str) -> None:
    volume = volumes.make(sync)
    writer = opened(volume.directory / "file")
    os.ftruncate(writer, 64 * MIB)
    with closing(mmap.mmap(writer, 0)) as mapping:
        os.close(writer)
        mapping[20 * MIB] = 1
        reader = opened(volume.directory / "file", os.O_RDONLY)
        assert holes(reader) == [(20 * MIB, 20 * MIB + PAGE)]
        mapping[40 * MIB] = 1
        copy = volume.directory / "copy"
        run("cp", "--sparse=auto", volume.directory / "file", copy)
    with copy.open("rb") as stream:
        stream.seek(40 * MIB)
        assert stream.read(1) == b"\1"
    os.close(reader)


@is_root
def test_the_process_that_has_the_kernel_write_back_is_made_anew(volumes: Volumes) -> None:
    volume = volumes.make("sync=fsync")
    writer = opened(volume.directory / "file")
    for number in range(3):
        os.pwrite(writer, b"d" * PAGE, (1 + number) * MIB)
        assert len(holes(writer)) == number + 1
        [helper] = helpers(volume)
        os.kill(helper, signal.SIGKILL)
        wait_until(lambda pid=helper: b"write_back" not in cmdline(pid), "the helper has ended")  # type: ignore[misc]
    os.close(writer)


def cmdline(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except FileNotFoundError:
        return b""


def test_without_a_way_to_write_back_no_holes_are_told(volumes: Volumes) -> None:
    """A mount that hides ours: files opened by number there would be others."""
    volume = volumes.make("sync=fsync")
    path = volume.directory / "file"
    writer = opened(path)
    os.pwrite(writer, b"d" * PAGE, 8 * MIB)
    run("mount", "-t", "tmpfs", "none", volume.directory)
    try:
        assert os.lseek(writer, 5, os.SEEK_DATA) == 5
        assert os.lseek(writer, 5, os.SEEK_HOLE) == 8 * MIB + PAGE
    finally:
        run("umount", volume.directory)
    os.close(writer)


@is_root
def test_a_daemon_killed_while_the_kernel_writes_back_is_gone(volumes: Volumes) -> None:
    """The kernel waits for the answer to a write, on behalf of a process that is not the daemon."""
    volume = volumes.make(mount=False)
    command: list[str | Path] = [sys.executable, "-m", "tests.fuse.silent_mount", volume.source, volume.directory]
    seek = "import os; f = os.open('file', os.O_RDWR | os.O_CREAT); os.pwrite(f, b'd', 1 << 25); os.lseek(f, 0, 3)"
    with subprocess.Popen(command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True) as daemon:
        try:
            assert daemon.stdout is not None
            assert "plane=ring" in daemon.stdout.readline()
            with subprocess.Popen([sys.executable, "-c", seek], cwd=volume.directory, stderr=subprocess.PIPE) as user:
                assert daemon.stdout.readline() == "writing\n"
                [helper] = helpers(volume)
                daemon.kill()
                assert daemon.wait(TIMEOUT_S) == -signal.SIGKILL
                assert user.wait(TIMEOUT_S) == 1
            wait_for_end(helper)
        finally:
            run("umount", "-f", volume.directory, check=False)  # ends what waits for an answer
            daemon.kill()
    run("umount", "-l", volume.directory, check=False)
    volume.mount()


# Allocation


@both_modes
def test_st_blocks_follow(volumes: Volumes, sync: str) -> None:
    descriptor = opened(volumes.make(sync).directory / "file")

    def state() -> tuple[int, int]:
        status = os.fstat(descriptor)
        return status.st_size // MIB, status.st_blocks * 512 // MIB

    fallocate(descriptor, 0, 0, 10 * MIB)
    assert state() == (10, 10)
    fallocate(descriptor, KEEP_SIZE, 10 * MIB, 6 * MIB)
    assert state() == (10, 16)
    fallocate(descriptor, PUNCH, MIB, 4 * MIB)
    assert state() == (10, 12)
    fallocate(descriptor, ZERO, 2 * MIB, MIB)
    assert state() == (10, 13)
    fallocate(descriptor, ZERO | KEEP_SIZE, 20 * MIB, MIB)
    assert state() == (10, 14)
    os.ftruncate(descriptor, 10 * MIB)
    assert state() == (10, 7)
    fallocate(descriptor, ZERO, 20 * MIB, MIB)
    assert state() == (21, 8)
    os.close(descriptor)


@both_modes
def test_a_remount_and_a_kill_leave_sizes_and_space(volumes: Volumes, sync: str) -> None:
    volume = volumes.make(sync)
    path = volume.directory / "file"
    descriptor = opened(path)
    os.pwrite(descriptor, b"data", 0)
    fallocate(descriptor, 0, 0, 6 * MIB)
    fallocate(descriptor, KEEP_SIZE, 6 * MIB, 10 * MIB)
    os.fsync(descriptor)
    os.close(descriptor)
    for end in (volume.remount, volume.kill):
        end()
        if end == volume.kill:
            run("umount", "-l", volume.directory)
            volume.mount()
        assert (path.stat().st_size, path.stat().st_blocks) == (6 * MIB, 16 * MIB // 512)
        assert path.read_bytes() == b"data".ljust(6 * MIB, b"\0")
        with path.open("r+b") as stream:
            stream.write(b"data")
            os.fsync(stream.fileno())


def test_where_space_was_allocated_a_full_disk_takes_writes(tmp_path: Path) -> None:
    with small_disk(tmp_path, "ext4") as disk, volumes_in(disk) as volumes:
        volume = volumes.make("sync=write")
        with (volume.directory / "file").open("wb") as stream:
            fallocate(stream.fileno(), 0, 0, 4 * MIB)
            fallocate(stream.fileno(), KEEP_SIZE, 4 * MIB, 4 * MIB)
        volume.remount()
        with (volume.directory / "file").open("r+b", buffering=0) as stream:
            with pytest.raises(OSError, match="No space"):
                fallocate(stream.fileno(), 0, 0, 1 << 40)
            run("sh", "-c", f"cat /dev/zero > {volume.place_of('filler')}", check=False)
            assert os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize < MIB
            for offset in range(0, 8 * MIB, MIB):
                assert os.pwrite(stream.fileno(), b"d" * MIB, offset) == MIB
        volume.place_of("filler").unlink()


# Copies


@pytest.mark.parametrize("filesystem", ["xfs", "btrfs"])
@both_modes
def test_space_is_shared_where_the_filesystem_below_can(tmp_path: Path, filesystem: str, sync: str) -> None:
    with small_disk(tmp_path, filesystem) as disk, volumes_in(disk) as volumes:
        volume = volumes.make(sync)
        source, target = volume.directory / "source", volume.directory / "target"
        source.write_bytes(random.Random(1).randbytes(20 * MIB + 100))
        os.sync()
        before = os.statvfs(disk).f_bfree * os.statvfs(disk).f_frsize
        run("xfs_io", "-f", "-c", f"copy_range {source}", target)
        os.sync()
        assert before - os.statvfs(disk).f_bfree * os.statvfs(disk).f_frsize < 5 * MIB
        assert source.read_bytes() == target.read_bytes()
        with target.open("r+b") as stream:
            stream.write(b"changed")
        volume.remount()
        assert source.read_bytes()[7:] == target.read_bytes()[7:]
        assert target.read_bytes()[:7] == b"changed"


@both_modes
def test_a_copy_is_what_the_kernel_holds_of_the_source(volumes: Volumes, sync: str) -> None:
    """Not flushed, in the middle and beyond the size that the daemon knows; and over what is not flushed."""
    volume = volumes.make(sync)
    source, target = opened(volume.directory / "source"), opened(volume.directory / "target")
    data = random.Random(2).randbytes(9 * MIB)
    os.pwrite(source, data, 12345)
    os.pwrite(source, b"end", 40 * MIB)
    os.pwrite(target, b"t" * 20 * MIB, 0)
    expected = bytearray(b"t" * 20 * MIB)
    expected[999 : 999 + 12345 + 9 * MIB] = bytes(12345) + data
    done = 0
    while done < 12345 + 9 * MIB:
        more = os.copy_file_range(source, target, 12345 + 9 * MIB - done, done, 999 + done)
        assert more
        done += more
    assert os.pread(target, 20 * MIB, 0) == expected
    # from a hole of the source that ends before what the daemon knows
    assert os.copy_file_range(source, target, MIB, 30 * MIB, 0) == MIB
    assert os.pread(target, 2 * MIB, 0) == bytes(MIB) + expected[MIB : 2 * MIB]
    assert os.copy_file_range(source, target, 1000, 40 * MIB - 5, 20 * MIB + 5) == 8
    assert os.fstat(target).st_size == 20 * MIB + 13
    os.close(source)
    os.close(target)
    volume.remount()
    assert (volume.directory / "target").read_bytes()[20 * MIB :] == bytes(10) + b"end"


# Programs


@both_modes
def test_programs_copy_sparsely(volumes: Volumes, sync: str, tmp_path: Path) -> None:
    volume = volumes.make(sync)
    source = volume.directory / "source"
    with source.open("wb") as stream:
        stream.write(random.Random(3).randbytes(5_000_000))
        stream.truncate(100 * MIB)
        stream.seek(60_000_000)
        stream.write(b"x")
    digest = digest_of(source)
    for number, how in enumerate((["--sparse=always"], ["--sparse=auto"], [], ["--reflink=auto"])):
        target = volume.directory / f"target{number}"
        run("cp", *how, source, target)
        assert digest_of(target) == digest, how
        assert target.stat().st_blocks * 512 < 6 * MIB, how
    run("cp", source, tmp_path / "outside")
    assert (tmp_path / "outside").stat().st_blocks * 512 < 6 * MIB
    assert digest_of(tmp_path / "outside") == digest
    zeros = volume.directory / "zeros"
    zeros.write_bytes(bytes(9 * MIB))
    run("fallocate", "-d", zeros)
    assert (zeros.stat().st_size, zeros.stat().st_blocks) == (9 * MIB, 0)
    if shutil.which("qemu-img"):
        image = volume.directory / "image"
        run("qemu-img", "convert", "-f", "raw", "-O", "raw", source, image)
        assert digest_of(image) == digest
        shown = run("qemu-img", "map", "--output=json", "-f", "raw", image).stdout
        assert '"data": false' in shown
        run("qemu-img", "create", "-q", "-f", "qcow2", "-o", "preallocation=falloc", volume.directory / "qcow", "8M")
        run("qemu-img", "check", volume.directory / "qcow")


def digest_of(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def test_through_pyfuse3_programs_fall_back(volumes: Volumes) -> None:
    volume = volumes.make("plane=pyfuse3")
    source, target = volume.directory / "source", volume.directory / "target"
    data = random.Random(4).randbytes(300_000)
    source.write_bytes(data)
    descriptor = opened(source)
    for mode in (0, KEEP_SIZE, PUNCH, ZERO):
        with pytest.raises(OSError, match="not supported") as failure:
            fallocate(descriptor, mode, 0, 4096)
        assert failure.value.errno == errno.EOPNOTSUPP
    assert os.lseek(descriptor, 5, os.SEEK_DATA) == 5
    assert os.lseek(descriptor, 5, os.SEEK_HOLE) == 300_000
    other = opened(target)
    assert os.copy_file_range(descriptor, other, 100_000, 5, 0) == 100_000  # the kernel copies
    assert os.pread(other, 200_000, 0) == data[5:100_005]
    os.posix_fallocate(descriptor, 0, 400_000)  # glibc writes
    assert os.fstat(descriptor).st_size == 400_000
    os.close(descriptor)
    os.close(other)
    for how in ("--sparse=auto", "--sparse=always", "--reflink=auto"):
        run("cp", how, source, target)
        assert target.read_bytes() == data.ljust(400_000, b"\0")
