"""Ways to move bytes: vectors, descriptors to descriptors, mappings, O_DIRECT; offsets and ends."""

from __future__ import annotations

import fcntl
import mmap
import os
import signal
from errno import EBADF, EFAULT, EINVAL, EOPNOTSUPP
from functools import partial
from pathlib import Path

import pytest

from tests.conformance.calls import write_from_nothing
from tests.conformance.world import Rule, Rules, World, fails, read, write

pytestmark = pytest.mark.fuse
rules = Rules()

FICLONE = 0x40049409

CONTENT = bytes(range(256)) * 1024
"""256 KiB: four chunks of the volumes that rows run on."""


def test_rule(rule: Rule, world: World) -> None:
    rule.verify(world)


def aligned(length: int, fill: bytes = b"\0") -> mmap.mmap:
    """Memory as O_DIRECT wants it."""
    memory = mmap.mmap(-1, length)
    memory.write(fill * length)
    return memory


@rules("lseek(2)")
def offsets_are_moved_by_seek_set_cur_and_end(world: World) -> None:
    descriptor = os.open(write("file", b"0123456789"), os.O_RDWR)
    assert os.lseek(descriptor, 4, os.SEEK_SET) == 4
    assert os.read(descriptor, 2) == b"45"
    assert os.lseek(descriptor, -1, os.SEEK_CUR) == 5
    assert os.lseek(descriptor, -3, os.SEEK_END) == 7
    assert os.lseek(descriptor, 5, os.SEEK_END) == 15
    assert os.read(descriptor, 1) == b""
    os.truncate("file", 12)
    assert os.lseek(descriptor, 0, os.SEEK_END) == 12
    fails(EINVAL, os.lseek, descriptor, -1, os.SEEK_SET)
    fails(EINVAL, os.lseek, descriptor, -13, os.SEEK_END)
    fails(EINVAL, os.lseek, descriptor, 0, 99)
    os.close(descriptor)


@rules("readv(2), preadv2(2)")
def vectors_are_one_read_and_one_write(world: World) -> None:
    descriptor = os.open("file", os.O_CREAT | os.O_RDWR)
    assert os.writev(descriptor, [b"ab", b"", b"cde"]) == 5
    assert os.pwritev(descriptor, [b"X", b"Y"], 1, os.RWF_DSYNC) == 2
    parts = [bytearray(1), bytearray(3), bytearray(5)]
    assert os.preadv(descriptor, parts, 0) == 5
    assert b"".join(parts) == b"aXYde\0\0\0\0"
    os.close(descriptor)


@rules("read(2), write(2): EFAULT")
def an_address_that_is_not_ours_is_refused(world: World) -> None:
    descriptor = os.open("file", os.O_CREAT | os.O_RDWR)
    fails(EFAULT, write_from_nothing, descriptor, 10)
    assert os.fstat(descriptor).st_size == 0
    os.close(descriptor)


@rules("sendfile(2)")
def sendfile_reads_and_writes_here(world: World) -> None:
    source, target = os.open(write("source", CONTENT), os.O_RDONLY), os.open("target", os.O_CREAT | os.O_RDWR)
    left = len(CONTENT) - 100
    while left:
        left -= os.sendfile(target, source, len(CONTENT) - left, left)
    assert read("target") == CONTENT[100:]
    for descriptor in (source, target):
        os.close(descriptor)


@rules("copy_file_range(2)")
def copy_file_range_copies_at_any_offsets(world: World) -> None:
    source, target = os.open(write("source", CONTENT), os.O_RDONLY), os.open("target", os.O_CREAT | os.O_RDWR)
    done = 0
    while done < 200_000:
        done += os.copy_file_range(source, target, 200_000 - done, 1234 + done, 5 + done)
    assert read("target") == bytes(5) + CONTENT[1234:201_234]
    assert os.copy_file_range(source, target, 10, len(CONTENT), 0) == 0
    fails(EINVAL, os.copy_file_range, target, target, 100, 0, 50)
    fails(EBADF, os.copy_file_range, target, source, 1, 0, 0)
    for descriptor in (source, target):
        os.close(descriptor)


@rules("splice(2)")
def splice_moves_through_a_pipe(world: World) -> None:
    reader, writer = os.pipe()
    source, target = os.open(write("source", CONTENT), os.O_RDONLY), os.open("target", os.O_CREAT | os.O_WRONLY)
    done = 0
    while done < len(CONTENT):
        count = os.splice(source, writer, 50_000)
        while count:
            moved = os.splice(reader, target, count)
            count, done = count - moved, done + moved
    for descriptor in (reader, writer, source, target):
        os.close(descriptor)
    assert read("target") == CONTENT


# Mappings


@rules("mmap(2): MAP_SHARED")
def two_processes_that_map_a_file_see_each_other_s_changes(world: World) -> None:
    write("file", bytes(100_000))
    descriptor = os.open("file", os.O_RDWR)

    def change() -> None:
        with mmap.mmap(os.open("file", os.O_RDWR), 100_000) as mapping:
            mapping[70_000:70_004] = b"here"

    with mmap.mmap(descriptor, 100_000) as mapping:
        assert mapping[70_000:70_004] == bytes(4)
        world.start(change).result()
        assert mapping[70_000:70_004] == b"here"
        assert os.pread(descriptor, 4, 70_000) == b"here"
        os.pwrite(descriptor, b"back", 70_000)
        assert mapping[70_000:70_004] == b"back"
    os.close(descriptor)


@rules("mmap(2): MAP_PRIVATE")
def a_private_mapping_changes_nothing_for_others(world: World) -> None:
    descriptor = os.open(write("file", bytes(10_000)), os.O_RDONLY)
    with mmap.mmap(descriptor, 10_000, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE) as mapping:
        mapping[0:4] = b"mine"
        assert mapping[0:4] == b"mine"
        assert os.pread(descriptor, 4, 0) == bytes(4)
    os.close(descriptor)
    assert read("file") == bytes(10_000)


@rules("mmap(2)")
def a_mapping_outlives_its_descriptor_and_its_name(world: World) -> None:
    descriptor = os.open(write("file", bytes(10_000)), os.O_RDWR)
    os.link("file", "second")
    mapping = mmap.mmap(descriptor, 10_000)
    os.close(descriptor)
    os.unlink("file")
    mapping[5000:5004] = b"here"
    mapping.close()
    assert read("second")[5000:5004] == b"here"


@rules("mmap(2): EACCES")
def a_writable_shared_mapping_needs_a_descriptor_for_both(world: World) -> None:
    write("file")
    for flags, protection in (
        (os.O_RDONLY, mmap.PROT_WRITE),
        (os.O_WRONLY, mmap.PROT_WRITE),
        (os.O_WRONLY, mmap.PROT_READ),
    ):
        descriptor = os.open("file", flags)
        fails(13, mmap.mmap, descriptor, 7, mmap.MAP_SHARED, protection)
        os.close(descriptor)


@rules("mmap(2): SIGBUS")
def touching_a_mapping_beyond_the_end_is_sigbus(world: World) -> None:
    descriptor = os.open(write("file", bytes(10_000)), os.O_RDWR)

    def touch() -> None:
        signal.signal(signal.SIGBUS, signal.SIG_DFL)
        with mmap.mmap(descriptor, 10_000) as mapping:
            assert mapping[9000] == 0
            os.ftruncate(descriptor, 4096)
            assert mapping[4095] == 0
            print(mapping[4096])

    assert world.start(touch).exit_code() == -signal.SIGBUS
    os.close(descriptor)


@rules("mmap(2): the rest of the last page is zeros, and is not written")
def what_is_written_beyond_the_end_in_a_mapping_is_lost(world: World) -> None:
    descriptor = os.open(write("file", b"123"), os.O_RDWR)
    mapping = mmap.mmap(descriptor, 0)
    assert mapping.size() == 3
    mapping.close()
    os.ftruncate(descriptor, 5000)
    with mmap.mmap(descriptor, 5000) as mapping:
        mapping[4000:5000] = b"x" * 1000
        os.ftruncate(descriptor, 4500)
        os.ftruncate(descriptor, 5000)
        assert mapping[4400:5000] == b"x" * 100 + bytes(500)
    assert os.pread(descriptor, 1000, 4400) == b"x" * 100 + bytes(500)
    os.close(descriptor)


# O_DIRECT


@rules("open(2): O_DIRECT")
def direct_io_in_units_of_512_and_4096(world: World) -> None:
    write("file", CONTENT)
    descriptor = os.open("file", os.O_RDWR | os.O_DIRECT)
    for unit in (512, 4096, 65536):
        memory = aligned(unit, b"d")
        for offset in (0, unit, 131072):
            assert os.pwrite(descriptor, memory, offset) == unit
            memory.seek(0)
            memory.write(bytes(unit))
            assert os.preadv(descriptor, [memory], offset) == unit
            assert memory[:] == b"d" * unit
            assert read("file")[offset : offset + unit] == b"d" * unit
    assert os.preadv(descriptor, [aligned(4096)], len(CONTENT)) == 0
    os.truncate("file", 1000)
    assert os.preadv(descriptor, [aligned(4096)], 0) == 1000
    os.close(descriptor)
    assert os.stat("file").st_size == 1000


@rules("open(2): O_DIRECT, at the end of the file")
def direct_writes_lengthen_the_file_and_are_seen_by_mappings(world: World) -> None:
    descriptor = os.open("file", os.O_CREAT | os.O_RDWR | os.O_DIRECT)
    for number in range(40):
        assert os.write(descriptor, aligned(4096, bytes([number]))) == 4096
    assert os.fstat(descriptor).st_size == 40 * 4096
    reader = os.open("file", os.O_RDONLY)
    with mmap.mmap(reader, 40 * 4096, prot=mmap.PROT_READ) as mapping:
        assert [mapping[number * 4096] for number in range(40)] == list(range(40))
        os.pwrite(descriptor, aligned(4096, b"n"), 8192)
        assert mapping[8192] == ord("n")
    os.close(reader)
    os.close(descriptor)


def _misaligned(refused: bool, world: World) -> None:
    descriptor = os.open(write("file", CONTENT), os.O_RDWR | os.O_DIRECT)
    memory = aligned(8192)
    for view, offset in (
        (memoryview(memory)[1:4097], 0),
        (memoryview(memory)[:4096], 100),
        (memoryview(memory)[:100], 0),
    ):
        if refused:
            fails(EINVAL, os.preadv, descriptor, [view], offset)
        else:
            assert os.preadv(descriptor, [view], offset) == len(view)
            assert bytes(view) == CONTENT[offset : offset + len(view)]
        view.release()
    os.close(descriptor)


rules.add(
    "O_DIRECT without alignment is refused",
    "open(2): NOTES on O_DIRECT; EINVAL",
    lambda world: _misaligned(True, world),
    differs="there is no block below that would need it, and whoever aligns is served as well",
    benchfs=lambda world: _misaligned(False, world),
)


@rules("fsync(2), sync_file_range(2)")
def data_is_there_after_every_way_to_flush(world: World) -> None:
    for flags in (0, os.O_SYNC, os.O_DSYNC):
        descriptor = os.open("file", os.O_CREAT | os.O_RDWR | flags)
        os.pwrite(descriptor, CONTENT, 100)
        os.fdatasync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        assert os.pread(descriptor, len(CONTENT), 100) == CONTENT
        os.close(descriptor)


@rules("ioctl_ficlone(2): EOPNOTSUPP")
def clones_are_refused(world: World) -> None:
    source, target = os.open(write("source"), os.O_RDONLY), os.open("target", os.O_CREAT | os.O_WRONLY)
    fails(EOPNOTSUPP, fcntl.ioctl, target, FICLONE, source)
    assert Path("target").stat().st_size == 0
    os.close(source)
    os.close(target)


def _stored_beyond_the_end(shown: bytes, world: World) -> None:
    descriptor = os.open(write("file", CONTENT[:8192]), os.O_RDWR)
    with mmap.mmap(descriptor, 8192) as mapping:
        os.ftruncate(descriptor, 5000)
        mapping[5005] = 77
        os.ftruncate(descriptor, 5010)
        assert os.pread(descriptor, 100, 5000) == shown
    os.close(descriptor)


rules.add(
    "what a mapping stores beyond the end does not show when the file grows",
    "mmap(2): the effect of changes to the part of the page beyond the end",
    partial(_stored_beyond_the_end, bytes(10)),
    differs="the kernel clears the rest of the last page for other filesystems, and not for FUSE",
    benchfs=partial(_stored_beyond_the_end, bytes(5) + b"M" + bytes(4)),
)


@rules(
    "preadv2(2): RWF_NOWAIT; EOPNOTSUPP where the filesystem has no such flag",
    differs="the kernel has it for no FUSE filesystem",
    benchfs=lambda world: _read_without_waiting(EOPNOTSUPP),
)
def what_is_cached_is_read_without_waiting(world: World) -> None:
    _read_without_waiting(0)


def _read_without_waiting(refused: int) -> None:
    descriptor = os.open(write("file", CONTENT), os.O_RDONLY)
    assert os.pread(descriptor, 100, 0) == CONTENT[:100]
    memory = bytearray(100)
    if refused:
        fails(refused, os.preadv, descriptor, [memory], 0, os.RWF_NOWAIT)
    else:
        assert os.preadv(descriptor, [memory], 0, os.RWF_NOWAIT) == 100
    os.close(descriptor)
