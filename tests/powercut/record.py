"""The record that a worker keeps outside the mount, and what every judge of one must do.

Imports nothing of BenchFS. Each line of a record is a JSON list: ``[ns, "begin", operation…]`` before an operation,
``[ns, "done", result]`` once the mount has acknowledged it; ``ns`` is CLOCK_MONOTONIC.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

Operation = tuple[str | int, ...]


class Teller:
    """Writes the record: each line is in the file when the call returns."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def begin(self, operation: Operation) -> None:
        """Tell of an operation before it is begun."""
        self._line(time.monotonic_ns(), "begin", *operation)

    def done(self, result: int | str = 0) -> None:
        """Tell that it was acknowledged."""
        self._line(time.monotonic_ns(), "done", result)

    def _line(self, *words: object) -> None:
        os.write(self._descriptor, json.dumps(words).encode() + b"\n")


@dataclass(slots=True)
class Settled:
    """What was made durable, and when: the measure of what a cut puts at risk."""

    times_ns: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)

    def add(self, at_ns: int, size_bytes: int) -> None:
        self.times_ns.append(at_ns)
        self.sizes.append(size_bytes)

    def since(self, begin_ns: int) -> tuple[int, int]:
        """How many acknowledgements, and how many bytes they were about."""
        sizes = [size for at, size in zip(self.times_ns, self.sizes, strict=True) if at >= begin_ns]
        return len(sizes), sum(sizes)


class Judge(Protocol):
    """Knows what must be found, and what may be. Can be copied with ``copy.deepcopy``."""

    settled: Settled

    def begin(self, operation: Sequence[object]) -> None:
        """An operation was begun: from now on its effects may be there."""
        ...

    def done(self, operation: Sequence[object], result: object, at_ns: int) -> None:
        """It was acknowledged: what the mount promised of it must be there."""
        ...

    def problems(self, directory: Path) -> list[str]:
        """What is wrong with the worker's directory on a recovered mount."""
        ...


class Follower:
    """Reads one record piece by piece, and tells a judge."""

    def __init__(self, path: Path, judge: Judge) -> None:
        self.path = path
        self.judge = judge
        self.acknowledged = 0
        self._position = 0
        self._begun: list[object] | None = None

    def length(self) -> int:
        """How long the record is now."""
        return self.path.stat().st_size if self.path.exists() else 0

    def advance(self, to: int) -> None:
        """Take in the record up to this length: what is acknowledged there must be found."""
        for at_ns, kind, words in self._lines(to):
            if kind == "begin":
                self._begun = words
                self.judge.begin(words)
            else:
                assert self._begun is not None
                self.judge.done(self._begun, words[0], at_ns)
                self._begun = None
                self.acknowledged += 1

    def peek(self, to: int, judge: Judge) -> None:
        """Tell another judge what was begun from here up to this length, and so may be found."""
        position = self._position
        for _, kind, words in self._lines(to):
            if kind == "begin":
                judge.begin(words)
        self._position = position

    def _lines(self, to: int) -> list[tuple[int, str, list[object]]]:
        if to <= self._position:
            return []
        with self.path.open("rb") as stream:
            stream.seek(self._position)
            data = stream.read(to - self._position)
        whole = data[: data.rfind(b"\n") + 1]
        self._position += len(whole)
        lines = [json.loads(line) for line in whole.splitlines()]
        return [(int(line[0]), str(line[1]), line[2:]) for line in lines]
