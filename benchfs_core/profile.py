"""``Profile``: what each kind of request has cost a mount so far: how many, how long, and where the time went.

Imports ``histogram``, ``meter`` and the standard library; knows neither FUSE nor trio. Of every request the number,
the bytes and how long it took are counted, which costs it most of a microsecond. Where its time went is found out of
one request in ``SPLIT_EVERY`` or so, drawn at random, which stands for those since the last one; of each of the first
``SPLIT_FIRST`` of a kind; and of each while somebody *watches*. Traces of requests are kept only while somebody
*traces*. Watching and tracing end by themselves when they are not asked for again: whoever asked may be gone.

Invariants: the parts of the split requests add up to their whole, to the nanosecond; memory is bounded by the number of
kinds, ``FOLD_AT`` and ``MAX_TRACED``.
"""

from __future__ import annotations

import base64
import itertools
import random
from array import array
from collections import deque
from collections.abc import Callable
from typing import TypeAlias

from benchfs_core.histogram import Histogram
from benchfs_core.meter import PARTS, Meter, Timing

Json: TypeAlias = bool | int | str | list["Json"] | dict[str, "Json"] | None

SPLIT_FIRST = 16
SPLIT_EVERY = 1024

FOLD_AT = 1024
"""So many durations of a kind are kept one by one, at least, before they are put into its histogram: that takes 50 µs
and 80 ns for each of them, most of it for code and memory that no request has used lately."""

WATCH_NS = 5 * 10**9
"""How long watching and tracing go on unless they are asked for again."""

MAX_WATCHERS = 16
"""Most who watch at a time; of more, those that asked longest ago no longer do."""

MAX_TRACED = 8192
"""Most requests whose traces are kept; of more the oldest are lost."""

_MAX_PIECE_BYTES = 384 << 10
"""About how much of a trace is told at a time, so that nobody waits for long meanwhile."""


class Operation:
    """What one kind of request has cost so far."""

    __slots__ = (
        *("_begun", "_folded", "_gap", "_histogram", "_now_ns", "_number", "_profile", "_split"),
        *("bytes", "errors", "name", "split_requests", "times_ns", "unsplit"),
    )

    def __init__(self, profile: Profile, number: int, name: str) -> None:
        self.name = name
        self.bytes = 0
        """Of files, read or written."""
        self.errors = 0
        """How many were answered with an error; counted by the front end."""
        self.split_requests = 0
        """How many were split."""
        self.times_ns: list[int] = []
        """How long each took that is not in the histogram yet."""
        self.unsplit = 0
        """How many more come before one is split."""
        self._profile = profile
        self._now_ns = profile.meter.now_ns
        self._number = number
        self._histogram = Histogram()
        self._folded = 0
        self._split = [0] * len(PARTS)
        self._begun = 0
        """How many had begun when the last one was split."""
        self.split_next()

    @property
    def count(self) -> int:
        """How many were answered."""
        return self._folded + len(self.times_ns)

    def split_next(self) -> None:
        """Split the next one."""
        self.unsplit = 0
        self._gap = 1

    def begin(self, arrived_ns: int) -> Timing | None:
        """A request has arrived; what to time it with, if it is to be split.

        Where every tenth of a microsecond counts, ``unsplit`` is looked at instead, and lowered while it is not 0.
        """
        if self.unsplit:
            self.unsplit -= 1
            return None
        return self.split(arrived_ns)

    def end(self, arrived_ns: int, moved: int, timing: Timing | None) -> None:
        """A request is answered that arrived at ``arrived_ns`` and moved so many bytes of files.

        Of one that is not split the same is done by adding to ``times_ns`` and ``bytes``.
        """
        now_ns = self._now_ns()
        self.times_ns.append(now_ns - arrived_ns)
        self.bytes += moved
        if timing is not None:
            self._keep(timing, now_ns, moved)

    def split(self, arrived_ns: int) -> Timing:
        """What to time a request with that is split; which one is next is drawn anew."""
        if len(self.times_ns) >= FOLD_AT:
            self._fold()
        weight = self._gap
        self._begun += weight
        if self._profile.is_watched():
            self._gap = 1
        else:
            spacing = min(SPLIT_EVERY, max(1, self._begun // SPLIT_FIRST))
            self._gap = 1 + int(self._profile.random() * (2 * spacing - 1))
        self.unsplit = self._gap - 1
        return Timing(self._now_ns, arrived_ns, weight=weight, traced=self._profile.is_traced)

    def tell(self) -> dict[str, Json]:
        """All of it, durations in nanoseconds; ``split_ns``, by ``Part``, stands for all requests."""
        self._fold()
        return {
            "count": self._folded,
            "bytes": self.bytes,
            "errors": self.errors,
            "total_ns": self._histogram.total,
            "max_ns": self._histogram.maximum,
            "buckets": {str(bucket): count for bucket, count in self._histogram.buckets.items()},
            "split_requests": self.split_requests,
            "split_ns": list(self._split),
        }

    def _fold(self) -> None:
        self._histogram.add(self.times_ns)
        self._folded += len(self.times_ns)
        self.times_ns.clear()

    def _keep(self, timing: Timing, now_ns: int, moved: int) -> None:
        timing.end(now_ns)
        self.split_requests += 1
        for part, spent_ns in enumerate(timing.parts_ns):
            self._split[part] += spent_ns * timing.weight
        if timing.changes is not None:
            self._profile.keep_trace([self._number, now_ns, moved, *timing.changes])


class Profile:
    """What the requests of one mount have cost so far."""

    def __init__(self, meter: Meter | None = None, random: Callable[[], float] = random.random) -> None:
        """Count for a mount.

        Args:
            meter: of the volume, which splits the requests that are followed with it; None: nothing is split further.
            random: a source of numbers from 0 up to but not including 1.
        """
        self.meter = meter or Meter()
        self.random = random
        self.is_traced = False
        """Whether traces are kept."""
        self._operations: dict[str, Operation] = {}
        self._watchers: dict[str, tuple[int, bool]] = {}
        """Until when each watches, and whether it traces; who asked last is the last."""
        self._next_end_ns = 0
        """When the first of them ends, if it does not ask again."""
        self._traces: deque[bytes] = deque(maxlen=MAX_TRACED)
        self._traced = 0
        """How many traces were kept, the lost ones included."""

    def operation(self, name: str) -> Operation:
        """What is counted of one kind of request."""
        if name not in self._operations:
            self._operations[name] = Operation(self, len(self._operations), name)
        return self._operations[name]

    def counts(self) -> dict[str, int]:
        """How many requests of each kind were answered, of those that there were."""
        return {name: operation.count for name, operation in self._operations.items() if operation.count}

    def tell(self) -> dict[str, Json]:
        """Everything since the mount, and ``now_ns``, by a clock of which only differences mean anything."""
        told = {name: operation.tell() for name, operation in self._operations.items() if operation.count}
        return {"now_ns": self.meter.now_ns(), "parts": list(PARTS), "operations": {**told}}

    # Watching and tracing

    def watch(self, watcher: str, *, trace: bool) -> None:
        """Split every request, and with ``trace`` keep its trace, for ``WATCH_NS`` from now on.

        ``watcher`` is any name: whoever uses it again asks for more, or with ``end_watching`` for no more.
        """
        if not self.is_watched():
            self._split_next()
        self._watchers.pop(watcher, None)
        self._watchers[watcher] = (self.meter.now_ns() + WATCH_NS, trace)
        if len(self._watchers) > MAX_WATCHERS:
            del self._watchers[next(iter(self._watchers))]
        self._note_watchers()

    def end_watching(self, watcher: str) -> None:
        """The watcher has seen enough; without any, only a few requests are split again."""
        if self._watchers.pop(watcher, None) is not None:
            self._note_watchers()
            if not self._watchers:
                self._split_next()

    def is_watched(self) -> bool:
        """Whether every request is to be split; asked when one is, and ends what nobody has asked for again."""
        if not self._watchers:
            return False
        now_ns = self.meter.now_ns()
        if now_ns < self._next_end_ns:
            return True
        self._watchers = {name: one for name, one in self._watchers.items() if now_ns < one[0]}
        self._note_watchers()
        return bool(self._watchers)

    def keep_trace(self, values: list[int]) -> None:
        """Keep a request's trace: operation, end, bytes, then instants and parts in turns."""
        if self.is_traced:
            self._traced += 1
            self._traces.append(array("q", [len(values), *values]).tobytes())

    def tell_trace(self, after: int | None) -> dict[str, Json]:
        """Some of the traces that are kept, oldest first, in the order in which the requests ended.

        Args:
            after: ``next`` of the last answer, so that these follow; None: none yet, only where to begin.

        Returns:
            ``next``; ``more``, whether there are more; ``lost``, how many in between are lost; ``operations``, their
            names by number; and ``traces``, in Base64: of each its length and what ``keep_trace`` was given, as
            numbers of 64 bits in the machine's order.
        """
        first = self._traced - len(self._traces)
        start = self._traced if after is None else max(0, min(after, self._traced))
        lost = max(0, first - start)
        start += lost
        piece: list[bytes] = []
        size = 0
        for trace in itertools.islice(self._traces, start - first, None):
            if size > _MAX_PIECE_BYTES:
                break
            piece.append(trace)
            size += len(trace)
        return {
            "next": start + len(piece),
            "more": start + len(piece) < self._traced,
            "lost": lost,
            "operations": list(self._operations),
            "traces": base64.b64encode(b"".join(piece)).decode(),
        }

    def _note_watchers(self) -> None:
        self._next_end_ns = min((until_ns for until_ns, _ in self._watchers.values()), default=0)
        self.is_traced = any(traces for _, traces in self._watchers.values())
        if not self.is_traced:
            self._traces.clear()

    def _split_next(self) -> None:
        for operation in self._operations.values():
            operation.split_next()
