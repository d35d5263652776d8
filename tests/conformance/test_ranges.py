"""Parts of files: space asked for and given back, holes, and copies from file to file."""

from __future__ import annotations

import mmap
import os
import resource
import signal
import time
from errno import EBADF, EFBIG, EINVAL, EISDIR, ENODEV, ENXIO, EOPNOTSUPP, ESPIPE
from functools import partial

import pytest

from tests.conformance.calls import COLLAPSE_RANGE, INSERT_RANGE, KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE, fallocate
from tests.conformance.world import Rule, Rules, World, fails, read, write

pytestmark = pytest.mark.fuse
rules = Rules()

PAGE, CHUNK = 4096, 64 << 10
"""The chunk size of the volumes here."""
PUNCH = PUNCH_HOLE | KEEP_SIZE
MODES = {
    "fallocate": 0,
    "fallocate that keeps the size": KEEP_SIZE,
    "punching a hole": PUNCH,
    "zeroing a range": ZERO_RANGE,
    "zeroing a range that keeps the size": ZERO_RANGE | KEEP_SIZE,
}


def test_rule(rule: Rule, world: World) -> None:
    rule.verify(world)


def _file(content: bytes = b"", name: str = "file") -> int:
    return os.open(write(name, content), os.O_RDWR)


def _holes(descriptor: int) -> list[tuple[int, int]]:
    """Where data begins and ends."""
    found: list[tuple[int, int]] = []
    end = 0
    while True:
        try:
            data = os.lseek(descriptor, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno != ENXIO:
                raise
            return found
        end = os.lseek(descriptor, data, os.SEEK_HOLE)
        found.append((data, end))


def _used(descriptor: int) -> int:
    return os.fstat(descriptor).st_blocks * 512


# Allocation


@rules("fallocate(2)")
def allocated_space_counts_and_reads_as_zeros(world: World) -> None:
    descriptor = _file(b"here")
    fallocate(descriptor, 0, 0, 5 * CHUNK)
    os.fsync(descriptor)
    assert os.fstat(descriptor).st_size == 5 * CHUNK
    assert 5 * CHUNK <= _used(descriptor) < 6 * CHUNK
    assert read("file") == b"here".ljust(5 * CHUNK, b"\0")
    fallocate(descriptor, 0, 0, CHUNK)
    assert os.fstat(descriptor).st_size == 5 * CHUNK
    os.close(descriptor)


@rules("fallocate(2): FALLOC_FL_KEEP_SIZE")
def space_beyond_the_end_is_there_until_a_truncate(world: World) -> None:
    descriptor = _file(b"x" * PAGE)
    fallocate(descriptor, KEEP_SIZE, PAGE, 3 * CHUNK)
    os.fsync(descriptor)
    assert os.fstat(descriptor).st_size == PAGE
    assert 3 * CHUNK <= _used(descriptor) < 4 * CHUNK
    os.ftruncate(descriptor, PAGE)
    assert _used(descriptor) <= 2 * PAGE
    fallocate(descriptor, KEEP_SIZE, 2 * CHUNK, CHUNK)
    os.pwrite(descriptor, b"end", 3 * CHUNK - 3)
    assert read("file") == (b"x" * PAGE).ljust(3 * CHUNK - 3, b"\0") + b"end"
    os.close(descriptor)


def _punched(offset: int, length: int, mode: int, world: World) -> None:
    content = bytes(range(1, 251)) * 1000
    descriptor = _file(content)
    os.fsync(descriptor)
    fallocate(descriptor, mode, offset, length)
    end = min(offset + length, len(content))
    size = len(content) if mode & KEEP_SIZE else max(len(content), offset + length)
    expected = content[:offset] + bytes(max(0, end - offset)) + content[max(end, offset) :]
    assert os.pread(descriptor, 1 << 20, 0) == expected.ljust(size, b"\0")
    os.pwrite(descriptor, b"again", offset)
    assert os.pread(descriptor, 5, offset) == b"again"
    os.close(descriptor)


for _offset, _length in ((0, 1), (0, PAGE), (100, 3 * CHUNK), (CHUNK, CHUNK), (200_000, 100_000), (300_000, 7)):
    for _name, _mode in MODES.items():
        if _mode & (PUNCH_HOLE | ZERO_RANGE):
            rules.add(
                f"{_name} of {_length} bytes from {_offset}",
                "fallocate(2)",
                partial(_punched, _offset, _length, _mode),
            )


@rules("fallocate(2)")
def what_was_punched_is_free_and_what_was_zeroed_is_not(world: World) -> None:
    descriptor = _file(b"x" * 4 * CHUNK)
    os.fsync(descriptor)
    before = _used(descriptor)
    fallocate(descriptor, ZERO_RANGE, 0, 2 * CHUNK)
    assert _used(descriptor) == before
    fallocate(descriptor, PUNCH, 0, 3 * CHUNK)
    assert before - _used(descriptor) == 3 * CHUNK
    fallocate(descriptor, ZERO_RANGE, CHUNK, CHUNK)
    assert before - _used(descriptor) == 2 * CHUNK
    os.close(descriptor)


def _moves_times(mode: int, world: World) -> None:
    descriptor = _file(b"x" * PAGE)
    os.fsync(descriptor)
    os.utime(descriptor, ns=(10**9, 10**9))
    before, begun_ns = os.fstat(descriptor), time.time_ns() - 20_000_000
    fallocate(descriptor, mode, 0, 2 * PAGE)
    after = os.fstat(descriptor)
    assert after.st_mtime_ns > begun_ns
    assert after.st_ctime_ns >= before.st_ctime_ns
    assert after.st_atime_ns == 10**9
    os.close(descriptor)
    assert os.stat("file").st_mtime_ns == after.st_mtime_ns


for _name, _mode in MODES.items():
    rules.add(f"{_name} moves mtime", "fallocate(2); file_modified in Linux", partial(_moves_times, _mode))


@rules("fallocate(2): ERRORS")
def what_cannot_be_allocated(world: World) -> None:
    descriptor = _file(b"content")
    for mode in MODES.values():
        for offset, length in ((0, 0), (0, -1), (-1, 5), (5, -1), (-5, -5)):
            fails(EINVAL, fallocate, descriptor, mode, offset, length)
        fails(EFBIG, fallocate, descriptor, mode, 1 << 62, 1 << 62)
        reader = os.open("file", os.O_RDONLY)
        fails(EBADF, fallocate, reader, mode, 0, 5)
        os.close(reader)
    fails(EOPNOTSUPP, fallocate, descriptor, PUNCH_HOLE, 0, 5)
    fails(EOPNOTSUPP, fallocate, descriptor, 0x400, 0, 5)
    directory = os.open(".", os.O_RDONLY)
    fails(EBADF, fallocate, directory, 0, 0, 5)
    os.close(directory)
    os.mkfifo("fifo")
    fifo = os.open("fifo", os.O_RDWR)
    fails(ESPIPE, fallocate, fifo, 0, 0, 5)
    os.close(fifo)
    assert read("file") == b"content"
    os.close(descriptor)


@rules("fallocate(2): EFBIG; setrlimit(2): RLIMIT_FSIZE")
def the_limit_of_a_process_bounds_what_is_allocated(world: World) -> None:
    descriptor = _file()

    def limited() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10 * PAGE, 10 * PAGE))
        fails(EFBIG, fallocate, descriptor, 0, 0, 11 * PAGE)
        fallocate(descriptor, 0, 0, 10 * PAGE)

    world.start(limited).result()
    assert os.fstat(descriptor).st_size == 10 * PAGE
    os.close(descriptor)


def _shifts(number: int, world: World) -> None:
    descriptor = _file(b"x" * 4 * PAGE)
    for mode in (COLLAPSE_RANGE, INSERT_RANGE):
        if number:
            fails(number, fallocate, descriptor, mode, PAGE, PAGE)
        else:
            fallocate(descriptor, mode, PAGE, PAGE)
    os.close(descriptor)


rules.add(
    "ranges are taken out and put in",
    "fallocate(2): FALLOC_FL_COLLAPSE_RANGE, FALLOC_FL_INSERT_RANGE",
    partial(_shifts, 0),
    differs="the kernel passes neither on to a FUSE filesystem",
    benchfs=partial(_shifts, EOPNOTSUPP),
)


@rules("fallocate(2)")
def a_mapping_shows_what_was_punched(world: World) -> None:
    descriptor = _file(b"x" * 2 * CHUNK)
    with mmap.mmap(descriptor, 0) as mapping:
        mapping[PAGE] = 7
        fallocate(descriptor, PUNCH, 10, CHUNK)
        assert mapping[: CHUNK + 20] == b"x" * 10 + bytes(CHUNK) + b"x" * 10
        mapping[PAGE] = 9
    assert read("file")[PAGE - 1 : PAGE + 2] == b"\0\x09\0"
    os.close(descriptor)


# Holes


@rules("lseek(2): SEEK_DATA, SEEK_HOLE")
def holes_are_found(world: World) -> None:
    descriptor = _file()
    os.ftruncate(descriptor, 1 << 20)
    os.pwrite(descriptor, bytes(PAGE), 1 << 19)
    os.fsync(descriptor)
    assert os.lseek(descriptor, 0, os.SEEK_HOLE) == 0
    assert os.lseek(descriptor, 0, os.SEEK_DATA) == 1 << 19
    assert os.lseek(descriptor, (1 << 19) + PAGE - 1, os.SEEK_DATA) == (1 << 19) + PAGE - 1
    assert os.lseek(descriptor, 1 << 19, os.SEEK_HOLE) == (1 << 19) + PAGE
    for offset in (1 << 20, (1 << 20) + 1, 1 << 60, -1):
        fails(ENXIO, os.lseek, descriptor, offset, os.SEEK_DATA)
        fails(ENXIO, os.lseek, descriptor, offset, os.SEEK_HOLE)
    fails(ENXIO, os.lseek, descriptor, (1 << 19) + PAGE, os.SEEK_DATA)
    os.close(descriptor)


@rules("lseek(2): SEEK_HOLE")
def the_end_is_a_hole(world: World) -> None:
    descriptor = _file(b"x" * (3 * CHUNK + 5))
    assert os.lseek(descriptor, 7, os.SEEK_HOLE) == 3 * CHUNK + 5
    assert os.lseek(descriptor, 0, os.SEEK_CUR) == 3 * CHUNK + 5
    assert _holes(descriptor) == [(0, 3 * CHUNK + 5)]
    os.ftruncate(descriptor, 0)
    fails(ENXIO, os.lseek, descriptor, 0, os.SEEK_DATA)
    fails(ENXIO, os.lseek, descriptor, 0, os.SEEK_HOLE)
    os.close(descriptor)


@rules("lseek(2): SEEK_DATA")
def what_was_not_flushed_is_data(world: World) -> None:
    descriptor, reader = _file(), os.open("file", os.O_RDONLY)
    os.pwrite(descriptor, b"d" * 10, 5 * CHUNK + 17)
    os.pwrite(descriptor, b"d" * PAGE, 2 * CHUNK)
    for asked in (descriptor, reader):
        assert _holes(asked) == [(2 * CHUNK, 2 * CHUNK + PAGE), (5 * CHUNK, 5 * CHUNK + 27)]
        assert os.lseek(asked, 0, os.SEEK_END) == 5 * CHUNK + 27
    with mmap.mmap(descriptor, 0) as mapping:
        mapping[3 * CHUNK] = 1
        assert (3 * CHUNK, 3 * CHUNK + PAGE) in _holes(reader)
    os.close(descriptor)
    os.close(reader)


@rules("lseek(2), fallocate(2)")
def what_was_punched_or_allocated_is_a_hole(world: World) -> None:
    descriptor = _file(b"x" * 4 * CHUNK)
    os.fsync(descriptor)
    fallocate(descriptor, PUNCH, CHUNK, CHUNK)
    fallocate(descriptor, 0, 4 * CHUNK, CHUNK)
    assert _holes(descriptor) == [(0, CHUNK), (2 * CHUNK, 4 * CHUNK)]
    assert os.lseek(descriptor, 4 * CHUNK, os.SEEK_HOLE) == 4 * CHUNK
    os.close(descriptor)


# Copies


def _copied(source: int, target: int, length: int, at: int, to: int) -> int:
    """copy_file_range(2), as often as it takes."""
    done = 0
    while done < length and (more := os.copy_file_range(source, target, length - done, at + done, to + done)):
        done += more
    return done


def _copies(content: bytes, before: bytes, length: int, at: int, to: int, world: World) -> None:
    source, target = _file(content, "source"), _file(before, "target")
    copied = _copied(source, target, length, at, to)
    assert copied == max(0, min(length, len(content) - at))
    part = content[at : at + copied]
    assert (
        os.pread(target, 1 << 21, 0)
        == (before[:to].ljust(to, b"\0") if part else before[:to]) + part + before[to + len(part) :]
    )
    assert os.fstat(target).st_size == (max(len(before), to + copied) if copied else len(before))
    os.close(source)
    os.close(target)


_LONG = bytes(range(1, 251)) * 2000
for _what, _arguments in {
    "a small file": (b"small", b"", 100, 0, 0),
    "nothing": (b"", b"target", 100, 0, 0),
    "from the end": (b"small", b"target", 100, 5, 0),
    "a whole file": (_LONG, b"", 1 << 30, 0, 0),
    "over another": (_LONG, _LONG[::-1], 3 * CHUNK, CHUNK, CHUNK),
    "at odd places": (_LONG, _LONG[::-1], 200_001, 1234, 98_765),
    "far beyond the end": (_LONG[:5000], b"target", 5000, 0, 10 * CHUNK + 3),
    "into a small file": (_LONG, b"small", 3, 70_000, 1),
}.items():
    rules.add(f"copying {_what}", "copy_file_range(2)", partial(_copies, *_arguments))


@rules("copy_file_range(2)")
def a_copy_of_what_was_not_flushed(world: World) -> None:
    source, target = _file(name="source"), _file(b"t" * CHUNK, "target")
    os.pwrite(source, b"late", 3 * CHUNK)
    os.pwrite(target, b"also late", 2 * CHUNK)
    assert _copied(source, target, CHUNK, 0, 0) == CHUNK
    assert _copied(source, target, 100, 3 * CHUNK - 3, CHUNK) == 7
    assert read("target") == bytes(CHUNK + 3) + b"late" + bytes(CHUNK - 7) + b"also late"
    with mmap.mmap(source, 0) as mapping:
        mapping[CHUNK] = 7
        assert _copied(source, target, 3, CHUNK - 1, 0) == 3
    assert os.pread(target, 4, 0) == b"\0\7\0\0"
    os.close(source)
    os.close(target)


@rules("copy_file_range(2): ERRORS")
def what_cannot_be_copied(world: World) -> None:
    source, target = _file(b"x" * 1000, "source"), _file(b"y" * 1000, "target")
    fails(EINVAL, os.copy_file_range, source, source, 100, 0, 50)
    appending, reader = os.open("target", os.O_WRONLY | os.O_APPEND), os.open("source", os.O_RDONLY)
    fails(EBADF, os.copy_file_range, source, appending, 100, 0, 0)
    fails(EBADF, os.copy_file_range, source, reader, 100, 0, 500)
    directory = os.open(".", os.O_RDONLY)
    fails(EISDIR, os.copy_file_range, directory, target, 100, 0, 0)
    assert os.copy_file_range(source, target, 0, 0, 0) == 0
    assert os.copy_file_range(source, source, 100, 0, 100) == 100
    for descriptor in (source, target, appending, reader, directory):
        os.close(descriptor)
    assert read("target") == b"y" * 1000


@rules("copy_file_range(2)")
def a_copy_moves_the_times_of_its_target_alone(world: World) -> None:
    source, target = _file(b"x" * 1000, "source"), _file(b"y" * 1000, "target")
    for descriptor in (source, target):
        os.fsync(descriptor)
        os.utime(descriptor, ns=(10**9, 10**9))
    begun_ns = time.time_ns() - 20_000_000
    assert os.copy_file_range(source, target, 500, 0, 0) == 500
    assert os.fstat(source).st_mtime_ns == 10**9
    assert os.fstat(target).st_mtime_ns > begun_ns
    os.close(source)
    os.close(target)
    assert os.stat("target").st_mtime_ns > begun_ns


@rules("fallocate(2): ENODEV")
def devices_have_no_space(world: World) -> None:
    os.mknod("null", 0o20644, os.makedev(1, 3))
    device = os.open("null", os.O_RDWR)
    fails(ENODEV, fallocate, device, 0, 0, 5)
    os.close(device)
