"""Blocks of 512 bytes that say which file, place and write they are of, so that foreign, stale and torn bytes show.

Imports nothing of BenchFS. A block repeats its header to its end; generation 0 stands for zeros.
"""

from __future__ import annotations

import struct

BLOCK = 512
_HEADER = struct.Struct("<QQQ")
_REPEATS = BLOCK // _HEADER.size + 1


def block(file: int, index: int, generation: int) -> bytes:
    """The block at ``index`` of a file as the write of this generation left it."""
    if not generation:
        return bytes(BLOCK)
    return (_HEADER.pack(file, index, generation) * _REPEATS)[:BLOCK]


def run_of_blocks(file: int, first: int, count: int, generation: int) -> bytes:
    """Neighbouring blocks of one write."""
    return b"".join(block(file, index, generation) for index in range(first, first + count))


def describe(found: bytes) -> str:
    """What bytes claim to be, for people."""
    if not any(found):
        return f"{len(found)} zeros"
    if len(found) < _HEADER.size:
        return f"{len(found)} bytes {found.hex()}"
    file, index, generation = _HEADER.unpack_from(found)
    whole = block(file, index, generation)[: len(found)]
    torn = next((place for place, (a, b) in enumerate(zip(found, whole, strict=True)) if a != b), None)
    claim = f"block {index} of file {file:#x}, generation {generation}"
    return claim if torn is None else f"{claim}, torn at byte {torn}: {found[torn : torn + 24].hex()}"
