"""What of one file a crash must leave: which bytes are certain, and which may show at each place.

Imports nothing of BenchFS. The bytes that are certain are those of the last fsync that were not changed since; at any
other place either zero or something that was written there since the content was last certain as a whole may show.
"""

from __future__ import annotations

_NONZERO = bytes([0]) + bytes([255]) * 255


def pattern(seed: int, offset: int, length: int) -> bytes:
    """Bytes other than zero that tell which write they are of, and where in the file they belong."""
    cycle = bytes((place * 7 + seed * 31) % 255 + 1 for place in range(255))
    return (cycle * (length // 255 + 2))[offset % 255 :][:length]


class DurableContent:
    """Follows one file's writes and fsyncs, beside the model."""

    def __init__(self) -> None:
        self._writes: list[tuple[int, bytes]] = []
        self._certain = b""
        self._mask = bytearray()
        """255 for each byte of ``_certain`` that must be found again."""

    def wrote(self, offset: int, data: bytes) -> None:
        self._writes.append((offset, data))
        end = min(offset + len(data), len(self._mask))
        self._mask[offset:end] = bytes(max(0, end - offset))

    def truncated(self, size: int) -> None:
        del self._mask[size:]

    def synced(self, content: bytes) -> None:
        self._writes = [(0, content)]
        self._certain = content
        self._mask = bytearray(b"\xff") * len(content)

    def check(self, found: bytes) -> None:
        """Fail unless ``found`` may be there after a crash."""
        needed = self._mask.rfind(b"\xff") + 1
        assert len(found) >= needed, f"{len(found)} bytes left of at least {needed} that were fsynced"
        differs = _differences(found[:needed], self._certain[:needed])
        lost = bytes(a & b for a, b in zip(differs, self._mask, strict=False)) if any(differs) else b""
        assert not any(lost), f"fsynced bytes changed from offset {lost.find(255)} on"
        strange = int.from_bytes(found.translate(_NONZERO), "little")
        for offset, data in self._writes:
            part = found[offset : offset + len(data)]
            keep = b"\xff" * min(offset, len(found)) + _differences(part, data[: len(part)])
            strange &= int.from_bytes(keep.ljust(len(found), b"\xff"), "little")
        assert not strange, "bytes that were never written at their place, or from before a truncate"


def _differences(one: bytes, other: bytes) -> bytes:
    """255 where two byte strings of one length differ, 0 where they agree."""
    assert len(one) == len(other)
    if one == other:
        return bytes(len(one))
    mixed = int.from_bytes(one, "little") ^ int.from_bytes(other, "little")
    return mixed.to_bytes(len(one), "little").translate(_NONZERO)
