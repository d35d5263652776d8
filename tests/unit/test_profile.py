"""What is counted of each kind of request, what is split of it, and what is kept of traces."""

from __future__ import annotations

import base64
import random
from array import array
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchfs_core.histogram import quantile
from benchfs_core.meter import Meter, Part
from benchfs_core.profile import (
    FOLD_AT,
    MAX_TRACED,
    MAX_WATCHERS,
    SPLIT_EVERY,
    SPLIT_FIRST,
    WATCH_NS,
    Operation,
    Profile,
)


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 10**12

    def __call__(self) -> int:
        return self.now


class Mount:
    """A profile, and requests for it that take as long as they are told to."""

    def __init__(self, seed: int = 0) -> None:
        self.clock = Clock()
        self.profile = Profile(Meter(self.clock), random.Random(seed).random)

    def request(self, name: str, spent_ns: dict[Part, int], moved: int = 0) -> bool:
        """One request; whether it was split."""
        operation, arrived_ns = self.profile.operation(name), self.clock.now
        timing = operation.begin(arrived_ns)
        for part, time_ns in spent_ns.items():
            if timing is not None:
                timing.enter(part)
            self.clock.now += time_ns
        if timing is not None:
            timing.enter(Part.FUSE)
        operation.end(arrived_ns, moved, timing)
        return timing is not None

    def told(self, name: str) -> dict[str, object]:
        operations = self.profile.tell()["operations"]
        assert isinstance(operations, dict)
        found = operations[name]
        assert isinstance(found, dict)
        return {**found}


@pytest.fixture
def mount() -> Mount:
    return Mount()


def test_every_request_is_counted_with_its_bytes_and_how_long_it_took(mount: Mount) -> None:
    count = 775
    for number in range(count):
        mount.request("read", {Part.DISK: 1000 + number}, moved=10)
    mount.profile.operation("read").errors += 2
    mount.profile.operation("unused")
    told = mount.told("read")
    assert mount.profile.counts() == {"read": count}
    assert (told["count"], told["bytes"], told["errors"]) == (count, 10 * count, 2)
    assert told["total_ns"] == sum(range(1000, 1000 + count))
    assert told["max_ns"] == 1000 + count - 1
    buckets = told["buckets"]
    assert isinstance(buckets, dict)
    assert sum(buckets.values()) == count
    assert quantile({int(bucket): n for bucket, n in buckets.items()}, 0.5, 10**9) == pytest.approx(1387, rel=1 / 16)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 1000))
def test_some_are_split_and_stand_for_all(seed: int) -> None:
    mount = Mount(seed)
    count = 40_000
    split = [mount.request("read", {Part.CORE: 100, Part.DISK: 300}) for _ in range(count)]
    assert all(split[:SPLIT_FIRST])
    assert count / SPLIT_EVERY * 0.7 < sum(split) < count / SPLIT_EVERY * 1.5 + 10 * SPLIT_FIRST
    told = mount.told("read")
    split_ns = told["split_ns"]
    assert isinstance(split_ns, list)
    assert split_ns[Part.DISK] == 3 * split_ns[Part.CORE]
    assert sum(split_ns) == pytest.approx(400 * count, rel=2 * SPLIT_EVERY / count)
    assert told["split_requests"] == sum(split)


def test_a_few_slow_ones_weigh_as_much_in_the_split_as_they_do(mount: Mount) -> None:
    """Every 8th request is slow in the disk: whatever is drawn, it must not be always or never those."""
    for number in range(120_000):
        mount.request("write", {Part.CORE: 100, Part.DISK: 10_000 if not number % 8 else 100})
    split_ns = mount.told("write")["split_ns"]
    assert isinstance(split_ns, list)
    assert split_ns[Part.DISK] / split_ns[Part.CORE] == pytest.approx((10_000 + 7 * 100) / 800, rel=0.3)


def test_while_somebody_watches_each_is_split_and_the_parts_are_exact(mount: Mount) -> None:
    for _ in range(1000):
        mount.request("read", {Part.CORE: 5})
    before = mount.told("read")
    mount.profile.watch("me", trace=False)
    assert all(mount.request("read", {Part.CORE: 10, Part.DISK: 7}) for _ in range(100))
    assert mount.request("write", {Part.RING: 3})
    after = mount.told("read")
    assert isinstance(before["split_ns"], list)
    assert isinstance(after["split_ns"], list)
    gained = [later - earlier for later, earlier in zip(after["split_ns"], before["split_ns"], strict=True)]
    assert gained == [0, 1000, 0, 0, 700]
    mount.profile.end_watching("me")
    assert sum(mount.request("read", {Part.CORE: 10}) for _ in range(640)) < 100


def test_watching_ends_by_itself_and_can_be_renewed(mount: Mount) -> None:
    for _ in range(2000):
        mount.request("read", {Part.CORE: 5})
    mount.profile.watch("me", trace=True)
    mount.clock.now += WATCH_NS - 1000
    assert all(mount.request("read", {Part.CORE: 1}) for _ in range(100))
    mount.profile.watch("me", trace=False)  # and no trace this time
    assert all(mount.request("read", {Part.CORE: 1}) for _ in range(100))
    assert not mount.profile.is_traced
    assert mount.profile.tell_trace(0)["traces"] == ""
    mount.clock.now += WATCH_NS
    assert sum(mount.request("read", {Part.CORE: 1}) for _ in range(640)) < 100


def test_who_watches_goes_on_when_another_ends(mount: Mount) -> None:
    for _ in range(20_000):
        mount.request("read", {Part.CORE: 5})
    mount.profile.watch("one", trace=True)
    mount.profile.watch("other", trace=False)
    mount.request("read", {Part.CORE: 5})
    mount.profile.end_watching("other")
    mount.profile.end_watching("nobody")
    assert all(mount.request("read", {Part.CORE: 1}) for _ in range(100))
    assert len(traces_in(mount.profile.tell_trace(0))) == 101
    mount.profile.end_watching("one")
    assert not mount.profile.is_traced
    assert sum(mount.request("read", {Part.CORE: 1}) for _ in range(5 * SPLIT_EVERY)) < 30


def test_there_are_not_more_watchers_than_it_says(mount: Mount) -> None:
    mount.profile.watch("first", trace=True)
    for number in range(MAX_WATCHERS):
        mount.profile.watch(f"watcher {number}", trace=False)
    assert len(mount.profile._watchers) == MAX_WATCHERS
    assert not mount.profile.is_traced


def traces_in(told: Mapping[str, object]) -> list[list[int]]:
    assert isinstance(told["traces"], str)
    numbers = list(array("q", base64.b64decode(told["traces"])))
    found = []
    while numbers:
        length = numbers.pop(0)
        found.append(numbers[:length])
        del numbers[:length]
    return found


def test_traces_say_when_each_part_began(mount: Mount) -> None:
    start = mount.profile.tell_trace(None)["next"]
    assert type(start) is int
    mount.profile.watch("me", trace=True)
    began_ns = mount.clock.now
    mount.request("open", {Part.CORE: 5})
    mount.request("read", {Part.CORE: 10, Part.DISK: 7}, moved=4096)
    told = mount.profile.tell_trace(start)
    assert (told["operations"], told["more"], told["lost"], told["next"]) == (["open", "read"], False, 0, start + 2)
    first, second = traces_in(told)
    assert first[:3] == [0, began_ns + 5, 0]
    read_ns = began_ns + 5
    changes = [read_ns, Part.FUSE, read_ns, Part.CORE, read_ns + 10, Part.DISK, read_ns + 17, Part.FUSE]
    assert second == [1, read_ns + 17, 4096, *changes]
    assert traces_in(mount.profile.tell_trace(start + 2)) == []


def test_traces_are_told_in_pieces_and_the_oldest_are_lost(mount: Mount) -> None:
    mount.profile.watch("me", trace=True)
    cursor, kept, lost, pieces = 0, 0, 0, 0
    for _ in range(MAX_TRACED + 500):
        mount.request("read", {Part.CORE: 10, Part.DISK: 7})
    while True:
        told = mount.profile.tell_trace(cursor)
        assert isinstance(told["traces"], str)
        assert len(told["traces"]) < 1 << 20
        assert type(told["next"]) is int
        assert type(told["lost"]) is int
        cursor, pieces = told["next"], pieces + 1
        kept, lost = kept + len(traces_in(told)), lost + told["lost"]
        if not told["more"]:
            break
    assert (kept, lost) == (MAX_TRACED, 500)
    assert pieces > 1
    assert mount.profile.tell_trace(10**9)["more"] is False
    assert mount.profile.tell_trace(-5)["lost"] == 500


def test_requests_under_way_when_tracing_ends_leave_nothing(mount: Mount) -> None:
    mount.profile.watch("me", trace=True)
    operation = mount.profile.operation("read")
    timing = operation.begin(mount.clock.now)
    assert timing is not None
    mount.profile.end_watching("me")
    operation.end(mount.clock.now, 0, timing)
    assert traces_in(mount.profile.tell_trace(0)) == []


def test_an_operation_needs_bounded_memory(mount: Mount) -> None:
    operation: Operation = mount.profile.operation("read")
    for number in range(20_000):
        mount.request("read", {Part.CORE: number})
        assert len(operation.times_ns) < FOLD_AT + 2 * SPLIT_EVERY
