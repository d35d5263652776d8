"""Reading and writing the content of one file with plain system calls: in order, or at random by several threads.

Imports the standard library and ``workload``. Direct I/O (O_DIRECT) uses a page-aligned buffer. Everything raises the
OSError of the call; NotMeasurable where the filesystem has no direct I/O.
"""

from __future__ import annotations

import errno
import mmap
import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchfs_fuse.bench.workload import Done, NotMeasurable

MIB = 1 << 20
BLOCK = 4096


def write_in_order(path: Path, size: int, *, direct: bool, seed: int) -> Done:
    """Write ``size`` bytes, 1 MiB at a time, into a new file, and fsync it. An operation is a MiB."""
    with _buffer(MIB, seed) as buffer, _opened(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, direct) as descriptor:
        for _ in range(size // MIB):
            _write_all(descriptor, buffer)
        os.fsync(descriptor)
    return Done(size // MIB)


def read_in_order(path: Path, *, direct: bool) -> Done:
    """Read a file from its start to its end, 1 MiB at a time."""
    done = 0
    with _buffer(MIB) as buffer, _opened(path, os.O_RDONLY, direct) as descriptor:
        while more := os.readv(descriptor, [buffer]):
            done += more
    return Done(done // MIB)


def at_random(
    path: Path, *, writing: bool, seconds: float, seed: int, flags: int = 0, direct: bool = False, depth: int = 1
) -> Done:
    """Read or write 4 KiB blocks of a file at random offsets for a time, from ``depth`` threads at once.

    Args:
        path: the file; its size does not change.
        writing: write instead of read.
        seconds: for how long.
        seed: of the order.
        flags: for open(2), such as O_DSYNC.
        direct: with O_DIRECT.
        depth: requests at a time.
    """
    counts, failures = [0] * depth, list[BaseException]()
    end = time.perf_counter() + seconds

    def work(number: int) -> None:
        offsets = random.Random(seed * 1000 + number)
        try:
            with _buffer(BLOCK, seed) as buffer, _opened(path, _access(writing) | flags, direct) as descriptor:
                call = _block_call(descriptor, buffer, writing)
                blocks = os.fstat(descriptor).st_size // BLOCK
                while time.perf_counter() < end:
                    call(offsets.randrange(blocks) * BLOCK)
                    counts[number] += 1
        except BaseException as error:
            failures.append(error)

    begin = time.perf_counter()
    threads = [threading.Thread(target=work, args=(number,)) for number in range(1, depth)]
    for thread in threads:
        thread.start()
    work(0)
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return Done(sum(counts), time.perf_counter() - begin)


def some_writes_and_fsync(path: Path, *, count: int, seed: int) -> Done:
    """Write ``count`` blocks at random offsets of a file, then fsync it."""
    offsets, blocks = random.Random(seed), path.stat().st_size // BLOCK
    return write_at(path, [offsets.randrange(blocks) * BLOCK for _ in range(count)])


def write_at(path: Path, offsets: Sequence[int]) -> Done:
    """Write a block at each offset of a file, then fsync it."""
    with _buffer(BLOCK, seed=1) as buffer, _opened(path, os.O_WRONLY, direct=False) as descriptor:
        call = _block_call(descriptor, buffer, writing=True)
        for offset in offsets:
            call(offset)
        os.fsync(descriptor)
    return Done(len(offsets))


def read_at(path: Path, offsets: Sequence[int]) -> Done:
    """Read a block at each offset of a file."""
    with _buffer(BLOCK) as buffer, _opened(path, os.O_RDONLY, direct=False) as descriptor:
        call = _block_call(descriptor, buffer, writing=False)
        for offset in offsets:
            call(offset)
    return Done(len(offsets))


def append(path: Path, *, mib: int) -> Done:
    """Write so many MiB at the end of a file, then fsync it."""
    with _buffer(MIB, seed=1) as buffer, _opened(path, os.O_WRONLY | os.O_APPEND, direct=False) as descriptor:
        for _ in range(mib):
            _write_all(descriptor, buffer)
        os.fsync(descriptor)
    return Done(mib)


def _access(writing: bool) -> int:
    return os.O_WRONLY if writing else os.O_RDONLY


def _block_call(descriptor: int, buffer: mmap.mmap, writing: bool) -> Callable[[int], None]:
    """One request at an offset; the whole block or an error."""
    move = os.pwritev if writing else os.preadv

    def call(offset: int) -> None:
        if move(descriptor, [buffer], offset) != BLOCK:
            raise OSError(errno.EIO, "a block was read or written in part")

    return call


def _write_all(descriptor: int, buffer: mmap.mmap) -> None:
    with memoryview(buffer) as view:
        done = 0
        while done < len(view):
            with view[done:] as rest:
                done += os.write(descriptor, rest)


@contextmanager
def _buffer(length: int, seed: int | None = None) -> Iterator[mmap.mmap]:
    """Page-aligned memory, of random bytes if a seed is given: nothing on the way can store it as a hole."""
    with mmap.mmap(-1, length) as memory:
        if seed is not None:
            memory[:] = random.Random(seed).randbytes(length)
        yield memory


@contextmanager
def _opened(path: Path, flags: int, direct: bool) -> Iterator[int]:
    """An open file; with ``direct`` EINVAL, at the open or later, means that there is no such thing here."""
    try:
        descriptor = os.open(path, flags | os.O_CLOEXEC | (os.O_DIRECT if direct else 0), 0o644)
        try:
            yield descriptor
        finally:
            os.close(descriptor)
    except OSError as error:
        if direct and error.errno == errno.EINVAL:
            raise NotMeasurable("no direct I/O (O_DIRECT) here") from error
        raise
