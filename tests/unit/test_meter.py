"""Where a request's time goes: each instant to one part, across awaits, tasks and threads; and what it means where."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from benchfs_core.chunks.ring import Ring
from benchfs_core.chunks.threads import run_in_thread
from benchfs_core.chunks.uring import io_uring_available
from benchfs_core.meter import MAX_CHANGES, PARTS, Meter, Part, Timing, metered

needs_ring = pytest.mark.skipif(io_uring_available() is not None, reason=str(io_uring_available()))


class Clock:
    """A clock that moves by one with each look, and by more where a test says so."""

    def __init__(self) -> None:
        self.now = 0
        self._lock = threading.Lock()

    def __call__(self) -> int:
        with self._lock:
            self.now += 1
            return self.now

    def pass_by(self, time_ns: int) -> None:
        with self._lock:
            self.now += time_ns


steps = st.lists(
    st.one_of(
        st.tuples(st.just("enter"), st.sampled_from(list(Part))),
        st.tuples(st.just("hold"), st.sampled_from(list(Part))),
        st.tuples(st.just("release"), st.just(Part.CORE)),
        st.tuples(st.just("at"), st.sampled_from(list(Part))),
        st.tuples(st.just("pass"), st.integers(0, 1000)),
    ),
    max_size=300,
)


@settings(deadline=None)
@given(steps=steps, traced=st.booleans())
def test_the_parts_add_up_to_the_whole_whatever_is_entered(steps: list[tuple[str, int]], traced: bool) -> None:
    clock = Clock()
    timing = Timing(clock, 0, traced=traced)
    held: list[Part | None] = []
    for what, value in steps:
        if what == "pass":
            clock.pass_by(value)
        elif what == "enter":
            timing.enter(Part(value))
        elif what == "at":
            timing.enter_at(Part(value), clock.now // 2)
        elif what == "hold":
            held.append(timing.hold(Part(value)))
        elif held:
            timing.release(held.pop())
    clock.pass_by(10)
    timing.end(clock.now)
    assert sum(timing.parts_ns) == clock.now
    assert min(timing.parts_ns) >= 0
    if timing.changes is not None:
        assert len(timing.changes) <= 2 * MAX_CHANGES + 2
        instants = [*timing.changes[::2], clock.now]
        assert instants == sorted(instants)


def test_what_is_held_counts_as_one_part_until_it_is_released() -> None:
    clock = Clock()
    timing = Timing(clock, 0)
    was = timing.hold(Part.METADATA)
    clock.pass_by(100)
    inner = timing.hold(Part.DISK)
    assert timing.enter(Part.DISK) is Part.METADATA
    clock.pass_by(100)
    timing.release(inner)
    timing.enter(Part.RING)
    clock.pass_by(100)
    timing.release(was)
    timing.end(clock.now)
    assert timing.parts_ns[Part.METADATA] >= 300
    assert timing.parts_ns[Part.DISK] == timing.parts_ns[Part.RING] == 0


class Layer:
    """Something that is metered."""

    def __init__(self, clock: Clock, seen: list[Timing | None], meter: Meter) -> None:
        self._clock, self._seen, self._meter = clock, seen, meter
        self.fact = 1
        self.inner: Layer = self

    @property
    def count(self) -> int:
        return len(self._seen)

    def call(self, time_ns: int, *, fails: bool = False) -> int:
        self._seen.append(self._meter.current)
        self._clock.pass_by(time_ns)
        if fails:
            raise ValueError
        return time_ns

    async def wait(self, time_ns: int) -> int:
        await trio.lowlevel.checkpoint()
        self._clock.pass_by(time_ns)
        await trio.lowlevel.checkpoint()
        return time_ns

    def items(self, count: int) -> Iterator[int]:
        for number in range(count):
            self._clock.pass_by(1000)
            yield number


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def meter(clock: Clock) -> Meter:
    return Meter(clock)


async def test_each_of_many_requests_is_followed_across_its_awaits(clock: Clock, meter: Meter) -> None:
    layer = metered(Layer(clock, [], meter), meter, Part.METADATA)

    async def request(timing: Timing) -> int:
        for _ in range(5):
            assert meter.current is timing
            await trio.lowlevel.checkpoint()
            assert meter.current is timing
            layer.call(1000)
        return await layer.wait(10)

    async def serve() -> None:
        timing = Timing(clock, clock())
        began_ns = clock.now
        assert await meter.follow(timing, request(timing)) == 10
        assert meter.current is None
        timing.end(clock.now)
        assert sum(timing.parts_ns) == clock.now - began_ns
        assert timing.parts_ns[Part.METADATA] >= 5000

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(serve)


async def test_nobody_is_timed_in_other_tasks_and_after_cancellation_and_failure(clock: Clock, meter: Meter) -> None:
    seen: list[Timing | None] = []
    layer = metered(Layer(clock, seen, meter), meter, Part.METADATA)
    timing = Timing(clock, 0)

    async def child() -> None:
        layer.call(1)

    async def request() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(child)
        with pytest.raises(ValueError):
            layer.call(1, fails=True)
        with trio.move_on_after(0):
            await trio.sleep_forever()
        layer.call(1)
        raise KeyError("the request's own")

    with pytest.raises(KeyError):
        await meter.follow(timing, request())
    assert seen == [None, timing, timing]
    assert meter.current is None
    assert timing.enter(Part.CORE) is Part.FUSE  # each call gave back what was before


async def test_a_metered_layer_is_as_it_was_for_all_others(clock: Clock, meter: Meter) -> None:
    target = Layer(clock, [], meter)
    layer = metered(target, meter, Part.METADATA, inner=("inner",))
    assert (layer.call(3), await layer.wait(4), list(layer.items(2)), layer.fact) == (3, 4, [0, 1], 1)
    assert layer.inner is not target
    assert layer.count == 1
    layer.inner.call(1)
    assert layer.count == 2
    with pytest.raises(AttributeError):
        layer.nothing  # type: ignore[attr-defined]  # noqa: B018
    with pytest.raises(ValueError):
        layer.call(0, fails=True)


async def test_a_layer_is_of_another_class_only_while_a_timed_request_runs(clock: Clock, meter: Meter) -> None:
    seen: list[Timing | None] = []
    layer = Layer(clock, seen, meter)
    meter.follow_into(layer, Part.METADATA)
    timing, other_done = Timing(clock, 0), trio.Event()

    async def request() -> list[int]:
        layer.call(10_000)
        assert type(layer) is not Layer
        assert isinstance(layer, Layer)
        await other_done.wait()
        with pytest.raises(ValueError):
            layer.call(10_000, fails=True)
        clock.pass_by(1_000_000)
        return list(layer.items(3))

    async def other() -> None:
        assert type(layer) is Layer
        layer.call(0)
        other_done.set()

    async def serve() -> None:
        assert await meter.follow(timing, request()) == [0, 1, 2]

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(other)
    assert type(layer) is Layer
    timing.end(clock.now)
    assert seen == [timing, None, timing]
    assert 23_000 <= timing.parts_ns[Part.METADATA] < 24_000
    with pytest.raises(KeyError):
        meter.run(timing, {}.popitem)
    assert (type(layer), meter.current) == (Layer, None)


async def test_what_a_layer_lists_counts_as_its_own_and_what_is_done_between_does_not(
    clock: Clock, meter: Meter
) -> None:
    layer = metered(Layer(clock, [], meter), meter, Part.METADATA)
    timing = Timing(clock, 0)

    async def request() -> list[int]:
        found = []
        for number in layer.items(10):
            clock.pass_by(100_000)
            found.append(number)
            if number == 6:
                break
        return found

    assert await meter.follow(timing, request()) == list(range(7))
    timing.end(clock.now)
    assert 7000 <= timing.parts_ns[Part.METADATA] < 8000
    assert timing.parts_ns[Part.FUSE] >= 700_000


async def test_a_thread_is_the_disks_and_the_way_to_it_the_rings(clock: Clock, meter: Meter) -> None:
    timing, limiter = Timing(clock, 0), trio.CapacityLimiter(1)
    arrived, go_on = threading.Event(), threading.Event()

    def call() -> int:
        arrived.set()
        go_on.wait(60)
        clock.pass_by(10_000)
        return 7

    async def request() -> int:
        return await run_in_thread(call, limiter, meter)

    async def hold_up() -> None:
        async with limiter:
            nursery.start_soon(serve)
            await trio.testing.wait_all_tasks_blocked()
            clock.pass_by(500)  # it waits for a thread meanwhile
        go_on.set()

    async def serve() -> None:
        assert await meter.follow(timing, request()) == 7

    async with trio.open_nursery() as nursery:
        nursery.start_soon(hold_up)
    timing.end(clock.now)
    assert arrived.is_set()
    assert timing.parts_ns[Part.RING] >= 500
    assert timing.parts_ns[Part.DISK] >= 10_000
    assert sum(timing.parts_ns) == clock.now
    assert await run_in_thread(lambda: 8, limiter, meter) == 8


@needs_ring
async def test_in_the_ring_waiting_for_a_place_is_the_rings_and_the_kernel_the_disks(
    clock: Clock, meter: Meter, tmp_path: Path
) -> None:
    reading, writing = os.pipe()
    timings = [Timing(clock, 0, traced=True) for _ in range(2)]

    async def request() -> bytes:
        return bytes(await ring.read(reading, 0, 3))

    async def serve(timing: Timing) -> None:
        assert await meter.follow(timing, request()) == b"abc"
        timing.end(clock())

    try:
        async with Ring.open(1, meter=meter) as ring, trio.open_nursery() as nursery:
            for timing in timings:
                nursery.start_soon(serve, timing)
                await trio.testing.wait_all_tasks_blocked()  # the first is in the kernel, the second has no place
            clock.pass_by(10_000)
            os.write(writing, b"abc")
            await trio.testing.wait_all_tasks_blocked()
            while not timings[0].parts_ns[Part.DISK]:
                await trio.lowlevel.checkpoint()
            clock.pass_by(1000)
            os.write(writing, b"abc")
    finally:
        os.close(reading)
        os.close(writing)
    first, second = timings
    assert first.parts_ns[Part.DISK] >= 10_000
    assert second.parts_ns[Part.RING] >= 10_000
    assert 1000 <= second.parts_ns[Part.DISK] < 10_000
    for timing in timings:
        assert timing.changes is not None
        assert timing.changes[1::2] == [Part.FUSE, Part.RING, Part.DISK, Part.RING, Part.FUSE]


def test_the_parts_have_names() -> None:
    assert PARTS == ("fuse", "core", "metadata", "ring", "disk")
