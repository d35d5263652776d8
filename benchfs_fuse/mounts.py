"""What the operating system knows of mounts: mountinfo, unmounting, dead mounts, and who serves which.

Imports the standard library only. The runtime directory holds one file per live mount, named by the device number of
the mount, with the daemon's pid and source; it is removed by an orderly end and so tells ``benchfs umount`` whether
everything was brought to disk.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

FILESYSTEM_TYPE = "fuse.benchfs"


@dataclass(frozen=True, slots=True)
class MountEntry:
    """One line of proc_pid_mountinfo(5)."""

    mount_point: str
    device: str
    """Device number, ``major:minor``."""
    type: str
    source: str


@dataclass(frozen=True, slots=True)
class Daemon:
    """Who serves a mount."""

    pid: int
    source: str
    mount_point: str
    log: str


def find_mount(mount_point: Path) -> MountEntry | None:
    """The topmost mount at exactly this absolute path."""
    found = None
    for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
        left, _, right = line.partition(b" - ")
        fields, more = left.split(b" "), right.split(b" ")
        if _unescape(fields[4]) == os.fspath(mount_point):
            found = MountEntry(_unescape(fields[4]), fields[2].decode(), more[0].decode(), _unescape(more[1]))
    return found


def unmount(mount_point: Path, *, lazy: bool = False) -> str | None:
    """Unmount; None if that was done, else the reason in a line.

    Blocks while the kernel writes back; ``lazy`` detaches a mount that is busy.
    """
    command = ["fusermount3", "-u", *(["-z"] if lazy else []), "--", os.fspath(mount_point)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return None
    return (done.stderr.strip().splitlines() or [f"fusermount3 ended with {done.returncode}"])[-1]


def clear_dead_mount(mount_point: Path) -> bool:
    """Detach what a killed daemon left at the mount point, if it did; whether it had.

    It is asked for its space, which always reaches it: stat(2) may show what the kernel remembers of a dead one.
    """
    try:
        os.statvfs(mount_point)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        if error.errno not in (errno.ENOTCONN, errno.ECONNABORTED):
            raise
        entry = find_mount(mount_point)
        if entry is None or entry.type != FILESYSTEM_TYPE:
            raise
        return unmount(mount_point, lazy=True) is None
    return False


def register(daemon: Daemon) -> Path:
    """Note who serves the mount at ``daemon.mount_point``; return the file, to be removed at an orderly end."""
    status = os.stat(daemon.mount_point)
    path = _runtime_directory() / f"{os.major(status.st_dev)}:{os.minor(status.st_dev)}.json"
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    content = {"pid": daemon.pid, "source": daemon.source, "mount_point": daemon.mount_point, "log": daemon.log}
    new.write_text(json.dumps(content))
    new.rename(path)
    return path


def find_daemon(entry: MountEntry) -> tuple[Path, Daemon] | None:
    """Who serves a mount, with the file that says so."""
    path = _runtime_directory() / f"{entry.device}.json"
    with contextlib.suppress(FileNotFoundError, ValueError, KeyError):
        content = json.loads(path.read_text())
        return path, Daemon(content["pid"], content["source"], content["mount_point"], content["log"])
    return None


def _runtime_directory() -> Path:
    if os.geteuid() == 0:
        return Path("/run/benchfs")
    return Path(os.environ.get("XDG_RUNTIME_DIR") or f"/tmp/benchfs-{os.geteuid()}") / "benchfs"


def _unescape(field: bytes) -> str:
    """Undo what mountinfo does to names: it writes space, tab, newline and backslash as octal escapes."""
    return os.fsdecode(field.decode("latin-1").encode("latin-1").decode("unicode_escape").encode("latin-1"))
