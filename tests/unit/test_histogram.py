"""The histogram loses nothing, and its quantiles are off by no more than it says, for any values."""

from __future__ import annotations

import math
from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st

from benchfs_core.histogram import MAX_BUCKETS, MAX_VALUE, RELATIVE_ERROR, Histogram, bounds, quantile

durations = st.one_of(
    st.integers(0, 100),
    st.integers(0, 10**6),
    st.integers(0, MAX_VALUE),
    st.builds(pow, st.just(2), st.integers(0, 52)),
)
value_lists = st.lists(durations, min_size=1, max_size=200)


def histogram_of(values: list[int]) -> Histogram:
    histogram = Histogram()
    histogram.add(values)
    return histogram


@settings(deadline=None)
@given(values=value_lists, part=st.floats(0, 1))
def test_a_quantile_is_never_too_low_and_at_most_a_sixteenth_too_high(values: list[int], part: float) -> None:
    histogram = histogram_of(values)
    true = sorted(values)[max(1, math.ceil(part * len(values))) - 1]
    found = quantile(histogram.buckets, part, histogram.maximum)
    assert true <= found
    assert found <= max(values)
    assert Fraction(found) <= Fraction(true) * (1 + Fraction(RELATIVE_ERROR))


@settings(deadline=None)
@given(parts=st.lists(value_lists, max_size=5))
def test_count_total_and_maximum_are_exact_however_the_values_come(parts: list[list[int]]) -> None:
    histogram, all_values = Histogram(), [value for part in parts for value in part]
    for part in parts:
        histogram.add(part)
    assert (histogram.count, histogram.total) == (len(all_values), sum(all_values))
    assert histogram.maximum == max(all_values, default=0)
    assert histogram.buckets == histogram_of(all_values).buckets


@settings(deadline=None)
@given(value=durations)
def test_every_value_lies_in_its_bucket_and_buckets_are_narrow(value: int) -> None:
    (bucket,) = histogram_of([value]).buckets
    low, high = bounds(bucket)
    assert low <= value <= high
    assert (high - low) <= low * RELATIVE_ERROR


@settings(deadline=None)
@given(value=st.integers(1, MAX_VALUE))
def test_buckets_follow_on_each_other_without_gap(value: int) -> None:
    (bucket,) = histogram_of([value]).buckets
    low, high = bounds(bucket)
    if high < MAX_VALUE:
        assert histogram_of([high + 1]).buckets.keys() != {bucket}
    assert histogram_of([low - 1]).buckets.keys() != {bucket}


def test_there_are_no_more_buckets_than_it_says() -> None:
    histogram = Histogram()
    for exponent in range(53):
        step = max(1, (1 << exponent) // 64)
        histogram.add(list(range(1 << exponent, min(2 << exponent, MAX_VALUE + 1), step)))
    histogram.add([0])
    assert len(histogram.buckets) == MAX_BUCKETS


def test_longer_ones_count_as_the_longest() -> None:
    histogram = histogram_of([MAX_VALUE + 1, 1 << 70, 5])
    assert (histogram.count, histogram.maximum, histogram.total) == (3, MAX_VALUE, 2 * MAX_VALUE + 5)
    assert quantile(histogram.buckets, 1, histogram.maximum) == MAX_VALUE


def test_nothing_has_no_quantile() -> None:
    histogram = histogram_of([])
    assert (histogram.count, quantile(histogram.buckets, 0.5, 0)) == (0, 0)
