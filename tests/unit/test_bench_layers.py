"""The tables of what each layer costs are those of the data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchfs_core.meter import PARTS
from tests.bench.layers import render, uncounted

EMPTY = "<!-- {0}: begin, written by tests/bench/page.py -->\n<!-- {0}: end -->\n"


def told(count: int, *parts_ns: int) -> dict[str, Any]:
    total_ns = sum(parts_ns)
    times = {"p50_ns": 1000, "p99_ns": 2000, "mean_ns": total_ns // count}
    return {"count": count, "total_ns": total_ns, **times, "parts_ns": dict(zip(PARTS, parts_ns, strict=True))}


def test_counting_can_be_taken_out_of_this_release(tmp_path: Path) -> None:
    place = uncounted(tmp_path)
    plane = (place / "benchfs_fuse" / "plane" / "plane.py").read_text()
    assert "times_ns" not in plane
    compile(plane, "plane.py", "exec")


def test_the_page_shows_each_operation_its_requests_and_what_counting_costs() -> None:
    profile = {
        "create": told(10, 10_000, 20_000, 30_000, 0, 0),
        "write": told(10, 0, 0, 0, 10_000, 20_000),
        "getattr": told(2, 1000, 1000, 0, 0, 0),
        "all": told(22, 11_000, 21_000, 30_000, 10_000, 20_000),
    }
    document = {
        "command": "the command",
        "kernel": "Linux",
        "processors": 2,
        "layers": [{"title": "a small file", "request": "create", "options": "sync=fsync", "profile": profile}],
        "costs": [{"title": "read", "without": [10.0] * 10, "with": [11.0] * 10}],
    }
    text = render(document, EMPTY.format("layers") + EMPTY.format("counting"))
    assert "`the command`: Linux, 2 processors" in text
    assert "| a small file | sync=fsync | 2.20 | 9.2 | 1.1 | 2.1 | 3.0 | 1.0 | 2.0 |" in text
    assert "| create | a small file, sync=fsync | 10 | 1.0 | 2.0 | 6.0 | 1.0 | 2.0 | 3.0 | 0.0 | 0.0 |" in text
    assert "| getattr |" not in text
    assert "| read | 10.0 | 11.0 | 1.100 | 1.100 (1.10 to 1.10) |" in text
