"""Real mounts for tests: the installed commands in processes of their own, and fsck after everything.

Imports the core's ``fsck``, ``types`` and ``chunks.uring`` only to judge and to know what there is; mounting itself
goes through ``mount.benchfs`` and ``benchfs umount`` as users have them. Invariants: whatever a test does, its mounts
and daemons are gone when it has ended; every volume that was made is checked by fsck, and every log for errors.
"""

from __future__ import annotations

import collections
import contextlib
import errno
import hashlib
import json
import os
import select
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchfs_core.chunks.uring import io_uring_available
from benchfs_core.fsck import check_volume
from benchfs_core.types import StoreKind, SyncMode

TIMEOUT_S = 120
"""How long any one program may take, and any one condition to come true: far more than they need."""

MOUNT = Path(sys.executable).with_name("mount.benchfs")
BENCHFS = Path(sys.executable).with_name("benchfs")


@dataclass(frozen=True, slots=True)
class Setup:
    """One way to open a volume."""

    store: StoreKind
    sync: SyncMode

    def __str__(self) -> str:
        return f"{self.store.value}-{self.sync.value}"

    @property
    def options(self) -> str:
        """As ``-o`` takes them."""
        return f"store={self.store.value},sync={self.sync.value}"


SETUPS = tuple(Setup(store, sync) for sync in SyncMode for store in (StoreKind.IO_URING, StoreKind.FILE))
"""Both stores that keep anything, in both modes."""


def run(
    *command: str | Path,
    cwd: Path | None = None,
    check: bool = True,
    env: dict[str, str] | None = None,
    timeout_s: float = TIMEOUT_S,
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end; unless told otherwise it must exit with 0, and its output is in the failure."""
    done = subprocess.run(
        [os.fspath(word) for word in command],
        cwd=cwd,
        env={**os.environ, "LC_ALL": "C.UTF-8", **(env or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="surrogateescape",
        timeout=timeout_s,
        check=False,
    )
    if check and done.returncode != 0:
        pytest.fail(f"{' '.join(map(str, command))}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return done


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = TIMEOUT_S) -> None:
    """Return once a condition outside this process holds; fail where it does not come true in time."""
    deadline, pause = time.monotonic() + timeout_s, threading.Event()
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"not within {timeout_s} s: {what}")
        pause.wait(0.01)


def wait_for_end(pid: int, timeout_s: float = TIMEOUT_S) -> None:
    """Return once the process has ended."""
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        poll = select.poll()
        poll.register(process, select.POLLIN)
        if not poll.poll(timeout_s * 1000):
            pytest.fail(f"process {pid} has not ended within {timeout_s} s")
    finally:
        os.close(process)


def is_mounted(directory: Path) -> bool:
    """Whether a mount, live or dead, is at exactly this path."""
    # Not splitlines(): somebody else's mount may have a name with any of the characters that end a line for it.
    lines = Path("/proc/self/mountinfo").read_bytes().rstrip(b"\n").split(b"\n")
    return any(line.split(b" ")[4] == os.fsencode(directory) for line in lines)


class MountedVolume:
    """One volume, its mount point and its log; mounted and unmounted as often as a test likes."""

    def __init__(self, place: Path, options: str) -> None:
        self.source = place / "source"
        self.directory = place / "mount"
        self.log = place / "log"
        self.options = options
        self.expected_errors: tuple[str, ...] = ()
        """Words of log lines of level ERROR or worse that the test provokes."""
        self._pids: list[int] = []
        for directory in (self.source, self.directory):
            directory.mkdir(parents=True)

    def mount(self, *options: str) -> str:
        """Mount; return the one line that the command printed. ``options`` are added."""
        words = ",".join(filter(None, (self.options, f"log={self.log}", *options)))
        done = run(MOUNT, self.source, self.directory, "-o", words)
        line, *more = done.stdout.splitlines()
        assert not more, done.stdout
        assert not done.stderr, done.stderr
        if "store=memory" not in words:
            self.note_daemon()
        return line

    def unmount(self) -> None:
        """Unmount with ``benchfs umount``, which must end well."""
        done = run(BENCHFS, "umount", self.directory)
        assert (done.stdout, done.stderr) == ("", "")
        assert not is_mounted(self.directory)

    def remount(self, *options: str) -> str:
        """Unmount, have fsck look, mount again."""
        self.unmount()
        self.fsck()
        return self.mount(*options)

    def kill(self) -> None:
        """kill -9; on return the daemon is gone and its mount is dead."""
        os.kill(self.pid, signal.SIGKILL)
        wait_for_end(self.pid)
        wait_until(self._is_dead, "the killed daemon's mount is dead")  # its ring is freed a moment after its end

    def _is_dead(self) -> bool:
        try:
            self.directory.stat()
            os.listdir(self.directory)
        except OSError as error:
            return error.errno == errno.ENOTCONN
        return False

    def fsck(self) -> None:
        """The volume, which is not mounted, must be without findings."""
        assert [str(finding) for finding in check_volume(self.source)] == []

    @property
    def pid(self) -> int:
        """The daemon that served or serves the volume, by its lock file."""
        return int((self.source / "lock").read_text().splitlines()[0])

    def note_daemon(self) -> int:
        """Remember who serves the volume now, for the end of the test."""
        self._pids.append(self.pid)
        return self.pid

    @property
    def requests(self) -> collections.Counter[str]:
        """Requests of the mount that was unmounted last, by kind."""
        lines = [line for line in self._log_lines() if " requests: {" in line]
        return collections.Counter(json.loads(lines[-1].partition(" requests: ")[2]))

    def chunk_directory(self, file: Path) -> Path:
        """Where the chunks of a file on the mount are."""
        return self.source / "chunks" / str(file.stat().st_ino)

    def place_of(self, name: str) -> Path:
        """A path beside the volume, on the same filesystem."""
        return self.source.with_name(name)

    def close(self) -> None:
        """Leave nothing behind, then judge: fsck, the log, and whether the mount had ended in order."""
        problems: list[str] = []
        if is_mounted(self.directory):
            done = run(BENCHFS, "umount", self.directory, check=False)
            if done.returncode != 0:
                problems.append(f"benchfs umount: exit {done.returncode}: {done.stderr}")
        self._clean_up()
        if (self.source / "benchfs.toml").exists():
            problems += [f"fsck: {finding}" for finding in check_volume(self.source)]
        problems += self._log_problems()
        if problems:
            pytest.fail("\n".join([f"{self.source}:", *problems]))
        shutil.rmtree(self.source)

    def _clean_up(self) -> None:
        while is_mounted(self.directory):
            run("fusermount3", "-uz", self.directory, check=False)
        for pid in self._pids:
            if _is_daemon(pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                wait_for_end(pid)

    def _log_lines(self) -> list[str]:
        return self.log.read_text(errors="surrogateescape").splitlines() if self.log.exists() else []

    def _log_problems(self) -> list[str]:
        bad = (" ERROR ", " CRITICAL ", "Traceback")
        lines = [line for line in self._log_lines() if any(word in line for word in bad)]
        return [f"log: {line}" for line in lines if not any(word in line for word in self.expected_errors)]


class Volumes:
    """Makes volumes for one test or one module."""

    def __init__(self, place: Path) -> None:
        if shutil.which("fusermount3") is None:
            pytest.skip("fusermount3 is missing")
        self.place = place
        self._made: list[MountedVolume] = []

    def make(self, setup: Setup | str = "", *, options: str = "", mount: bool = True) -> MountedVolume:
        """A new volume, mounted unless told otherwise."""
        if isinstance(setup, Setup) and setup.store is StoreKind.IO_URING and (reason := io_uring_available()):
            pytest.skip(reason)
        words = setup.options if isinstance(setup, Setup) else setup
        volume = MountedVolume(self.place / f"v{len(self._made)}", ",".join(filter(None, (words, options))))
        self._made.append(volume)
        if mount:
            volume.mount()
        return volume

    def close(self) -> None:
        """Close every volume that was made."""
        with contextlib.ExitStack() as stack:
            for volume in self._made:
                stack.callback(volume.close)


def _is_daemon(pid: int) -> bool:
    """Whether the process is still a mount of ours, and not another that got its number."""
    with contextlib.suppress(OSError):
        return b"mount.benchfs" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


@dataclass(frozen=True, slots=True)
class Facts:
    """What a user can see of one file, and must see again."""

    mode: int
    uid: int
    gid: int
    mtime_ns: int
    size: int
    links: int
    linked_to: str
    """The first name of the same inode, in the order of the alphabet."""
    content: str
    """SHA-256 of a regular file, target of a symbolic link."""
    xattrs: tuple[tuple[str, bytes], ...]
    own: tuple[int, ...]
    """What copies have of their own and remounts keep: inode number, ctime, and a directory's link count."""


def manifest(top: Path, *, own: bool = True, xattrs: bool = True) -> dict[str, Facts]:
    """Facts of everything below ``top``, by relative name; without ``own``, only what a copy has in common."""
    facts: dict[str, Facts] = {}
    first_name: dict[int, str] = {}
    for path in sorted([top, *top.rglob("*")]):
        status, name = path.lstat(), os.fspath(path.relative_to(top))
        is_directory = stat.S_ISDIR(status.st_mode)
        found = tuple((key, os.getxattr(path, key, follow_symlinks=False)) for key in _xattr_names(path))
        facts[name] = Facts(
            mode=status.st_mode,
            uid=status.st_uid,
            gid=status.st_gid,
            mtime_ns=status.st_mtime_ns,
            size=0 if is_directory else status.st_size,
            links=0 if is_directory else status.st_nlink,
            linked_to=name if is_directory else first_name.setdefault(status.st_ino, name),
            content=_content(path, status),
            xattrs=found if xattrs else (),
            own=(status.st_ino, status.st_ctime_ns, status.st_nlink) if own else (),
        )
    return facts


def _xattr_names(path: Path) -> list[str]:
    return sorted(name for name in os.listxattr(path, follow_symlinks=False) if name.startswith("user."))


def _content(path: Path, status: os.stat_result) -> str:
    if stat.S_ISLNK(status.st_mode):
        return os.readlink(path)
    if not stat.S_ISREG(status.st_mode):
        return ""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def assert_same(found: dict[str, Facts], expected: dict[str, Facts]) -> None:
    """Two manifests must be equal; the first differences are in the failure."""
    assert expected, "nothing to compare"
    names = sorted(found.keys() | expected.keys())
    differing = [
        f"{name!r}:\n  found    {found.get(name)}\n  expected {expected.get(name)}"
        for name in names
        if found.get(name) != expected.get(name)
    ]
    if differing:
        pytest.fail(f"{len(differing)} of {len(names)} differ:\n" + "\n".join(differing[:5]))


@contextlib.contextmanager
def volumes_in(place: Path) -> Iterator[Volumes]:
    """Volumes below ``place``, closed and judged at the end of the block."""
    volumes = Volumes(place)
    try:
        yield volumes
    finally:
        volumes.close()
