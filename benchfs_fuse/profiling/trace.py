"""Traces of requests as a file in the Trace Event Format, which Perfetto and Chrome's tracing open.

Imports the core's ``meter``. The format: one JSON object, in ``traceEvents`` a slice (``"ph": "X"``) for each request
and one for each part of it, times in microseconds (Trace Event Format, Google, section "Complete Events"). Requests
that were under way at the same time are on different rows ("threads"), so that slices on one row nest. Bounded: the
number of requests that are kept, of which the last ones stay. Invariant: the file is there whole or not at all.
"""

from __future__ import annotations

import base64
import heapq
import json
import os
from array import array
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from benchfs_core.meter import PARTS
from benchfs_fuse.profiling.figures import NotUnderstood

MAX_REQUESTS = 300_000
"""Most requests in a file; of more the last ones."""

_NAMES = (*PARTS, "not resolved")
"""Of what a trace calls parts; the last is what follows more changes than are kept."""


@dataclass(frozen=True, slots=True)
class Traced:
    """One request."""

    name: str
    began_ns: int
    ended_ns: int
    bytes: int
    parts: tuple[tuple[str, int, int], ...]
    """Name, begin and end of each; they follow on each other, from the request's begin to its end."""


class Traces:
    """What was told of a mount's requests so far."""

    def __init__(self, most: int = MAX_REQUESTS) -> None:
        """Keep the last requests, at ``most`` so many."""
        self._most = most
        self.requests: deque[Traced] = deque(maxlen=most)
        self.lost = 0
        """How many were traced and are not here."""

    def add(self, told: Mapping[str, Any]) -> None:
        """Take an answer to ``profile-trace``. NotUnderstood."""
        try:
            names, lost = list(map(str, told["operations"])), int(told["lost"])
            numbers = array("q", base64.b64decode(told["traces"], validate=True))
            found = list(_traced(names, numbers))
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise NotUnderstood(repr(error)) from error
        self.lost += lost + max(0, len(self.requests) + len(found) - self._most)
        self.requests.extend(found)

    def events(self, process: int, title: str) -> Iterator[str]:
        """The events of the file, each in JSON."""
        requests = sorted(self.requests, key=lambda request: (request.began_ns, request.ended_ns))
        origin_ns = requests[0].began_ns if requests else 0
        yield _named("process_name", process, 0, title)
        known = 0
        for request, row in zip(requests, _rows(requests), strict=True):
            if row > known:
                known = row
                yield _named("thread_name", process, row, f"in flight {row}")
            place = f'"pid": {process}, "tid": {row}'
            arguments = json.dumps({"bytes": request.bytes})
            span = _span(request.began_ns - origin_ns, request.ended_ns - origin_ns)
            yield (
                f'{{"name": {json.dumps(request.name)}, "cat": "request", "ph": "X", {place}, {span}, '
                f'"args": {arguments}}}'
            )
            for name, began_ns, ended_ns in request.parts:
                if ended_ns > began_ns:
                    span = _span(began_ns - origin_ns, ended_ns - origin_ns)
                    yield f'{{"name": "{name}", "cat": "part", "ph": "X", {place}, {span}}}'


class TraceFile:
    """A file that is there once it is whole; made beside its place, so that what cannot be written is known at once."""

    def __init__(self, path: Path) -> None:
        """Begin to write. OSError."""
        self._path = path
        self._made = path.with_name(f".{path.name}.{os.getpid()}")
        self._stream: TextIO = self._made.open("x", encoding="utf-8")

    def write(self, traces: Traces, process: int, title: str) -> None:
        """Write everything, and put the file in its place, which one that was there loses. OSError."""
        other = json.dumps({"requests": len(traces.requests), "lost requests": traces.lost})
        with self._stream as stream:
            stream.write(f'{{"displayTimeUnit": "ns", "otherData": {other}, "traceEvents": [')
            for number, event in enumerate(traces.events(process, title)):
                stream.write(f"{',' if number else ''}\n{event}")
            stream.write("\n]}\n")
        os.replace(self._made, self._path)

    def close(self) -> None:
        """Leave nothing behind but a file that is whole."""
        self._stream.close()
        with suppress(FileNotFoundError):
            self._made.unlink()


def _traced(names: list[str], numbers: array[int]) -> Iterator[Traced]:
    start = 0
    while start < len(numbers):
        length = numbers[start]
        operation, ended_ns, moved, *changes = numbers[start + 1 : start + 1 + length]
        if start + 1 + length > len(numbers) or len(changes) % 2 or not changes or min(operation, *changes) < 0:
            raise ValueError("a trace of another form")
        instants = [*changes[::2], ended_ns]
        if instants != sorted(instants):
            raise ValueError("a trace that goes back in time")
        parts = zip((_NAMES[part] for part in changes[1::2]), instants, instants[1:], strict=False)
        yield Traced(names[operation], instants[0], ended_ns, moved, tuple(parts))
        start += 1 + length


def _rows(requests: list[Traced]) -> Iterator[int]:
    """A row for each request, counted from 1, on which no other is at the same time; as few as will do."""
    busy: list[tuple[int, int]] = []
    free: list[int] = []
    for request in requests:
        while busy and busy[0][0] <= request.began_ns:
            heapq.heappush(free, heapq.heappop(busy)[1])
        row = heapq.heappop(free) if free else len(busy) + 1
        heapq.heappush(busy, (request.ended_ns, row))
        yield row


def _named(kind: str, process: int, row: int, name: str) -> str:
    arguments = json.dumps({"name": name})
    return f'{{"name": "{kind}", "ph": "M", "pid": {process}, "tid": {row}, "args": {arguments}}}'


def _span(began_ns: int, ended_ns: int) -> str:
    return f'"ts": {_microseconds(began_ns)}, "dur": {_microseconds(ended_ns - began_ns)}'


def _microseconds(time_ns: int) -> str:
    return f"{time_ns // 1000}.{time_ns % 1000:03d}"
