"""``benchfs profile MOUNT``: arguments, asking, and what is told; printing is the caller's.

Imports ``status``, which finds the daemon, ``control`` and this package. Invariants: the daemon goes back to its usual
counting when the command ends, in whatever way; a trace is there whole or not at all.
"""

from __future__ import annotations

import argparse
import math
import select
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchfs_core.errors import BenchFSError
from benchfs_fuse.mounts import printable
from benchfs_fuse.profiling import figures, table
from benchfs_fuse.profiling.trace import TraceFile, Traces
from benchfs_fuse.status import Asked, StatusError, find_asked

TRACE_SECONDS = 5.0
"""How long is traced where nothing is said."""

_MAX_SECONDS = 7 * 24 * 3600.0
_RENEW_S = 1.0
"""How often the daemon is told that somebody still watches."""
_FETCH_S = 0.05
"""How often traces are fetched, of which the daemon keeps few."""
_PIECES = 64
"""Most pieces of a trace fetched in a row: a mount that is busier than that loses some, and says so."""


class ProfileError(BenchFSError):
    """The trace cannot be written, or the daemon's answer is not understood."""


@dataclass(slots=True)
class Measured:
    """What came of it."""

    text: str
    """For stdout."""
    note: str
    """For stderr; may be empty."""
    interrupted: bool


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what can be asked for."""
    parser.description = (
        "Tell what a mount's requests cost, by kind: how many, how long each took, and where the time went. "
        "Without --seconds and --trace: since the mount, and at once."
    )
    parser.epilog = (
        "exit codes: 0 told, 1 usage, 2 no BenchFS is mounted there or its daemon does not answer, 8 interrupted (what "
        "was measured until then is told); manual: docs/profile.md"
    )
    parser.add_argument("directory", metavar="MOUNT")
    parser.add_argument(
        "--seconds", type=_seconds, metavar="N", help="measure for so long, and split every request meanwhile"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument(
        "--trace",
        type=Path,
        metavar="FILE",
        help=f"write every request meanwhile as trace events, for ui.perfetto.dev (without --seconds: "
        f"{TRACE_SECONDS:.0f} s)",
    )


def measure(mount_point: Path, seconds: float | None, trace: Path | None, *, as_json: bool) -> Measured:
    """Ask the daemon, for ``seconds`` or until Ctrl-C, and say what it told.

    Raises:
        BenchFSError: it could not be asked, or the trace cannot be written; in one line.
        KeyboardInterrupt: before anything was measured.
    """
    asked = find_asked(mount_point)
    if seconds is None and trace is None:
        return _described(asked, asked.ask("profile"), None, as_json=as_json)
    try:
        file = None if trace is None else TraceFile(trace)
    except OSError as error:
        raise ProfileError(f"{trace}: {error.strerror}") from error
    try:
        watch = _Watch(asked, Traces() if file is not None else None)
        earlier, later = watch.run(TRACE_SECONDS if seconds is None else seconds)
        found = _described(asked, later, earlier, as_json=as_json)
        found.interrupted = watch.interrupted
        if file is not None and watch.traces is not None and trace is not None:
            found.note = _write(file, trace, watch.traces, asked)
        return found
    finally:
        if file is not None:
            file.close()


class _Watch:
    """Watching a mount for a while."""

    def __init__(self, asked: Asked, traces: Traces | None) -> None:
        self.traces = traces
        self.interrupted = False
        self._asked = asked
        self._next: int | None = None
        self._mode = "watch" if traces is None else "trace"
        self._watcher = uuid.uuid4().hex

    def run(self, seconds: float) -> tuple[dict[str, Any], dict[str, Any]]:
        """What the daemon told at the beginning and at the end."""
        try:
            if self.traces is not None:
                self._fetch()
            earlier = self._asked.ask("profile", mode=self._mode, watcher=self._watcher)
            try:
                self._wait(time.monotonic() + seconds)
            except KeyboardInterrupt:
                self.interrupted = True
            later = self._asked.ask("profile")
            self._fetch()
            return earlier, later
        finally:
            with suppress(StatusError):  # it has gone, or watches for some seconds more
                self._asked.ask("profile", mode="end", watcher=self._watcher)

    def _wait(self, until_s: float) -> None:
        renewed_s = time.monotonic()
        while (left_s := until_s - (now_s := time.monotonic())) > 0:
            if now_s - renewed_s >= _RENEW_S:
                renewed_s = now_s
                self._asked.ask("profile", mode=self._mode, watcher=self._watcher)
            select.select([], [], [], min(left_s, _RENEW_S if self.traces is None else _FETCH_S))
            self._fetch()

    def _fetch(self) -> None:
        if self.traces is None:
            return
        for _ in range(_PIECES):
            told = self._asked.ask("profile-trace", after=self._next, watcher=self._watcher)
            try:
                self.traces.add(told)
                self._next, more = int(told["next"]), bool(told["more"])
            except (KeyError, TypeError, ValueError, figures.NotUnderstood) as error:
                raise _of_another_release(self._asked) from error
            if not more:
                return


def _described(asked: Asked, later: dict[str, Any], earlier: dict[str, Any] | None, *, as_json: bool) -> Measured:
    try:
        found = figures.rows(later, earlier)
        since, since_ns = str(later["since"]), int(later["since_ns"] if earlier is None else earlier["now_ns"])
        seconds = max(1, int(later["now_ns"]) - since_ns) / 1e9
    except (KeyError, TypeError, ValueError, figures.NotUnderstood) as error:
        raise _of_another_release(asked) from error
    facts = {"mount_point": asked.mount_point, "source": asked.source, "pid": asked.pid, "since": since}
    if as_json:
        facts |= {"seconds": seconds, "whole_mount": earlier is None, "plane": later.get("plane")}
        return Measured(table.as_json(facts, found), "", False)
    split = sum(row.split_requests for row in found[:-1])
    count = sum(row.count for row in found[:-1])
    period = f"since {since}, {seconds:,.0f} s" if earlier is None else f"{seconds:,.2f} s"
    lines = [
        f"{asked.source} on {asked.mount_point}, process {asked.pid}: {period}; µs a request, split by {split:,} of "
        f"{count:,} requests",
        *table.as_table(found, seconds),
    ]
    return Measured("\n".join(map(printable, lines)), "", False)


def _write(file: TraceFile, path: Path, traces: Traces, asked: Asked) -> str:
    try:
        file.write(traces, asked.pid, f"benchfs {asked.mount_point}")
    except OSError as error:
        raise ProfileError(f"{path}: {error.strerror}") from error
    lost = f", {traces.lost:,} more were lost" if traces.lost else ""
    return f"{path}: {len(traces.requests):,} requests{lost}: open it in ui.perfetto.dev"


def _of_another_release(asked: Asked) -> ProfileError:
    return ProfileError(f"{asked.mount_point}: its daemon is of another release, or none")


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= _MAX_SECONDS:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds above 0 and up to {_MAX_SECONDS:.0f}")
    return seconds
