"""``IOCounts``: how often chunk I/O was asked for, by kind; always counted, to be divided by operations.

Imports nothing. Invariant: numbers only grow while a volume is open.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class IOCounts:
    """Requests to the filesystem below, those that failed included."""

    reads: int = 0
    writes: int = 0
    """Of chunk files, the durable ones included."""
    durable_writes: int = 0
    """Writes that end on disk (RWF_DSYNC)."""
    flushes: int = 0
    """fsync(2) and fdatasync(2) of chunk files, directories and the WAL; not those of SQLite at a WAL checkpoint."""
