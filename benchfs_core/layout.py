"""Offset arithmetic: which part of a request lies in which chunk.

Pure: no imports beyond ``types``. Invariant: the spans of a request are in order, do not overlap, and cover
exactly the bytes asked for; no span crosses a chunk boundary.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from benchfs_core.types import ChunkIndex

MIN_CHUNK_BYTES = 64 * 1024
MAX_CHUNK_BYTES = 64 * 1024 * 1024
DEFAULT_CHUNK_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Span:
    """The part of one request inside one chunk.

    ``offset`` counts from the chunk's start, ``position`` from the request's start; ``length`` is positive.
    """

    chunk_index: ChunkIndex
    offset: int
    length: int
    position: int


def spans(offset: int, length: int, chunk_size: int) -> Iterator[Span]:
    """Cut the request ``[offset, offset + length)`` at chunk boundaries, in order.

    Args:
        offset: first byte in the file, not negative.
        length: bytes; nothing is yielded for 0.
        chunk_size: bytes in a chunk.
    """
    position = 0
    while position < length:
        index, inside = divmod(offset + position, chunk_size)
        part = min(chunk_size - inside, length - position)
        yield Span(ChunkIndex(index), inside, part, position)
        position += part


def file_end(chunk_index: ChunkIndex, chunk_length: int, chunk_size: int) -> int:
    """File size, in bytes, of a file whose last chunk has this index and this length in bytes."""
    return chunk_index * chunk_size + chunk_length


@dataclass(frozen=True, slots=True)
class Cut:
    """What shortening a file to a size leaves of its chunks.

    Chunks from ``first_deleted`` on go; ``boundary``, where there is one, keeps ``boundary_length`` bytes.
    """

    first_deleted: ChunkIndex
    boundary: ChunkIndex | None
    boundary_length: int


def cut_at(size: int, chunk_size: int) -> Cut:
    """Plan the shortening of a file to ``size`` bytes."""
    index, inside = divmod(size, chunk_size)
    if inside == 0:
        return Cut(ChunkIndex(index), None, 0)
    return Cut(ChunkIndex(index + 1), ChunkIndex(index), inside)


def is_valid_chunk_size(size: int) -> bool:
    """Whether ``size`` bytes may be a volume's chunk size: a power of two from 64 KiB to 64 MiB."""
    return MIN_CHUNK_BYTES <= size <= MAX_CHUNK_BYTES and size & (size - 1) == 0
