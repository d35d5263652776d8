"""Sizes and space: sparse files, st_blocks, statvfs(3), limits of a file's size."""

from __future__ import annotations

import os
import resource
import signal
from errno import EFBIG, EINVAL
from pathlib import Path

import pytest

from tests.conformance.world import Rule, Rules, World, fails, write
from tests.support.mounting import run

pytestmark = pytest.mark.fuse
rules = Rules()

TIB = 1 << 40
KIB = 1 << 10


def test_rule(rule: Rule, world: World) -> None:
    rule.verify(world)


def used(name: str) -> int:
    """Bytes allocated, when everything is on its way to disk."""
    descriptor = os.open(name, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
    return os.stat(name).st_blocks * 512


@rules("stat(2): st_blocks")
def holes_take_no_space(world: World) -> None:
    with open("file", "xb") as stream:
        stream.truncate(1 << 30)
        stream.seek(1 << 29)
        stream.write(bytes(4 * KIB))
    assert os.stat("file").st_size == 1 << 30
    assert 4 * KIB <= used("file") <= 128 * KIB


@rules("stat(2): st_blocks")
def what_is_written_takes_its_space_once(world: World) -> None:
    write("file", os.urandom(1000 * KIB))
    first = used("file")
    assert 1000 * KIB <= first <= 1100 * KIB
    with open("file", "r+b") as stream:
        stream.write(os.urandom(1000 * KIB))
    assert used("file") == first


@rules("truncate(2)")
def what_is_cut_off_is_free(world: World) -> None:
    write("file", os.urandom(1000 * KIB))
    os.truncate("file", 100 * KIB)
    assert os.stat("file").st_blocks * 512 == used("file") == 100 * KIB
    os.truncate("file", 0)
    assert os.stat("file").st_blocks == used("file") == 0
    os.truncate("file", 1 << 40)
    assert used("file") == 0


@rules("du(1)")
def du_shows_allocation_and_apparent_size(world: World) -> None:
    write("dense", os.urandom(500 * KIB))
    with open("sparse", "xb") as stream:
        stream.truncate(500 * KIB)
    for name in ("dense", "sparse"):
        used(name)
    sizes = {
        name: [
            int(run("du", *options, "-B1", world.top / name).stdout.split()[0])
            for options in ((), ("--apparent-size",))
        ]
        for name in ("dense", "sparse")
    }
    assert sizes["dense"][0] >= 500 * KIB
    assert sizes["sparse"][0] == 0
    assert sizes["dense"][1] == sizes["sparse"][1] == 500 * KIB


@rules("cp(1) --sparse")
def cp_keeps_and_makes_holes(world: World) -> None:
    with open("zeros", "xb") as stream:
        stream.write(bytes(2000 * KIB) + b"end")
    used("zeros")
    run("cp", "--sparse=always", world.top / "zeros", world.top / "copy")
    assert used("copy") < 500 * KIB < used("zeros")
    assert Path("copy").read_bytes() == Path("zeros").read_bytes()


@rules("statvfs(3)")
def statvfs_adds_up(world: World) -> None:
    found = os.statvfs(".")
    assert found.f_namemax == 255
    assert found.f_bsize == found.f_frsize == 4096
    assert 0 < found.f_bavail <= found.f_bfree <= found.f_blocks
    assert 0 < found.f_favail <= found.f_ffree <= found.f_files


@rules("statvfs(3), fstatvfs(3)")
def statvfs_is_the_same_everywhere_on_the_filesystem(world: World) -> None:
    write("file")
    os.mkdir("d")
    descriptor = os.open("file", os.O_RDONLY)
    total = os.statvfs(".").f_blocks
    assert [os.statvfs(what).f_blocks for what in ("file", "d", descriptor)] == [total] * 3
    os.close(descriptor)


@rules("lseek(2), pwrite(2): ext4 to 16 TiB")
def a_file_may_have_16_tib(world: World) -> None:
    last = 16 * TIB - 8 * KIB
    with open("file", "x+b", buffering=0) as stream:
        os.pwrite(stream.fileno(), b"far end", last)
        assert os.fstat(stream.fileno()).st_size == last + 7
        assert os.pread(stream.fileno(), 100, last - 5) == b"\0\0\0\0\0far end"
        assert os.pread(stream.fileno(), 100, 8 * TIB) == bytes(100)
        assert os.pread(stream.fileno(), 100, last + 7) == b""
        os.ftruncate(stream.fileno(), 5)
        os.ftruncate(stream.fileno(), 16 * TIB - 4 * KIB)
        assert os.pread(stream.fileno(), 100, last) == bytes(100)
    os.unlink("file")


def _no_more_than(limit: int, world: World) -> None:
    descriptor = os.open("file", os.O_CREAT | os.O_RDWR)
    os.ftruncate(descriptor, limit)
    fails(EFBIG, os.ftruncate, descriptor, limit + 1)
    fails(EFBIG, os.truncate, "file", limit + 1)
    if not world.place.writeback:  # there the kernel, which cannot be told a limit, takes it, and fsync(2) fails
        fails(EFBIG, os.pwrite, descriptor, b"x", limit)
    fails(EFBIG, os.truncate, "file", (1 << 63) - 1)
    assert os.fstat(descriptor).st_size == limit
    os.ftruncate(descriptor, 0)
    os.close(descriptor)


rules.add(
    "a file ends at the largest size",
    "truncate(2), write(2): EFBIG",
    lambda world: _no_more_than(16 * TIB - 4 * KIB, world),
    differs="files of BenchFS may have 1 EiB",
    benchfs=lambda world: _no_more_than(1 << 60, world),
)


@rules("write(2), setrlimit(2): RLIMIT_FSIZE, SIGXFSZ")
def the_limit_on_a_file_s_size_holds(world: World) -> None:
    def limited() -> tuple[int, int]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        descriptor = os.open("file", os.O_CREAT | os.O_WRONLY)
        written = os.write(descriptor, bytes(20_000))
        fails(EFBIG, os.write, descriptor, b"x")
        fails(EFBIG, os.ftruncate, descriptor, 10_001)
        fails(EFBIG, os.truncate, "file", 10_001)
        return written, os.fstat(descriptor).st_size

    assert world.start(limited).result() == (10_000, 10_000)

    def killed() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        os.truncate("file", 10_001)

    assert world.start(killed).exit_code() == -signal.SIGXFSZ


@rules("truncate(2), ftruncate(2)")
def sizes_that_are_no_sizes(world: World) -> None:
    write("file")
    fails(EINVAL, os.truncate, "file", -1)
    reader = os.open("file", os.O_RDONLY)
    fails(EINVAL, os.ftruncate, reader, 0)
    fails(EINVAL, os.pread, reader, 1, -1)
    os.close(reader)
    assert os.stat("file").st_size == 7


@rules("posix_fallocate(3)")
def posix_fallocate_gives_space(world: World) -> None:
    with open("file", "x+b", buffering=0) as stream:
        stream.write(b"here")
        os.posix_fallocate(stream.fileno(), 0, 100 * KIB)
        assert os.fstat(stream.fileno()).st_size == 100 * KIB
        assert os.pread(stream.fileno(), 6, 0) == b"here\0\0"
    assert used("file") >= 100 * KIB
