"""Offset arithmetic against an oracle that goes byte by byte."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from benchfs_core.layout import (
    MAX_CHUNK_BYTES,
    MIN_CHUNK_BYTES,
    Span,
    cut_at,
    file_end,
    is_valid_chunk_size,
    spans,
)
from benchfs_core.types import ChunkIndex

TINY_CHUNK = st.integers(1, 17)
"""Any size will do for arithmetic; small ones meet many boundaries."""

PLACE = st.integers(0, 200)


@given(PLACE, PLACE, TINY_CHUNK)
def test_every_byte_of_a_request_lies_where_division_says(offset: int, length: int, chunk_size: int) -> None:
    places = {}
    for span in spans(offset, length, chunk_size):
        assert span.length > 0
        assert span.offset + span.length <= chunk_size
        for step in range(span.length):
            assert span.position + step not in places
            places[span.position + step] = span.chunk_index, span.offset + step
    assert list(places) == list(range(length)), "in order, each byte once, none besides"
    assert places == {step: divmod(offset + step, chunk_size) for step in range(length)}


@given(
    st.integers(0, 1 << 60), st.integers(1, 4 * MAX_CHUNK_BYTES), st.sampled_from([MIN_CHUNK_BYTES, MAX_CHUNK_BYTES])
)
def test_spans_of_real_sizes_are_few_and_gapless(offset: int, length: int, chunk_size: int) -> None:
    parts = list(spans(offset, length, chunk_size))
    assert len(parts) <= length // chunk_size + 2
    position = 0
    for part in parts:
        assert part.position == position
        assert part.chunk_index * chunk_size + part.offset == offset + position
        position += part.length
    assert position == length


@given(PLACE, PLACE, TINY_CHUNK)
def test_a_cut_keeps_exactly_the_bytes_below_it(size: int, written: int, chunk_size: int) -> None:
    plan = cut_at(size, chunk_size)

    def kept(place: int) -> bool:
        index, inside = divmod(place, chunk_size)
        return index < plan.first_deleted and (index != plan.boundary or inside < plan.boundary_length)

    assert [place for place in range(written) if kept(place)] == list(range(min(size, written)))
    assert (plan.boundary is None) == (size % chunk_size == 0)
    assert plan.boundary is None or plan.first_deleted == plan.boundary + 1


@given(st.sets(PLACE, min_size=1), TINY_CHUNK)
def test_the_file_ends_after_the_last_byte_of_its_last_chunk(written: set[int], chunk_size: int) -> None:
    last_index = max(written) // chunk_size
    length = max(place % chunk_size for place in written if place // chunk_size == last_index) + 1
    assert file_end(ChunkIndex(last_index), length, chunk_size) == max(written) + 1


@given(st.integers(-1, 2 * MAX_CHUNK_BYTES) | st.integers(0, 30).map(lambda bits: 1 << bits))
def test_chunk_sizes_are_powers_of_two_in_range(size: int) -> None:
    assert is_valid_chunk_size(size) == (size in {1 << bits for bits in range(16, 27)})


def test_a_request_of_nothing_has_no_spans() -> None:
    assert list(spans(12345, 0, MIN_CHUNK_BYTES)) == []


def test_a_request_across_three_chunks() -> None:
    assert list(spans(MIN_CHUNK_BYTES - 1, MIN_CHUNK_BYTES + 2, MIN_CHUNK_BYTES)) == [
        Span(ChunkIndex(0), MIN_CHUNK_BYTES - 1, 1, 0),
        Span(ChunkIndex(1), 0, MIN_CHUNK_BYTES, 1),
        Span(ChunkIndex(2), 0, 1, MIN_CHUNK_BYTES + 1),
    ]
