"""``Listings``: of which directories the kernel may hold listings, and that it drops them when they change.

Imports ``protocol``, ``replies`` and ``answering``. Invariants: a directory that the kernel was told entries of, and
knows, is noted here; before the reply to a change of it the kernel has dropped what it holds and the note is gone.

The kernel looks by itself whether a directory has changed, but only where a listing begins. Who begins elsewhere, or
goes on while others fill the cache with what they were told before the change, would be shown that. To drop pages
waits for who is reading them, which may wait for this daemon in turn (for the page of a file that is to take the
listing): so it is done only in requests during which the kernel has the directory locked against being listed, as in
all that change its entries, attributes or, in moving it, its `..` (Linux 6.5). A listing that is dropped when only a
part of it is there is not kept again before the kernel has forgotten the directory: that is the kernel's way.
"""

from __future__ import annotations

from collections.abc import Callable

from benchfs_fuse.plane import replies
from benchfs_fuse.plane.answering import Handler, Reply, not_connected
from benchfs_fuse.plane.protocol import Request


class Listings:
    """What the kernel holds of directories' entries: one for all handlers of a mount."""

    def __init__(self) -> None:
        self._listed: set[int] = set()
        self._tell: Callable[[bytes], None] = not_connected

    def connect(self, tell: Callable[[bytes], None]) -> None:
        """From now on messages to the kernel can be sent: with ``tell``, in order before the next reply."""
        self._tell = tell

    def note(self, directory: int) -> None:
        """The kernel is about to be told entries, or that there are no more."""
        self._listed.add(directory)

    def forget(self, directory: int) -> None:
        """The kernel does not know the directory any more, so it holds nothing of it."""
        self._listed.discard(directory)

    def changed(self, directory: int) -> None:
        """The directory may have changed; the kernel has it locked until it has the reply."""
        if directory in self._listed:
            self._listed.discard(directory)
            self._tell(replies.content_changed(directory))

    def changing(self, handler: Handler) -> Handler:
        """The handler, of requests that change the inode that they name; what fails may have changed it, too."""
        listed, changed = self._listed, self.changed

        async def telling(request: Request) -> Reply:
            try:
                return await handler(request)
            finally:
                if request.inode in listed:
                    changed(request.inode)

        return telling
