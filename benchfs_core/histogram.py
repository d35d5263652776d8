"""``Histogram``: how long something took, how often: in buckets of equal relative width, of bounded number.

Pure: imports array, collections and struct. A bucket is the upper half-word of a value as a double (IEEE 754): sign,
exponent and the first ``4`` bits of the mantissa, so that every power of two has 16 buckets, and whole numbers up to 32
one each. Counting so is done by the interpreter's C code for many values at a time, at about 80 ns a value.

Invariants: nothing is lost: ``count``, ``total`` and ``maximum`` are exact; a quantile is at least the true one, and
above it by less than ``RELATIVE_ERROR`` of it; at most ``MAX_BUCKETS`` are kept.
"""

from __future__ import annotations

import math
import struct
import sys
from array import array
from collections import Counter
from collections.abc import Mapping

RELATIVE_ERROR = 1 / 16
"""The width of a bucket, as a part of the values in it, at most."""

MAX_VALUE = (1 << 53) - 1
"""The largest value told apart, in nanoseconds 104 days; larger ones count as this."""

MAX_BUCKETS = 800
"""One each for 0 to 15, and 16 for each of the powers of two from there on."""

_UPPER_HALF_WORD = 3 if sys.byteorder == "little" else 0
_DOUBLE = struct.Struct(">d")
_HALF_WORD = struct.Struct(">H6x")


class Histogram:
    """Counts of whole numbers from 0 to ``MAX_VALUE``."""

    __slots__ = ("buckets", "maximum", "total")

    def __init__(self) -> None:
        self.buckets: Counter[int] = Counter()
        """How many values are in each bucket that has any."""
        self.total = 0
        self.maximum = 0

    @property
    def count(self) -> int:
        """How many values there are."""
        return self.buckets.total()

    def add(self, values: list[int]) -> None:
        """Count some values, none of them negative."""
        if not values:
            return
        largest = max(values)
        if largest > MAX_VALUE:
            values = [min(value, MAX_VALUE) for value in values]
            largest = MAX_VALUE
        self.total += sum(values)
        self.maximum = max(self.maximum, largest)
        half_words = memoryview(array("d", values)).cast("B").cast("H")
        self.buckets.update(half_words[_UPPER_HALF_WORD::4].tolist())


def bounds(bucket: int) -> tuple[int, int]:
    """The smallest and the largest whole number in a bucket."""
    return math.ceil(_start(bucket)), math.ceil(_start(bucket + 1)) - 1


def quantile(buckets: Mapping[int, int], part: float, maximum: int) -> int:
    """The value that ``part`` of the values, 0 to 1, do not exceed; of a bucket its largest, but not over ``maximum``.

    Of no values it is 0.
    """
    rank = max(1, math.ceil(part * sum(buckets.values())))
    for bucket in sorted(bucket for bucket, count in buckets.items() if count):
        rank -= buckets[bucket]
        if rank <= 0:
            return min(bounds(bucket)[1], maximum)
    return 0


def _start(bucket: int) -> float:
    value: float = _DOUBLE.unpack(_HALF_WORD.pack(bucket))[0]
    return value
