"""What POSIX and the kernel promise of files and names, and what that costs, asked of a real mount, in both modes.

Rules that ext4 shares, and that a fresh directory is enough for, are rows in ``tests/conformance``.

Most tests share one mount for each mode and work in a directory of their own; those that end, kill or count have one to
themselves.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.conformance.calls import EXCHANGE, renameat2
from tests.support.mounting import (
    MountedVolume,
    Volumes,
    is_mounted,
    volumes_in,
    wait_until,
)

pytestmark = pytest.mark.fuse

CHUNK = 64 * 1024

TRIES = 20


@pytest.fixture(scope="module", params=["write", "fsync"])
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MountedVolume]:
    """One volume for a mode, for the tests that leave it as good as they found it."""
    with volumes_in(tmp_path_factory.mktemp(f"semantics-{request.param}")) as volumes:
        yield volumes.make(f"sync={request.param}", options="chunk_size=64K")


@pytest.fixture
def top(shared: MountedVolume, request: pytest.FixtureRequest) -> Path:
    """An empty directory on the shared mount."""
    directory = shared.directory / f"{len(list(shared.directory.iterdir()))}-{request.node.originalname}"
    directory.mkdir()
    return directory


@pytest.fixture(params=["write", "fsync"])
def sync(request: pytest.FixtureRequest) -> str:
    mode: str = request.param
    return mode


def raises_errno(number: int, attempt: Callable[[], object]) -> None:
    with pytest.raises(OSError) as caught:
        attempt()
    assert caught.value.errno == number, os.strerror(caught.value.errno or 0)


# Content


@pytest.mark.parametrize("to", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 100])
def test_what_was_cut_off_is_zeros_when_the_file_grows_again(top: Path, to: int) -> None:
    file = top / "file"
    content, size = os.urandom(3 * CHUNK + 5), 4 * CHUNK + 7
    file.write_bytes(content)
    os.truncate(file, to)
    assert file.stat().st_size == to
    os.truncate(file, size)
    assert file.read_bytes() == content[:to] + bytes(size - to)
    with file.open("r+b") as stream:
        stream.seek(3 * CHUNK + 1)
        stream.write(b"new")
    expected = bytearray(content[:to] + bytes(size - to))
    expected[3 * CHUNK + 1 : 3 * CHUNK + 4] = b"new"
    assert file.read_bytes() == expected


def test_a_write_beyond_the_end_leaves_a_hole_of_zeros(top: Path) -> None:
    file = top / "file"
    with file.open("xb") as stream:
        stream.write(b"start")
        stream.seek(10 * CHUNK + 3)
        stream.write(b"end")
    assert file.read_bytes() == b"start" + bytes(10 * CHUNK + 3 - 5) + b"end"
    assert file.stat().st_blocks * 512 < 3 * CHUNK


def test_opening_with_o_trunc_empties_the_file(top: Path) -> None:
    file = top / "file"
    file.write_bytes(os.urandom(2 * CHUNK))
    with file.open("rb") as reader:
        file.write_bytes(b"")
        assert file.stat().st_size == 0
        assert reader.read() == b""
    file.write_bytes(b"short")
    os.truncate(file, 8)
    assert file.read_bytes() == b"short\0\0\0"


def test_what_is_written_through_a_mapping_is_read_and_the_other_way_round(top: Path) -> None:
    file = top / "file"
    file.write_bytes(bytes(3 * CHUNK))
    with file.open("r+b", buffering=0) as stream, mmap.mmap(stream.fileno(), 0) as mapping:
        mapping[CHUNK - 2 : CHUNK + 2] = b"edge"
        assert os.pread(stream.fileno(), 4, CHUNK - 2) == b"edge"
        os.pwrite(stream.fileno(), b"file", 2 * CHUNK)
        assert mapping[2 * CHUNK : 2 * CHUNK + 4] == b"file"
        with file.open("rb") as other, mmap.mmap(other.fileno(), 0, prot=mmap.PROT_READ) as second:
            mapping[0:3] = b"two"
            assert second[0:3] == b"two"
        mapping.flush()
    content = file.read_bytes()
    assert (content[:3], content[CHUNK - 2 : CHUNK + 2], content[2 * CHUNK :][:4]) == (b"two", b"edge", b"file")


def test_direct_and_buffered_access_see_the_same_bytes(top: Path) -> None:
    file = top / "file"
    block = mmap.mmap(-1, 4096)  # page aligned, as O_DIRECT wants
    block.write(b"d" * 4096)
    file.write_bytes(b"b" * 3 * 4096)
    long_ago_ns = 10**9  # the clock that dates files may not tick during this test
    os.utime(file, ns=(long_ago_ns, long_ago_ns))
    direct = os.open(file, os.O_RDWR | os.O_DIRECT)
    try:
        assert os.pwrite(direct, block, 4096) == 4096
        assert file.read_bytes() == b"b" * 4096 + b"d" * 4096 + b"b" * 4096
        with file.open("r+b") as stream:
            stream.seek(8192)
            stream.write(b"n" * 4096)
        assert os.preadv(direct, [block], 8192) == 4096
        assert block[:] == b"n" * 4096
    finally:
        os.close(direct)
    assert file.stat().st_mtime_ns > long_ago_ns


def test_a_file_can_be_as_long_as_a_terabyte_and_no_longer_than_the_limit(top: Path) -> None:
    file = top / "file"
    with file.open("x+b", buffering=0) as stream:
        os.pwrite(stream.fileno(), b"far", 1 << 40)
        assert os.pread(stream.fileno(), 10, (1 << 40) - 4) == b"\0\0\0\0far"
        assert file.stat().st_blocks * 512 <= 2 * CHUNK
        raises_errno(errno.EFBIG, lambda: os.ftruncate(stream.fileno(), (1 << 63) - 10))
        assert file.stat().st_size == (1 << 40) + 3


# Names


def test_an_unlinked_file_lives_until_its_last_close_and_then_frees_its_space(shared: MountedVolume, top: Path) -> None:
    file, content = top / "file", os.urandom(5 * CHUNK)
    with file.open("x+b", buffering=0) as stream:
        stream.write(content)
        os.fsync(stream.fileno())
        chunks = shared.chunk_directory(file)
        assert len(list(chunks.iterdir())) == 5
        file.unlink()
        assert not file.exists()
        status = os.fstat(stream.fileno())
        assert (status.st_nlink, status.st_size) == (0, len(content))
        os.pwrite(stream.fileno(), b"more", len(content))
        os.fsync(stream.fileno())
        assert os.pread(stream.fileno(), len(content) + 4, 0) == content + b"more"
        assert len(list(chunks.iterdir())) == 6
        file.write_bytes(b"another file of the same name")
        assert os.pread(stream.fileno(), 10, 0) == content[:10]
    wait_until(lambda: not chunks.exists(), "the chunks of a file that is gone are gone")
    assert file.read_bytes() == b"another file of the same name"


def test_a_rename_over_an_open_file_replaces_the_name_and_not_the_file(shared: MountedVolume, top: Path) -> None:
    old, new = top / "old", top / "new"
    old.write_bytes(b"old" * CHUNK)
    new.write_bytes(b"new" * CHUNK)
    chunks = shared.chunk_directory(old)
    with old.open("rb", buffering=0) as stream:
        new.rename(old)
        assert os.pread(stream.fileno(), 3, 2 * CHUNK + 1) == (b"old" * 2)[(2 * CHUNK + 1) % 3 :][:3]
        assert old.read_bytes() == b"new" * CHUNK
        assert not new.exists()
    wait_until(lambda: not chunks.exists(), "the chunks of the replaced file are gone")


def test_a_tree_may_be_deep(top: Path) -> None:
    here = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
    for depth in range(300):
        os.mkdir(f"directory {depth}", dir_fd=here)
        below = os.open(f"directory {depth}", os.O_RDONLY | os.O_DIRECTORY, dir_fd=here)
        os.close(here)
        here = below
    with open(os.open("bottom", os.O_CREAT | os.O_WRONLY, dir_fd=here), "w") as stream:
        stream.write("here")
    os.fsync(here)
    os.close(here)
    depth, found = 0, False
    for _path, directories, files, _handle in os.fwalk(top):
        depth += len(directories)
        found = found or files == ["bottom"]
    assert (depth, found) == (300, True)


def test_a_directory_can_be_emptied_while_it_is_listed(top: Path) -> None:
    names = {f"file {number:04d}" for number in range(5000)}
    for name in names:
        os.close(os.open(top / name, os.O_CREAT | os.O_WRONLY))
    listed: Counter[str] = Counter()
    with os.scandir(top) as entries:
        for number, entry in enumerate(entries):
            listed[entry.name] += 1
            if number % 2:
                os.unlink(entry.path)
    assert listed == Counter(names), "each name once, though every second one was deleted meanwhile"
    assert len(os.listdir(top)) == 2500
    with os.scandir(top) as entries:
        for entry in entries:
            os.unlink(entry.path)
    assert os.listdir(top) == []
    top.rmdir()


def test_names_that_are_not_there_are_remembered_until_they_are(top: Path) -> None:
    file = top / "file"
    raises_errno(errno.ENOENT, file.stat)
    file.touch()
    assert file.stat().st_size == 0
    file.unlink()
    raises_errno(errno.ENOENT, file.stat)
    (top / "other").touch()
    (top / "other").rename(file)
    assert file.exists()


def test_statfs_shows_the_space_of_the_filesystem_below(shared: MountedVolume) -> None:
    def as_below() -> bool:
        before, here, after = os.statvfs(shared.source), os.statvfs(shared.directory), os.statvfs(shared.source)
        assert (here.f_bsize, here.f_frsize, here.f_blocks) == (before.f_bsize, before.f_frsize, before.f_blocks)
        assert here.f_namemax == 255
        return all(
            min(getattr(before, field), getattr(after, field))
            <= getattr(here, field)
            <= max(getattr(before, field), getattr(after, field))
            for field in ("f_bfree", "f_bavail", "f_files", "f_ffree")
        )

    wait_until(as_below, "the space shown lies between two readings of the space below")


# With a mount of their own


def _count(volume: MountedVolume, use: Callable[[], object], times: int) -> Counter[str]:
    """Requests of a mount on which ``use`` was called three times to fill the caches and then ``times`` more."""

    def work() -> None:
        for _ in range(3 + times):
            use()

    counted = _undisturbed(volume, work)
    del counted["forget"]  # comes when the kernel likes
    return counted


def _undisturbed(volume: MountedVolume, work: Callable[[], object]) -> Counter[str]:
    """Requests of a fresh mount that did ``work``, again where somebody made the kernel drop its caches meanwhile."""
    for _ in range(TRIES):
        drops = _drops()
        work()
        volume.unmount()
        counted = volume.requests
        volume.mount()
        if _drops() == drops:  # asked late, for the kernel counts when it has dropped them
            return counted
    pytest.fail(f"caches were dropped each of {TRIES} times")


def _drops() -> list[str]:
    """How often the kernel was told to drop its caches, by anybody (proc(5), drop_caches)."""
    return [line for line in Path("/proc/vmstat").read_text().splitlines() if line.startswith("drop_")]


def test_what_the_kernel_has_cached_costs_no_round_trip(volumes: Volumes, sync: str) -> None:
    volume = volumes.make(f"sync={sync}")
    file = volume.directory / "directory" / "file"
    file.parent.mkdir()
    file.write_bytes(os.urandom(300_000))
    volume.remount()
    with_file: list[Callable[[], object]] = [
        file.stat,
        lambda: raises_errno(errno.ENOENT, (file.parent / "missing").stat),
        lambda: os.access(file, os.R_OK),
    ]
    for use in with_file:
        once, often = _count(volume, use, 1), _count(volume, use, 1000)
        assert once.total() > 0
        assert often == once

    descriptor = -1

    def read() -> None:
        assert len(os.pread(descriptor, 300_000, 0)) == 300_000
        os.fstat(descriptor)

    def read_often(times: int) -> None:
        nonlocal descriptor
        descriptor = os.open(file, os.O_RDONLY)
        for _ in range(3 + times):
            read()
        os.close(descriptor)

    counts = [_undisturbed(volume, partial(read_often, times)) for times in (1, 1000)]
    assert counts[0]["read"] > 0
    assert counts[1] == counts[0]


def test_reading_a_cached_file_again_costs_only_its_open_and_close(volumes: Volumes, sync: str) -> None:
    volume = volumes.make(f"sync={sync}")
    file = volume.directory / "file"
    file.write_bytes(os.urandom(300_000))
    volume.remount()
    once = _count(volume, file.read_bytes, 1)
    often = _count(volume, file.read_bytes, 101)
    more = often - once
    assert once["read"] > 0
    # In write-back mode the kernel forgets at each close how many blocks the file has.
    # And Python asks of what it opens whether it is a terminal.
    assert set(more) <= {"open", "release", "ioctl"} | ({"getattr"} if sync == "fsync" else set())
    assert more["open"] == 100
    assert more["getattr"] <= 100


def test_closing_costs_no_flush_and_sizes_of_capabilities_no_more_than_one_request_a_write(volumes: Volumes) -> None:
    volume = volumes.make("sync=write")
    for number in range(50):
        (volume.directory / f"file {number}").write_bytes(b"x")
    volume.unmount()
    assert volume.requests["flush"] <= 1
    assert volume.requests["write"] == 50
    assert volume.requests["getxattr"] <= 50


def test_times_shown_are_the_times_kept(volumes: Volumes, sync: str) -> None:
    """The kernel may tell a file's mtime before the last of its dirty pages arrives, which must not move it again."""
    volume = volumes.make(f"sync={sync}")
    files = [volume.directory / f"file {number}" for number in range(12)]
    libc = ctypes.CDLL(None)
    for file in files:
        with file.open("xb", buffering=0) as stream:
            for _ in range(4):
                stream.write(bytes(1 << 20))
            libc.syncfs(stream.fileno())
    shown = [(file.stat().st_mtime_ns, file.stat().st_ctime_ns) for file in files]
    volume.remount()
    assert [(file.stat().st_mtime_ns, file.stat().st_ctime_ns) for file in files] == shown


def test_the_ctime_shown_after_a_change_of_names_is_the_ctime_kept(volumes: Volumes, sync: str) -> None:
    volume = volumes.make(f"sync={sync}")
    top = volume.directory
    for name in ("renamed", "linked", "unlinked", "one", "other"):
        (top / name).touch()
    os.link(top / "unlinked", top / "left")
    (top / "renamed").rename(top / "new name")
    os.link(top / "linked", top / "second name")
    (top / "unlinked").unlink()
    renameat2(top / "one", top / "other", EXCHANGE)
    shown = {path.name: path.stat().st_ctime_ns for path in top.iterdir()}
    assert len(shown) == 6
    volume.remount()
    assert {path.name: path.stat().st_ctime_ns for path in top.iterdir()} == shown


def make_sparse(file: Path, chunks: int) -> None:
    """A file of a terabyte, of which ``chunks`` chunks hold a byte each."""
    step = (1 << 40) // chunks // CHUNK * CHUNK
    with file.open("xb", buffering=0) as stream:
        os.ftruncate(stream.fileno(), 1 << 40)
        for number in range(chunks):
            os.pwrite(stream.fileno(), b"x", number * step)
        os.fsync(stream.fileno())


def test_deleting_a_huge_sparse_file_returns_at_once_and_frees_its_space_later(volumes: Volumes) -> None:
    volume = volumes.make("sync=fsync,chunk_size=64K")
    left_at_return = []
    for number in range(3):
        file = volume.directory / f"huge {number}"
        make_sparse(file, 700)
        chunks = volume.chunk_directory(file)
        assert len(os.listdir(chunks)) == 700
        file.unlink()
        left_at_return.append(len(os.listdir(chunks)) if chunks.exists() else 0)
        assert not file.exists()
        (volume.directory / f"served meanwhile {number}").write_text("yes")
        wait_until(lambda chunks=chunks: not chunks.exists(), "all chunks are gone")  # type: ignore[misc]
    assert max(left_at_return) > 350, "unlink(2) waited for the chunks to go"


def test_a_deletion_that_a_kill_interrupted_is_finished_by_the_next_mount(volumes: Volumes) -> None:
    volume = volumes.make("sync=fsync,chunk_size=64K")
    interrupted = False
    for number in range(5):
        file = volume.directory / f"huge {number}"
        make_sparse(file, 2000)
        chunks = volume.chunk_directory(file)
        here = os.open(volume.directory, os.O_RDONLY)
        os.unlink(file)
        os.fsync(here)
        volume.kill()
        os.close(here)
        left = len(os.listdir(chunks)) if chunks.exists() else 0
        volume.fsck()
        volume.mount()
        assert not file.exists()
        wait_until(lambda chunks=chunks: not chunks.exists(), "the next mount deletes what was left")  # type: ignore[misc]
        interrupted = interrupted or left > 0
        if interrupted:
            break
    assert interrupted, "nothing was left to delete in any round"


def _open_chunks(volume: MountedVolume) -> int:
    """How many chunk files the daemon has open."""
    count = 0
    for entry in os.scandir(f"/proc/{volume.pid}/fd"):
        try:
            target = os.readlink(entry.path)
        except FileNotFoundError:
            continue  # closed meanwhile
        parts = target.removesuffix(" (deleted)").split("/")
        count += parts[-3:-2] == ["chunks"] and parts[-1].isdecimal()
    return count


@pytest.mark.parametrize("store", ["io_uring", "file"])
def test_open_chunk_files_stay_under_the_limit(volumes: Volumes, store: str) -> None:
    limit = 16
    volume = volumes.make(f"store={store},sync=fsync,chunk_size=64K,max_handles={limit}")
    files = [open(volume.directory / f"file {number}", "x+b", buffering=0) for number in range(100)]  # noqa: SIM115
    most = 0
    for number, file in enumerate(files):
        for chunk in range(3):
            os.pwrite(file.fileno(), f"{number} {chunk}".encode(), chunk * CHUNK)
        os.fsync(file.fileno())
        most = max(most, _open_chunks(volume))
    for number, file in enumerate(files):
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        for chunk in range(3):
            expected = f"{number} {chunk}".encode()
            assert os.pread(file.fileno(), len(expected), chunk * CHUNK) == expected
        most = max(most, _open_chunks(volume))
        file.close()
    assert 1 < most <= limit
    assert len(os.listdir(f"/proc/{volume.pid}/fd")) < limit + 64


def test_a_killed_daemon_leaves_a_mount_that_says_so_and_no_empty_directory(volumes: Volumes) -> None:
    volume = volumes.make()
    (volume.directory / "file").write_text("content")
    volume.kill()
    raises_errno(errno.ENOTCONN, lambda: os.listdir(volume.directory))
    assert is_mounted(volume.directory)
    volume.mount()
    assert (volume.directory / "file").read_text() == "content"
