"""Faults as objects: a ``FaultPlan`` decides which call fails and how; wrappers ask it before they pass a call on.

Imports the protocols that it wraps, and trio. Invariant: the same seed, rules and calls give the same faults.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import TypeVar

import trio

from benchfs_core.chunks.io import ChunkIO
from benchfs_core.chunks.uring import Plain, RingDriver
from benchfs_core.types import Buffer

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Rule:
    """One kind of fault.

    ``operation``: the method's name without ``prepare_``. ``nth``: only that call of it, from 1; None: every call.
    ``error``: the errno to fail with; else ``short_by`` bytes are left out of a read or write. ``after``: fail once the
    call has done its work. ``probability``: how often a call that matches is hit.
    """

    operation: str
    nth: int | None = None
    error: int = 0
    short_by: int = 0
    after: bool = False
    probability: float = 1.0


class FaultPlan:
    """Which calls fail. ``fired`` lists the faults that happened, so that a test can tell that they did."""

    def __init__(self, seed: int = 0, rules: Sequence[Rule] = ()) -> None:
        self._random = Random(seed)
        self.rules = list(rules)
        self.calls: Counter[str] = Counter()
        self.fired: list[Rule] = []

    def decide(self, operation: str) -> Rule | None:
        """Count one call; the rule that hits it, if any."""
        self.calls[operation] += 1
        for rule in self.rules:
            if (
                rule.operation == operation
                and rule.nth in (None, self.calls[operation])
                and (rule.probability >= 1.0 or self._random.random() < rule.probability)
            ):
                self.fired.append(rule)
                return rule
        return None


def _shorten(length: int, rule: Rule | None) -> int:
    """How many bytes go through: at least one, so that a short call is not the end of the file."""
    return length if rule is None else max(1, length - rule.short_by)


class FaultyDriver:
    """A ``RingDriver`` whose completions fail by plan: operations ``read``, ``write``, ``fsync`` and ``submit``."""

    def __init__(self, inner: RingDriver, plan: FaultPlan) -> None:
        self._inner = inner
        self.plan = plan
        self._failed: list[tuple[int, int]] = []
        self._ready: list[tuple[int, int]] = []
        self._short_reads: dict[int, tuple[bytearray, bytearray]] = {}
        self.rw_flags: list[int] = []
        self.cancelled: list[int] = []
        self.closed = False

    @property
    def ring_descriptor(self) -> int:
        return self._inner.ring_descriptor

    @property
    def enter_count(self) -> int:
        return self._inner.enter_count

    def prepare_read(self, user_data: int, descriptor: int, offset: int, buffer: bytearray) -> bool:
        rule = self._fault("read", user_data)
        if rule is not None and rule.error:
            return True
        if rule is None:
            return self._inner.prepare_read(user_data, descriptor, offset, buffer)
        part = bytearray(_shorten(len(buffer), rule))
        self._short_reads[user_data] = (buffer, part)
        return self._inner.prepare_read(user_data, descriptor, offset, part)

    def prepare_write(self, user_data: int, descriptor: int, offset: int, data: Plain, rw_flags: int) -> bool:
        self.rw_flags.append(rw_flags)
        rule = self._fault("write", user_data)
        if rule is not None and rule.error:
            return True
        part = data if rule is None else data[: _shorten(len(data), rule)]
        return self._inner.prepare_write(user_data, descriptor, offset, part, rw_flags)

    def prepare_fsync(self, user_data: int, descriptor: int, datasync: bool) -> bool:
        rule = self._fault("fsync", user_data)
        return rule is not None or self._inner.prepare_fsync(user_data, descriptor, datasync)

    def prepare_cancel(self, target: int) -> bool:
        self.cancelled.append(target)
        return self._inner.prepare_cancel(target)

    def submit(self) -> int:
        rule = self.plan.decide("submit")
        if rule is not None:
            return -rule.error
        taken = self._inner.submit()
        if taken < 0:
            return taken
        taken += len(self._failed)
        self._ready += self._failed
        self._failed = []
        return taken

    def reap(self) -> list[tuple[int, int]]:
        ready, self._ready = self._ready, []
        ready += self._inner.reap()
        for user_data, result in ready:
            if user_data in self._short_reads:
                buffer, part = self._short_reads.pop(user_data)
                buffer[: max(result, 0)] = part[: max(result, 0)]
        return ready

    def close(self) -> None:
        self.closed = True
        self._inner.close()

    def _fault(self, operation: str, user_data: int) -> Rule | None:
        rule = self.plan.decide(operation)
        if rule is not None and rule.error:
            self._failed.append((user_data, -rule.error))
        return rule


class FaultyIO:
    """A ``ChunkIO`` whose methods fail by plan, under their own names; and that can hold calls back.

    ``hold(operation)`` makes every later call of it wait, before it does anything, until ``release``.
    """

    def __init__(self, inner: ChunkIO, plan: FaultPlan) -> None:
        self._inner = inner
        self.plan = plan
        self._held: dict[str, trio.Event] = {}

    def hold(self, operation: str) -> None:
        """Hold back calls from now on."""
        self._held[operation] = trio.Event()

    def release(self, operation: str) -> None:
        """Let the calls go that were held back, and those to come."""
        self._held.pop(operation).set()

    async def open(self, path: str, flags: int) -> int:
        rule = await self._before("open")
        descriptor = await self._inner.open(path, flags)
        if rule is not None:
            os.close(descriptor)
        self._raise(rule)
        return descriptor

    async def mkdir(self, path: str) -> None:
        rule = await self._before("mkdir")
        await self._inner.mkdir(path)
        self._raise(rule)

    async def read(self, descriptor: int, offset: int, length: int) -> Buffer:
        rule = await self._before("read")
        data = await self._inner.read(descriptor, offset, _shorten(length, rule))
        self._raise(rule)
        return data

    async def write(self, descriptor: int, offset: int, data: Buffer, *, durable: bool) -> None:
        rule = await self._before("write")
        await self._inner.write(descriptor, offset, data, durable=durable)
        self._raise(rule)

    async def fsync(self, descriptor: int, *, datasync: bool) -> None:
        kind = "fdatasync" if datasync else "fsync"
        rule = await self._before(kind)
        await self._inner.fsync(descriptor, datasync=datasync)
        self._raise(rule)

    async def run(self, call: Callable[[], T]) -> T:
        rule = await self._before("run")
        result = await self._inner.run(call)
        self._raise(rule)
        return result

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def _before(self, operation: str) -> Rule | None:
        """Wait while held back, then fail if the plan says so; a rule that is left is for after the call."""
        rule = self.plan.decide(operation)
        held = self._held.get(operation)
        if held is not None:
            await held.wait()
        if rule is not None and not rule.after:
            self._raise(rule)
        return rule

    def _raise(self, rule: Rule | None) -> None:
        if rule is not None and rule.error:
            raise OSError(rule.error, os.strerror(rule.error))
