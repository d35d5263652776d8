"""What only the plane answers (birth times, O_TMPFILE, flags), on real mounts: crashes, programs, other planes."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import tempfile
from pathlib import Path

import pytest

from benchfs_core.chunks.uring import io_uring_available
from tests.conformance.calls import (
    APPEND,
    IMMUTABLE,
    NODUMP,
    STATX_BTIME,
    get_flags,
    ioctl,
    link_open,
    set_flags,
    statx,
)
from tests.support.mounting import Volumes, run

pytestmark = pytest.mark.fuse
needs_ring = pytest.mark.skipif(io_uring_available() is not None, reason=str(io_uring_available()))


@needs_ring
@pytest.mark.parametrize("options", ["sync=write", "sync=fsync"])
def test_a_remount_and_a_kill_leave_it(volumes: Volumes, options: str) -> None:
    volume = volumes.make(options)
    names = [str(volume.directory / name) for name in ("directory", "small", "large", "")]
    os.mkdir(names[0])
    Path(names[1]).write_bytes(b"small")
    Path(names[2]).write_bytes(bytes(5 << 20))
    made = [statx(name).birth_ns for name in names]
    assert 0 not in made
    volume.remount()
    assert [statx(name).birth_ns for name in names] == made
    for name in names[1:3]:
        with open(name, "ab") as stream:
            stream.write(b"more")
            os.fsync(stream.fileno())
    volume.kill()
    run("umount", "-l", volume.directory)
    volume.mount()
    assert [statx(name).birth_ns for name in names] == made


def test_through_pyfuse3_it_is_not_told(volumes: Volumes) -> None:
    volume = volumes.make("plane=pyfuse3")
    file = str(volume.directory / "file")
    Path(file).write_bytes(b"")
    assert statx(file).mask & STATX_BTIME == 0
    assert run("stat", "-c", "%w", file).stdout == "-\n"


@needs_ring
@pytest.mark.parametrize("options", ["sync=write", "sync=fsync"])
def test_a_kill_leaves_of_nameless_files_what_was_linked(volumes: Volumes, options: str) -> None:
    volume = volumes.make(options)
    content = os.urandom(5 << 20)
    opened = [os.open(volume.directory, os.O_TMPFILE | os.O_RDWR, 0o600) for _ in range(4)]
    for number, file in enumerate(opened):
        os.write(file, content)
        os.fsync(file)
        if number < 2:
            link_open(file, str(volume.directory / str(number)))
            os.fsync(file)
    inodes = [os.fstat(file).st_ino for file in opened]
    volume.kill()
    for file in opened:
        with contextlib.suppress(OSError):  # the mount is dead
            os.close(file)
    run("umount", "-l", volume.directory)
    volume.mount()
    assert sorted(os.listdir(volume.directory)) == ["0", "1"]
    assert all((volume.directory / name).read_bytes() == content for name in "01")
    volume.unmount()
    volume.fsck()
    assert sorted(os.listdir(volume.source / "chunks")) == sorted(map(str, inodes[:2]))


@needs_ring
def test_a_nameless_file_takes_what_the_default_acl_says(volumes: Volumes) -> None:
    volume = volumes.make("acl")
    run("setfacl", "-d", "-m", "u:1234:rw,o::-", volume.directory)
    file = os.open(volume.directory, os.O_TMPFILE | os.O_RDWR, 0o666)
    link_open(file, str(volume.directory / "nameless"))
    os.close(file)
    (volume.directory / "named").touch()
    shown = [
        run("getfacl", "-c", "-n", name, cwd=volume.directory).stdout.splitlines() for name in ("nameless", "named")
    ]
    assert "user:1234:rw-" in shown[0]
    assert shown[0] == shown[1]


def test_through_pyfuse3_programs_hear_that_there_is_no_o_tmpfile(volumes: Volumes) -> None:
    volume = volumes.make("plane=pyfuse3")
    with pytest.raises(OSError, match=os.strerror(errno.EOPNOTSUPP)):
        os.open(volume.directory, os.O_TMPFILE | os.O_RDWR, 0o600)
    with tempfile.TemporaryFile(dir=volume.directory) as stream:  # falls back to one that it unlinks
        stream.write(b"content")
        stream.flush()
        assert os.listdir(volume.directory) == []


@needs_ring
@pytest.mark.parametrize("mapped", [False, True])
def test_what_was_acknowledged_before_a_file_became_immutable_is_not_lost(volumes: Volumes, mapped: bool) -> None:
    """The kernel holds it, and writes it back when the file is immutable already; so its times."""
    volume = volumes.make("sync=fsync")
    path, content = volume.directory / "file", os.urandom(3 << 20)
    path.write_bytes(bytes(len(content)))
    file = os.open(path, os.O_RDWR)
    os.fsync(file)
    mapping = mmap.mmap(file, len(content)) if mapped else None
    if mapping is not None:
        mapping[:] = content
    else:
        os.pwrite(file, content, 0)
    set_flags(str(path), IMMUTABLE)
    if mapping is not None:
        mapping.close()
    os.fsync(file)
    mtime_ns = os.fstat(file).st_mtime_ns
    os.close(file)
    with pytest.raises(PermissionError):
        path.write_bytes(b"")
    volume.remount()
    assert path.read_bytes() == content
    assert (path.stat().st_mtime_ns, get_flags(str(path))) == (mtime_ns, IMMUTABLE)
    set_flags(str(path), 0)


@needs_ring
@pytest.mark.parametrize("options", ["sync=write", "sync=fsync"])
def test_flags_survive_a_kill_once_they_are_durable(volumes: Volumes, options: str) -> None:
    volume = volumes.make(options)
    names = [str(volume.directory / name) for name in ("file", "directory")]
    Path(names[0]).write_bytes(b"content")
    os.mkdir(names[1])
    set_flags(names[0], IMMUTABLE)
    set_flags(names[1], APPEND | NODUMP)
    directory = os.open(volume.directory, os.O_RDONLY)
    os.fsync(directory)
    os.close(directory)
    volume.kill()
    run("umount", "-l", volume.directory)
    volume.mount()
    assert [get_flags(name) for name in names] == [IMMUTABLE, APPEND | NODUMP]
    done = run("rm", "-rf", *names, check=False)
    assert (done.returncode, done.stderr.count("Operation not permitted")) == (1, 2)
    run("chattr", "-ia", *names)
    run("rm", "-rf", *names)


@needs_ring
def test_programs_and_protected_files(volumes: Volumes) -> None:
    volume = volumes.make()
    top = volume.directory
    source, target = top / "source", top / "target"
    source.mkdir()
    for name in "abc":
        (source / name).write_text(name)
    run("rsync", "-a", f"{source}/", target)
    run("chattr", "+i", target / "b")
    (source / "a").write_text("new a")
    (source / "b").write_text("new b")
    done = run("rsync", "-a", f"{source}/", target, check=False)
    assert (done.returncode, (target / "a").read_text(), (target / "b").read_text()) == (23, "new a", "b")
    assert sorted(os.listdir(target)) == ["a", "b", "c"]  # nothing temporary is left
    run("git", "init", "-q", top / "repository")
    (top / "repository" / "kept").write_text("one")
    git = ("git", "-C", top / "repository", "-c", "user.name=n", "-c", "user.email=e")
    run(*git, "add", ".")
    run(*git, "commit", "-qm", "one")
    (top / "repository" / "kept").write_text("two")
    run(*git, "commit", "-qam", "two")
    run("chattr", "+i", top / "repository" / "kept")
    assert "unable to unlink" in run(*git, "checkout", "-q", "HEAD~", check=False).stderr
    assert (top / "repository" / "kept").read_text() == "two"
    run("chattr", "-i", top / "repository" / "kept", target / "b")
    run(*git, "checkout", "-q", "--force", "HEAD")
    assert (top / "repository" / "kept").read_text() == "one"
    run(*git, "fsck", "--strict")
    log = top / "log"
    log.touch()
    run("chattr", "+a", log)
    run("sh", "-c", f"echo one >> {log}; echo two >> {log}")
    assert run("sh", "-c", f"echo three > {log}", check=False).returncode != 0
    assert log.read_text() == "one\ntwo\n"
    assert "-----a" in run("lsattr", log).stdout
    run("chattr", "-a", log)


@needs_ring
def test_xfs_io_shows_and_sets_flags_and_birth(volumes: Volumes) -> None:
    volume = volumes.make()
    file = volume.directory / "file"
    file.touch()
    run("xfs_io", "-r", "-c", "chattr +i", file)
    assert run("xfs_io", "-r", "-c", "lsattr", file).stdout.split()[0].strip("-") == "i"
    assert get_flags(str(file)) == IMMUTABLE
    run("xfs_io", "-r", "-c", "chattr -i", file)
    shown = run("xfs_io", "-r", "-c", "statx -r", file).stdout
    assert f"stat.btime.tv_nsec = {statx(str(file)).birth_ns % 10**9}" in shown


@needs_ring
def test_flags_hold_through_pyfuse3_as_well_and_cannot_be_asked_for(volumes: Volumes) -> None:
    volume = volumes.make()
    (volume.directory / "file").write_text("content")
    (volume.directory / "log").write_text("one")
    set_flags(str(volume.directory / "file"), IMMUTABLE)
    set_flags(str(volume.directory / "log"), APPEND)
    volume.remount("plane=pyfuse3")
    file, log = volume.directory / "file", volume.directory / "log"
    for attempt in (
        lambda: file.write_text("new"),
        lambda: file.chmod(0o600),
        lambda: file.unlink(),
        lambda: file.rename(volume.directory / "new"),
        lambda: os.utime(file),
        lambda: os.setxattr(file, "user.a", b""),
        lambda: log.write_text("new"),
        lambda: log.unlink(),
    ):
        with pytest.raises(PermissionError):
            attempt()
    with log.open("a") as stream:
        stream.write(" and two")
    assert (file.read_text(), log.read_text()) == ("content", "one and two")
    for command in (0x80086601, 0x40086602, 0x801C581F):
        with pytest.raises(OSError, match=os.strerror(errno.ENOTTY)):
            ioctl(str(file), command, bytes(28))
    assert "Operation not supported" in run("lsattr", file, check=False).stderr
    volume.remount("plane=ring")
    run("chattr", "-ia", file, log)
