"""What the daemon answers to ``benchfs profile`` on its control socket. Imports the core's ``profile``.

Commands: ``profile`` tells everything since the mount; with ``mode`` ``watch`` or ``trace`` every request is split, or
traced as well, for some seconds from then on, with ``end`` no more. ``profile-trace`` tells traces, ``after`` those
that were told before, and goes on tracing. Whatever else a client sends in their place means nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from benchfs_core.profile import Profile


def profile_commands(profile: Profile, facts: Mapping[str, object]) -> dict[str, Callable[[Mapping[str, Any]], object]]:
    """The commands for one mount; ``facts`` are told along with what was counted."""

    def tell(asked: Mapping[str, Any]) -> object:
        mode = asked.get("mode")
        if mode in ("watch", "trace"):
            profile.watch(trace=mode == "trace")
        elif mode == "end":
            profile.end_watching()
        return {**facts, **profile.tell()}

    def tell_trace(asked: Mapping[str, Any]) -> object:
        profile.watch(trace=True)
        after = asked.get("after")
        return profile.tell_trace(after if type(after) is int else None)

    return {"profile": tell, "profile-trace": tell_trace}
