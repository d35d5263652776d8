"""How one opening of a volume behaves: read-only, ACLs, when reading moves atime, where free space is asked for.

Imports ``types`` and os. Immutable.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

from benchfs_core.types import AtimeMode

_DAY_NS = 24 * 3600 * 10**9


@dataclass(frozen=True, slots=True)
class Mounting:
    """What a mount's options mean to ``FileSystem``."""

    read_only: bool
    atime: AtimeMode
    acl: bool
    """Whether ACLs can be set and are inherited; the front end enforces them."""
    statvfs: Callable[[], os.statvfs_result]
    """Space on the filesystem below."""

    def moves_atime(self, atime_ns: int, mtime_ns: int, ctime_ns: int, now_ns: Callable[[], int]) -> bool:
        """Whether reading something with these times moves its atime.

        mount(8): relatime moves it if it is not newer than mtime or ctime, or a day old.
        """
        if self.atime is AtimeMode.NOATIME or self.read_only:
            return False
        if self.atime is AtimeMode.STRICTATIME or atime_ns <= mtime_ns or atime_ns <= ctime_ns:
            return True
        return now_ns() - atime_ns >= _DAY_NS
