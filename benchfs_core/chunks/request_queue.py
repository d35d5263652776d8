"""``RequestQueue``: what a ring has to submit and what is in flight. Entering the kernel, and what to do if that fails.

Imports ``request`` and ``uring``; never awaits, and wakes nobody but those whose requests are complete. Part of
``ring``. Invariants: at most ``depth`` requests are in flight besides what is posted; the rest wait, first in, first
out; what is in flight is referred to until it is complete.
"""

from __future__ import annotations

import errno
import logging
import os
from collections import deque

from benchfs_core.chunks.request import Posted, Request
from benchfs_core.chunks.uring import RingDriver

MAX_TRIES = 16
"""How often one request, or one submission, is tried while the kernel answers with a passing error."""

_ENTER_AGAIN = frozenset({-errno.EINTR, -errno.EAGAIN, -errno.EBUSY})

_log = logging.getLogger(__name__)


class RequestQueue:
    """The requests of one ring."""

    def __init__(self, depth: int, driver: RingDriver) -> None:
        """At most ``depth`` requests in flight; ``driver`` has room for twice that and what is posted."""
        assert depth > 0
        self._depth = depth
        self._driver = driver
        self.pending: deque[Request | Posted] = deque()
        """Waiting for a place in the kernel's queue."""
        self.flying: dict[int, Request | Posted] = {}
        """By ``user_data``: in the kernel, or in ``prepared``."""
        self.cancels: deque[int] = deque()
        """``user_data`` of those in flight whose caller was cancelled."""
        self.prepared: deque[int] = deque()
        """Entries in the submission queue that the kernel has not taken yet, in order; 0 for a cancellation."""
        self._last_user_data = 0
        self._posted = 0
        """How many in flight were posted."""
        self._failed_enters = 0
        self.woke_a_task = False
        """Set when a completion has resumed a task; whoever reads it sets it back."""
        self.broken: OSError | None = None
        """Why the kernel is not entered any more."""

    @property
    def can_submit(self) -> bool:
        """Whether there is anything to hand to the kernel now."""
        return bool(self.prepared or self.cancels or (self.pending and self._has_place))

    @property
    def _has_place(self) -> bool:
        return len(self.flying) - self._posted < self._depth

    def post(self, posted: Posted) -> None:
        """Queue what counts against no bound."""
        if self.broken is not None:
            posted.fail(self.broken)
            return
        user_data = self._last_user_data + 1
        if posted.prepare(self._driver, user_data):
            self._fly(posted, user_data)
        else:
            self.pending.appendleft(posted)

    def prepare(self) -> None:
        """Move as many requests as may fly into the submission queue."""
        while self.cancels and self._driver.prepare_cancel(self.cancels[0]):
            self.cancels.popleft()
            self.prepared.append(0)
        while self.pending and self._has_place:
            request = self.pending[0]
            user_data = self._last_user_data + 1
            try:
                if not request.prepare(self._driver, user_data):
                    break
            except Exception as error:  # a bad buffer is its caller's failure, not the ring's
                self.pending.popleft()
                request.fail(error)
                continue
            self.pending.popleft()
            self._fly(request, user_data)

    def submit(self) -> bool:
        """Enter the kernel once; whether a next turn may try to submit more, without waiting for a completion."""
        if not self.prepared:
            return True
        taken = self._driver.submit()
        if taken > 0:
            self._failed_enters = 0
            for _ in range(taken):
                self.prepared.popleft()
            return True
        self._failed_enters += 1
        if taken in _ENTER_AGAIN or taken == 0:
            if self._awaits_completions and taken != -errno.EINTR:
                return False  # a completion will free what the kernel lacks, and wake the submitter
            if self._failed_enters < MAX_TRIES:
                return True
        self._break(OSError(-taken or errno.EIO, os.strerror(-taken or errno.EIO)))
        return False

    def reap(self) -> None:
        """Give every completion that is ready to its caller."""
        for user_data, result in self._driver.reap():
            request = self.flying.pop(user_data, None)
            if request is None:
                _log.error("io_uring completed a request that nobody made: %d", user_data)
                continue
            if type(request) is Posted:
                self._posted -= 1
            elif type(request) is Request and request.task is not None:
                self.woke_a_task = True
            try:
                request.complete(result)
            except Exception:  # whatever is wrong with this one, the others wait for theirs
                _log.exception("a completed io_uring request could not be handed over")

    @property
    def _awaits_completions(self) -> bool:
        """Whether the kernel has requests that complete by themselves, which what is posted need not."""
        unseen = sum(1 for user_data in self.prepared if user_data and type(self.flying[user_data]) is Request)
        return len(self.flying) - self._posted > unseen

    def _fly(self, request: Request | Posted, user_data: int) -> None:
        self._last_user_data = request.user_data = user_data
        self.flying[user_data] = request
        self.prepared.append(user_data)
        if type(request) is Posted:
            self._posted += 1

    def _break(self, error: OSError) -> None:
        """Submitting fails for good: fail what the kernel has not seen. It is never entered again, so it never will."""
        _log.error("io_uring_enter failed, the ring is given up: %s", error)
        self.broken = error
        unseen = [self.flying.pop(user_data) for user_data in self.prepared if user_data]
        self._posted -= sum(1 for request in unseen if type(request) is Posted)
        self.prepared.clear()
        self.cancels.clear()
        waiting = [*unseen, *self.pending]
        self.pending.clear()
        for request in waiting:
            request.fail(OSError(error.errno, error.strerror))
