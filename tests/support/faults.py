"""Faults as objects: a ``FaultPlan`` decides which call fails and how; wrappers ask it before they pass a call on.

Imports the protocols that it wraps, and trio. One plan may be handed to several layers at once: to ``FaultyIO`` (layer
``io``) and ``FaultyDriver`` (``ring``) here, ``faulty_store.FaultyStore`` (``store``), ``faulty_database.FaultyVFS``
(``metadata``). Invariant: the same seed, rules and calls give the same faults.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from random import Random
from typing import TypeVar

import trio

from benchfs_core.chunks.io import ChunkIO
from benchfs_core.chunks.uring import Plain, RingDriver, Vectors
from benchfs_core.types import Buffer

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Rule:
    """One kind of fault; what is not given matches every call.

    ``operation``: the method's name without ``prepare_`` or ``x``, in small letters. ``nth``: only that call of it,
    from 1, counted since the plan was made over the calls that ``layer`` and ``inode`` let through. ``probability``:
    how often a call that matches is hit; ``count``: how often at most.

    What happens, the first that is given: ``torn`` bytes of a write arrive, then ``error``; a ``lost`` flush says that
    it was done and does nothing; the byte at ``corrupt`` of what is read or written is another; ``error``: the call
    fails with this errno, ``after`` it has done its work or before; ``short_by`` bytes are left out of a read or write.
    With ``delay`` the call waits for that event first.
    """

    operation: str
    nth: int | None = None
    error: int = 0
    short_by: int = 0
    after: bool = False
    probability: float = 1.0
    layer: str | None = None
    inode: int | None = None
    count: int | None = None
    torn: int | None = None
    lost: bool = False
    corrupt: int | None = None
    delay: trio.Event | None = None

    def raise_error(self) -> None:
        """Fail, if this is a failure."""
        if self.error:
            raise OSError(self.error, os.strerror(self.error))

    def corrupted(self, data: Buffer) -> Buffer:
        """``data``, or a copy of it with the byte at ``corrupt`` changed."""
        if self.corrupt is None or self.corrupt >= len(data):
            return data
        changed = bytearray(data)
        changed[self.corrupt] ^= 0xFF
        return changed


@dataclass(frozen=True, slots=True)
class Call:
    """One call as the plan saw it."""

    layer: str
    operation: str
    inode: int | None


class FaultPlan:
    """Which calls fail. ``fired`` lists the faults that happened, so that a test can tell that they did."""

    def __init__(self, seed: int = 0, rules: Sequence[Rule] = ()) -> None:
        self._random = Random(seed)
        self.rules = list(rules)
        self.calls: Counter[str] = Counter()
        """Calls by operation, of every layer."""
        self.layer_calls: Counter[tuple[str, str]] = Counter()
        """Calls by layer and operation."""
        self.fired: list[Rule] = []
        self.hit: list[Call] = []
        """The calls that ``fired`` happened to."""
        self._matching: Counter[tuple[str | None, str, int | None]] = Counter()
        self._hits: Counter[Rule] = Counter()

    def decide(self, operation: str, layer: str = "io", inode: int | None = None) -> Rule | None:
        """Count one call; the first rule that hits it, if any."""
        self.calls[operation] += 1
        self.layer_calls[layer, operation] += 1
        for key in {(a, operation, b) for a in (None, layer) for b in (None, inode)}:
            self._matching[key] += 1
        for rule in self.rules:
            if self._matches(rule, operation, layer, inode):
                self.fired.append(rule)
                self.hit.append(Call(layer, operation, inode))
                self._hits[rule] += 1
                return rule
        return None

    def _matches(self, rule: Rule, operation: str, layer: str, inode: int | None) -> bool:
        return (
            rule.operation == operation
            and rule.layer in (None, layer)
            and rule.inode in (None, inode)
            and rule.nth in (None, self._matching[rule.layer, operation, rule.inode])
            and (rule.count is None or self._hits[rule] < rule.count)
            and (rule.probability >= 1.0 or self._random.random() < rule.probability)
        )


def inode_of(path: str) -> int | None:
    """Whose chunk or chunk directory a path below ``chunks`` is: ``<inode>`` or ``<inode>/<index>``."""
    numbers = [part for part in PurePath(path).parts[-2:] if part.isdigit()]
    return int(numbers[0]) if numbers else None


def _shorten(length: int, rule: Rule | None) -> int:
    """How many bytes go through: at least one, so that a short call is not the end of the file."""
    return length if rule is None else max(1, length - rule.short_by)


class FaultyDriver:
    """A ``RingDriver`` whose completions fail by plan.

    Operations ``read``, ``write``, ``fsync``, ``vectors`` (with ``error`` only) and ``submit``.
    It cannot wait: a rule's ``delay`` has no effect here, nor its ``after``.
    """

    def __init__(self, inner: RingDriver, plan: FaultPlan) -> None:
        self._inner = inner
        self.plan = plan
        self._failed: list[tuple[int, int]] = []
        self._ready: list[tuple[int, int]] = []
        self._short_reads: dict[int, tuple[bytearray, bytearray, Rule]] = {}
        self._answers: dict[int, int] = {}
        """What to say instead of the kernel's result."""
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
        if rule is None:
            return self._inner.prepare_read(user_data, descriptor, offset, buffer)
        if rule.error:
            return True
        part = bytearray(_shorten(len(buffer), rule))
        self._short_reads[user_data] = (buffer, part, rule)
        return self._inner.prepare_read(user_data, descriptor, offset, part)

    def prepare_write(self, user_data: int, descriptor: int, offset: int, data: Plain, rw_flags: int) -> bool:
        self.rw_flags.append(rw_flags)
        rule = self._fault("write", user_data)
        if rule is None:
            return self._inner.prepare_write(user_data, descriptor, offset, data, rw_flags)
        if rule.torn is not None:
            self._answers[user_data] = -rule.error
            return self._inner.prepare_write(user_data, descriptor, offset, data[: rule.torn], rw_flags)
        if rule.error:
            return True
        part = bytes(rule.corrupted(data))[: _shorten(len(data), rule)]
        return self._inner.prepare_write(user_data, descriptor, offset, part, rw_flags)

    def prepare_fsync(self, user_data: int, descriptor: int, datasync: bool) -> bool:
        rule = self._fault("fsync", user_data)
        return rule is not None or self._inner.prepare_fsync(user_data, descriptor, datasync)

    def prepare_vectors(self, user_data: int, descriptor: int, vectors: Vectors, writes: bool) -> bool:
        rule = self._fault("vectors", user_data)
        return rule is not None or self._inner.prepare_vectors(user_data, descriptor, vectors, writes)

    def prepare_cancel(self, target: int) -> bool:
        self.cancelled.append(target)
        return self._inner.prepare_cancel(target)

    def submit(self) -> int:
        rule = self.plan.decide("submit", "ring")
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
                buffer, part, rule = self._short_reads.pop(user_data)
                buffer[: max(result, 0)] = rule.corrupted(part[: max(result, 0)])
        return [(user_data, self._answers.pop(user_data, result)) for user_data, result in ready]

    def close(self) -> None:
        self.closed = True
        self._inner.close()

    def _fault(self, operation: str, user_data: int) -> Rule | None:
        rule = self.plan.decide(operation, "ring")
        if rule is not None and (rule.lost or (rule.error and rule.torn is None)):
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
        self._inodes: dict[int, int | None] = {}

    def hold(self, operation: str) -> None:
        """Hold back calls from now on."""
        self._held[operation] = trio.Event()

    def release(self, operation: str) -> None:
        """Let the calls go that were held back, and those to come."""
        self._held.pop(operation).set()

    async def open(self, directory: int, path: str, flags: int) -> int:
        inode = inode_of(path)
        rule = await self._before("open", inode)
        descriptor = await self._inner.open(directory, path, flags)
        try:
            self._after(rule)
        except OSError:
            os.close(descriptor)
            raise
        self._inodes[descriptor] = inode
        return descriptor

    async def mkdir(self, directory: int, path: str) -> None:
        rule = await self._before("mkdir", inode_of(path))
        await self._inner.mkdir(directory, path)
        self._after(rule)

    async def read(self, descriptor: int, offset: int, length: int) -> Buffer:
        rule = await self._before("read", self._inodes.get(descriptor))
        data = await self._inner.read(descriptor, offset, _shorten(length, rule))
        self._after(rule)
        return data if rule is None else rule.corrupted(data)

    async def write(self, descriptor: int, offset: int, data: Buffer, *, durable: bool) -> None:
        rule = await self._before("write", self._inodes.get(descriptor))
        if rule is not None:
            data = rule.corrupted(data) if rule.torn is None else memoryview(data)[: rule.torn]
        await self._inner.write(descriptor, offset, data, durable=durable)
        self._after(rule)

    async def fsync(self, descriptor: int, *, datasync: bool) -> None:
        rule = await self._before("fdatasync" if datasync else "fsync", self._inodes.get(descriptor))
        if rule is None or not rule.lost:
            await self._inner.fsync(descriptor, datasync=datasync)
        self._after(rule)

    async def run(self, call: Callable[[], T]) -> T:
        rule = await self._before("run", None)
        result = await self._inner.run(call)
        self._after(rule)
        return result

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def _before(self, operation: str, inode: int | None) -> Rule | None:
        """Wait while held back, then fail if the plan says so; a rule that is left is for after the call."""
        rule = self.plan.decide(operation, "io", inode)
        held = self._held.get(operation)
        if held is not None:
            await held.wait()
        if rule is not None and rule.delay is not None:
            await rule.delay.wait()
        if rule is not None and not rule.after and rule.torn is None:
            rule.raise_error()
        return rule

    def _after(self, rule: Rule | None) -> None:
        if rule is not None:
            rule.raise_error()
