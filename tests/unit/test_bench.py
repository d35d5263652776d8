"""The pure parts of ``benchfs bench``: statistics, reports, plots, what programs tell, made-up trees, arguments."""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import subprocess
import tarfile
import xml.etree.ElementTree
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchfs_fuse.bench import catalogue, command, costs, figures, fio, plot, report, scale, source_tree
from benchfs_fuse.bench.caches import DropPages
from benchfs_fuse.bench.figures import Sample, Summary
from benchfs_fuse.bench.materials import Materials
from benchfs_fuse.bench.runner import Missing, Runner, Target, explain
from benchfs_fuse.bench.workload import QUICK, BenchError, Done, Figure, NotMeasurable, Place, Step, Workload

FIGURE = Figure("write", "write & flush", "MiB")


def sample(number: int, directory: str, rate: float, **found: float) -> Sample:
    return Sample(number, directory, "write", 100, 100 / rate, found)


SAMPLES = [
    *(sample(0, "native", 100), sample(0, "ours", 50, cpu_s=1)),
    *(sample(1, "native", 400), sample(1, "ours", 100, cpu_s=3)),
    *(sample(2, "native", 200), sample(2, "ours", 200, cpu_s=2)),
]


def test_the_ratio_is_the_median_of_the_rounds_not_of_the_medians() -> None:
    native, ours = figures.lines(SAMPLES, ["native", "ours"], ["write", "read"])
    assert (native.rate.median, native.rate.low, native.rate.high) == (200, 100, 400)
    assert native.rate.spread == 0.75
    assert native.ratio is not None
    assert (native.ratio.low, native.ratio.high) == (1, 1)
    assert ours.rate.median == 100
    assert ours.ratio is not None
    assert (ours.ratio.low, ours.ratio.median, ours.ratio.high) == (0.25, 0.5, 1)
    assert ours.costs == {"cpu_s": 0.02}


def test_a_round_that_the_first_directory_lacks_gives_no_ratio() -> None:
    lines = figures.lines([sample(1, "native", 10), sample(2, "ours", 10)], ["native", "ours"], ["write"])
    assert [line.ratio is None for line in lines] == [False, True]


def test_a_cost_is_divided_by_the_operations_of_its_step() -> None:
    one, other = (
        Sample(0, "a", "x", 10, 1, {"requests": 20}),
        Sample(1, "a", "x", 100, 1, {"requests": 300, "cpu_s": 1}),
    )
    assert figures.costs_per_operation([one, other]) == {"requests": 2.5, "cpu_s": 0.005}
    assert costs.difference({"a": 1}, {"a": 4, "new": 2}) == {"a": 3, "new": 2}


def made_report() -> report.Report:
    return report.Report(
        {"write": FIGURE},
        figures.lines(SAMPLES, ["native", "ours"], ["write"]),
        ["native", "ours"],
        {"settings": {"seed": 1}},
        [("ours", "git", "not installed: git")],
        SAMPLES,
        [sample(3, "ours", 1, system_calls=700)],
        ["a note"],
    )


def test_the_table_has_a_line_for_each_figure_and_says_what_is_missing() -> None:
    text = report.text(made_report())
    assert "write & flush, MiB/s  200 ±75%  100 ±75%  ×0.50 (0.25 to 1.00)" in text
    costs_line = next(line for line in text.splitlines() if line.startswith("write & flush  "))
    assert costs_line.split("ours", 1)[1].split() == ["20,000", "µs", "7.00"]
    assert "not measured: git on ours: not installed: git" in text
    assert text.endswith("a note")


def test_the_document_is_json_and_holds_every_sample() -> None:
    found = json.loads(json.dumps(report.document(made_report())))
    assert found["benchfs_bench"] == report.VERSION
    assert found["directories"] == ["native", "ours"]
    (figure,) = found["figures"]
    assert figure["unit"] == "MiB/s"
    assert figure["results"][1]["ratio"] == {"median": 0.5, "low": 0.25, "high": 1.0}
    assert figure["results"][1]["costs"] == {"cpu_s": 0.02, "system_calls": 7}
    assert [(one["round"], one["directory"]) for one in found["samples"]] == [
        (number, name) for number in range(3) for name in ("native", "ours")
    ]
    assert found["missing"][0]["reason"] == "not installed: git"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.01234, "0.012"),
        (0.5, "0.500"),
        (7.456, "7.46"),
        (99.96, "100.0"),
        (1234.5, "1,234"),
        (5e6, "5,000,000"),
    ],
)
def test_numbers_show_three_digits_that_count(value: float, text: str) -> None:
    assert report.number(value) == text


def test_requests_are_named_by_how_often_they_come() -> None:
    found = {"requests": 9.0, "requests.write": 1.0, "requests.open": 2.5, "requests.forget": 0.001, "cpu_s": 4.0}
    assert report.kinds(found) == "2.50 open, 1.00 write"


def test_a_plot_is_svg_with_a_bar_for_each_ratio() -> None:
    lines = figures.lines(SAMPLES, ["native", "ours"], ["write"])
    text = plot.svg(plot.draw(lines, ["native", "ours"], {"write": FIGURE}))
    root = xml.etree.ElementTree.fromstring(text)
    words = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "write & flush" in words
    assert "0.50" in words
    assert "ours" in words


def test_bars_beyond_the_axis_end_with_it() -> None:
    line = figures.Line("write", "ours", Summary(1, 1, 1), Summary(1e9, 1e-9, 1e9), {})
    picture = plot.draw([line], ["native", "ours"], {"write": FIGURE})
    assert all(0 <= shape.x <= picture.width and shape.x + shape.width <= picture.width for shape in picture.shapes)
    assert all(shape.width >= 0 and shape.y + shape.height <= picture.height for shape in picture.shapes)


def test_a_plot_that_cannot_be_written_is_refused_beforehand(tmp_path: Path) -> None:
    plot.check(tmp_path / "x.svg")
    for path in (tmp_path / "x.jpeg", tmp_path / "missing" / "x.svg"):
        with pytest.raises(BenchError):
            plot.check(path)
    if importlib.util.find_spec("matplotlib") is None:
        with pytest.raises(BenchError, match="needs matplotlib"):
            plot.check(tmp_path / "x.png")
    else:
        plot.write(plot.draw([], ["native"], {}), tmp_path / "x.png")
        assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


FIO = """fio: a line before
{"jobs": [{"error": %d, "read": {"total_ios": 0, "runtime": 0}, "write": {"total_ios": 1500, "runtime": 750}}]}"""


def test_what_fio_reports_is_read() -> None:
    assert fio.parse(FIO % 0, "", writing=True, direct=False) == Done(1500, 0.75)
    with pytest.raises(BenchError, match="no request"):
        fio.parse(FIO % 0, "", writing=False, direct=False)
    with pytest.raises(NotMeasurable):
        fio.parse(FIO % 22, "", writing=True, direct=True)
    with pytest.raises(OSError, match="No space"):
        fio.parse(FIO % 28, "", writing=True, direct=True)
    with pytest.raises(BenchError, match="fio: what it complained"):
        fio.parse("", "first\nwhat it complained\n", writing=True, direct=True)


def test_what_perf_counts_is_read() -> None:
    assert costs.parse_perf("Events enabled\n42,,raw_syscalls:sys_enter,300,100.00,,\n") == 42
    assert costs.parse_perf("<not counted>,,raw_syscalls:sys_enter,0,100.00,,\n") == 0
    assert costs.parse_perf("<not supported>,,raw_syscalls:sys_enter,0,100.00,,\n") is None
    assert costs.parse_perf("No permission\n") is None


def test_flushes_of_a_disk_are_read_from_its_line() -> None:
    text = (
        "  8 0 sda 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 777 17\n 254 0 vda 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 99 17\n"
    )
    assert costs.disk_flushes(text, "254:0") == 99
    assert costs.disk_flushes(text, "7:0") == 0


def test_counters_are_taken_from_a_status_and_not_missed_where_there_are_none() -> None:
    status = {"requests": {"read": 3, "open": 1}, "io": {"flushes": 2, "durable_writes": 5, "ring_enters": 9}}
    found = costs.counters(status)
    assert (found["requests"], found["requests.read"], found["flushes"], found["ring_enters"]) == (4, 3, 7, 9)
    assert costs.counters({"pid": 1}) == {}


def test_the_same_seed_makes_the_same_tree_with_sizes_as_of_real_ones() -> None:
    assert dict(source_tree.tree(100, 7)) == dict(source_tree.tree(100, 7)) != dict(source_tree.tree(100, 8))
    one = dict(source_tree.tree(1000, 7))
    assert len(one) == 1000
    sizes = sorted(map(len, one.values()))
    assert 2500 < sizes[500] < 6000
    assert sum(sizes[-100:]) > sum(sizes) / 3
    assert max(name.count("/") for name in one) > 2


def test_the_c_project_compiles(tmp_path: Path) -> None:
    source_tree.write_project(tmp_path / "project.tar", objects=2, seed=1)
    with tarfile.open(tmp_path / "project.tar") as archive:
        archive.extractall(tmp_path, filter="data")
    subprocess.run(["make"], cwd=tmp_path, check=True, capture_output=True)
    subprocess.run([tmp_path / "program"], check=True)
    assert sorted(path.name for path in tmp_path.rglob("*.o")) == ["file0.o", "file1.o", "main.o"]


def test_keys_of_figures_are_given_once_and_names_of_workloads_found() -> None:
    keys = [figure.key for workload in catalogue.ALL for figure in workload.figures]
    assert len(set(keys)) == len(keys) > 30
    assert not set(keys) & set(scale.FIGURES)
    assert [one.name for one in catalogue.choose(["sqlite", "random"])] == ["random", "sqlite"]
    with pytest.raises(BenchError, match="did you mean sequential"):
        catalogue.choose(["sequental"])


@pytest.mark.parametrize("workload", catalogue.ALL, ids=lambda workload: workload.name)
def test_what_follows_a_cold_step_is_cold_or_warmed_first(workload: Workload, tmp_path: Path) -> None:
    materials = Materials(tmp_path, seed=1, tree_files=3, objects=1)
    steps = list(workload.steps(Place(tmp_path / "round", tmp_path / "kept", QUICK, materials)))
    measured = [step.figure for step in steps if step.figure is not None]
    assert sorted(measured) == sorted(figure.key for figure in workload.figures)
    for step, following in itertools.pairwise(steps):
        assert not step.cold or following.cold or following.figure is None, following.figure


def parse(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return parser.parse_args(words)


@pytest.mark.parametrize("size", ["1", "5X", "1KK", "M", "-1M"])
def test_sizes_that_mean_nothing_are_refused(size: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert parse("/", "--size", "3M").size == 3 << 20
    with pytest.raises(SystemExit):
        parse("/", "--size", size)
    assert "--size" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["{here}", "{here}/missing"], "does not exist"),
        (["{here}", "{here}/file"], "not a directory"),
        (["{here}", "{here}"], "given twice"),
        (["{here}", "--only", "nothing"], "no workload is called 'nothing'"),
        (["{here}", "--pid", "x=1"], "--pid x=1"),
        (["{here}", "--plot", "x.gif"], ".svg or .png"),
        (["{here}", "--size", "100000G"], "MiB are free"),
        (["a={here}", "--pid", "a=4194304"], "no process 4194304"),
        (["{here}", "--tree", "{here}/missing"], "is no file"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_one_line(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert command.run(parse(*(word.format(here=tmp_path) for word in words))) == command.USAGE
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def runner(tmp_path: Path, steps: Callable[[Place], Iterator[Step]], names: str, *, keep_going: bool = False) -> Runner:
    """A bench of one workload in directories of these names."""
    targets = []
    for name in names:
        (tmp_path / name).mkdir()
        targets.append(Target(name, tmp_path / name, costs.Meter((), None)))
    workload = Workload("work", (FIGURE,), steps)
    materials = Materials(tmp_path, seed=1, tree_files=1, objects=1)
    return Runner(targets, [workload], QUICK, materials, DropPages(), keep_going=keep_going)


def test_steps_are_done_in_turns_in_an_order_that_moves_on(tmp_path: Path) -> None:
    done: list[str] = []

    def steps(place: Place) -> Iterator[Step]:
        name = place.directory.parents[1].name

        def work(number: int) -> Done:
            done.append(f"{name}{number}")
            (place.directory / str(number)).touch()
            return Done(10)

        yield Step(None, lambda: work(1))
        yield Step("write", lambda: work(2))

    results = runner(tmp_path, steps, "abc").run()
    assert " ".join(done) == "a1 b1 c1 a2 b2 c2 b1 c1 a1 b2 c2 a2"
    assert [(one.round, one.directory) for one in results.samples] == [
        *((0, "a"), (0, "b"), (0, "c")),
        *((1, "b"), (1, "c"), (1, "a")),
    ]
    assert not any(any(directory.iterdir()) for directory in tmp_path.iterdir() if directory.is_dir())


def failing_in_b(error: Exception) -> Callable[[Place], Iterator[Step]]:
    def steps(place: Place) -> Iterator[Step]:
        def work() -> Done:
            if place.directory.parents[1].name == "b":
                raise error
            return Done(1)

        yield Step("write", work)

    return steps


def test_a_failure_ends_the_bench_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"b: work: .*denied"):
        runner(tmp_path, failing_in_b(PermissionError(13, "denied")), "ab").run()
    assert not any((tmp_path / "a").iterdir())
    assert not any((tmp_path / "b").iterdir())


def test_with_keep_going_a_failure_is_noted_once_and_the_others_are_measured(tmp_path: Path) -> None:
    results = runner(tmp_path, failing_in_b(PermissionError(13, "denied")), "ab", keep_going=True).run()
    assert [one.directory for one in results.samples] == ["a", "a"]
    assert results.missing == [Missing("b", "work", "[Errno 13] denied")]
    assert results.failed


def test_a_figure_that_cannot_be_measured_here_is_no_failure_and_the_others_are(tmp_path: Path) -> None:
    tried: list[str] = []

    def steps(place: Place) -> Iterator[Step]:
        def refused() -> Done:
            tried.append(place.directory.parents[1].name)
            if tried[-1] == "b":
                raise NotMeasurable("no direct I/O")
            return Done(1)

        yield Step("write", refused)
        yield Step("other", lambda: Done(1))

    results = runner(tmp_path, steps, "ab").run()
    assert (results.missing, results.failed) == ([Missing("b", "write", "no direct I/O")], False)
    assert tried == ["a", "b", "a"]
    assert [one.directory for one in results.samples if one.figure == "other"] == ["a", "b", "b", "a"]


def test_a_workload_that_cannot_run_here_is_no_failure(tmp_path: Path) -> None:
    def steps(place: Place) -> Iterator[Step]:
        raise NotMeasurable("no such tool")
        yield Step("write", lambda: Done(1))

    results = runner(tmp_path, steps, "a").run()
    assert (results.missing, results.failed) == ([Missing("a", "work", "no such tool")], False)


def test_failures_are_told_in_one_line() -> None:
    full = OSError(28, "No space left on device", "/x")
    assert explain(full) == "no space left: /x: give more, or a smaller --size"
    program = subprocess.CalledProcessError(2, ["/bin/tar", "-x"], stderr="first\nlast\n")
    assert explain(program) == "tar ended with 2: last"
