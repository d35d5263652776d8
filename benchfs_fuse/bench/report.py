"""What a bench came to, as text for a terminal and as a document for programs.

Imports ``figures``, ``costs`` (names of kinds only) and ``workload``. Pure: takes values and returns text or values.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from benchfs_fuse.bench import costs
from benchfs_fuse.bench.figures import Line, Sample, Summary, costs_per_operation
from benchfs_fuse.bench.workload import Figure

VERSION = 1
"""Of the document."""

_SHOWN = (
    (costs.CPU, "daemon CPU", 1e6, "µs"),
    (costs.REQUESTS, "requests", 1, ""),
    (costs.CALLS, "system calls", 1, ""),
    (costs.ENTERS, "ring enters", 1, ""),
    (costs.FLUSHES, "flushes", 1, ""),
    (costs.DISK_FLUSHES, "disk flushes", 1, ""),
)
_MOST_KINDS = 4
"""Kinds of requests that are named."""
_LEAST = 0.005
"""A request that comes more rarely for an operation is not named."""


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that is told."""

    figures: Mapping[str, Figure]
    """By key, in the order of the table."""
    lines: Sequence[Line]
    directories: Sequence[str]
    """Names; the first is what the others are compared with."""
    facts: Mapping[str, object]
    """What was measured, on what, and how."""
    missing: Sequence[tuple[str, str, str]] = ()
    """Directory, key of a figure or name of a workload, reason."""
    samples: Sequence[Sample] = ()
    counted: Sequence[Sample] = ()
    """Samples of the round in which system calls were counted."""
    notes: Sequence[str] = ()
    bases: Sequence[str] = ()
    """What ratios are to; nothing: the first directory."""


def number(value: float) -> str:
    """Three digits that count, or all before the point."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else str(value)
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{min(digits, 3)}f}"


def text(report: Report) -> str:
    """The tables, without a newline at the end."""
    parts = [_aligned(_speeds(report)), _legend(report)]
    if rows := _costs(report):
        parts += [_aligned(rows), "Costs are for one operation (one file, one MiB, …), medians of the rounds."]
    for directory, what, reason in report.missing:
        title = report.figures[what].title if what in report.figures else what
        parts.append(f"not measured: {title} on {directory}: {reason}")
    return "\n\n".join([*parts, *report.notes])


def document(report: Report) -> dict[str, object]:
    """The report with every sample, in values that JSON has."""
    by_key: dict[str, list[dict[str, object]]] = {}
    for line in report.lines:
        by_key.setdefault(line.figure, []).append(
            {
                "directory": line.directory,
                "rate": _summary(line.rate),
                "ratio": _summary(line.ratio) if line.ratio else None,
                "costs": {**line.costs, **_counted(report, line)},
            }
        )
    return {
        "benchfs_bench": VERSION,
        **report.facts,
        "directories": list(report.directories),
        "figures": [
            {"key": figure.key, "title": figure.title, "unit": f"{figure.unit}/s", "results": by_key[figure.key]}
            for figure in report.figures.values()
            if figure.key in by_key
        ],
        "missing": [
            {"directory": directory, "what": what, "reason": reason} for directory, what, reason in report.missing
        ],
        "notes": list(report.notes),
        "samples": [
            {name: value for name, value in asdict(sample).items() if name != "costs"} for sample in report.samples
        ],
    }


def _summary(summary: Summary) -> dict[str, float]:
    return {"median": summary.median, "low": summary.low, "high": summary.high}


def _counted(report: Report, line: Line) -> dict[str, float]:
    """System calls per operation, from the round in which they were counted."""
    samples = [one for one in report.counted if (one.figure, one.directory) == (line.figure, line.directory)]
    found = costs_per_operation(samples)
    return {costs.CALLS: found[costs.CALLS]} if costs.CALLS in found else {}


def _speeds(report: Report) -> list[list[str]]:
    rows = [["", *report.directories]]
    cells = {(line.figure, line.directory): _cell(line, _bases(report)) for line in report.lines}
    for figure in report.figures.values():
        row = [cells.get((figure.key, directory), "–") for directory in report.directories]
        if any(cell != "–" for cell in row):
            rows.append([f"{figure.title}, {figure.unit}/s", *row])
    return rows


def _bases(report: Report) -> Sequence[str]:
    return report.bases or report.directories[:1]


def _cell(line: Line, bases: Sequence[str]) -> str:
    rate = f"{number(line.rate.median)} ±{line.rate.spread:.0%}"
    if line.directory in bases or line.ratio is None:
        return rate
    return f"{rate}  ×{line.ratio.median:.2f} ({line.ratio.low:.2f} to {line.ratio.high:.2f})"


def _legend(report: Report) -> str:
    base = " or ".join(_bases(report))
    return (
        "Medians; ± is half the distance from the slowest to the fastest round. "
        f"× is the median of the rounds' ratios to {base} (lowest to highest): above 1 is faster."
    )


def _costs(report: Report) -> list[list[str]]:
    """A row for each figure of each directory that has a daemon which is known; no column that is nowhere filled."""
    found = [(line, {**line.costs, **_counted(report, line)}) for line in report.lines]
    found = [(line, cost) for line, cost in found if costs.CPU in cost]
    shown = [column for column in _SHOWN if any(column[0] in cost for _, cost in found)]
    rows = [
        [
            report.figures[line.figure].title,
            line.directory,
            *(
                f"{number(cost[kind] * factor)} {unit}".strip() if kind in cost else "–"
                for kind, _, factor, unit in shown
            ),
            kinds(cost),
        ]
        for line, cost in found
    ]
    return [["costs", "", *(title for _, title, _, _ in shown), "which requests"], *rows] if rows else []


def kinds(found: Mapping[str, float]) -> str:
    """The requests that an operation takes, the most frequent kinds first."""
    prefix = f"{costs.REQUESTS}."
    many = [(count, kind.removeprefix(prefix)) for kind, count in found.items() if kind.startswith(prefix)]
    return ", ".join(
        f"{number(count)} {kind}" for count, kind in sorted(many, reverse=True)[:_MOST_KINDS] if count >= _LEAST
    )


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    """Columns, the first to the left; the last is not filled up."""
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
