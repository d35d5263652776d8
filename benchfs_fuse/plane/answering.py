"""What every handler of the plane is: its type, and how it says no. Imports ``protocol`` and ``requests``."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias

from benchfs_core.types import Buffer
from benchfs_fuse.plane.protocol import Request
from benchfs_fuse.requests import Caller

Reply: TypeAlias = Buffer | None
"""A reply's body; None: none is due."""
Handler: TypeAlias = Callable[[Request], Coroutine[Any, Any, Reply]]


class Refused(Exception):
    """A request that fails with this errno, which is none of the core's meanings."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def not_connected(message: bytes) -> None:
    """Where messages to the kernel go before there is a way to send them: that is a mistake of ours."""
    raise AssertionError(f"no way to send {len(message)} bytes")


def caller_of(request: Request, umask: int = 0) -> Caller:
    """Who asks; ``umask`` is in the requests that make something."""
    return Caller(request.uid, request.gid, request.pid, umask)
