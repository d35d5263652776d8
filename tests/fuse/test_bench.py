"""``benchfs bench`` as users run it: on native directories, and on a mount, whose costs it finds out by itself."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path

import pytest

from benchfs_fuse.bench import catalogue, command
from tests.support.mounting import BENCHFS, Volumes, run, wait_until

pytestmark = pytest.mark.fuse


def test_two_directories_are_measured_and_left_as_they_were(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    words = (
        "bench",
        f"one={tmp_path / 'a'}",
        tmp_path / "b",
        "--quick",
        "--rounds",
        "1",
        "--only",
        "small-files,sequential",
    )
    done = run(BENCHFS, *words, "--seed", "3", "--plot", tmp_path / "plot.svg", "--output", tmp_path / "out.json")
    assert done.stderr == ""
    assert "unlink (one directory), files/s" in done.stdout
    assert (tmp_path / "plot.svg").read_text().startswith("<svg")
    found = json.loads((tmp_path / "out.json").read_text())
    assert (found["directories"], found["settings"]["seed"], found["missing"]) == (["one", str(tmp_path / "b")], 3, [])
    chosen = catalogue.figures(catalogue.choose(["small-files", "sequential"]))
    assert [figure["key"] for figure in found["figures"]] == list(chosen)
    assert not any("cpu_s" in result["costs"] for figure in found["figures"] for result in figure["results"])
    assert all(result["rate"]["median"] > 0 for figure in found["figures"] for result in figure["results"])
    assert not any((tmp_path / "a").iterdir())
    assert not any((tmp_path / "b").iterdir())


def test_every_workload_runs_on_a_mount_and_its_costs_are_known(volumes: Volumes) -> None:
    volume = volumes.make("sync=fsync")
    small = (
        "--quick",
        "--rounds",
        "1",
        "--size",
        "1M",
        "--files",
        "12",
        "--entries",
        "30",
        "--seconds",
        "0.02",
        "--cold-command",
        ":",
    )
    done = run(BENCHFS, "bench", f"mount={volume.directory}", *small, "--json")
    found = json.loads(done.stdout)
    assert found["missing"] == []
    assert found["filesystems"]["mount"] == "fuse.benchfs"
    assert [figure["key"] for figure in found["figures"]] == list(catalogue.figures(catalogue.ALL))
    spent = {figure["key"]: figure["results"][0]["costs"] for figure in found["figures"]}
    created = spent["one-create"]
    assert created["cpu_s"] > 0
    assert 1 <= created["requests.create"] <= 1.1
    assert spent["one-create-fsync"]["flushes"] >= 1
    assert spent["one-stat"]["requests"] < 0.5
    assert not any(volume.directory.iterdir())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_bench_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    words = [str(BENCHFS), "bench", str(tmp_path), "--only", "random", "--size", "1M", "--seconds", "60"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    try:
        wait_until(lambda: bool(list(tmp_path.rglob("large"))) or process.poll() is not None, "it works")
        process.send_signal(number)
        process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == command.INTERRUPTED
    assert not any(tmp_path.iterdir())
