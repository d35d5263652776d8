"""What a daemon tunes once its mount is there: limits of the kernel's FUSE client, and Python's garbage collector.

Imports the standard library only. Best effort: where a limit cannot be raised (not root, /sys not writable) the mount
is slower, not wrong.
"""

from __future__ import annotations

import gc
import logging
import os
from pathlib import Path

log = logging.getLogger(__name__)

READ_AHEAD_KIB = 4096
"""Sequential readers then ask for 1 MiB at a time instead of 128 KiB."""

MAX_BACKGROUND = 128
"""Asynchronous requests under way at once; the kernel's default is 12."""

DIRTY_PERCENT = 10
"""Of the pages that may be dirty at all (vm.dirty_ratio), how many may be ours; the kernel's default for FUSE is 1.

With 1, whoever writes more than that is held up as if the disk were slow. It stays a limit of this mount's alone
(``strict_limit``), so that its dirty pages cannot hold up the daemon's own writing.
"""

_COLLECT_AFTER = 20_000
"""So many more objects than at the last collection make one due; Python's 700 are less than a burst of opens makes."""


def collect_rarely() -> None:
    """Collect garbage less often, and never look at what is there now.

    Requests are freed by counting references; cycles are rare. What a collection walks through meanwhile are the open
    files, again and again while more are opened: that took half the time of creating files.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECT_AFTER, *gc.get_threshold()[1:])


def raise_kernel_limits(device: int) -> None:
    """Raise what concerns the mount with this ``st_dev``; before files are opened, for read-ahead is set at open."""
    major, minor = os.major(device), os.minor(device)
    connection = Path(f"/sys/fs/fuse/connections/{minor}")
    wanted = {
        Path(f"/sys/class/bdi/{major}:{minor}/read_ahead_kb"): READ_AHEAD_KIB,
        Path(f"/sys/class/bdi/{major}:{minor}/max_ratio"): DIRTY_PERCENT,
        connection / "max_background": MAX_BACKGROUND,
        connection / "congestion_threshold": MAX_BACKGROUND * 3 // 4,
    }
    for path, value in wanted.items():
        try:
            path.write_text(str(value))
        except OSError as error:
            log.debug("%s stays as it is: %s", path, error)
