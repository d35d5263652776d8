"""The table of ``benchfs profile``, and its JSON. Imports ``figures`` and the core's ``meter``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from benchfs_core.meter import PARTS
from benchfs_fuse.profiling.figures import ALL, Row

VERSION = 1
"""Of the JSON document."""

_COUNTED = ("operation", "count", "a second", "MiB", "errors")
_TIMED = ("mean", "p50", "p99", "max")


def as_json(facts: Mapping[str, object], found: Sequence[Row]) -> str:
    """One document; all durations in nanoseconds, those of ``parts_ns`` add up to ``total_ns``."""
    document = {"benchfs_profile": VERSION, **facts, "operations": {row.name: _row(row) for row in found}}
    return json.dumps(document, indent=1)


def as_table(found: Sequence[Row], seconds: float) -> list[str]:
    """Lines for people: durations in microseconds, of one request; the parts are of the mean, and add up to it."""
    if not found:
        return ["no requests came"]
    lines = [[*_COUNTED, *_TIMED, *PARTS], *(_cells(row, seconds) for row in found)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return ["  ".join(_aligned(line, widths)).rstrip() for line in lines] + _shares(found[-1])


def _row(row: Row) -> dict[str, Any]:
    parts_ns = row.parts_ns
    return {
        "count": row.count,
        "bytes": row.bytes,
        "errors": row.errors,
        "total_ns": row.total_ns,
        "mean_ns": round(row.mean_ns),
        "p50_ns": row.quantile_ns(0.5),
        "p99_ns": row.quantile_ns(0.99),
        "max_ns": row.max_ns,
        "parts_ns": None if parts_ns is None else dict(zip(PARTS, parts_ns, strict=True)),
        "split_requests": row.split_requests,
    }


def _cells(row: Row, seconds: float) -> list[str]:
    parts_ns = row.parts_ns
    return [
        *(row.name, f"{row.count:,}", _number(row.count / seconds), _number(row.bytes / (1 << 20)), f"{row.errors:,}"),
        *(_microseconds(row.mean_ns), _microseconds(row.quantile_ns(0.5)), _microseconds(row.quantile_ns(0.99))),
        _microseconds(row.max_ns),
        *(["–"] * len(PARTS) if parts_ns is None else [_microseconds(part / row.count) for part in parts_ns]),
    ]


def _aligned(line: Sequence[str], widths: Sequence[int]) -> list[str]:
    return [line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))]


def _shares(whole: Row) -> list[str]:
    assert whole.name == ALL
    if (parts_ns := whole.parts_ns) is None or not whole.total_ns:
        return []
    shares = ", ".join(f"{name} {part / whole.total_ns:.1%}" for name, part in zip(PARTS, parts_ns, strict=True))
    return [f"of the time: {shares}"]


def _microseconds(time_ns: float) -> str:
    return f"{time_ns / 1000:,.1f}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 or not value else f"{value:.3g}"
