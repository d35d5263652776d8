"""What the worker and the tests say to each other.

Imports this package's ``calls``. Plain values, pickled.
"""

from __future__ import annotations

from typing import NamedTuple

from tests.differential.calls import Status

CHUNK_BYTES = 64 * 1024
"""Of the mount: the smallest, so that files have several."""


class User(NamedTuple):
    """Whose credentials a call has."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()


class Outcome(NamedTuple):
    """What a call answered."""

    error: str
    """The name of the errno, or an empty string."""
    value: object = None


class Step(NamedTuple):
    """What a call answered in both trees, and when it ran: every time stamp it made lies between the two."""

    start_ns: int
    end_ns: int
    outcomes: tuple[Outcome, Outcome]
    inode: int
    """In the native tree, of the descriptor that the call was given; 0: of none."""


class Everything(NamedTuple):
    """All that can be read of one inode, for the comparison at the end."""

    status: Status
    content: bytes
    xattrs: tuple[tuple[str, bytes], ...]
    names: tuple[bytes, ...]
    flags: int
    """Of a regular file or directory (ioctl_iflags(2)), else 0."""


Looked = list[tuple[bytes, Status, Status | None]]
"""Path, what the native tree says, what the other says."""
