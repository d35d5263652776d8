"""What the content of one file may be after a power cut: for each block, the writes that may show.

Imports ``blocks``. A block shows what was acknowledged for it or something begun later. An operation that was not made
durable may have happened or not, block by block, with one order that must be kept: where anything written after a
truncate shows beyond its end, nothing from before it does. A block is written whole or not at all, but for one in which
a file ended: a write that was under way may show its beginning up to there.
"""

from __future__ import annotations

from tests.powercut.blocks import BLOCK, block, describe

Value = tuple[int, int]
"""A generation, and how many bytes of its block a truncate has left."""

ZEROS: Value = (0, 0)


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
        for index in range(first, first + count):
            # A truncate that is not durable is made again at recovery, and takes what was written beyond it since.
            cut = [(generation, left) for size, _ in self._cuts if 0 < (left := size - index * BLOCK) < BLOCK]
            # Where a file below ends inside a block, its new bytes may be on disk before its new size is.
            before = self._values.get(index, (ZEROS,))
            torn = [(generation, left) for _, left in before if 0 < left < BLOCK]
            self._values[index] = (*dict.fromkeys([*before, *cut, *torn]), (generation, BLOCK))
            self._unsettled.add(index)
        self.size = max(self.size, (first + count) * BLOCK)
        self._high = max(self._high, self.size)
        self.unsettled_bytes += count * BLOCK

    def truncate(self, size: int, generation: int) -> None:
        """A truncate was begun."""
        if size < self.size:
            self._cuts.append((size, generation))
            for index, values in self._values.items():
                left = size - index * BLOCK
                if left < BLOCK:
                    cut = [(value[0], min(value[1], left)) if left > 0 else ZEROS for value in values]
                    self._values[index] = (*dict.fromkeys([*values, *cut[:-1]]), cut[-1])
                    self._unsettled.add(index)
        self.size = size
        self._low, self._high = min(self._low, size), max(self._high, size)
        self.unsettled_bytes += 1

    def settle(self) -> int:
        """All of it is durable. How much was not before: bytes written, and one for each truncate."""
        for index in self._unsettled:
            last = self._values[index][-1]
            if last[1]:
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
            whole = {
                value: block(self.file, index, value[0])[: value[1]] + bytes(BLOCK - value[1]) for value in allowed
            }
            fitting = {value[0] for value in allowed if whole[value][: len(part)] == part}
            if len(fitting) == 1:
                [shown[index]] = (
                    fitting  # a few bytes may be those of several writes, and then tell nothing of their order
                )
            if not fitting:
                may = ", ".join(f"generation {generation} to byte {length}" for generation, length in allowed)
                return f"block {index} of file {self.file:#x} shows {describe(part)}; it may show {may}"
        return self._from_before_a_cut(shown)

    def _from_before_a_cut(self, shown: dict[int, int]) -> str | None:
        for size, cut in self._cuts:
            beyond = {index: generation for index, generation in shown.items() if index * BLOCK >= size and generation}
            if beyond and min(beyond.values()) < cut < max(beyond.values()):
                return f"shows bytes from before a truncate to {size} beside later ones: {sorted(beyond.items())[:20]}"
        return None
