"""What the content of one file may be after a power cut: for each block, the writes that may show.

Imports ``blocks``. A block shows what was acknowledged for it or something begun later. An operation that was not made
durable may have happened or not, block by block, with one order that must be kept: where anything written after a
truncate shows beyond its end, nothing from before it does. A block is written whole or not at all, but for one in which
a file ended: a write that was under way may show its beginning up to there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from tests.powercut.blocks import BLOCK, block, describe


class Value(NamedTuple):
    """What a block may show."""

    generation: int
    """Of the operation that put it there."""
    left: int
    """How many bytes of it a truncate has left; the others are zeros."""
    origin: tuple[int, int, int]
    """File, index and generation of the write that it is of: of another one where it was copied."""

    zeroed: int = 0
    """How many bytes at its beginning were made zeros, up to where the file ended."""

    @property
    def bytes(self) -> bytes:
        kept = block(*self.origin)[self.zeroed : self.left]
        return (bytes(self.zeroed) + kept).ljust(BLOCK, b"\0")

    def cut(self, left: int) -> Value:
        return self._replace(left=min(self.left, left))


ZEROS = Value(0, 0, (0, 0, 0))


class Content:
    """Follows one file."""

    def __init__(self, file: int) -> None:
        self.file = file
        self.size = self._low = self._high = 0
        self._values: dict[int, tuple[Value, ...]] = {}
        """What each block may show; the last one is what it shows while nothing is lost."""
        self._unsettled: set[int] = set()
        self._cuts: list[tuple[int, int]] = []
        """Truncates that are not durable: size and generation."""
        self.unsettled_bytes = 0

    def write(self, first: int, count: int, generation: int) -> None:
        """A write of whole blocks was begun."""
        self._put(
            first,
            [Value(generation, BLOCK, (self.file, index, generation)) for index in range(first, first + count)],
        )

    def copy(self, source: Content, source_first: int, count: int, first: int, generation: int) -> None:
        """A copy of whole blocks of another file, or of other blocks of the same, was begun."""
        held = [source.shown(index) for index in range(source_first, source_first + count)]
        self._put(first, [value._replace(generation=generation) if value.left else ZEROS for value in held])

    def zero(self, first: int, count: int) -> None:
        """Blocks are being made zeros; the size stays."""
        for index in range(first, first + count):
            if index in self._values:
                before = [value for value in self._values[index] if value != ZEROS]
                # A truncate before this one that is not durable may not have happened, and its block be longer again.
                end = self.size - index * BLOCK
                part = [value._replace(zeroed=end) for value in before if 0 < end < BLOCK]
                self._values[index] = (*dict.fromkeys([*before, *part]), ZEROS)
                self._unsettled.add(index)
        self.unsettled_bytes += 1

    def grow(self, size: int) -> None:
        """The size is being raised, unless it is as large."""
        self.size = max(self.size, size)
        self._high = max(self._high, self.size)
        self.unsettled_bytes += 1

    def shown(self, index: int) -> Value:
        """What a block shows while nothing is lost."""
        return self._values.get(index, (ZEROS,))[-1]

    def _put(self, first: int, values: Sequence[Value]) -> None:
        for index, value in enumerate(values, first):
            # A truncate that is not durable is made again at recovery, and takes what was written beyond it since.
            cut = [value.cut(left) for size, _ in self._cuts if 0 < (left := size - index * BLOCK) < BLOCK]
            # Where a file below ends inside a block, its new bytes may be on disk before its new size is.
            before = self._values.get(index, (ZEROS,))
            torn = [value.cut(other.left) for other in before if 0 < other.left < BLOCK]
            others = dict.fromkeys(other for other in (*before, *cut, *torn) if other != value)
            self._values[index] = (*others, value)
            self._unsettled.add(index)
        self.size = max(self.size, (first + len(values)) * BLOCK)
        self._high = max(self._high, self.size)
        self.unsettled_bytes += len(values) * BLOCK

    def truncate(self, size: int, generation: int) -> None:
        """A truncate was begun."""
        if size < self.size:
            self._cuts.append((size, generation))
            for index, values in self._values.items():
                left = size - index * BLOCK
                if left < BLOCK:
                    cut = [value.cut(left) if left > 0 else ZEROS for value in values]
                    self._values[index] = (*dict.fromkeys([*values, *cut[:-1]]), cut[-1])
                    self._unsettled.add(index)
        self.size = size
        self._low, self._high = min(self._low, size), max(self._high, size)
        self.unsettled_bytes += 1

    def settle(self) -> int:
        """All of it is durable. How much was not before: bytes written, and one for each truncate."""
        for index in self._unsettled:
            last = self._values[index][-1]
            if last.left:
                self._values[index] = (last,)
            else:
                del self._values[index]
        self._unsettled.clear()
        self._cuts.clear()
        self._low = self._high = self.size
        settled, self.unsettled_bytes = self.unsettled_bytes, 0
        return settled

    def problem(self, found: bytes) -> str | None:
        """What is wrong with what was found."""
        if not self._low <= len(found) <= self._high:
            return f"has {len(found)} bytes, not {self._low} to {self._high}"
        shown: dict[int, int] = {}
        for start in range(0, len(found), BLOCK):
            index, part = start // BLOCK, found[start : start + BLOCK]
            allowed = self._values.get(index, (ZEROS,))
            fitting = {value.generation for value in allowed if value.bytes[: len(part)] == part}
            if len(fitting) == 1:
                [shown[index]] = (
                    fitting  # a few bytes may be those of several writes, and then tell nothing of their order
                )
            if not fitting:
                may = ", ".join(f"{value.origin} by {value.generation} to byte {value.left}" for value in allowed)
                return f"block {index} of file {self.file:#x} shows {describe(part)}; it may show {may}"
        return self._from_before_a_cut(shown)

    def _from_before_a_cut(self, shown: dict[int, int]) -> str | None:
        for size, cut in self._cuts:
            beyond = {index: generation for index, generation in shown.items() if index * BLOCK >= size and generation}
            if beyond and min(beyond.values()) < cut < max(beyond.values()):
                return f"shows bytes from before a truncate to {size} beside later ones: {sorted(beyond.items())[:20]}"
        return None
