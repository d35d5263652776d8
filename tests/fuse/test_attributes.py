"""What only the plane answers (birth times, O_TMPFILE), on real mounts: crashes, and what is seen through pyfuse3."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from pathlib import Path

import pytest

from benchfs_core.chunks.uring import io_uring_available
from tests.conformance.calls import STATX_BTIME, link_open, statx
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
