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


class Removals:
    """Whose capabilities were removed last, and by which thread: one for all handlers of a mount."""

    def __init__(self) -> None:
        self._last: tuple[int, int] | None = None

    def note(self, request: Request) -> None:
        """This request has just removed them."""
        self._last = request.inode, request.pid

    def take(self, request: Request) -> bool:
        """Whether the same thread removed them last, of the same file; afterwards that is forgotten."""
        last, self._last = self._last, None
        return last == (request.inode, request.pid)
