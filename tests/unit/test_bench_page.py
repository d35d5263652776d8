"""The page of figures: markers, tables, and ratios to each peer that are taken by round."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.bench import page


def sample(number: int, directory: str, seconds: float) -> dict[str, Any]:
    return {"round": number, "directory": directory, "figure": "write", "operations": 100, "seconds": seconds}


def result(directory: str, rate: float, ratio: float, **costs: float) -> dict[str, Any]:
    spread = {"low": 0.0, "high": 9.0}
    return {
        "directory": directory,
        "rate": {"median": rate, **spread},
        "ratio": {"median": ratio, **spread},
        "costs": costs,
    }


DOCUMENT: dict[str, Any] = {
    "settings": {"rounds": 2, "size_bytes": 1 << 20, "files": 10, "entries": 20, "seed": 1},
    "machine": {"kernel": "6.18", "processors": 2},
    "filesystems": {"native": "ext4"},
    "random_io": "fio-3.33",
    "cold": "everything",
    "options": ["--rounds", "2"],
    "directories": ["native", "slow", "fast", "ours fsync"],
    "peers": {
        "slow": {"command": "slow", "version": "1", "ours": False},
        "fast": {"command": "fast -o x", "version": "2", "ours": False},
        "ours fsync": {"command": "mount.benchfs -o sync=fsync", "version": "0", "ours": True},
    },
    "peers_missing": {"lost": "not packaged"},
    "missing": [{"directory": "slow", "what": "write", "reason": "no direct I/O"}],
    "figures": [
        {
            "key": "write",
            "title": "write 1 MiB",
            "unit": "MiB/s",
            "results": [
                result("native", 100, 1),
                result("fast", 80, 0.8, cpu_s=1e-6),
                result("ours fsync", 60, 0.6, cpu_s=2e-6, requests=1.5, flushes=0.5, **{"requests.write": 1.0}),
            ],
        }
    ],
    "samples": [
        *(sample(0, "native", 1), sample(0, "fast", 2), sample(0, "ours fsync", 4)),
        *(sample(1, "native", 1), sample(1, "fast", 8), sample(1, "ours fsync", 10)),
    ],
}


def test_what_is_between_the_markers_is_replaced_and_the_rest_is_not() -> None:
    begin, end = "<!-- peers: begin, written by tests/bench/page.py -->", "<!-- peers: end -->"
    text = page.between(f"before\n{begin}\n\nold\n\n{end}\nafter", "peers", "new")
    assert text == f"before\n{begin}\n\nnew\n\n{end}\nafter"
    assert page.between(text, "peers", "new") == text
    with pytest.raises(ValueError, match="no markers"):
        page.between("text", "peers", "new")


def test_the_readme_has_a_few_lines_with_the_best_peer(tmp_path: Path) -> None:
    figure = {**DOCUMENT["figures"][0], "key": "seq-write"}
    (tmp_path / "peers.json").write_text(json.dumps({**DOCUMENT, "figures": [figure, *DOCUMENT["figures"]]}))
    file = tmp_path / "README.md"
    file.write_text("<!-- summary: begin, written by tests/bench/page.py -->\n<!-- summary: end -->\n")
    page.render_summary(tmp_path / "peers.json", file)
    assert file.read_text().count("| write 1 MiB | 100 MiB | 0.60 | 0.80 (fast) |") == 1


def test_scales_show_each_point_with_its_ratio_to_the_first(tmp_path: Path) -> None:
    points = [result("10 files", 50, 1), result("100 files", 40, 0.8)]
    document = {
        "directories": ["10 files", "100 files", "1 GiB"],
        "notes": ["/mnt, 10 files: filled at 7 files/s"],
        "figures": [
            {"key": "a", "title": "create", "unit": "files/s", "results": points},
            {"key": "b", "title": "write", "unit": "writes/s", "results": [result("1 GiB", 9, 1)]},
        ],
    }
    (tmp_path / "scale-sync-fsync.json").write_text(json.dumps(document))
    file = tmp_path / "page.md"
    file.write_text("<!-- scale: begin, written by tests/bench/page.py -->\n<!-- scale: end -->\n")
    page.render_scale(tmp_path, file)
    text = file.read_text()
    assert "### sync fsync" in text
    assert "| create, files a second | 50.0 (×1.00) | 40.0 (×0.80) |" in text
    assert "|  | 1 GiB |" in text
    assert "- 10 files: filled at 7 files/s" in text


def test_ratios_to_a_peer_are_taken_by_round() -> None:
    ratio = page.against(DOCUMENT, "fast", "ours fsync")["write"]
    assert (ratio.low, ratio.median, ratio.high) == (0.5, 0.65, 0.8)


def test_the_page_shows_figures_who_is_ahead_and_what_is_missing(tmp_path: Path) -> None:
    data, file = tmp_path / "data" / "peers.json", tmp_path / "performance.md"
    data.parent.mkdir()
    data.write_text(json.dumps(DOCUMENT))
    file.write_text("<!-- peers: begin, written by tests/bench/page.py -->\n<!-- peers: end -->\n")
    page.render(data, file)
    text = file.read_text()
    assert "| write 1 MiB | 100 MiB | – | 0.80 | 0.60 |" in text
    assert "| write 1 MiB | **0.65 (0.50 to 0.80), fast** |" in text
    assert "- lost: not packaged\n- write 1 MiB on slow: no direct I/O" in text
    assert "| write 1 MiB | 1.50 | 0.500 | 1.00 write |" in text
    assert "](data/peers.svg)" in text
    assert data.with_suffix(".svg").read_text().startswith("<svg")
