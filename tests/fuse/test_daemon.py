"""The daemon and what is around it: who finds it, who is told, what it holds open, and names of every kind.

Everything through the installed commands, but registrations are also read and written directly, to lay out what takes a
coincidence of pids and device numbers.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchfs_core.superblock import LOCK
from benchfs_core.types import AtimeMode
from benchfs_fuse import mounts
from benchfs_fuse.options import REFUSED, parse
from tests.fuse.user_mount import NOBODY
from tests.support.mounting import (
    BENCHFS,
    MOUNT,
    TIMEOUT_S,
    MountedVolume,
    Volumes,
    is_mounted,
    run,
    wait_for_end,
    wait_until,
)

pytestmark = pytest.mark.fuse

USAGE, SYSTEM = 1, 2


def entry_of(directory: Path) -> mounts.MountEntry:
    entry = mounts.find_mount(directory)
    assert entry is not None
    return entry


def registration_of(directory: Path) -> tuple[Path, mounts.Daemon]:
    found = mounts.find_daemon(entry_of(directory))
    assert found is not None
    return found


class UsersMount:
    """A volume that nobody mounts, in a mount namespace of its own."""

    registrations = Path(f"/tmp/benchfs-{NOBODY}")

    def __init__(self, place: Path) -> None:
        self.place, self.source, self.directory = place, place / "source", place / "mount"
        self.pid = 0
        """The daemon, once it is mounted."""
        assert not os.path.lexists(self.registrations)
        for directory in (self.place, self.source, self.directory):
            directory.mkdir(exist_ok=True)
            os.chown(directory, NOBODY, NOBODY)

    def mount(self, options: str = "") -> None:
        run(sys.executable, "-m", "tests.fuse.user_mount", self.place, options, cwd=Path(__file__).parents[2])
        self.pid = int((self.source / LOCK).read_text().splitlines()[0])

    def umount(self) -> subprocess.CompletedProcess[str]:
        """``benchfs umount``, by root."""
        return run("nsenter", "-t", str(self.pid), "-m", BENCHFS, "umount", self.directory, check=False)

    def close(self) -> None:
        """Leave nothing; the mount is gone with its namespace."""
        if self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            wait_for_end(self.pid)
        shutil.rmtree(self.place)
        if self.registrations.is_dir() and not self.registrations.is_symlink():
            shutil.rmtree(self.registrations)
        else:
            self.registrations.unlink(missing_ok=True)


@pytest.fixture
def users() -> Iterator[UsersMount]:
    users = UsersMount(Path(tempfile.mkdtemp(prefix="benchfs-test-", dir="/tmp")))
    try:
        yield users
    finally:
        users.close()


# Registration


def test_a_daemon_that_ends_leaves_the_registration_of_the_next_mount_alone(volumes: Volumes) -> None:
    """The next mount may get the device number of one whose daemon is still bringing things to disk."""
    volume = volumes.make()
    path, daemon = registration_of(volume.directory)
    assert str(daemon.pid) in path.name
    assert path.name.startswith(entry_of(volume.directory).device)
    other = path.with_name(path.name.replace(f"-{daemon.pid}", f"-{os.getpid()}"))
    write_registration(other, mounts.this_process("/another/volume", "/another/mount", "stderr"))
    try:
        volume.unmount()
        assert not path.exists()
        assert other.exists()
    finally:
        other.unlink()


def test_of_two_daemons_with_one_device_number_the_one_of_the_mount_is_found(volumes: Volumes) -> None:
    volume = volumes.make()
    path, daemon = registration_of(volume.directory)
    name = path.name.partition("-")[0]
    this = mounts.this_process(daemon.source, daemon.mount_point, "stderr")
    others = {
        f"{name}-2.json": dataclasses.replace(this, source="/another/volume"),
        f"{name}-3.json": dataclasses.replace(this, mount_point="/another/mount"),
        f"{name}-4.json": dataclasses.replace(this, started=this.started + 1),
    }
    made = [path.with_name(name) for name in others]
    try:
        for file, other in zip(made, others.values(), strict=True):
            file.write_text(path.read_text())
            assert registration_of(volume.directory)[1] == daemon
            write_registration(file, other)
            assert registration_of(volume.directory) == (path, daemon)
        for words in ("", "[]", "{}", '{"pid": "x"}', path.read_text()[:-9]):
            made[0].write_text(words)
            assert registration_of(volume.directory) == (path, daemon)
        volume.unmount()
    finally:
        for file in made:
            file.unlink(missing_ok=True)  # whoever mounts meanwhile forgets the one of a process that has ended


def write_registration(file: Path, daemon: mounts.Daemon) -> None:
    words = ", ".join(f'"{key}": {value!r}' for key, value in dataclasses.asdict(daemon).items())
    file.write_text(f"{{{words}}}".replace("'", '"'))


def test_a_mount_is_found_by_the_name_it_shows(volumes: Volumes) -> None:
    volume = volumes.make("fsname=a name of its own")
    assert registration_of(volume.directory)[1].source == "a name of its own"
    volume.unmount()


def test_benchfs_umount_does_not_wait_for_a_stranger_with_the_pid_of_a_killed_daemon(volumes: Volumes) -> None:
    volume = volumes.make()
    path, daemon = registration_of(volume.directory)
    volume.kill()
    write_registration(path, dataclasses.replace(daemon, pid=os.getpid()))  # this process does not end meanwhile
    done = run(BENCHFS, "umount", volume.directory, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (SYSTEM, 1)
    assert "its daemon is gone: the next mount recovers" in done.stderr
    assert not path.exists()
    volume.mount()


def test_a_dead_mount_that_is_mounted_over_leaves_no_registration(volumes: Volumes) -> None:
    volume = volumes.make()
    path, _ = registration_of(volume.directory)
    volume.kill()
    assert path.exists()
    volume.mount()
    assert not path.exists()


@pytest.mark.parametrize("options", ["", "acl"])
def test_root_unmounts_a_users_mount_and_waits_for_its_daemon(users: UsersMount, options: str) -> None:
    users.mount(options)
    [registration] = users.registrations.glob("*.json")
    assert registration.name.endswith(f"-{users.pid}.json")
    assert stat.S_IMODE(users.registrations.stat().st_mode) == 0o700
    done = users.umount()
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    wait_for_end(users.pid, timeout_s=0)  # has ended already
    assert not registration.exists()
    run(BENCHFS, "fsck", users.source)


@pytest.mark.parametrize("trap", ["link", "others'", "open to all", "file"])
def test_a_runtime_directory_that_is_not_safe_is_done_without(users: UsersMount, trap: str) -> None:
    fallback, target = users.registrations, users.place / "target"
    target.mkdir(mode=0o700)
    os.chown(target, NOBODY, NOBODY)
    if trap == "link":
        fallback.symlink_to(target)
    elif trap == "file":
        fallback.touch()
    else:
        fallback.mkdir()
        fallback.chmod(0o777)
        os.chown(fallback, *((NOBODY, NOBODY) if trap == "open to all" else (0, 0)))
    users.mount()
    assert list(target.iterdir()) == []
    assert trap == "file" or list(fallback.iterdir()) == []
    assert "benchfs umount will not find this daemon" in (users.source / "benchfs.log").read_text()
    done = users.umount()
    assert (done.returncode, done.stderr.count("\n")) == (SYSTEM, 1)
    assert "who serves it is not known" in done.stderr
    wait_for_end(users.pid)


# Names


@pytest.mark.parametrize("place", ["source", "mount"])
def test_a_name_with_every_odd_character_is_mounted_and_told_in_one_line(tmp_path: Path, place: str) -> None:
    odd = "a\nb\tc \\012d\re\x1b[1m\u2028\x85é, x" + ("\udcff" if place == "mount" else "")  # SQLite wants UTF-8
    names = {"source": "source", "mount": "mount", place: odd}
    source, directory = tmp_path / names["source"], tmp_path / names["mount"]
    source.mkdir()
    directory.mkdir()
    pid = 0
    try:
        line = run(MOUNT, source, directory).stdout
        pid = int((source / LOCK).read_bytes().splitlines()[0])
        assert line.endswith("\n")
        assert len(line.splitlines()) == 1
        assert r"a\nb\tc \012d\re\x1b[1m\u2028\x85é, x" in line
        assert (r", x\xff" in line) == (place == "mount")
        assert registration_of(directory)[1].pid == pid
        (tmp_path / "other").mkdir()
        done = run(MOUNT, source, tmp_path / "other", check=False)
        assert len(done.stderr.splitlines()) == 1
        assert mounts.printable(f"is mounted already at {directory} by process {pid}") in done.stderr
        assert "unmount with" in (source / "benchfs.log").read_text()
        assert run(BENCHFS, "umount", directory).stderr == ""
        assert mounts.printable(f"{source}: clean") in run(BENCHFS, "fsck", source).stdout
    finally:
        while mounts.find_mount(directory) is not None:
            run("fusermount3", "-uz", directory)
        if pid:
            wait_for_end(pid)


def test_what_is_wrong_is_told_in_one_line(tmp_path: Path) -> None:
    for words in (("-o", "sync=a\nb"), ("-o", "log=/missing\n/x"), ("a\nb",)):
        done = run(MOUNT, tmp_path, tmp_path / "c\nd", *words, check=False)
        assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (USAGE, "", 1)
        assert r"\n" in done.stderr


# Whoever waits


@contextlib.contextmanager
def daemon_of_a_killed_command(volume: MountedVolume) -> Iterator[int]:
    """The daemon, which waits for the volume's lock, of a ``mount.benchfs`` that was killed; at the end it goes on."""
    run(BENCHFS, "mkfs", volume.source)
    with (volume.source / LOCK).open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write("1\nclosing\n")  # the daemon waits for an owner that is ending
        lock.flush()
        command: list[str | Path] = [MOUNT, volume.source, volume.directory, "-o", f"log={volume.log}"]
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as waiting:
            # The command's first child need not be the daemon: trio, when imported, has ldconfig run.
            wait_until(lambda: bool(waiting_for_lock(volume.source / LOCK)), "the daemon waits for the lock")
            [daemon] = waiting_for_lock(volume.source / LOCK)
            waiting.send_signal(signal.SIGKILL)
            assert waiting.wait(TIMEOUT_S) == -signal.SIGKILL
        yield daemon
    wait_for_end(daemon)
    assert not is_mounted(volume.directory)
    registrations = Path("/run/benchfs").glob(f"*-{daemon}.json")  # one of a process that was killed may have the pid
    assert not [path for path in registrations if str(volume.directory) in path.read_text()]


def waiting_for_lock(path: Path) -> list[int]:
    """The processes that wait in flock(2) for the file (proc_locks(5))."""
    lines = [line.split()[1:] for line in Path("/proc/locks").read_text().splitlines()]
    inode = path.stat().st_ino
    return [int(line[4]) for line in lines if line[:2] == ["->", "FLOCK"] and int(line[5].split(":")[2]) == inode]


def test_a_mount_that_nobody_waits_for_any_more_ends_in_order(volumes: Volumes) -> None:
    volume = volumes.make(mount=False)
    with daemon_of_a_killed_command(volume):
        pass
    messages = volume.log.read_text()
    assert "no longer waits for it: ending" in messages
    assert "unmounted, everything is on disk" in messages
    volume.fsck()
    assert "recovered" not in volume.mount()


def test_a_mount_that_fails_and_nobody_waits_for_says_why_in_its_log(volumes: Volumes) -> None:
    volume = volumes.make(mount=False)
    with daemon_of_a_killed_command(volume):
        volume.directory.rmdir()
    messages = volume.log.read_text()
    assert f"{volume.directory}: cannot mount" in messages
    assert "no longer waits to be told" in messages
    volume.log.unlink()  # no other message is an error
    volume.directory.mkdir()
    volume.fsck()
    assert "recovered" not in volume.mount()


def test_a_daemon_killed_while_it_looks_at_its_own_mount_is_gone(volumes: Volumes) -> None:
    volume = volumes.make(mount=False)
    command: list[str | Path] = [sys.executable, "-m", "tests.fuse.dying_mount", volume.source, volume.directory]
    with subprocess.Popen(command, cwd=Path(__file__).parents[2], stderr=subprocess.DEVNULL) as daemon:
        try:
            assert daemon.wait(TIMEOUT_S) == -signal.SIGKILL
        finally:
            run("umount", "-f", volume.directory, check=False)  # ends what waits for an answer
    assert "recovered" not in volume.mount()


def test_a_daemon_holds_nothing_that_its_caller_had_open(volumes: Volumes, tmp_path: Path) -> None:
    volume, lock = volumes.make(mount=False), tmp_path / "lock file"
    run("flock", "-n", lock, MOUNT, volume.source, volume.directory, "-o", f"log={volume.log}")
    pid = volume.note_daemon()
    assert is_mounted(volume.directory)
    held = [os.readlink(file) for file in Path(f"/proc/{pid}/fd").iterdir()]
    assert os.fspath(lock) not in held
    run("flock", "-n", lock, "true")
    reader, writer = os.pipe()
    other = volumes.make(mount=False)
    command: list[str | Path] = [MOUNT, other.source, other.directory, "-o", f"log={other.log}"]
    subprocess.run(command, pass_fds=(writer,), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True)
    other.note_daemon()
    os.close(writer)
    with open(reader, "rb") as pipe:
        assert pipe.read() == b""  # ends, for nobody else has the other end


# The log


@pytest.mark.parametrize(
    ("log", "says"),
    [
        ("mount/log", "lies inside the mount point"),
        ("mount", "lies inside the mount point"),
        ("link/below/log", "lies inside the mount point"),
        ("missing/log", "missing is not a directory"),
        ("file/log", "file is not a directory"),
        ("directory", "not a file"),
        ("fifo", "not a file"),
    ],
)
@pytest.mark.parametrize("way", ["daemon", "foreground"])
def test_a_log_that_cannot_be_is_refused(volumes: Volumes, tmp_path: Path, way: str, log: str, says: str) -> None:
    volume = volumes.make(mount=False)
    place = volume.directory.parent
    (place / "link").symlink_to(volume.directory)
    (place / "directory").mkdir()
    (place / "file").touch()
    os.mkfifo(place / "fifo")
    words = ["--foreground"] if way == "foreground" else []
    done = run(MOUNT, volume.source, volume.directory, "-o", f"log={place / log}", *words, check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (USAGE, "", 1)
    assert says in done.stderr
    assert list(volume.source.iterdir()) == []
    assert not is_mounted(volume.directory)


# Words of mount(8)


def test_words_about_atime_mean_what_they_do_to_mount() -> None:
    """A word with ``no`` takes the word without it back, and nothing else."""
    for mode, meant in {
        AtimeMode.RELATIME: (
            "",
            "atime",
            "norelatime",
            "relatime,norelatime",
            "noatime,atime",
            "strictatime,nostrictatime",
        ),
        AtimeMode.STRICTATIME: ("strictatime,atime", "strictatime,norelatime"),
        AtimeMode.NOATIME: ("noatime,nostrictatime", "noatime,norelatime,mand,nomand,sync,async"),
    }.items():
        assert {words: parse(words).volume.atime for words in meant} == dict.fromkeys(meant, mode)


@pytest.mark.parametrize("option", sorted(REFUSED))
def test_what_cannot_be_kept_is_refused_with_its_own_reason(volumes: Volumes, option: str) -> None:
    volume = volumes.make(mount=False)
    done = run(MOUNT, volume.source, volume.directory, "-o", f"rw,{option}", check=False)
    assert (done.returncode, done.stdout) == (USAGE, "")
    assert done.stderr == f"mount.benchfs: option {option}: {REFUSED[option]}\n"
    assert list(volume.source.iterdir()) == []


def test_a_mount_forgets_the_daemons_that_were_killed_elsewhere(volumes: Volumes) -> None:
    if os.geteuid() != 0:
        pytest.skip("looks where root's daemons are registered")
    killed, living = volumes.make(), volumes.make()
    left, kept = (list(Path("/run/benchfs").glob(f"*-{volume.pid}.*")) for volume in (killed, living))
    assert len(left) == len(kept) == 2
    killed.kill()
    run("fusermount3", "-uz", killed.directory)
    assert all(path.exists() for path in left)
    volumes.make()
    assert not any(path.exists() for path in left)
    assert all(path.exists() for path in kept)
