"""From what a daemon counted to what people read: differences, means, quantiles, and parts that add up.

Pure: imports the core's ``histogram`` and ``meter`` and dataclasses. Durations are in nanoseconds. Invariant: the parts
of a row add up to its total, to the nanosecond. Where not every request was split, the total is divided in the
proportion of those that were.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchfs_core.histogram import bounds, quantile
from benchfs_core.meter import PARTS

ALL = "all"
"""The name of the row that sums up the others."""


class NotUnderstood(Exception):
    """An answer that no daemon of this release gives."""


@dataclass(frozen=True, slots=True)
class Row:
    """What one kind of request has cost."""

    name: str
    count: int
    bytes: int
    errors: int
    total_ns: int
    max_ns: int
    buckets: Mapping[int, int]
    split_requests: int
    split_ns: tuple[int, ...]
    """By part; stands for all requests, but is measured of ``split_requests``."""

    @property
    def mean_ns(self) -> float:
        """How long one took."""
        return self.total_ns / self.count

    def quantile_ns(self, part: float) -> int:
        """How long it took at most, of ``part`` of the requests; up to 1/16 too much, never too little."""
        return quantile(self.buckets, part, self.max_ns)

    @property
    def parts_ns(self) -> tuple[int, ...] | None:
        """``total_ns``, divided; None where no request was split."""
        return _divided(self.total_ns, self.split_ns) if any(self.split_ns) else None


def rows(later: Mapping[str, Any], earlier: Mapping[str, Any] | None) -> list[Row]:
    """What was counted between two answers, or until the later one, by falling total, and ``ALL`` at the end.

    The longest duration between two answers is known exactly only where it is the longest since the mount; else to
    within the width of its bucket.

    Raises:
        NotUnderstood: they are no answers of a daemon of this release.
    """
    try:
        if tuple(later["parts"]) != PARTS:
            raise NotUnderstood(f"parts {later['parts']!r}")
        before = {} if earlier is None else {name: _row(name, one) for name, one in earlier["operations"].items()}
        found = [_since(_row(name, one), before.get(name)) for name, one in later["operations"].items()]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise NotUnderstood(repr(error)) from error
    found = sorted((row for row in found if row.count), key=lambda row: (-row.total_ns, row.name))
    return [*found, _sum(found)] if found else []


def _row(name: str, told: Mapping[str, Any]) -> Row:
    numbers = [told[key] for key in ("count", "bytes", "errors", "total_ns", "max_ns", "split_requests")]
    buckets = {int(bucket): count for bucket, count in told["buckets"].items()}
    split_ns = tuple(told["split_ns"])
    if len(split_ns) != len(PARTS) or not all(type(one) is int for one in (*numbers, *buckets.values(), *split_ns)):
        raise ValueError(name)
    if not all(0 <= bucket < 0x7FF0 for bucket in buckets):  # from there on are infinity and what is no number
        raise ValueError(name)
    count, size, errors, total_ns, max_ns, split_requests = numbers
    return Row(name, count, size, errors, total_ns, max_ns, buckets, split_requests, split_ns)


def _since(later: Row, earlier: Row | None) -> Row:
    if earlier is None:
        return later
    buckets = {
        bucket: count - earlier.buckets.get(bucket, 0)
        for bucket, count in later.buckets.items()
        if count > earlier.buckets.get(bucket, 0)
    }
    return Row(
        later.name,
        later.count - earlier.count,
        later.bytes - earlier.bytes,
        later.errors - earlier.errors,
        later.total_ns - earlier.total_ns,
        min(later.max_ns, _longest(buckets, later.total_ns - earlier.total_ns)),
        buckets,
        later.split_requests - earlier.split_requests,
        tuple(after - before for after, before in zip(later.split_ns, earlier.split_ns, strict=True)),
    )


def _longest(buckets: Mapping[int, int], total_ns: int) -> int:
    """The most that the longest of these durations can be, which together took ``total_ns``."""
    least = sum(bounds(bucket)[0] * count for bucket, count in buckets.items())
    top = max(buckets, default=0)
    return min(bounds(top)[1], total_ns - (least - bounds(top)[0]))


def _sum(found: list[Row]) -> Row:
    buckets: Counter[int] = Counter()
    parts_ns = [0] * len(PARTS)
    for row in found:
        buckets.update(row.buckets)
        for part, spent_ns in enumerate(row.parts_ns or ()):
            parts_ns[part] += spent_ns
    return Row(
        ALL,
        sum(row.count for row in found),
        sum(row.bytes for row in found),
        sum(row.errors for row in found),
        sum(row.total_ns for row in found),
        max(row.max_ns for row in found),
        buckets,
        sum(row.split_requests for row in found),
        tuple(parts_ns),
    )


def _divided(total: int, shares: tuple[int, ...]) -> tuple[int, ...]:
    """``total`` in the proportion of ``shares``, rounded so that the sum is exact."""
    whole = sum(shares)
    ends = [0]
    done = 0
    for share in shares:
        done += share
        ends.append(total * done // whole)
    return tuple(end - start for start, end in itertools.pairwise(ends))
