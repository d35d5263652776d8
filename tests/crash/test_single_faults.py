"""Each single fault at each point of a scripted session, in both modes: nobody hangs, nothing false, nothing lost.

For every kind of call that the session makes of a layer, every call of it, and every error: the session runs with that
one fault; the caller that it hits is told, or the log is; right after it a copy of the volume is recovered and
checked; the session goes on, the volume is closed, checked, opened again and compared.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from benchfs_core.chunks.ring import Ring
from benchfs_core.chunks.ring_io import RingIO
from benchfs_core.chunks.uring import UringDriver, io_uring_available
from benchfs_core.errors import BenchFSError, VolumeError
from benchfs_core.types import SyncMode
from benchfs_core.volume import Volume
from tests.support.fault_session import Lines, Model, Session, contents
from tests.support.faults import FaultPlan, FaultyDriver, FaultyIO, Rule
from tests.support.faulty_database import faulty_vfs
from tests.support.plain_io import PlainIO
from tests.support.volumes import crash_copy, findings, open_test_volume

WATCHDOG_S = 60
"""Far more than a session takes: whatever is not done by then hangs."""

POINTS = int(os.environ.get("BENCHFS_FAULT_POINTS", "3"))
"""How many calls of each kind are hit, spread over the session; a campaign takes a large number, which means all."""

ERRORS = (errno.EIO, errno.ENOSPC, errno.EDQUOT)
KINDS = (
    *(("io", operation) for operation in ("open", "mkdir", "read", "write", "fsync", "fdatasync", "run")),
    *(("metadata", operation) for operation in ("open", "read", "write", "sync", "truncate")),
    *(("ring", operation) for operation in ("read", "write", "fsync")),
)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A volume just made, closed in order."""
    source = tmp_path_factory.mktemp("template") / "v"

    async def make() -> None:
        async with open_test_volume(source):
            pass

    trio.run(make)
    return source


@pytest.fixture
def log() -> Iterator[Lines]:
    """What is logged meanwhile."""
    lines = Lines()
    logging.getLogger().addHandler(lines)
    yield lines
    logging.getLogger().removeHandler(lines)


@asynccontextmanager
async def opened(source: Path, sync: SyncMode, plan: FaultPlan, *, ring: bool) -> AsyncIterator[Volume]:
    """The volume with ``plan`` in its metadata, and in its I/O or its ring."""
    with faulty_vfs(plan) as vfs:
        if not ring:
            async with open_test_volume(source, sync, wrap_io=lambda _: FaultyIO(PlainIO(), plan), vfs=vfs) as volume:
                yield volume
            return
        async with Ring.open(8, FaultyDriver(UringDriver(16), plan)) as reactor:
            io = RingIO(reactor, page_cache=False)
            try:
                async with open_test_volume(source, sync, wrap_io=lambda _: io, vfs=vfs) as volume:
                    yield volume
            finally:
                await io.aclose()


class Trial:
    """One session with one fault."""

    def __init__(self, place: Path, template: Path, sync: SyncMode, rules: list[Rule], log: Lines, ring: bool) -> None:
        self.place, self.sync, self.log, self.ring = place, sync, log, ring
        self.source = place / "v"
        shutil.copytree(template, self.source)
        self.plan = FaultPlan(rules=rules)
        self.model = Model()
        self.problems: list[str] = []
        self.failed_steps: list[str] = []
        self.turned_read_only = False
        self.closing = False
        """Whether the fault came after the session, while the volume was being closed."""

    async def run(self) -> list[str]:
        """What was wrong; nothing, if all is well."""
        self.log.lines.clear()
        with trio.fail_after(WATCHDOG_S):
            hit_before = await self._session()
            await self._after_closing(hit_before)
        self.problems += [f"log: {line}" for line in self.log.lines if "internal error" in line]
        if self.plan.hit and not (self.failed_steps or self.log.lines or self._may_be_absorbed()):
            self.problems.append("neither a caller nor the log heard of the fault")
        shutil.rmtree(self.place)
        return self.problems

    async def _session(self) -> bool:
        """Open, run and close; whether a fault kept it from being opened."""
        for _ in range(2):
            session: Session | None = None
            try:
                async with opened(self.source, self.sync, self.plan, ring=self.ring) as volume:
                    session = Session(volume, self.plan, self.sync, self.log, self.model)
                    await session.run(self._crash)
                    self.turned_read_only = session.metadata_failed
                    self.closing = not self.plan.hit
            except (BenchFSError, OSError) as error:
                self.failed_steps.append(f"open or close: {error}")
                if not self.plan.hit:
                    self.problems.append(f"open or close: {error!r}, though nothing was injected")
                if session is None:
                    continue
                if not isinstance(error, VolumeError):
                    self.problems.append(f"close: {error!r}")
            else:
                if not self.turned_read_only:
                    self.model.acknowledge()
            assert session is not None
            self.problems += session.problems
            self.failed_steps += session.failed_steps
            return False
        self.problems.append("could not be opened after the fault had gone")
        return True

    async def _crash(self) -> None:
        await self._check(crash_copy(self.source, self.place / f"crashed{len(self.plan.hit)}"), crashed=True)

    async def _after_closing(self, never_opened: bool) -> None:
        if never_opened:
            return
        self.problems += [f"after closing: {finding}" for finding in findings(self.source)]
        await self._check(self.source, crashed=bool(self.failed_steps))

    async def _check(self, source: Path, *, crashed: bool) -> None:
        when = f"{source.name}: "
        async with open_test_volume(source, self.sync) as volume:
            self.problems += [when + text for text in self.model.breaches(await contents(volume), crashed=crashed)]
        self.problems += [when + finding for finding in findings(source)]

    def _may_be_absorbed(self) -> bool:
        """A short call is simply continued; SQLite closes without its WAL checkpoint: the next opening makes it."""
        (rule,) = self.plan.fired
        return not rule.error or (rule.layer == "metadata" and self.closing)


def variants(layer: str, operation: str, nth: int) -> list[Rule]:
    """The faults that the ``nth`` call is hit by, one after the other: EIO, and in turn the others that it may meet."""
    error = ERRORS[nth % len(ERRORS)]
    if layer == "ring":
        others = [Rule(operation, nth, layer=layer, short_by=100)] if operation != "fsync" else []
        return [Rule(operation, nth, error, layer=layer), *others]
    if layer == "metadata":
        if operation != "write":
            return [Rule(operation, nth, errno.EIO, layer=layer)]
        return [Rule(operation, nth, error, layer=layer, torn=1000 if nth % 4 == 0 else None)]
    torn = nth % 7 if operation == "write" and nth % 2 else None
    return [Rule(operation, nth, errno.EIO, layer=layer), Rule(operation, nth, error, layer=layer, torn=torn)]


async def sweep(template: Path, tmp_path: Path, sync: SyncMode, layer: str, operation: str, log: Lines) -> int:
    """A trial for every fault at every call; how many faults there were."""
    ring = layer == "ring"
    dry = Trial(tmp_path / "dry", template, sync, [], log, ring)
    assert await dry.run() == []
    problems, fired = [], 0
    count = dry.plan.layer_calls[layer, operation]
    points = sorted({1 + place * (count - 1) // max(1, min(POINTS, count) - 1) for place in range(min(POINTS, count))})
    for rule in (rule for nth in points for rule in variants(layer, operation, nth)):
        trial = Trial(tmp_path / "trial", template, sync, [rule], log, ring)
        found = await trial.run()
        fired += len(trial.plan.hit)
        problems += [f"{layer} {operation} {rule.nth}/{count} {_name(rule)}: {text}" for text in found]
    if problems:
        pytest.fail("\n".join(problems))
    return fired


def _name(rule: Rule) -> str:
    what = errno.errorcode[rule.error] if rule.error else "short"
    return what if rule.torn is None else f"torn {what}"


@pytest.mark.parametrize("sync", SyncMode)
@pytest.mark.parametrize(("layer", "operation"), KINDS)
async def test_any_one_fault(
    template: Path, tmp_path: Path, log: Lines, layer: str, operation: str, sync: SyncMode
) -> None:
    if layer == "ring" and (reason := io_uring_available()):
        pytest.skip(reason)
    assert await sweep(template, tmp_path, sync, layer, operation, log)
