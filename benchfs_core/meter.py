"""``Meter``: where the time of a request goes: FUSE, core, metadata, ring, disk.

Imports only the standard library, time for its clock; knows no trio. Whoever takes a request makes a ``Timing`` and
runs the request's coroutine with ``follow``, which says at every moment, across awaits, whose request is running:
``Meter.current``. The layers tell that timing when another part begins; where nobody is timed this is one look at an
attribute. ``Meter.follow_into`` and ``metered`` do that for layers which need not know of it.

Invariants: at any instant the time of a request counts as exactly one part, so the parts add up to the whole, to the
nanosecond; ``current`` is None whenever the code that runs belongs to no timed request.
"""

from __future__ import annotations

import enum
import inspect
import time
from collections.abc import Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Generic, TypeVar, cast

T = TypeVar("T")


class Part(enum.IntEnum):
    """What a request's time counts as; docs/performance.md says where each begins and ends."""

    FUSE = 0
    """Decoding, encoding, and waiting for its turn in the front end."""
    CORE = 1
    """All that is none of the others, locks of files included."""
    METADATA = 2
    """Calls of the metadata manager, and waiting until a change may be made or is durable: the WAL's flush too."""
    RING = 3
    """Chunk I/O on its way: from the call until the kernel has it, and from its completion until the caller runs."""
    DISK = 4
    """Chunk I/O in the kernel: until its completion is seen."""


PARTS = tuple(part.name.lower() for part in Part)

MAX_CHANGES = 96
"""Most changes of the part that a trace keeps of one request; what follows them is not resolved."""


class Timing:
    """The clock of one request, from its arrival to its reply."""

    __slots__ = ("_held", "_now_ns", "_part", "_since_ns", "changes", "parts_ns", "weight")

    def __init__(self, now_ns: Callable[[], int], began_ns: int, *, weight: int = 1, traced: bool = False) -> None:
        """Begin in the past, in ``Part.FUSE``.

        Args:
            now_ns: the clock.
            began_ns: when the request arrived.
            weight: how many requests it stands for.
            traced: whether each change of the part is kept.
        """
        self._now_ns = now_ns
        self._part = Part.FUSE
        self._since_ns = began_ns
        self._held = False
        self.weight = weight
        self.parts_ns = [0] * len(PARTS)
        """By ``Part``; complete after ``end``."""
        self.changes: list[int] | None = [began_ns, Part.FUSE] if traced else None
        """Instant and part, in turns: each part that began."""

    def enter(self, part: Part) -> Part:
        """From now on time counts as ``part``; what it counted as so far."""
        was = self._part
        if part is was or self._held:
            return was
        now_ns = self._now_ns()
        self.parts_ns[was] += now_ns - self._since_ns
        self._since_ns = now_ns
        self._part = part
        if self.changes is not None:
            self._note(part)
        return was

    def enter_at(self, part: Part, at_ns: int) -> None:
        """As ``enter``, at an instant that was noted elsewhere; never before the last change."""
        if part is not self._part and not self._held:
            at_ns = max(at_ns, self._since_ns)
            self.parts_ns[self._part] += at_ns - self._since_ns
            self._since_ns = at_ns
            self._part = part
            self._note(part)

    def hold(self, part: Part) -> Part | None:
        """As ``enter``, and whatever is entered before ``release`` counts as this; None if that is so already."""
        if self._held:
            return None
        was = self.enter(part)
        self._held = True
        return was

    def release(self, was: Part | None) -> None:
        """End what ``hold`` began; give it what that returned."""
        if was is not None:
            self._held = False
            self.enter(was)

    def end(self, now_ns: int) -> None:
        """The request has been answered."""
        self.parts_ns[self._part] += now_ns - self._since_ns
        self._since_ns = now_ns

    def _note(self, part: Part) -> None:
        if self.changes is not None and len(self.changes) <= 2 * MAX_CHANGES:
            self.changes += (self._since_ns, part if len(self.changes) < 2 * MAX_CHANGES else len(PARTS))


class Meter:
    """Whose request is running, for the layers of one volume."""

    __slots__ = ("_layers", "current", "now_ns")

    def __init__(self, now_ns: Callable[[], int] = time.perf_counter_ns) -> None:
        """``now_ns`` is a clock that never goes back, in nanoseconds."""
        self.now_ns = now_ns
        self.current: Timing | None = None
        """Of the request whose coroutine is running; None: it is not timed, or no request's."""
        self._layers: list[tuple[Any, type, type]] = []

    def follow_into(self, layer: object, part: Part) -> None:
        """Count calls of the public methods of ``layer``, none of them async, as ``part`` for who is timed.

        For that it is of another class while a timed request runs: of a subclass whose methods tell the timing. So
        nobody else pays for it; wrapped methods would take a tenth of a microsecond of every call.
        """
        plain = type(layer)
        methods = {name: method for name, method in inspect.getmembers(plain, inspect.isfunction) if name[0] != "_"}
        timed = {name: _timed(method, self, part) for name, method in methods.items()}
        self._layers.append((layer, plain, type(plain.__name__, (plain,), timed)))

    def run(self, timing: Timing, step: Callable[[], T]) -> T:
        """Run a step of a timed request, which does not wait."""
        self.current = timing
        for layer, _, timed in self._layers:
            layer.__class__ = timed
        try:
            return step()
        finally:
            self.current = None
            for layer, plain, _ in self._layers:
                layer.__class__ = plain

    def follow(self, timing: Timing, work: Coroutine[Any, Any, T]) -> Followed[T]:
        """The coroutine of a request, to be awaited in its place, once."""
        return Followed(self, timing, work)

    @contextmanager
    def part(self, part: Part) -> Iterator[None]:
        """Count the block as ``part``, but for what enters another one in it."""
        if (timing := self.current) is None:
            yield
            return
        was = timing.enter(part)
        try:
            yield
        finally:
            timing.enter(was)

    @contextmanager
    def all_as(self, part: Part) -> Iterator[None]:
        """Count all of the block as ``part``, whatever is entered in it."""
        if (timing := self.current) is None:
            yield
            return
        held = timing.hold(part)
        try:
            yield
        finally:
            timing.release(held)


class Followed(Generic[T]):
    """A coroutine, during every step of which ``Meter.current`` is its timing."""

    __slots__ = ("_meter", "_timing", "_work")

    def __init__(self, meter: Meter, timing: Timing, work: Coroutine[Any, Any, T]) -> None:
        self._meter = meter
        self._timing = timing
        self._work = work

    def __await__(self) -> Generator[Any, Any, T]:
        meter, timing, work = self._meter, self._timing, self._work
        step: Callable[[], Any] = partial(work.send, None)
        while True:
            try:
                trap = meter.run(timing, step)
            except StopIteration as ended:
                value: T = ended.value
                return value
            try:
                sent = yield trap
            except GeneratorExit:
                work.close()
                raise
            except BaseException as error:  # trio's: handed in, as what is sent is
                step = partial(work.throw, error)
            else:
                step = partial(work.send, sent)


def metered(target: T, meter: Meter, part: Part, *, inner: tuple[str, ...] = ()) -> T:
    """``target``, with every call of a method of it counted as ``part`` for the timed request that makes it.

    For whoever is to be timed, while others go on to use ``target`` itself. ``inner`` are attributes of it to which the
    same is done.
    """
    return cast("T", _Metered(target, meter, part, inner))


class _Metered:
    """See ``metered``. Methods are wrapped when they are first asked for; other attributes are the target's own."""

    def __init__(self, target: object, meter: Meter, part: Part, inner: tuple[str, ...]) -> None:
        self._target = target
        self._meter = meter
        self._part = part
        for name in inner:
            setattr(self, name, _Metered(getattr(target, name), meter, part, ()))

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._target, name)
        if not inspect.ismethod(value):
            return value
        if inspect.iscoroutinefunction(value):
            timed = _awaited(value, self._meter, self._part)
        else:
            timed = _timed(value, self._meter, self._part)
        setattr(self, name, timed)
        return timed


def _timed(method: Callable[..., Any], meter: Meter, part: Part) -> Callable[..., Any]:
    return (_iterated if inspect.isgeneratorfunction(method) else _called)(method, meter, part)


def _called(method: Callable[..., Any], meter: Meter, part: Part) -> Callable[..., Any]:
    def timed(*args: Any, **kwargs: Any) -> Any:
        if (timing := meter.current) is None:
            return method(*args, **kwargs)
        was = timing.enter(part)
        try:
            return method(*args, **kwargs)
        finally:
            timing.enter(was)

    return timed


def _awaited(method: Callable[..., Any], meter: Meter, part: Part) -> Callable[..., Any]:
    async def timed(*args: Any, **kwargs: Any) -> Any:
        if (timing := meter.current) is None:
            return await method(*args, **kwargs)
        was = timing.enter(part)
        try:
            return await method(*args, **kwargs)
        finally:
            timing.enter(was)

    return timed


def _iterated(method: Callable[..., Any], meter: Meter, part: Part) -> Callable[..., Any]:
    def timed(*args: Any, **kwargs: Any) -> Iterator[Any]:
        iterator = method(*args, **kwargs)
        if meter.current is None:
            return cast("Iterator[Any]", iterator)
        return each(iterator)

    def each(iterator: Any) -> Iterator[Any]:
        step = _called(partial(next, iterator, _ENDED), meter, part)
        try:
            while (item := step()) is not _ENDED:
                yield item
        finally:
            iterator.close()

    return timed


_ENDED = object()
