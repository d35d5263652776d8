"""How a mount begins and ends: formatting, the one line, refusals that touch nothing, signals, kill -9, read-only.

Everything through the installed commands; exit codes are mount(8)'s.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchfs_core.superblock import SUPERBLOCK
from tests.support.mounting import (
    BENCHFS,
    MOUNT,
    TIMEOUT_S,
    MountedVolume,
    Volumes,
    assert_same,
    is_mounted,
    manifest,
    run,
    wait_for_end,
)

pytestmark = pytest.mark.fuse

USAGE, FAILED = 1, 32


def snapshot(directory: Path, without: tuple[str, ...] = ()) -> dict[str, tuple[object, ...]]:
    """Everything that could show that somebody touched a directory: names, modes, times, contents."""
    seen: dict[str, tuple[object, ...]] = {}
    for path in sorted([directory, *directory.rglob("*")]):
        name, status = os.fspath(path.relative_to(directory)), path.lstat()
        if name not in without:
            content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
            seen[name] = (status.st_mode, status.st_uid, status.st_size, status.st_mtime_ns, status.st_ino, content)
    return seen


def assert_refused(source: Path, directory: Path, *options: str, code: int, says: str) -> None:
    """mount.benchfs fails with one line that matches ``says``, mounts nothing, and leaves ``source`` as it was."""
    before = snapshot(source)
    words = ("-o", ",".join(options)) if options else ()
    done = run(MOUNT, source, directory, *words, check=False)
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert re.fullmatch(rf"mount\.benchfs: [^\n]*{says}[^\n]*\n", done.stderr), done.stderr
    assert snapshot(source) == before
    assert not is_mounted(directory)


@contextlib.contextmanager
def foreground(volume: MountedVolume) -> Iterator[subprocess.Popen[bytes]]:
    """The volume mounted by a process in the foreground, once it is ready."""
    words = ("-o", volume.options) if volume.options else ()
    command = [MOUNT, volume.source, volume.directory, "--foreground", *words]
    with (
        volume.log.open("ab") as log,
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log) as process,
    ):
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert os.fsencode(volume.directory) in line, volume.log.read_text()
            assert volume.note_daemon() == process.pid
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def fill(volume: MountedVolume) -> None:
    """Some files, of some chunks, and a directory."""
    (volume.directory / "directory").mkdir()
    for number in range(5):
        (volume.directory / "directory" / f"file {number}").write_bytes(os.urandom(number * 70_000 + 1))


# Beginning


def test_an_empty_directory_is_formatted_and_mounted_and_one_line_says_so(volumes: Volumes) -> None:
    volume = volumes.make(mount=False)
    done = run(MOUNT, volume.source, volume.directory, "-o", "store=file,sync=fsync,chunk_size=1M")
    volume.note_daemon()
    assert done.stderr == ""
    assert done.stdout == (
        f"{volume.source} on {volume.directory}: chunks of 1 MiB, store file, sync=fsync, plane=ring; "
        f"unmount with: benchfs umount {volume.directory}\n"
    )
    assert (volume.source / SUPERBLOCK).exists()
    assert volume.directory.stat().st_ino == 1
    assert list(volume.directory.iterdir()) == []
    assert "chunks of 1 MiB" in (volume.source / "benchfs.log").read_text()
    volume.remount()


def test_a_volume_made_by_mkfs_is_mounted_as_it_was_made(volumes: Volumes) -> None:
    volume = volumes.make(mount=False)
    made = run(BENCHFS, "mkfs", volume.source, "--chunk-size", "128K")
    assert made.stdout.count("\n") == 1
    assert "chunks of 128 KiB" in volume.mount()
    fill(volume)
    assert run(BENCHFS, "fsck", volume.source).stdout == f"{volume.source}: clean\n"
    assert run(BENCHFS, "fsck", "--repair", volume.source, check=False).returncode == 8
    volume.unmount()
    assert run(BENCHFS, "fsck", volume.source).stdout == f"{volume.source}: clean\n"


def test_defaults_are_safe_writes_and_chunks_of_4_mib(volumes: Volumes) -> None:
    volume = volumes.make(mount=False)
    line = volume.mount()
    assert "chunks of 4 MiB" in line
    assert "sync=write" in line


def test_help_names_every_option_with_its_default() -> None:
    text = run(MOUNT, "--help").stdout
    defaults = {
        "sync=": "write",
        "store=": "auto",
        "chunk_size=": "4M",
        "ro": "off",
        "allow_other": "for root",
        "noatime|relatime|strictatime": "relatime",
        "fsname=": "SOURCE",
        "commit=": "1",
        "queue_depth=": "128",
        "max_handles=": "1024",
        "log=": "SOURCE/benchfs.log",
    }
    for name, default in defaults.items():
        lines = [line for line in text.splitlines() if re.match(rf"  {re.escape(name)}", line)]
        assert len(lines) == 1, name
        assert lines[0].endswith(f"(default: {default})"), name


@pytest.mark.parametrize("options", ["rw,_netdev,nofail,user,x-foo=1,x-systemd.automount", "defaults,noauto,noexec"])
def test_options_that_fstab_passes_along_do_no_harm(volumes: Volumes, options: str) -> None:
    volume = volumes.make(options)
    fill(volume)
    shown = run("findmnt", "-n", "-o", "FSTYPE,SOURCE,OPTIONS", volume.directory).stdout
    assert shown.split()[:2] == ["fuse.benchfs", os.fspath(volume.source)]
    assert ("noexec" in shown) == ("noexec" in options)


def test_a_fake_mount_mounts_nothing(volumes: Volumes) -> None:
    volume = volumes.make(mount=False)
    assert run(MOUNT, "-f", volume.source, volume.directory).returncode == 0
    assert not is_mounted(volume.directory)
    assert list(volume.source.iterdir()) == []


@pytest.fixture
def mount_helper() -> Iterator[None]:
    """``/sbin/mount.benchfs``, which mount(8) looks for."""
    helper = Path("/sbin/mount.benchfs")
    if helper.exists():
        yield
        return
    try:
        helper.symlink_to(MOUNT)
    except OSError as error:
        pytest.skip(f"{helper} cannot be made: {error.strerror}")
    try:
        yield
    finally:
        helper.unlink()


@pytest.mark.usefixtures("mount_helper")
def test_mount_8_mounts_and_umount_8_unmounts(volumes: Volumes) -> None:
    volume = volumes.make(mount=False)
    run("mount", "-t", "benchfs", volume.source, volume.directory, "-o", f"sync=fsync,noatime,log={volume.log}")
    pid = volume.note_daemon()
    fill(volume)
    before = manifest(volume.directory)
    run("umount", volume.directory)
    wait_for_end(pid)
    done = run("mount", "-t", "benchfs", volume.source, volume.directory, "-o", "sinc=fsync", check=False)
    assert done.returncode == USAGE
    assert "did you mean sync" in done.stderr
    volume.mount()
    assert_same(manifest(volume.directory), before)


def test_a_volume_in_memory_is_gone_when_it_is_unmounted(volumes: Volumes) -> None:
    volume = volumes.make("store=memory", mount=False)
    for _ in range(2):
        assert "store memory" in volume.mount()
        assert list(volume.directory.iterdir()) == []
        fill(volume)
        assert (volume.directory / "directory" / "file 4").stat().st_size == 280_001
        volume.unmount()
    assert list(volume.source.iterdir()) == []


# Refusals


def test_a_directory_with_other_files_is_refused(volumes: Volumes) -> None:
    volume = volumes.make(mount=False)
    (volume.source / "photos").mkdir()
    (volume.source / "photos" / "cat").write_text("meow")
    assert_refused(volume.source, volume.directory, code=FAILED, says="neither empty nor a BenchFS volume.*photos")


def test_a_source_that_is_missing_or_a_file_is_refused(volumes: Volumes, tmp_path: Path) -> None:
    volume = volumes.make(mount=False)
    done = run(MOUNT, tmp_path / "missing", volume.directory, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (FAILED, 1)
    assert "does not exist" in done.stderr
    (tmp_path / "file").touch()
    done = run(MOUNT, tmp_path / "file", volume.directory, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (FAILED, 1)
    assert "not a directory" in done.stderr


def test_a_volume_that_is_mounted_is_refused_and_the_owner_named(volumes: Volumes, tmp_path: Path) -> None:
    volume = volumes.make()
    other = tmp_path / "other"
    other.mkdir()
    says = f"mounted already at {re.escape(str(volume.directory))} by process {volume.pid}"
    assert_refused(volume.source, other, code=FAILED, says=says)
    fill(volume)


def test_a_mount_point_in_use_is_refused(volumes: Volumes) -> None:
    volume, second = volumes.make(), volumes.make(mount=False)
    done = run(MOUNT, second.source, volume.directory, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (FAILED, 1)
    assert "mounted there already" in done.stderr
    assert list(second.source.iterdir()) == []
    fill(volume)


def _replace(old: str, new: str) -> Callable[[str], str]:
    def change(text: str) -> str:
        assert old in text
        return text.replace(old, new)

    return change


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_replace("format_version = 1", "format_version = 2"), "format version 2"),
        (_replace("\nfeatures = []", '\nfeatures = ["encryption"]'), "feature 'encryption'"),
        (_replace("read_only_features = []", 'read_only_features = ["checksums"]'), "feature 'checksums'.*with ro"),
        (_replace("chunk_size = 4194304", "chunk_size = 4194303"), "damaged superblock"),
        (_replace("chunk_size = 4194304", ""), "damaged superblock"),
        (_replace("[]", "["), "damaged superblock"),
        (lambda text: text[: len(text) // 2], "damaged superblock"),
        (lambda text: "", "damaged superblock"),
        (lambda text: "\udcff\udcfe\0\0", "damaged superblock"),
    ],
    ids=[
        "version",
        "feature",
        "read-only feature",
        "chunk size",
        "no chunk size",
        "not TOML",
        "torn",
        "empty",
        "garbage",
    ],
)
def test_a_superblock_that_is_not_understood_is_refused(
    volumes: Volumes, change: Callable[[str], str], says: str
) -> None:
    volume = volumes.make(mount=False)
    run(BENCHFS, "mkfs", volume.source)
    superblock = volume.source / SUPERBLOCK
    good = superblock.read_text()
    superblock.write_text(change(good), errors="surrogateescape")
    assert_refused(volume.source, volume.directory, code=FAILED, says=says)
    superblock.write_text(good)


def test_features_that_readers_need_not_know_let_a_volume_be_read(volumes: Volumes) -> None:
    volume = volumes.make()
    (volume.directory / "file").write_bytes(b"content")
    volume.unmount()
    superblock = volume.source / SUPERBLOCK
    good = superblock.read_text()
    superblock.write_text(_replace("read_only_features = []", 'read_only_features = ["checksums"]')(good))
    volume.mount("ro")
    assert (volume.directory / "file").read_bytes() == b"content"
    volume.unmount()
    superblock.write_text(_replace("compatible_features = []", 'compatible_features = ["colours"]')(good))
    volume.mount()
    assert (volume.directory / "file").read_bytes() == b"content"
    volume.unmount()
    older = "".join(
        line for line in good.splitlines(keepends=True) if "read_only_" not in line and "compatible_" not in line
    )
    superblock.write_text(older)
    volume.mount()
    assert (volume.directory / "file").read_bytes() == b"content"


def test_a_volume_without_its_superblock_is_not_formatted_over(volumes: Volumes) -> None:
    volume = volumes.make()
    fill(volume)
    volume.unmount()
    superblock = volume.source / SUPERBLOCK
    good = superblock.read_text()
    superblock.unlink()
    (volume.source / "benchfs.log").unlink(missing_ok=True)
    assert_refused(volume.source, volume.directory, code=FAILED, says=f"chunks but no {SUPERBLOCK}")
    superblock.write_text(good)


def test_a_volume_without_its_database_is_refused(volumes: Volumes) -> None:
    volume = volumes.make()
    fill(volume)
    volume.unmount()
    database = volume.source / "meta" / "benchfs.db"
    database.rename(volume.place_of("away"))
    assert_refused(volume.source, volume.directory, code=FAILED, says="benchfs.db: missing")
    volume.place_of("away").rename(database)


def test_a_mount_point_that_cannot_be_is_refused(volumes: Volumes, tmp_path: Path) -> None:
    volume = volumes.make(mount=False)
    source = volume.source
    run(BENCHFS, "mkfs", source)
    (tmp_path / "file").touch()
    assert_refused(source, tmp_path / "missing", code=FAILED, says="missing: does not exist")
    assert_refused(source, tmp_path / "file", code=FAILED, says="file: not a directory")
    assert_refused(source, tmp_path / "file" / "below", code=FAILED, says="below: does not exist")
    assert_refused(source, source, code=FAILED, says="is SOURCE itself")
    assert_refused(source, source / "chunks", code=FAILED, says="inside SOURCE")
    assert_refused(source, source.parent, code=FAILED, says="would hide SOURCE")


def test_a_mount_point_inside_the_source_is_refused_by_whatever_name(volumes: Volumes, tmp_path: Path) -> None:
    volume = volumes.make(mount=False)
    source = volume.source
    run(BENCHFS, "mkfs", source)
    alias = tmp_path / "alias"
    alias.symlink_to(source)
    assert_refused(source, alias, code=FAILED, says="is SOURCE itself")
    assert_refused(source, alias / "chunks", code=FAILED, says="inside SOURCE")
    assert_refused(alias, source / "chunks", code=FAILED, says="inside SOURCE")


def test_a_mount_point_given_by_a_symbolic_link_works(volumes: Volumes, tmp_path: Path) -> None:
    volume = volumes.make(mount=False)
    alias = tmp_path / "alias"
    alias.symlink_to(volume.directory)
    run(MOUNT, volume.source, alias, "-o", f"log={volume.log}")
    pid = volume.note_daemon()
    fill(volume)
    assert len(list((alias / "directory").iterdir())) == 5
    run(BENCHFS, "umount", alias)
    assert not is_mounted(volume.directory)
    wait_for_end(pid, timeout_s=0)  # has ended already


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("sinc=write", "unknown option 'sinc': did you mean sync"),
        ("max_handle=5", "did you mean max_handles"),
        ("xyzzy", "unknown option 'xyzzy'"),
        ("sync=always", "sync=always: must be one of write, fsync"),
        ("store=tape", "must be one of auto, io_uring, file, memory"),
        ("chunk_size=100K", "power of two from 64K to 64M"),
        ("chunk_size=32K", "power of two from 64K to 64M"),
        ("chunk_size=128M", "power of two from 64K to 64M"),
        ("chunk_size=big", "size 'big'"),
        ("commit=never", "must be a number"),
        ("commit=nan", "must be from 0.05 to 300"),
        ("queue_depth=0", "must be from 1 to"),
        ("max_handles=1.5", "must be a whole number"),
        ("ro=yes", "takes no value"),
        ("store", "needs a value"),
    ],
)
def test_an_option_that_cannot_be_is_refused(volumes: Volumes, option: str, says: str) -> None:
    volume = volumes.make(mount=False)
    assert_refused(volume.source, volume.directory, option, code=USAGE, says=says)


def test_missing_arguments_are_refused_in_one_line(tmp_path: Path) -> None:
    for words in ((), (tmp_path,)):
        done = run(MOUNT, *words, check=False)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (USAGE, "", 1)
        assert "--help" in done.stderr


def test_a_chunk_size_other_than_the_volumes_is_refused(volumes: Volumes) -> None:
    volume = volumes.make("chunk_size=64K")
    fill(volume)
    volume.unmount()
    says = "chunk_size=128K: .*64K.*when it was made"
    assert_refused(volume.source, volume.directory, "chunk_size=128K", code=USAGE, says=says)
    assert "chunks of 64 KiB" in volume.mount()  # the size it has may be named


# Ending


@pytest.mark.parametrize("sync", ["write", "fsync", "fsync,acl"])
@pytest.mark.parametrize("way", ["SIGTERM", "SIGINT", "umount(8)", "benchfs umount"])
def test_every_way_to_end_ends_in_order_and_keeps_everything(volumes: Volumes, way: str, sync: str) -> None:
    volume = volumes.make(f"sync={sync}", mount=False)
    with foreground(volume) as process:
        fill(volume)
        before = manifest(volume.directory)
        if way.startswith("SIG"):
            process.send_signal(signal.Signals[way])
        elif way == "umount(8)":
            run("umount", volume.directory)
        else:
            run(BENCHFS, "umount", volume.directory)
        assert process.wait(TIMEOUT_S) == 0
    assert not is_mounted(volume.directory)
    assert "everything is on disk" in volume.log.read_text()
    volume.fsck()
    line = volume.mount()
    assert "recovered" not in line
    assert_same(manifest(volume.directory), before)


@pytest.mark.parametrize("sync", ["write", "fsync", "fsync,acl"])
def test_a_signal_while_files_are_open_keeps_what_the_kernel_still_held(volumes: Volumes, sync: str) -> None:
    volume = volumes.make(f"sync={sync}", mount=False)
    content = os.urandom(3_000_000)
    with foreground(volume) as process:
        file = os.open(volume.directory / "open", os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        try:
            assert os.write(file, content) == len(content)
            process.send_signal(signal.SIGTERM)
            assert process.wait(TIMEOUT_S) == 0
            with pytest.raises(OSError) as caught:
                os.fsync(file)
            assert caught.value.errno in (errno.ENOTCONN, errno.ECONNABORTED)
        finally:
            with contextlib.suppress(OSError):  # a dead mount says so at close as well
                os.close(file)
    volume.fsck()
    volume.mount()
    assert (volume.directory / "open").read_bytes() == content


def test_benchfs_umount_of_a_busy_mount_fails_and_harms_nothing(volumes: Volumes) -> None:
    volume = volumes.make()
    with (volume.directory / "open").open("xb", buffering=0) as stream:
        done = run(BENCHFS, "umount", volume.directory, check=False)
        assert (done.returncode, done.stderr.count("\n")) == (FAILED, 1)
        assert "busy" in done.stderr
        stream.write(b"still here")
    assert (volume.directory / "open").read_bytes() == b"still here"


def test_benchfs_umount_of_what_is_no_mount_says_so(tmp_path: Path) -> None:
    done = run(BENCHFS, "umount", tmp_path, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (USAGE, 1)
    assert "no BenchFS is mounted there" in done.stderr


def test_a_mount_that_follows_an_unmount_at_once_waits_for_the_old_daemon(volumes: Volumes) -> None:
    volume = volumes.make("sync=fsync")
    pids = {volume.pid}
    for number in range(5):
        (volume.directory / f"file {number}").write_bytes(os.urandom(2_000_000))
        before = manifest(volume.directory)
        run("umount", volume.directory)  # returns while the daemon is still bringing things to disk
        assert "recovered" not in volume.mount()
        pids.add(volume.pid)
        assert_same(manifest(volume.directory), before)
    assert len(pids) == 6


@pytest.mark.parametrize("options", ["", "acl"])
def test_a_dead_mount_is_cleared_away_and_mounted_over(volumes: Volumes, options: str) -> None:
    volume = volumes.make(options)
    fill(volume)
    before = {name: facts.content for name, facts in manifest(volume.directory, own=False).items()}
    volume.kill()
    with pytest.raises(OSError) as caught:
        (volume.directory / "new").touch()
    assert caught.value.errno == errno.ENOTCONN
    assert volume.directory.stat().st_ino == 1  # from the kernel's memory, of which the next mount must not be fooled
    assert "recovered after an unclean end" in volume.mount()
    assert {name: facts.content for name, facts in manifest(volume.directory, own=False).items()} == before
    assert run("findmnt", "-n", "-o", "TARGET", "--target", volume.directory).stdout.splitlines() == [
        os.fspath(volume.directory)
    ]
    assert "recovered" not in volume.remount()


def test_benchfs_umount_of_a_dead_mount_clears_it_and_says_what_happened(volumes: Volumes) -> None:
    volume = volumes.make()
    fill(volume)
    volume.kill()
    done = run(BENCHFS, "umount", volume.directory, check=False)
    assert done.returncode != 0
    assert done.stderr.count("\n") == 1
    assert not is_mounted(volume.directory)
    assert "recovered" in volume.mount()


# Read-only


def assert_read_only(directory: Path) -> None:
    """Nothing on the mount can be changed, by any request that changes something."""
    file = directory / "directory" / "file 1"
    attempts: list[Callable[[], object]] = [
        lambda: (directory / "new").touch(),
        lambda: (directory / "new").mkdir(),
        lambda: (directory / "new").symlink_to("x"),
        lambda: os.link(file, directory / "new"),
        lambda: os.mkfifo(directory / "new"),
        lambda: file.open("r+b"),
        lambda: file.unlink(),
        lambda: file.rename(directory / "new"),
        lambda: file.chmod(0o600),
        lambda: os.utime(file),
        lambda: os.truncate(file, 0),
        lambda: os.setxattr(file, "user.a", b"b"),
        lambda: (directory / "directory").rmdir(),
    ]
    for attempt in attempts:
        with pytest.raises(OSError) as caught:
            attempt()
        assert caught.value.errno == errno.EROFS


RECORDS = ("lock", "meta", "meta/benchfs.db-shm", "meta/benchfs.db-wal")
"""Who has the volume, and SQLite's index of the WAL with an empty WAL: what even a read-only mount needs to have."""


def test_a_read_only_mount_shows_everything_and_changes_nothing(volumes: Volumes) -> None:
    volume = volumes.make()
    fill(volume)
    before = manifest(volume.directory)
    volume.unmount()
    source_before = snapshot(volume.source, RECORDS)
    assert "read-only" in volume.mount("ro", "strictatime")
    assert_same(manifest(volume.directory), before)
    assert_read_only(volume.directory)
    volume.unmount()
    assert snapshot(volume.source, RECORDS) == source_before
    volume.fsck()


@pytest.mark.parametrize("sync", ["write", "fsync"])
def test_a_crashed_volume_mounted_read_only_is_shown_recovered_and_not_changed(volumes: Volumes, sync: str) -> None:
    volume = volumes.make(f"sync={sync}")
    fill(volume)
    with (volume.directory / "shortened").open("xb") as stream:
        stream.write(b"x" * 200_000)
        stream.flush()
        os.fsync(stream.fileno())
        os.ftruncate(stream.fileno(), 70_000)
        os.ftruncate(stream.fileno(), 150_000)
        os.fsync(stream.fileno())
    os.sync()
    for path in (volume.directory / "directory").iterdir():
        with path.open("rb") as opened:
            os.fsync(opened.fileno())
    contents = {name: facts.content for name, facts in manifest(volume.directory, own=False).items()}
    volume.kill()
    records = tuple(name for name in RECORDS if not name.endswith("-wal"))
    source_before = snapshot(volume.source, records)
    line = volume.mount("ro")
    assert "read-only" in line
    assert "recovered" in line
    shown = {name: facts.content for name, facts in manifest(volume.directory, own=False).items()}
    assert shown == contents
    assert (volume.directory / "shortened").read_bytes() == b"x" * 70_000 + bytes(80_000)
    assert_read_only(volume.directory)
    volume.unmount()
    assert snapshot(volume.source, records) == source_before
    assert "recovered" in volume.mount()
    assert {name: facts.content for name, facts in manifest(volume.directory, own=False).items()} == contents


def test_an_empty_directory_is_not_formatted_read_only(volumes: Volumes) -> None:
    volume = volumes.make(mount=False)
    assert_refused(volume.source, volume.directory, "ro", code=FAILED, says="empty, and read-only")


# Bugs


def test_a_bug_in_a_handler_costs_one_request_an_eio_and_a_line_never_the_mount(volumes: Volumes) -> None:
    volume = volumes.make(mount=False)
    script = Path(__file__).with_name("faulty_mount.py")
    command = [sys.executable, "-m", "tests.fuse.faulty_mount", *map(str, (volume.source, volume.directory)), "mkdir"]
    with subprocess.Popen(
        command, cwd=script.parents[2], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            (volume.directory / "before").mkdir()
            for name in ("bug 1", "bug 2"):
                with pytest.raises(OSError) as caught:
                    (volume.directory / name).mkdir()
                assert caught.value.errno == errno.EIO
            fill(volume)
            names = sorted(path.name for path in volume.directory.iterdir())
            run("umount", volume.directory)
            _, messages = process.communicate(timeout=TIMEOUT_S)
            assert process.returncode == 0
        finally:
            if process.poll() is None:
                run("fusermount3", "-uz", volume.directory, check=False)
                process.kill()
    assert names == ["before", "directory"]
    assert messages.decode().count("mkdir: internal error, answered with EIO") == 2
    assert messages.decode().count("ValueError: a bug made for this test") == 2
    volume.mount()
    assert sorted(path.name for path in volume.directory.iterdir()) == names
