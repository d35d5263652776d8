"""What the operating system knows of mounts: mountinfo, unmounting, dead mounts, and who serves which.

Imports the standard library only. A runtime directory of the user who mounts holds one file per daemon, named by the
device number of its mount and its pid: the kernel gives a number to the next mount while the daemon of the last one is
still bringing things to disk. The file is removed by an orderly end, by its daemon alone, and so tells ``benchfs
umount`` whether everything was brought to disk. Invariant: a process is taken for a daemon only if it started when the
file says, for pids are used again.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import re
import socket
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

FILESYSTEM_TYPE = "fuse.benchfs"

_REGISTRATION_BYTES = 1 << 16
"""Longest file that is read as a registration; a path has 4096 bytes at most."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class MountEntry:
    """One line of proc_pid_mountinfo(5)."""

    mount_point: str
    device: str
    """Device number, ``major:minor``."""
    type: str
    source: str
    owner: int
    """The user who mounted it, where the filesystem says so, as fuse(4) does; else root."""


@dataclass(frozen=True, slots=True)
class Daemon:
    """Who serves a mount."""

    pid: int
    started: int
    """When the process started, in clock ticks since boot (proc_pid_stat(5), field 22)."""
    source: str
    """As the mount shows it: with ``fsname=``, that."""
    mount_point: str
    log: str


def this_process(source: str, mount_point: str, log: str) -> Daemon:
    """The process that asks, as the daemon of a mount."""
    started = _start_of(os.getpid())
    assert started is not None
    return Daemon(os.getpid(), started, source, mount_point, log)


def is_running(daemon: Daemon) -> bool:
    """Whether the daemon has not ended; another process with its pid is not it."""
    return _start_of(daemon.pid) == daemon.started


def printable(text: str, *, ascii_only: bool = False) -> str:
    """``text`` in one line: escapes, as Python writes them, for control characters and bytes that are no UTF-8."""
    escaped = "[^ -~]" if ascii_only else "[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]"
    return re.sub(escaped, lambda found: _escape(found[0]), text)


def find_mount(mount_point: Path) -> MountEntry | None:
    """The topmost mount at exactly this absolute path."""
    found = None
    for line in Path("/proc/self/mountinfo").read_bytes().rstrip(b"\n").split(b"\n"):
        left, _, right = line.partition(b" - ")
        fields, more = left.split(b" "), right.split(b" ")
        if _unescape(fields[4]) == os.fspath(mount_point):
            owner = re.search(rb"(?:^|,)user_id=(\d+)", more[2])
            found = MountEntry(
                mount_point=_unescape(fields[4]),
                device=fields[2].decode(),
                type=more[0].decode(),
                source=_unescape(more[1]),
                owner=int(owner[1]) if owner else 0,
            )
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


def is_dead(mount_point: Path) -> bool:
    """Whether the mount there, of any kind, has lost who served it.

    It is asked for its space, which always reaches it: stat(2) may show what the kernel remembers of a dead one.
    """
    try:
        os.statvfs(mount_point)
    except OSError as error:
        if error.errno in (errno.ENOTCONN, errno.ECONNABORTED):
            return True
        raise
    return False


def look_at_root(mount_point: Path) -> tuple[int, int]:
    """Inode number and device of what the mount point shows; blocks until whoever serves it has answered.

    Another process asks, here and in ``write_back``, for the one that serves the mount must not: killed meanwhile, its
    thread would wait for its own answer for good, and so keep /dev/fuse open and the volume locked.

    Raises:
        OSError: no answer, or an error.
    """
    inode, device = _run("stat", "-c", "%i %d", "--", os.fspath(mount_point)).split()
    return int(inode), int(device)


def write_back(mount_point: Path) -> None:
    """Have the kernel hand over the dirty pages it holds for the mount (syncfs(2)); blocks. OSError: it could not."""
    _run("sync", "-f", "--", os.fspath(mount_point))


def _run(*command: str) -> str:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise OSError(
            errno.EIO, (done.stderr.strip().splitlines() or [f"{command[0]} ended with {done.returncode}"])[-1]
        )
    return done.stdout


def clear_dead_mount(mount_point: Path) -> bool:
    """Detach what a killed daemon left at the mount point, if it did; whether it had."""
    try:
        if not is_dead(mount_point):
            return False
    except (FileNotFoundError, NotADirectoryError):
        return False
    entry = find_mount(mount_point)
    if entry is None or entry.type != FILESYSTEM_TYPE:
        raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN), os.fspath(mount_point))
    if unmount(mount_point, lazy=True) is not None:
        return False
    forget_ended(entry)
    return True


def register(daemon: Daemon, device: int) -> Path | None:
    """Note who serves the mount with this ``st_dev``; return the file, to be removed at an orderly end.

    None, with a warning in the log, where there is no directory that others cannot write to: the mount does without.
    """
    name = f"{os.major(device)}:{os.minor(device)}-{daemon.pid}.json"
    refused = []
    for directory in _runtime_directories(os.geteuid()):
        try:
            directory.mkdir(mode=0o700, exist_ok=True)
            if _is_private(directory, os.geteuid()):
                _forget_all_ended(directory)
                new = directory / f"{name}.new"
                new.write_text(json.dumps(asdict(daemon)))
                return new.rename(directory / name)
            refused.append(f"{directory}: others may write there")
        except OSError as error:
            refused.append(f"{directory}: {error.strerror}")
    log.warning("benchfs umount will not find this daemon and cannot wait for its end: %s", "; ".join(refused))
    return None


def control_socket(registration: Path) -> Path:
    """Where the daemon with this registration can be asked."""
    return registration.with_suffix(".sock")


def find_daemon(entry: MountEntry) -> tuple[Path, Daemon] | None:
    """Who serves a mount, with the file that says so; None if it has ended or was never registered."""
    running = [(path, daemon) for path, daemon in _registered(entry) if is_running(daemon)]
    return max(running, key=lambda found: found[1].started, default=None)


def forget_ended(entry: MountEntry) -> None:
    """Remove what daemons of this mount that were killed have left in the runtime directory."""
    for path, daemon in list(_registered(entry)):
        _forget_if_ended(path, daemon)


def _forget_all_ended(directory: Path) -> None:
    """The same for whatever mounts: nobody may ever mount again where a killed daemon's mount was taken away."""
    for path in directory.glob("*.json"):
        daemon = _read(path)
        if daemon is not None and not _is_listening(control_socket(path)):
            _forget_if_ended(path, daemon)


def _is_listening(path: Path) -> bool:
    """Whether a daemon is there, of another container even, whose processes are not seen here."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.setblocking(False)
        try:
            connection.connect(os.fspath(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            return True
    return True


def _forget_if_ended(path: Path, daemon: Daemon) -> None:
    if not is_running(daemon):
        with contextlib.suppress(OSError):  # it stays: in nobody's way, as its process has ended
            control_socket(path).unlink(missing_ok=True)
            path.unlink()


def _registered(entry: MountEntry) -> Iterator[tuple[Path, Daemon]]:
    for directory in _runtime_directories(entry.owner):
        if not _is_private(directory, entry.owner):
            continue
        for path in directory.glob(f"{entry.device}-*.json"):
            daemon = _read(path)
            if daemon is not None and (daemon.source, daemon.mount_point) == (entry.source, entry.mount_point):
                yield path, daemon


def _read(path: Path) -> Daemon | None:
    """What a file says; None if it is no registration. Root reads those of others, who may put there what they like."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        with open(os.open(path, flags)) as stream:
            found = json.loads(stream.read(_REGISTRATION_BYTES))
        pid, started = int(found["pid"]), int(found["started"])
        return Daemon(pid, started, str(found["source"]), str(found["mount_point"]), str(found["log"]))
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _runtime_directories(owner: int) -> tuple[Path, ...]:
    """Where daemons of a user are registered, the best place first; the last is one that always can be made."""
    last = Path(f"/tmp/benchfs-{owner}")
    if owner == 0:
        return Path("/run/benchfs"), last
    usual = Path(f"/run/user/{owner}/benchfs")
    told = os.environ.get("XDG_RUNTIME_DIR") if owner == os.geteuid() else None
    return (Path(told) / "benchfs", usual, last) if told else (usual, last)


def _is_private(directory: Path, owner: int) -> bool:
    """Whether it is a directory, not a link to one, that only its owner can get at; /tmp is anybody's."""
    try:
        status = directory.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == owner and not status.st_mode & 0o077


def _start_of(pid: int) -> int | None:
    """When a process started; None if it has ended, waited for or not."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()  # from the third on: the second, a name, may hold anything
    return None if fields[0] in "ZX" else int(fields[19])


def _escape(character: str) -> str:
    if "\udc80" <= character <= "\udcff":
        return f"\\x{ord(character) - 0xDC00:02x}"  # a byte, as os.fsdecode has it
    return ascii(character)[1:-1]


def _unescape(field: bytes) -> str:
    """Undo what mountinfo does to names: it writes space, tab, newline and backslash as octal escapes."""
    return os.fsdecode(re.sub(rb"\\([0-7]{3})", lambda found: bytes([int(found[1], 8) & 0xFF]), field))
