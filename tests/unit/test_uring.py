"""Pins how ``liburing`` takes its arguments: it ignores what it does not know, so effects are looked at."""

from __future__ import annotations

import errno
import os
import select
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchfs_core.chunks.uring import UringDriver, io_uring_available

pytestmark = pytest.mark.skipif(io_uring_available() is not None, reason=str(io_uring_available()))

NOT_A_FLAG = 0x4000_0000


@pytest.fixture
def driver() -> Iterator[UringDriver]:
    driver = UringDriver(8)
    yield driver
    driver.close()


@pytest.fixture
def descriptor(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    os.pwrite(descriptor, bytes(range(100)), 0)
    yield descriptor
    os.close(descriptor)


def complete(driver: UringDriver, count: int = 1) -> dict[int, int]:
    """Submit, wait for ``count`` completions and return their results by ``user_data``."""
    assert driver.submit() >= 0
    results: dict[int, int] = {}
    while len(results) < count:
        select.select([driver.ring_descriptor], [], [], 10)
        ready = driver.reap()
        assert ready, "no completion in ten seconds"
        results.update(ready)
    return results


def test_a_read_uses_its_offset_and_the_whole_buffer(driver: UringDriver, descriptor: int) -> None:
    buffer = bytearray(5)
    assert driver.prepare_read(7, descriptor, 30, buffer)
    assert complete(driver) == {7: 5}
    assert buffer == bytes(range(30, 35))


@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_a_write_uses_its_offset(driver: UringDriver, descriptor: int, kind: type) -> None:
    assert driver.prepare_write(3, descriptor, 40, kind(b"hello"), 0)
    assert complete(driver) == {3: 5}
    assert os.pread(descriptor, 7, 39) == b"\x27hello\x2d"


def test_the_flags_of_a_write_reach_the_kernel(driver: UringDriver, descriptor: int) -> None:
    assert driver.prepare_write(1, descriptor, 0, b"x", os.RWF_DSYNC)
    assert driver.prepare_write(2, descriptor, 0, b"x", NOT_A_FLAG)
    assert complete(driver, 2) == {1: 1, 2: -errno.EOPNOTSUPP}


def test_an_append_flag_takes_effect(driver: UringDriver, descriptor: int) -> None:
    assert driver.prepare_write(1, descriptor, 0, b"end", os.RWF_APPEND)
    assert complete(driver) == {1: 3}
    assert os.pread(descriptor, 10, 99) == b"\x63end"


def test_fsync_and_fdatasync(driver: UringDriver, descriptor: int) -> None:
    assert driver.prepare_fsync(1, descriptor, False)
    assert driver.prepare_fsync(2, descriptor, True)
    assert complete(driver, 2) == {1: 0, 2: 0}


def test_the_flag_of_a_flush_is_in_its_place(driver: UringDriver, descriptor: int) -> None:
    """The package's call, as ``prepare_fsync`` makes it: a wrong flag is refused, so a right one arrived."""
    sqe = driver._get_sqe(driver._ring)
    driver._api.io_uring_prep_fsync(sqe, descriptor, NOT_A_FLAG)
    sqe.user_data = 9
    assert complete(driver) == {9: -errno.EINVAL}


def test_an_error_is_a_negative_result(driver: UringDriver) -> None:
    assert driver.prepare_fsync(1, 1_000_000, False)
    assert complete(driver) == {1: -errno.EBADF}


def test_one_bad_entry_does_not_hold_up_the_rest(driver: UringDriver, descriptor: int) -> None:
    assert driver.prepare_fsync(1, 1_000_000, False)
    assert driver.prepare_read(2, descriptor, 0, bytearray(1))
    assert driver.submit() == 2
    assert driver.enter_count == 1


def test_a_cancelled_read_of_a_pipe_ends(driver: UringDriver) -> None:
    reader, writer = os.pipe()
    try:
        assert driver.prepare_read(5, reader, 0, bytearray(1))
        assert driver.submit() == 1
        assert driver.reap() == []
        assert driver.prepare_cancel(5)
        assert complete(driver) == {5: -errno.ECANCELED}
    finally:
        os.close(reader)
        os.close(writer)


def test_a_full_queue_says_so(driver: UringDriver, descriptor: int) -> None:
    taken = 0
    while driver.prepare_fsync(taken + 1, descriptor, True):
        taken += 1
    assert taken == 8
    assert not driver.prepare_read(100, descriptor, 0, bytearray(1))
    assert set(complete(driver, taken)) == set(range(1, taken + 1))


def test_a_bad_buffer_leaves_nothing_in_the_queue(driver: UringDriver, descriptor: int) -> None:
    with pytest.raises(TypeError):
        driver.prepare_write(1, descriptor, 0, memoryview(b"abcdef"), 0)  # type: ignore[arg-type]
    assert driver.submit() == 0


def test_buffers_are_let_go_at_the_completion(driver: UringDriver, descriptor: int) -> None:
    """The package leaks a memoryview that an Iovec was made of, which is why the driver refuses them."""
    buffer, data = bytearray(1000), bytes(1000)
    before = sys.getrefcount(buffer), sys.getrefcount(data)
    assert driver.prepare_read(1, descriptor, 0, buffer)
    assert driver.prepare_write(2, descriptor, 0, data, 0)
    assert sys.getrefcount(buffer) > before[0]
    complete(driver, 2)
    assert (sys.getrefcount(buffer), sys.getrefcount(data)) == before


def test_many_rounds_of_the_queue(driver: UringDriver, descriptor: int) -> None:
    for round_number in range(1, 100):
        buffer = bytearray(1)
        assert driver.prepare_read(round_number, descriptor, round_number, buffer)
        assert complete(driver) == {round_number: 1 if round_number < 100 else 0}
        assert buffer[0] == round_number
