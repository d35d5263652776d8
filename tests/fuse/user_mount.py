"""``user_mount.py PLACE [OPTIONS]`` mounts PLACE/source at PLACE/mount as the user nobody; a process for tests.

In a mount namespace of its own, where /dev/fuse is for everybody, as on most machines. The process is root until all is
imported, for the interpreter may lie where only root can start it. Prints what ``mount.benchfs`` prints.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

from benchfs_fuse.cli import mount_main

NOBODY = 65534
_CLONE_NEWNS, _PR_SET_DUMPABLE = 0x20000, 4


def become_nobody() -> None:
    """Give up root for good."""
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)


def _open_fuse_to_everybody(place: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.unshare(_CLONE_NEWNS) == 0, os.strerror(ctypes.get_errno())
    (place / "dev").mkdir()
    node = place / "dev" / "fuse"
    for command in (
        ("mount", "--make-rprivate", "/"),
        ("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", place / "dev"),
        ("mknod", "-m", "666", node, "c", "10", "229"),
        ("mount", "--bind", node, "/dev/fuse"),
    ):
        subprocess.run(command, check=True)


def main(place: Path, options: str = "") -> None:
    """Mount."""
    _open_fuse_to_everybody(place)
    importlib.metadata.version("benchfs")  # imports what it needs
    os.environ.pop("XDG_RUNTIME_DIR", None)
    become_nobody()
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)  # /proc/self is the user's, as after any exec(2)
    mount_main([str(place / "source"), str(place / "mount"), "-o", options])


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
