"""``benchfs bench``: its arguments, what it checks before it begins, and what it prints.

Imports its neighbours, and nothing that mounts. Exit codes: 0 everything was measured (what cannot be measured here is
named), 1 usage, 2 it could not go on, 4 with ``--keep-going`` something failed, 8 interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchfs_fuse.bench import caches, catalogue, costs, figures, fio, plot, report, runner, scale
from benchfs_fuse.bench.materials import Materials
from benchfs_fuse.bench.workload import QUICK, BenchError, Settings
from benchfs_fuse.mounts import find_mount

OK, USAGE, FAILED, INCOMPLETE, INTERRUPTED = 0, 1, 2, 4, 8
"""Exit codes, see above."""

_TREE_FILES, _OBJECTS = 1000, 16
_QUICK_TREE_FILES, _QUICK_OBJECTS = 40, 2
_SPACE_FACTOR = 4
"""How many times the size of the large file must be free."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the command."""
    add, default = parser.add_argument, Settings()
    parser.epilog = (
        "exit code: 0 everything was measured, 1 usage, 2 it could not go on, 4 with --keep-going something failed, "
        f"8 interrupted; workloads: {', '.join(workload.name for workload in catalogue.ALL)}; "
        "manual: docs/performance.md"
    )
    add(
        "directories",
        metavar="[NAME=]DIR",
        nargs="+",
        help="what to measure; the first is what others are compared with",
    )
    add("--only", action="append", default=[], metavar="WORKLOAD[,…]", help="leave the other workloads out")
    add("--rounds", type=_count, metavar="N", help=f"how often each is measured, in turns (default: {default.rounds})")
    add("--size", type=_size, metavar="SIZE", help=f"of the large file (default: {default.size_bytes >> 20}M)")
    add("--files", type=_count, metavar="N", help=f"small files (default: {default.files})")
    add("--entries", type=_count, metavar="N", help=f"what ls -lR lists (default: {default.entries})")
    add("--seconds", type=_seconds, metavar="S", help=f"of random I/O and SQLite (default: {default.seconds:g})")
    add("--processes", type=_count, metavar="N", help=f"that work at once (default: {default.processes})")
    add("--seed", type=int, metavar="N", help=f"of contents and order (default: {default.seed})")
    add("--quick", action="store_true", help="little of everything: to see that it works")
    add("--tree", type=Path, metavar="TARBALL", help="unpack this instead of a source tree that is made up")
    add(
        "--pid",
        action="append",
        default=[],
        metavar="NAME=PID",
        help="a process that serves a directory: counts its CPU time",
    )
    add("--system-calls", action="store_true", help="count system calls, with perf(1), in a round of its own")
    add(
        "--cold-command",
        metavar="COMMAND",
        help="makes $BENCH_DIRECTORY cold, as by a remount, instead of the usual way",
    )
    add("--scratch", type=Path, metavar="DIR", help="where source trees are kept meanwhile (default: the usual place)")
    add("--keep-going", action="store_true", help="go on with the next workload where one fails")
    add("--scale", action="store_true", help="how cost grows with the number of files, and the size of sparse ones")
    add("--scale-files", type=_counts, default=scale.FILES, metavar="N,…", help="(default: 10000,100000,1000000)")
    add("--scale-sizes", type=_sizes, default=scale.SIZES, metavar="SIZE,…", help="(default: 1G,8G,64G)")
    add("--json", action="store_true", help="print one JSON document, with every sample")
    add("--output", type=Path, metavar="FILE", help="write the JSON document to a file as well")
    add("--plot", type=Path, metavar="FILE.svg|png", help="draw the ratios; png needs matplotlib")


def run(given: argparse.Namespace) -> int:
    """Do what the arguments say, and print what came of it."""
    try:
        targets, settings, workloads = _targets(given), _settings(given), catalogue.choose(_names(given.only))
        if given.plot is not None:
            plot.check(given.plot)
        if given.system_calls and (reason := costs.SystemCalls.unavailable()) is not None:
            raise BenchError(f"--system-calls: {reason}")
        if given.tree is not None and not given.tree.is_file():
            raise BenchError(f"{given.tree}: is no file")
        if not given.scale:
            for target in targets:
                _check_space(target, settings)
    except BenchError as error:
        print(f"benchfs bench: {error}", file=sys.stderr)
        return USAGE
    progress = _Progress()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does, with nothing left behind
    try:
        found = (
            _scale(given, targets, settings, progress)
            if given.scale
            else _bench(given, targets, settings, workloads, progress)
        )
    except KeyboardInterrupt:
        return INTERRUPTED
    finally:
        progress.clear()
    made, failed = found
    _publish(given, made)
    return INCOMPLETE if failed else OK


def _bench(
    given: argparse.Namespace, targets: list[runner.Target], settings: Settings, workloads: Any, progress: _Progress
) -> tuple[report.Report, bool]:
    cold = caches.choose(given.cold_command)
    with tempfile.TemporaryDirectory(prefix=runner.PREFIX, dir=given.scratch) as scratch:
        materials = Materials(
            Path(scratch),
            seed=settings.seed,
            tree_files=_QUICK_TREE_FILES if given.quick else _TREE_FILES,
            objects=_QUICK_OBJECTS if given.quick else _OBJECTS,
            archive=given.tree,
        )
        one = runner.Runner(
            *(targets, workloads, settings, materials, cold),
            keep_going=given.keep_going,
            count_calls=given.system_calls,
            tell=progress.tell,
        )
        results = one.run()
    names, table = [target.name for target in targets], catalogue.figures(workloads)
    made = report.Report(
        table,
        figures.lines(results.samples, names, list(table)),
        names,
        _facts(targets, settings, cold),
        [(missing.directory, missing.what, missing.reason) for missing in results.missing],
        results.samples,
        results.counted,
    )
    return made, results.failed


def _scale(
    given: argparse.Namespace, targets: list[runner.Target], settings: Settings, progress: _Progress
) -> tuple[report.Report, bool]:
    """One directory: its points take the place of directories."""
    if len(targets) != 1:
        raise BenchError("--scale measures one directory at a time")
    cold = caches.choose(given.cold_command)
    one = scale.Scale(
        *(targets[0], cold),
        rounds=settings.rounds,
        operations=settings.files,
        seed=settings.seed,
        tell=progress.tell,
    )
    one.run_files(given.scale_files)
    one.run_sizes(given.scale_sizes)
    files, sizes = [scale.files_point(n) for n in given.scale_files], [scale.size_point(n) for n in given.scale_sizes]
    keys = list(scale.FIGURES)
    lines = [*figures.lines(one.samples, files, keys), *figures.lines(one.samples, sizes, keys)]
    facts = _facts(targets, settings, cold)
    bases = [*files[:1], *sizes[:1]]
    return report.Report(scale.FIGURES, lines, [*files, *sizes], facts, (), one.samples, (), one.notes, bases), False


def _publish(given: argparse.Namespace, made: report.Report) -> None:
    document = json.dumps(report.document(made), indent=1)
    if given.output is not None:
        given.output.write_text(document + "\n")
    print(document if given.json else report.text(made))
    if given.plot is not None:
        plot.write(plot.draw(made.lines, made.directories, made.figures), given.plot)


def _targets(given: argparse.Namespace) -> list[runner.Target]:
    named: dict[str, Path] = {}
    for word in given.directories:
        name, equals, path = word.partition("=")
        directory = Path(path if equals and not Path(word).exists() else word)
        if not directory.is_dir():
            raise BenchError(f"{directory}: {'not a directory' if directory.exists() else 'does not exist'}")
        name = name if directory != Path(word) else word
        if name in named:
            raise BenchError(f"{name}: given twice: name them apart, as in other={directory}")
        named[name] = directory.absolute()
    pids: dict[str, list[int]] = {}
    for word in given.pid:
        name, _, number = word.rpartition("=")
        if name not in named or not number.isdecimal():
            raise BenchError(f"--pid {word}: write NAME=PID, with the name of a directory")
        pids.setdefault(name, []).append(int(number))
    disk = costs.disk_of(next(iter(named.values())))
    return [
        runner.Target(name, directory, costs.meter_of(directory, pids.get(name, ()), disk))
        for name, directory in named.items()
    ]


def _settings(given: argparse.Namespace) -> Settings:
    said = {
        "rounds": given.rounds,
        "size_bytes": given.size,
        "files": given.files,
        "entries": given.entries,
        "seconds": given.seconds,
        "processes": given.processes,
        "seed": given.seed,
    }
    return replace(
        QUICK if given.quick else Settings(), **{key: value for key, value in said.items() if value is not None}
    )


def _check_space(target: runner.Target, settings: Settings) -> None:
    try:
        free = shutil.disk_usage(target.directory).free
    except OSError as error:
        raise BenchError(f"{target.directory}: {error.strerror}") from error
    needed = _SPACE_FACTOR * settings.size_bytes + settings.files * 4 * 4096
    if free < needed:
        raise BenchError(
            f"{target.directory}: {free >> 20} MiB are free, {needed >> 20} are needed: give a smaller --size"
        )


def _facts(targets: list[runner.Target], settings: Settings, cold: caches.Caches) -> dict[str, object]:
    return {
        "settings": asdict(settings),
        "cold": cold.description,
        "random_io": fio.version() or "by itself, from threads of Python",
        "machine": {
            "kernel": platform.release(),
            "processors": os.cpu_count(),
            "python": platform.python_version(),
        },
        "filesystems": {target.name: _filesystem(target.directory) for target in targets},
    }


def _filesystem(directory: Path) -> str:
    """The type of the filesystem that a directory is on, as the mount table has it."""
    place = directory.resolve()
    while (entry := find_mount(place)) is None and place != place.parent:
        place = place.parent
    return entry.type if entry is not None else "unknown"


def _names(words: list[str]) -> list[str]:
    return [name for word in words for name in word.split(",") if name]


def _count(text: str) -> int:
    count = int(text)
    if not 1 <= count <= 100_000_000:
        raise ValueError(text)
    return count


def _counts(text: str) -> tuple[int, ...]:
    return tuple(map(_count, text.split(",")))


def _size(text: str) -> int:
    """Bytes, from a number with K, M or G."""
    digits = text.rstrip("KMGkmg")
    size = int(digits) << 10 * ("", "k", "m", "g").index(text[len(digits) :].lower())
    if not 1 << 20 <= size <= 1 << 50:
        raise ValueError(text)
    return size


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(map(_size, text.split(",")))


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0.01 <= seconds <= 3600:
        raise ValueError(text)
    return seconds


class _Progress:
    """A line on stderr that says what is done, if that is a terminal."""

    def __init__(self) -> None:
        self._shown = False
        self._is_terminal = sys.stderr.isatty()

    def tell(self, line: str) -> None:
        """Show a line in place of the last one."""
        if self._is_terminal:
            print(f"\r\x1b[K{line[: shutil.get_terminal_size().columns - 1]}", end="", file=sys.stderr, flush=True)
            self._shown = True

    def clear(self) -> None:
        """Take the line away."""
        if self._shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
            self._shown = False
