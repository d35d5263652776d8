"""Writes the tables of ``docs/performance.md`` between its markers, from the figures that are kept in ``docs/data``.

Imports the bench's statistics and plot. Invariant: the page has no figure that is not in the data.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchfs_fuse.bench import costs, plot
from benchfs_fuse.bench.figures import Line, Sample, Summary, lines
from benchfs_fuse.bench.report import kinds, number
from benchfs_fuse.bench.workload import Figure

Document = dict[str, Any]

_SUMMARY = (
    *("seq-write", "seq-read-cold", "seq-read-cached", "rand-read-direct-1", "rand-write-dsync", "one-create"),
    *(
        "one-create-fsync",
        "one-stat",
        "one-read",
        "one-rename",
        "one-unlink",
        "list-cold",
        "unpack",
        "copy",
        "git-clone",
    ),
    *("compile", "sqlite-wal"),
)
"""Figures that the README shows."""


def between(text: str, name: str, new: str) -> str:
    """``text`` with what stands between the markers of ``name`` replaced.

    Raises:
        ValueError: a marker is missing.
    """
    begin, end = f"<!-- {name}: begin, written by tests/bench/page.py -->", f"<!-- {name}: end -->"
    head, found, rest = text.partition(begin)
    _, found_end, tail = rest.partition(end)
    if not found or not found_end:
        raise ValueError(f"no markers of {name}")
    return f"{head}{begin}\n\n{new}\n\n{end}{tail}"


def render(data: Path, file: Path) -> None:
    """Write the tables of the comparison with peers, and its plot beside the data."""
    document: Document = json.loads(data.read_text())
    figures = {one["key"]: Figure(one["key"], one["title"], one["unit"]) for one in document["figures"]}
    picture = plot.draw(_lines(document), document["directories"], figures)
    plot.write(picture, data.with_suffix(".svg"))
    parts = [_setting(document), _speeds(document), _standing(document), _missing(document), _costs(document)]
    image = f"![Ratios to the native directory]({os.path.relpath(data.with_suffix('.svg'), file.parent)})"
    file.write_text(between(file.read_text(), "peers", "\n\n".join([*filter(None, parts), image])))


def render_summary(data: Path, file: Path) -> None:
    """Write a few lines of the comparison between the markers of the README."""
    document: Document = json.loads(data.read_text())
    base, modes = document["directories"][0], [name for name, one in document["peers"].items() if one["ours"]]
    rows = [["", f"{base}, a second", *modes, "best peer"]]
    for one in document["figures"]:
        if one["key"] in _SUMMARY:
            found = {result["directory"]: result for result in one["results"] if result["ratio"]}
            others = [(found[name]["ratio"]["median"], name) for name in found if name not in (base, *modes)]
            best = max(others, default=None)
            cells = [f"{found[mode]['ratio']['median']:.2f}" if mode in found else "–" for mode in modes]
            last = f"{best[0]:.2f} ({best[1]})" if best else "–"
            rate = f"{number(found[base]['rate']['median'])} {one['unit'].removesuffix('/s')}" if base in found else "–"
            rows.append([one["title"], rate, *cells, last])
    file.write_text(between(file.read_text(), "summary", table(rows)))


def render_scale(data: Path, file: Path) -> None:
    """Write the tables of how cost grows, from what ``benchfs bench --scale --output`` wrote to this directory."""
    parts = []
    for path in sorted(data.glob("scale-*.json")):
        document: Document = json.loads(path.read_text())
        parts.append(f"### {path.stem.removeprefix('scale-').replace('-', ' ')}")
        for points in _scales(document):
            rows = [["", *points]]
            for one in document["figures"]:
                found = {result["directory"]: result for result in one["results"]}
                if points[0] in found:
                    unit = one["unit"].removesuffix("/s")
                    rows.append([f"{one['title']}, {unit} a second", *(_point(found, point) for point in points)])
            parts.append(table(rows))
        parts.append("\n".join(f"- {note.partition(', ')[2]}" for note in document["notes"]))
    file.write_text(between(file.read_text(), "scale", "\n\n".join(parts)))


def _scales(document: Document) -> list[list[str]]:
    """The points by what grows: numbers of files, and sizes."""
    names = document["directories"]
    return [found for files in (True, False) if (found := [name for name in names if name.endswith("files") is files])]


def _point(found: dict[str, Any], point: str) -> str:
    if point not in found:
        return "–"
    return f"{number(found[point]['rate']['median'])} (×{found[point]['ratio']['median']:.2f})"


def table(rows: Sequence[Sequence[str]]) -> str:
    """Markdown; the first row is the head."""
    head, *body = rows
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *body))


def against(document: Document, base: str, name: str) -> dict[str, Summary]:
    """The ratio of ``name`` to ``base`` by figure, taken by round."""
    samples = [Sample(**sample) for sample in document["samples"] if sample["directory"] in (base, name)]
    keys = [one["key"] for one in document["figures"]]
    return {
        line.figure: line.ratio
        for line in lines(samples, [base, name], keys)
        if line.directory == name and line.ratio is not None
    }


def _lines(document: Document) -> list[Line]:
    return [
        Line(one["key"], result["directory"], Summary(**result["rate"]), Summary(**result["ratio"]), result["costs"])
        for one in document["figures"]
        for result in one["results"]
        if result["ratio"] is not None
    ]


def _setting(document: Document) -> str:
    machine, size = document["machine"], document["settings"]
    options = " ".join(document["options"])
    peers = "; ".join(f"{name}: `{one['command']}` ({one['version']})" for name, one in document["peers"].items())
    below = document["filesystems"][document["directories"][0]]
    return (
        f"`.venv/bin/python -m tests.bench.peers DIRECTORY{f' -- {options}' if options else ''}`: "
        f"{size['rounds']} rounds, a file of {size['size_bytes'] >> 20} MiB, {size['files']:,} small files, "
        f"{size['entries']:,} entries to list, seed {size['seed']}; "
        f"Linux {machine['kernel']}, {machine['processors']} processors, "
        f"{below} below; random I/O: {document['random_io']}; cold: {document['cold']}. {peers}."
    )


def _speeds(document: Document) -> str:
    base, *others = document["directories"]
    rows = [["", f"{base}, a second", *others]]
    for one in document["figures"]:
        found = {result["directory"]: result for result in one["results"]}
        rate = number(found[base]["rate"]["median"]) if base in found else "–"
        cells = [
            f"{found[name]['ratio']['median']:.2f}" if name in found and found[name]["ratio"] else "–"
            for name in others
        ]
        rows.append([one["title"], f"{rate} {one['unit'].removesuffix('/s')}", *cells])
    return "Median of the rounds' ratios to the native directory; above 1 is faster.\n\n" + table(rows)


def _standing(document: Document) -> str:
    """Against the peer that is fastest at it: our ratio to each peer, and the lowest of them."""
    peers = [name for name, one in document["peers"].items() if not one["ours"]]
    modes = [name for name, one in document["peers"].items() if one["ours"]]
    if not peers or not modes:
        return ""
    ratios = {(peer, mode): against(document, peer, mode) for peer in peers for mode in modes}
    rows = [["", *modes]]
    for one in document["figures"]:
        row = [one["title"]]
        for mode in modes:
            found = [(ratios[peer, mode][one["key"]], peer) for peer in peers if one["key"] in ratios[peer, mode]]
            ratio, peer = min(found, key=lambda pair: pair[0].median, default=(None, ""))
            cell = "–" if ratio is None else f"{ratio.median:.2f} ({ratio.low:.2f} to {ratio.high:.2f}), {peer}"
            row.append(f"**{cell}**" if ratio is not None and ratio.median < 1 else cell)
        rows.append(row)
    return (
        "BenchFS against the peer that does best at each: median of the rounds' ratios (lowest to highest). "
        "Bold: that peer is faster.\n\n" + table(rows)
    )


def _missing(document: Document) -> str:
    titles = {one["key"]: one["title"] for one in document["figures"]}
    found = [f"- {name}: {reason}" for name, reason in document["peers_missing"].items()]
    found += [
        f"- {titles.get(one['what'], one['what'])} on {one['directory']}: {one['reason']}"
        for one in document["missing"]
    ]
    return "\n".join(["Not measured:", "", *found]) if found else ""


def _costs(document: Document) -> str:
    """CPU time for all daemons; what is known of ours beside."""
    names = [name for name in document["directories"] if name in document["peers"]]
    modes = [name for name in names if document["peers"][name]["ours"]]
    rows = [["daemon CPU, µs an operation", *names]]
    more = [["", *(f"{word}, {mode}" for mode in modes for word in ("requests", "flushes")), "which requests"]]
    for one in document["figures"]:
        found = {result["directory"]: result["costs"] for result in one["results"]}
        cpu = [number(found[name][costs.CPU] * 1e6) if costs.CPU in found.get(name, {}) else "–" for name in names]
        rows.append([one["title"], *cpu])
        ours = [found.get(mode, {}) for mode in modes]
        cells = [
            number(cost[kind]) if kind in cost else "–" for cost in ours for kind in (costs.REQUESTS, costs.FLUSHES)
        ]
        more.append([one["title"], *cells, kinds(ours[0]) if ours else ""])
    return (
        f"{table(rows)}\n\nWhat an operation takes on BenchFS ({modes[0]}: which requests):\n\n{table(more)}"
        if modes
        else ""
    )
