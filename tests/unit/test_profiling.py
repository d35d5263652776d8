"""``benchfs profile`` without a mount: what it makes of answers, good and bad, and the trace file."""

from __future__ import annotations

import argparse
import base64
import json
import random
from array import array
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchfs_core.meter import PARTS, Meter, Part
from benchfs_core.profile import Profile
from benchfs_fuse.profiling import command, figures, table
from benchfs_fuse.profiling.asked import profile_commands
from benchfs_fuse.profiling.figures import ALL, NotUnderstood, rows
from benchfs_fuse.profiling.trace import TraceFile, Traces


class Daemon:
    """Counts requests by a clock that a test moves."""

    def __init__(self) -> None:
        self.now = 10**12
        self.profile = Profile(Meter(lambda: self.now), random.Random(0).random)
        self.commands = profile_commands(self.profile, {"since": "then", "since_ns": 10**12, "plane": "ring"})

    def requests(self, name: str, count: int, spent_ns: dict[Part, int], moved: int = 0) -> None:
        operation = self.profile.operation(name)
        for _ in range(count):
            arrived_ns = self.now
            timing = operation.begin(arrived_ns)
            for part, time_ns in spent_ns.items():
                if timing is not None:
                    timing.enter(part)
                self.now += time_ns
            operation.end(arrived_ns, moved, timing)

    def ask(self, name: str, **more: object) -> dict[str, Any]:
        """As it comes over the socket."""
        found: dict[str, Any] = json.loads(json.dumps(self.commands[name](more)))
        return found


@pytest.fixture
def daemon() -> Daemon:
    return Daemon()


def test_rows_add_up_to_the_nanosecond(daemon: Daemon) -> None:
    daemon.requests("read", 5003, {Part.FUSE: 7, Part.CORE: 11, Part.DISK: 101}, 4096)
    daemon.requests("write", 77, {Part.CORE: 13, Part.RING: 5, Part.DISK: 1001}, 100)
    write, read, whole = sorted(rows(daemon.ask("profile"), None), key=lambda row: (row.name == ALL, row.count))
    assert (write.name, read.name, whole.name) == ("write", "read", ALL)
    assert (read.count, read.bytes, read.total_ns, read.mean_ns, read.max_ns) == (
        5003,
        5003 * 4096,
        5003 * 119,
        119,
        119,
    )
    assert whole.total_ns == read.total_ns + write.total_ns
    for row in (read, write, whole):
        assert row.parts_ns is not None
        assert sum(row.parts_ns) == row.total_ns
    assert read.parts_ns == (7 * 5003, 11 * 5003, 0, 0, 101 * 5003)
    assert read.quantile_ns(0.99) == 119


@settings(deadline=None)
@given(total=st.integers(0, 10**15), shares=st.lists(st.integers(0, 10**12), min_size=5, max_size=5).filter(any))
def test_however_a_total_is_divided_nothing_is_lost(total: int, shares: list[int]) -> None:
    parts = figures._divided(total, tuple(shares))
    assert sum(parts) == total
    for part, share in zip(parts, shares, strict=True):
        assert abs(part - total * share / sum(shares)) <= 1 + total * 1e-12


def test_the_difference_of_two_answers_is_what_came_between(daemon: Daemon) -> None:
    daemon.requests("read", 1000, {Part.DISK: 10_000})
    daemon.requests("open", 3, {Part.CORE: 10})
    earlier = daemon.ask("profile", mode="watch")
    daemon.requests("read", 10, {Part.CORE: 100})
    daemon.requests("lookup", 1, {Part.METADATA: 5})
    read, lookup, whole = rows(daemon.ask("profile"), earlier)
    assert (read.name, lookup.name, whole.count) == ("read", "lookup", 11)
    assert (read.count, read.total_ns, read.split_requests, read.parts_ns) == (10, 1000, 10, (0, 1000, 0, 0, 0))
    assert 100 <= read.quantile_ns(0.5) <= read.max_ns <= 106  # not what was longer before
    assert rows(earlier, earlier) == []
    assert table.as_table([], 1) == ["no requests came"]


def test_the_table_has_every_figure_and_the_json_as_well(daemon: Daemon) -> None:
    daemon.requests("read", 1500, {Part.FUSE: 1000, Part.DISK: 2000}, 1 << 20)
    found = rows(daemon.ask("profile"), None)
    head, read, whole, shares = table.as_table(found, 10.0)
    assert head.split() == ["operation", "count", "a", "second", "MiB", "errors", "mean", "p50", "p99", "max", *PARTS]
    assert read.split() == [
        "read",
        "1,500",
        "150",
        "1,500",
        "0",
        "3.0",
        "3.0",
        "3.0",
        "3.0",
        "1.0",
        "0.0",
        "0.0",
        "0.0",
        "2.0",
    ]
    assert whole.split()[1:] == read.split()[1:]
    assert shares == "of the time: fuse 33.3%, core 0.0%, metadata 0.0%, ring 0.0%, disk 66.7%"
    document = json.loads(table.as_json({"pid": 1}, found))
    assert (document["benchfs_profile"], document["pid"]) == (table.VERSION, 1)
    one = document["operations"]["read"]
    assert sum(one["parts_ns"].values()) == one["total_ns"] == 1500 * 3000
    assert list(one["parts_ns"]) == list(PARTS)


def test_where_nothing_was_split_the_parts_are_left_out(daemon: Daemon) -> None:
    daemon.requests("read", 1, {Part.FUSE: 0})
    (line,) = [line for line in table.as_table(rows(daemon.ask("profile"), None), 1) if line.startswith("read")]
    assert line.split()[-len(PARTS) :] == ["–"] * len(PARTS)


STRANGE: list[Any] = [
    {},
    {"parts": list(PARTS)},
    {"parts": ["other"], "operations": {}},
    {"parts": list(PARTS), "operations": []},
    {"parts": list(PARTS), "operations": {"read": {}}},
    {"parts": list(PARTS), "operations": {"read": 3}},
]


@pytest.mark.parametrize("answer", STRANGE)
def test_an_answer_of_another_release_is_told_apart(answer: Any) -> None:
    with pytest.raises(NotUnderstood):
        rows(answer, None)


@pytest.mark.parametrize(
    ("key", "value"),
    [("count", "1"), ("total_ns", None), ("buckets", {"x": 1}), ("buckets", {"99999": 1}), ("split_ns", [1])],
)
def test_figures_of_another_form_are_told_apart(daemon: Daemon, key: str, value: object) -> None:
    daemon.requests("read", 1, {Part.FUSE: 5})
    told = daemon.ask("profile")
    told["operations"]["read"][key] = value
    with pytest.raises(NotUnderstood):
        rows(told, None)


# Traces


def packed(*requests: list[int]) -> dict[str, Any]:
    numbers = [number for request in requests for number in (len(request), *request)]
    traces = base64.b64encode(array("q", numbers).tobytes()).decode()
    return {"operations": ["read", "write"], "lost": 0, "traces": traces}


request_shapes = st.lists(
    st.tuples(
        st.integers(0, 1), st.integers(0, 500), st.lists(st.tuples(st.integers(0, 90), st.integers(0, 5)), max_size=6)
    ),
    min_size=1,
    max_size=60,
)


@settings(deadline=None)
@given(shapes=request_shapes)
def test_slices_on_a_row_nest_whatever_was_under_way_at_the_same_time(
    shapes: list[tuple[int, int, list[tuple[int, int]]]],
) -> None:
    requests = []
    for operation, began_ns, spans in shapes:
        now_ns, changes = began_ns, [began_ns, 0]
        for length, part in spans:
            now_ns += length
            changes += [now_ns, part]
        requests.append([operation, now_ns + 3, 4096, *changes])
    traces = Traces()
    traces.add(packed(*requests))
    events = [json.loads(event) for event in traces.events(7, "a mount")]
    slices = [event for event in events if event["ph"] == "X"]
    assert sum(event["cat"] == "request" for event in slices) == len(requests)
    assert all(event["pid"] == 7 for event in events)
    named = {event["tid"] for event in events if event["name"] == "thread_name"}
    assert {event["tid"] for event in slices} == named
    for row in named:
        assert_nested([event for event in slices if event["tid"] == row])
    at_once = max(
        sum(one[3] <= other[3] < one[1] for one in requests) for other in requests
    )  # [1] is a request's end, [3] its begin
    assert len(named) == at_once


def assert_nested(slices: list[dict[str, Any]]) -> None:
    """As a viewer stacks them: in the order of the file, each inside the one that is open, or after it."""
    open_until: list[int] = []
    last_ns = 0
    for event in slices:
        began_ns, length_ns = round(event["ts"] * 1000), round(event["dur"] * 1000)
        assert began_ns >= last_ns
        last_ns = began_ns
        while open_until and open_until[-1] <= began_ns:
            open_until.pop()
        assert event["cat"] == ("part" if open_until else "request")
        assert not open_until or began_ns + length_ns <= open_until[-1]
        open_until.append(began_ns + length_ns)


def test_the_file_is_whole_or_not_there(tmp_path: Path) -> None:
    path, traces = tmp_path / "trace.json", Traces()
    traces.add(packed([1, 2500, 4096, 1000, 0, 1250, 4]))
    path.write_text("old")
    file = TraceFile(path)
    file.close()
    assert [one.name for one in tmp_path.iterdir()] == ["trace.json"]
    assert path.read_text() == "old"
    file = TraceFile(path)
    try:
        file.write(traces, 9, "benchfs /mnt")
    finally:
        file.close()
    assert [one.name for one in tmp_path.iterdir()] == ["trace.json"]
    document = json.loads(path.read_text())
    assert document["displayTimeUnit"] == "ns"
    assert document["otherData"] == {"requests": 1, "lost requests": 0}
    process, thread, request, fuse, disk = document["traceEvents"]
    assert (process["ph"], process["args"]) == ("M", {"name": "benchfs /mnt"})
    assert (thread["ph"], thread["tid"], thread["args"]) == ("M", 1, {"name": "in flight 1"})
    assert (request["name"], request["ts"], request["dur"], request["args"]) == ("write", 0, 1.5, {"bytes": 4096})
    assert (fuse["name"], fuse["ts"], fuse["dur"]) == ("fuse", 0, 0.25)
    assert (disk["name"], disk["ts"], disk["dur"]) == ("disk", 0.25, 1.25)
    with pytest.raises(OSError):
        TraceFile(tmp_path / "no such directory" / "trace.json")


def test_only_the_last_requests_are_kept_and_the_others_counted() -> None:
    traces = Traces(most=3)
    for number in range(5):
        traces.add({**packed([0, number + 1, 0, number, 0]), "lost": number == 2})
    assert [request.began_ns for request in traces.requests] == [2, 3, 4]
    assert traces.lost == 3


@pytest.mark.parametrize(
    "told",
    [
        {},
        {**packed(), "traces": "not Base64"},
        {**packed(), "traces": base64.b64encode(b"abc").decode()},
        packed([0, 5]),
        packed([0, 5, 0]),
        packed([0, 5, 0, 1, 0, 2]),
        packed([7, 5, 0, 1, 0]),
        packed([-1, 5, 0, 1, 0]),
        packed([0, 5, 0, 1, 9]),
        packed([0, 5, 0, 8, 0]),
        {**packed(), "traces": base64.b64encode(array("q", [100, 0, 5]).tobytes()).decode()},
    ],
)
def test_traces_of_another_form_are_told_apart(told: dict[str, Any]) -> None:
    with pytest.raises(NotUnderstood):
        Traces().add(told)


# The command


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "1e9", "x", ""])
def test_no_time_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="no number of seconds"):
        command._seconds(text)


def test_whatever_a_client_asks_for_is_answered(daemon: Daemon) -> None:
    for more in ({"mode": 3}, {"mode": ["watch"]}, {"mode": None}):
        assert daemon.ask("profile", **more)["operations"] == {}
    for after in ("x", True, None, [1], 10**30, -(10**30)):
        assert daemon.ask("profile-trace", after=after)["traces"] == ""
