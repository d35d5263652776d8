"""What the daemon answers to ``benchfs profile`` on its control socket. Imports the core's ``profile``.

Commands: ``profile`` tells everything since the mount; with ``mode`` ``watch`` or ``trace`` every request is split, or
traced as well, for some seconds from then on, with ``end`` no more; ``watcher`` is a name by which a client is known
from others that do the same. ``profile-trace`` tells traces, ``after`` those that were told before, and goes on
tracing. Whatever else a client sends in their place means nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from benchfs_core.profile import Profile

_MAX_NAME = 64


def profile_commands(profile: Profile, facts: Mapping[str, object]) -> dict[str, Callable[[Mapping[str, Any]], object]]:
    """The commands for one mount; ``facts`` are told along with what was counted."""

    def tell(asked: Mapping[str, Any]) -> object:
        mode, watcher = asked.get("mode"), _watcher(asked)
        if mode in ("watch", "trace"):
            profile.watch(watcher, trace=mode == "trace")
        elif mode == "end":
            profile.end_watching(watcher)
        return {**facts, **profile.tell()}

    def tell_trace(asked: Mapping[str, Any]) -> object:
        profile.watch(_watcher(asked), trace=True)
        after = asked.get("after")
        return profile.tell_trace(after if type(after) is int else None)

    return {"profile": tell, "profile-trace": tell_trace}


def _watcher(asked: Mapping[str, Any]) -> str:
    return str(asked.get("watcher"))[:_MAX_NAME]
