"""Says what differs between two answers, and what of them is not compared.

Imports this package's ``calls``, ``protocol``. Time stamps are compared by the step that made them: the clock has moved
on between two steps, so each stamp lies in the interval of exactly one step, or was set to a value of its own.
"""

from __future__ import annotations

import bisect
import re
import stat
from collections.abc import Iterator

from tests.differential.calls import Birth, Status
from tests.differential.protocol import CHUNK_BYTES, Everything, Looked, Outcome

BLOCK_BYTES = 512
ALLOCATION_BYTES = 4096
"""The filesystem below allocates at least so much, and may take one more for each chunk file's extents."""


class Calendar:
    """When each step of an example ran."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        self._reads: set[int] = set()
        self._fills: set[int] = set()

    def add(self, start_ns: int, end_ns: int, *, reads: bool = False, fills: bool = False) -> None:
        """The next step.

        Args:
            start_ns: when it began.
            end_ns: when it ended.
            reads: it reads regular files' data, maybe from the page cache.
            fills: it may move a file's atime on ours alone: the kernel reads a page in order to write a part of it.
        """
        assert not self._ends or start_ns > self._ends[-1] - 10**9, "the clock was set back"
        self._starts.append(start_ns)
        self._ends.append(end_ns)
        if reads:
            self._reads.add(len(self._starts) - 1)
        if fills:
            self._fills.add(len(self._starts) - 1)

    def step_of(self, stamp_ns: int) -> int | None:
        """The step that made a stamp; None: it was set to this value."""
        step = bisect.bisect_right(self._starts, stamp_ns) - 1
        return step if step >= 0 and stamp_ns <= self._ends[step] else None

    def is_read(self, stamp_ns: int) -> bool:
        return self.step_of(stamp_ns) in self._reads

    def is_fill(self, stamp_ns: int) -> bool:
        return self.step_of(stamp_ns) in self._fills

    def label(self, stamp_ns: int) -> str:
        step = self.step_of(stamp_ns)
        return f"{stamp_ns} ns" if step is None else f"step {step}"


class Judge:
    """Compares what the two trees answered."""

    def __init__(self, *, writes_through: bool) -> None:
        self.calendar = Calendar()
        self._writes_through = writes_through
        self.copied: set[int] = set()
        """Inodes of ext4 that something was copied to by copy_file_range(2): there it writes out holes."""
        self.allocated: set[int] = set()
        """Inodes of ext4 that fallocate(2) was called for: space beyond their ends counts."""

    def outcomes(self, native: Outcome, mounted: Outcome) -> Iterator[str]:
        """Differences between a call's two answers."""
        if isinstance(native.value, Status) and isinstance(mounted.value, Status):
            yield from self.status(native.value, mounted.value, is_open=True)
        elif isinstance(native.value, Birth) and isinstance(mounted.value, Birth):
            born = self.calendar.label(native.value.birth_ns), self.calendar.label(mounted.value.birth_ns)
            if born[0] != born[1]:
                yield f"made in {born[0]} on ext4, in {born[1]} on BenchFS"
        elif native != mounted:
            yield f"ext4 answers {_shown(native)}, BenchFS {_shown(mounted)}"

    def looked(self, looked: Looked, *, is_open: bool) -> Iterator[str]:
        """Differences between what stat says of each path; ``is_open``: files may be open."""
        first: tuple[dict[int, bytes], dict[int, bytes]] = ({}, {})
        for path, native, mounted in looked:
            if mounted is None:
                yield f"{short(path)}: not there on BenchFS"
                continue
            yield from (f"{short(path)}: {problem}" for problem in self.status(native, mounted, is_open=is_open))
            names = first[0].setdefault(native.inode, path), first[1].setdefault(mounted.inode, path)
            if names[0] != names[1]:
                yield f"{short(path)}: the same inode as {short(names[0])} on ext4, as {short(names[1])} on BenchFS"

    def everything(
        self, native: dict[bytes, Everything], mounted: dict[bytes, Everything], *, is_open: bool
    ) -> Iterator[str]:
        """Differences between two whole trees."""
        if extra := mounted.keys() - native.keys():
            yield f"only on BenchFS: {sorted(extra)}"
        looked = [(path, facts.status, getattr(mounted.get(path), "status", None)) for path, facts in native.items()]
        yield from self.looked(looked, is_open=is_open)
        for path in native.keys() & mounted.keys():
            one, other = native[path], mounted[path]
            for field in ("content", "xattrs", "names", "flags"):
                first, second = getattr(one, field), getattr(other, field)
                if first != second:
                    yield f"{short(path)}: {field}: {short(first)} on ext4, {short(second)} on BenchFS"

    def status(self, native: Status, mounted: Status, *, is_open: bool) -> Iterator[str]:
        """Differences between two answers of stat."""
        facts = _facts(native), _facts(mounted)
        comparable = native.blocks and native.inode not in self.copied
        if stat.S_ISREG(native.mode) and comparable and (self._writes_through or not is_open):
            for fact, status in zip(facts, (native, mounted), strict=True):
                fact["has blocks"] = str(status.blocks > 0)
        if (
            stat.S_ISREG(native.mode)
            and native.mode == mounted.mode & ~stat.S_ISGID
            and not mounted.mode & stat.S_IXGRP
        ):
            facts[1]["mode"] = facts[0]["mode"]
        for fact, status in zip(facts, (native, mounted), strict=True):
            fact["mtime"] = self.calendar.label(status.mtime_ns)
            fact["ctime"] = self.calendar.label(status.ctime_ns)
            if not self._may_differ_in_atime(native, mounted):
                fact["atime"] = self.calendar.label(status.atime_ns)
        for name, value in facts[0].items():
            if value != facts[1].get(name):
                yield f"{name} is {value} on ext4, {facts[1].get(name)} on BenchFS"
        pages, chunks = -(-native.size // ALLOCATION_BYTES), -(-native.size // CHUNK_BYTES)
        most = (pages + chunks) * ALLOCATION_BYTES // BLOCK_BYTES
        if native.inode in self.allocated:
            most = max(most, _most_allocated(native.blocks))
        if stat.S_ISREG(mounted.mode) and mounted.blocks > most:
            yield f"{mounted.blocks} blocks on BenchFS for {native.size} bytes"

    def _may_differ_in_atime(self, native: Status, mounted: Status) -> bool:
        return stat.S_ISREG(native.mode) and (
            self.calendar.is_read(native.atime_ns) or self.calendar.is_fill(mounted.atime_ns)
        )


def _most_allocated(blocks: int) -> int:
    """Blocks of chunk files that hold what ext4 holds in so many, some of it beyond the end of the file."""
    chunks = -(-blocks * BLOCK_BYTES // CHUNK_BYTES) + 1
    return blocks + chunks * ALLOCATION_BYTES // BLOCK_BYTES


def _facts(status: Status) -> dict[str, str]:
    facts = {
        "mode": oct(status.mode),
        "uid": str(status.uid),
        "gid": str(status.gid),
        "link count": str(status.links),
        "rdev": hex(status.rdev),
    }
    if not stat.S_ISDIR(status.mode):
        facts["size"] = str(status.size)
    return facts


def _shown(outcome: Outcome) -> str:
    return outcome.error or short(outcome.value)


def short(value: object) -> str:
    """A value as failures show it."""
    if isinstance(value, bytes) and len(value) > 60:
        shortened = re.sub(rb"(..?)\1{20,}", lambda run: b"<%d x %s>" % (len(run[0]) // len(run[1]), run[1]), value)
        return repr(shortened)
    text = repr(value)
    return text if len(text) < 200 else f"{text[:200]}… ({len(text)} characters)"
