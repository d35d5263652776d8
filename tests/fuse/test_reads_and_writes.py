"""Reads while writes are under way, through a real mount."""

from __future__ import annotations

import ctypes
import mmap
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.support.mounting import TIMEOUT_S, Volumes, run

pytestmark = pytest.mark.fuse

_A_MOMENT_S = 0.3
"""Longer than a read takes that waits for nothing."""


def test_a_page_that_is_dropped_and_read_while_it_is_written_shows_what_was_written(volumes: Volumes) -> None:
    """The kernel's cache is written through, and keeps what a read is answered, beyond the end of the file as well."""
    volume = volumes.make(mount=False)
    command = [sys.executable, "-m", "tests.fuse.held_mount", str(volume.source), str(volume.directory)]
    with subprocess.Popen(
        command, cwd=Path(__file__).parents[2], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            found = _read_while_written(volume.directory / "file", process)
            run("umount", volume.directory)
            assert process.wait(TIMEOUT_S) == 0
        finally:
            if process.poll() is None:
                run("fusermount3", "-uz", volume.directory, check=False)
                process.kill()
    assert found == b"x" * 20_000 + b"more" + b"held" * 10


def _read_while_written(path: Path, process: subprocess.Popen[bytes]) -> bytes:
    """What the cache has, after a write of ``held`` at the end of a file."""
    assert process.stdin is not None
    assert process.stdout is not None
    path.write_bytes(b"x" * 20_000)
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND)
    try:
        os.pread(descriptor, 30_000, 0)
        os.write(descriptor, b"more")
        writer = threading.Thread(target=os.write, args=(descriptor, b"held" * 10))
        writer.start()
        assert process.stdout.readline() == b"held\n"
        os.close(os.open(path, os.O_RDONLY))  # its atime has to move, so the kernel drops what it has
        reader = threading.Thread(target=os.pread, args=(descriptor, 30_000, 0))
        reader.start()
        reader.join(_A_MOMENT_S)
        process.stdin.write(b"x")
        process.stdin.flush()
        for thread in (writer, reader):
            thread.join(TIMEOUT_S)
            assert not thread.is_alive()
        return _cached(descriptor, 20_044)
    finally:
        os.close(descriptor)


def _cached(descriptor: int, length: int) -> bytes:
    """The first bytes as a mapping has them: for that the kernel does not even look at the file's times."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    size = ctypes.c_size_t(length)
    start = libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, descriptor, ctypes.c_long(0))
    assert start != ctypes.c_void_p(-1).value
    try:
        return ctypes.string_at(start, length)
    finally:
        libc.munmap(ctypes.c_void_p(start), size)
