"""Options of a volume and of one opening of it, with their defaults and limits.

Pure: imports only ``types``, ``errors`` and ``layout``. Format options are fixed when a volume is made and live in its
superblock; volume options are chosen at every mount. Checked once, when made: a value of these classes is a valid one.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchfs_core.errors import OptionError
from benchfs_core.layout import DEFAULT_CHUNK_BYTES, MIN_CHUNK_BYTES, is_valid_chunk_size
from benchfs_core.types import AtimeMode, StoreKind, SyncMode


@dataclass(frozen=True, slots=True)
class FormatOptions:
    """What mkfs fixes for the life of a volume."""

    chunk_size: int = DEFAULT_CHUNK_BYTES
    """Bytes in a chunk: a power of two from 64 KiB to 64 MiB."""

    def __post_init__(self) -> None:
        if not is_valid_chunk_size(self.chunk_size):
            raise OptionError(f"chunk size {self.chunk_size}: must be a power of two from 64K to 64M")


@dataclass(frozen=True, slots=True)
class VolumeOptions:
    """What one opening of a volume is made with."""

    sync: SyncMode = SyncMode.WRITE
    store: StoreKind = StoreKind.AUTO
    read_only: bool = False
    atime: AtimeMode = AtimeMode.RELATIME
    commit_interval_s: float = 1.0
    """Seconds between commits of metadata that nobody asked to have flushed."""
    queue_depth: int = 128
    """Most chunk requests under way at once; others wait."""
    max_handles: int = 1024
    """Most chunk handles open at once."""
    inline_bytes: int = 16384
    """Files up to this size keep their content in the metadata; 0: none do that do not yet."""
    acl: bool = False
    """Whether POSIX ACLs can be set and are inherited."""

    def __post_init__(self) -> None:
        _check_range("commit", self.commit_interval_s, 0.05, 300)
        _check_range("queue_depth", self.queue_depth, 1, 4096)
        _check_range("max_handles", self.max_handles, 8, 1_000_000)
        _check_range("inline", self.inline_bytes, 0, MIN_CHUNK_BYTES)


def _check_range(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise OptionError(f"{name}={value:g}: must be from {low:g} to {high:g}")
