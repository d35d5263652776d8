"""Opening a volume: what is refused and left untouched, what an interrupted format leaves, who holds the lock."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from benchfs_core.config import FormatOptions
from benchfs_core.errors import DamagedVolume, NotAVolume, UnknownFormat, VolumeBusy, VolumeError, VolumeReadOnly
from benchfs_core.superblock import DATABASE, LOCK, SUPERBLOCK, read_superblock
from benchfs_core.types import ROOT_INODE, AttributeChange, InodeId, StoreKind, SyncMode
from benchfs_core.volume import make_volume
from benchfs_core.volume_lock import VolumeLock
from tests.support.volumes import (
    CHUNK_SIZE,
    OWNER,
    crash_copy,
    findings,
    listing,
    open_test_volume,
    read_file,
    write_file,
)


def tree(source: Path) -> dict[str, bytes | None]:
    """Every file and directory, with its bytes.

    But for the lock, whose text says who looked last, and what SQLite makes to read: the -shm and an empty -wal.
    """
    return {
        str(path.relative_to(source)): path.read_bytes() if path.is_file() else None
        for path in sorted(source.rglob("*"))
        if path.name != LOCK
        and not path.name.endswith("-shm")
        and not (path.name.endswith("-wal") and path.stat().st_size == 0)
    }


@pytest.fixture
async def source(tmp_path: Path) -> Path:
    """A volume with one file."""
    source = tmp_path / "volume"
    async with open_test_volume(source) as volume:
        await write_file(volume.filesystem, b"f", b"content")
    return source


async def refused(source: Path, error: type[VolumeError], match: str, *, read_only: bool = False) -> None:
    before = tree(source) if source.is_dir() else None
    with pytest.raises(error, match=match):
        async with open_test_volume(source, read_only=read_only):
            pass
    assert before is None or tree(source) == before


async def test_a_directory_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("data")
    await refused(tmp_path, NotAVolume, "neither empty nor a BenchFS volume \\('precious' is there\\)")
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]


async def test_what_is_no_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotAVolume, match="does not exist"):
        await make_volume(tmp_path / "missing", FormatOptions())
    (tmp_path / "file").write_text("data")
    with pytest.raises(NotAVolume, match="not a directory"):
        await make_volume(tmp_path / "file", FormatOptions())


async def test_an_empty_directory_is_not_formatted_read_only(tmp_path: Path) -> None:
    await refused(tmp_path, NotAVolume, "read-only", read_only=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("old", "new", "error", "match"),
    [
        ("format_version = 1", "format_version = 2", UnknownFormat, "format version 2"),
        ("features = []", 'features = ["compression"]', UnknownFormat, "compression"),
        ("chunk_size = 65536", "chunk_size = 65537", DamagedVolume, "damaged superblock"),
        ("chunk_size = 65536", 'chunk_size = "64K"', DamagedVolume, "damaged superblock"),
        ('uuid = "', 'uuid = "x', DamagedVolume, "damaged superblock"),
        ("uuid = ", "wrong = ", DamagedVolume, "damaged superblock"),
        ("format_version = 1", "format_version", DamagedVolume, "damaged superblock"),
        ("features = []", "features = 1", DamagedVolume, "damaged superblock"),
    ],
)
async def test_superblocks_that_are_refused(
    source: Path, old: str, new: str, error: type[VolumeError], match: str
) -> None:
    superblock = source / SUPERBLOCK
    text = superblock.read_text()
    assert old in text
    superblock.write_text(text.replace(old, new))
    await refused(source, error, match)
    superblock.write_bytes(b"\xff\xfe")
    await refused(source, DamagedVolume, "damaged superblock")
    superblock.write_text("")
    await refused(source, DamagedVolume, "damaged superblock")


async def test_a_volume_without_its_superblock_or_database_is_not_formatted_anew(source: Path) -> None:
    superblock = (source / SUPERBLOCK).read_bytes()
    (source / SUPERBLOCK).unlink()
    await refused(source, DamagedVolume, "chunks but no benchfs.toml")
    (source / SUPERBLOCK).write_bytes(superblock)
    (source / DATABASE).rename(source / "meta" / "aside")
    await refused(source, DamagedVolume, "missing")
    (source / DATABASE).write_bytes(b"not a database" * 1000)
    await refused(source, DamagedVolume, "restore it from a backup")


LEFTOVERS = (
    "meta/",
    "chunks/",
    "lock",
    "benchfs.toml.new",
    DATABASE,
    f"{DATABASE}-wal",
    f"{DATABASE}-shm",
    "lost+found/",
)


@pytest.mark.parametrize("count", range(len(LEFTOVERS) + 1))
async def test_an_interrupted_format_is_done_anew(tmp_path: Path, count: int) -> None:
    """Whatever subset of what a format makes is there, empty or torn, as long as the superblock is not."""
    for number, leftovers in enumerate(itertools.combinations(LEFTOVERS, count)):
        source = tmp_path / str(number)
        source.mkdir()
        for name in leftovers:
            (source / name).parent.mkdir(exist_ok=True)
            if name.endswith("/"):
                (source / name).mkdir(exist_ok=True)
            else:
                (source / name).write_bytes(b"torn")
        assert read_superblock(source) is None
        assert (await make_volume(source, FormatOptions(CHUNK_SIZE))).chunk_size == CHUNK_SIZE
        assert findings(source) == []


async def test_formatting_a_volume_is_refused(source: Path) -> None:
    before = tree(source)
    with pytest.raises(NotAVolume, match="is a BenchFS volume already"):
        await make_volume(source, FormatOptions())
    assert tree(source) == before


async def test_everything_is_there_after_a_restart(source: Path) -> None:
    async with open_test_volume(source, SyncMode.FSYNC, StoreKind.IO_URING) as volume:
        assert not volume.recovered.unclean
        assert await read_file(volume.filesystem, b"f") == b"content"
    assert findings(source) == []


async def test_read_only_changes_nothing(source: Path) -> None:
    before = tree(source)
    async with open_test_volume(source, read_only=True) as volume:
        fs = volume.filesystem
        assert await read_file(fs, b"f") == b"content"
        inode = (await listing(fs))[b"f"].attributes.inode
        handle = await fs.open(inode)
        await fs.fsync(handle)
        await fs.sync()
        for call in (
            lambda: fs.write(handle, 0, b"x"),
            lambda: fs.open(inode, truncate=True),
            lambda: fs.setattr(inode, AttributeChange(), 0),
            lambda: fs.setattr(inode, AttributeChange(mode=0)),
            lambda: fs.create(ROOT_INODE, b"g", 0o644, OWNER),
            lambda: fs.mkdir(ROOT_INODE, b"d", 0o755, OWNER),
            lambda: fs.symlink(ROOT_INODE, b"l", b"t", OWNER),
            lambda: fs.link(inode, ROOT_INODE, b"g"),
            lambda: fs.unlink(ROOT_INODE, b"f"),
            lambda: fs.rename(ROOT_INODE, b"f", ROOT_INODE, b"g"),
            lambda: fs.xattrs.set(inode, b"user.x", b""),
            lambda: fs.xattrs.remove(inode, b"user.x"),
        ):
            with pytest.raises(VolumeReadOnly):
                await call()
    assert tree(source) == before


# The lock


async def test_a_volume_that_is_open_is_refused_to_others(source: Path) -> None:
    async with open_test_volume(source):
        text = (source / LOCK).read_text()
        with pytest.raises(VolumeBusy, match=f"by process {text.splitlines()[0]}"):
            async with open_test_volume(source):
                pass
        with pytest.raises(VolumeBusy):
            findings(source)
        assert (source / LOCK).read_text() == text


async def test_a_serving_owner_is_not_waited_for(source: Path) -> None:
    lock = await VolumeLock.acquire(source / LOCK, wait_s=0)
    lock.serving("/")  # something is mounted there
    with trio.fail_after(60), pytest.raises(VolumeBusy, match="mounted already at / by process"):
        await VolumeLock.acquire(source / LOCK, wait_s=1e6)
    lock.release()


@pytest.mark.parametrize("state", ["closing", "no longer mounted"])
async def test_an_owner_that_ends_is_waited_for(source: Path, state: str) -> None:
    lock = await VolumeLock.acquire(source / LOCK, wait_s=0)
    if state == "closing":
        lock.closing()
    else:
        lock.serving("/nothing/is/mounted/here")
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            held: list[VolumeLock] = []

            async def take() -> None:
                held.append(await VolumeLock.acquire(source / LOCK, wait_s=60))

            nursery.start_soon(take)
            await wait_all_tasks_blocked()
            assert held == []
            lock.release()
    held[0].release()
    VolumeLock.try_acquire(source / LOCK).release()


async def test_the_lock_holds_across_processes_and_ends_with_its_process(source: Path) -> None:
    script = (
        "import sys, pathlib; from benchfs_core.volume_lock import VolumeLock\n"
        "lock = VolumeLock.try_acquire(pathlib.Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", script, str(source / LOCK)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"held\n"
        with pytest.raises(VolumeBusy):
            VolumeLock.try_acquire(source / LOCK)
        owner.kill()
    VolumeLock.try_acquire(source / LOCK).release()


async def test_a_memory_volume_touches_nothing(tmp_path: Path) -> None:
    async with open_test_volume(tmp_path, store=StoreKind.MEMORY) as volume:
        assert await write_file(volume.filesystem, b"f", b"x") > InodeId(1)
        assert (volume.store, volume.lock) == (StoreKind.MEMORY, None)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def read_only_view(tmp_path: Path) -> Iterator[Callable[[Path], Path]]:
    """Shows a directory where nothing can be written (a bind mount); needs root."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to mount")
    views: list[Path] = []

    def show(directory: Path) -> Path:
        view = tmp_path / f"view{len(views)}"
        view.mkdir()
        subprocess.run(["mount", "--bind", "-o", "ro", directory, view], check=True)
        views.append(view)
        return view

    yield show
    for view in views:
        subprocess.run(["umount", view], check=True)


async def test_a_volume_on_a_read_only_filesystem_is_read(
    tmp_path: Path, read_only_view: Callable[[Path], Path]
) -> None:
    async with open_test_volume(tmp_path / "v") as volume:
        await write_file(volume.filesystem, b"f", b"data")
    async with open_test_volume(read_only_view(tmp_path / "v"), read_only=True) as volume:
        assert await read_file(volume.filesystem, b"f") == b"data"


async def test_one_that_needs_recovery_there_is_refused_with_the_reason(
    tmp_path: Path, read_only_view: Callable[[Path], Path]
) -> None:
    async with open_test_volume(tmp_path / "v") as volume:
        await write_file(volume.filesystem, b"f", b"data")
        crash_copy(tmp_path / "v", tmp_path / "crashed")
    with pytest.raises(DamagedVolume, match="mount it writable once"):
        async with open_test_volume(read_only_view(tmp_path / "crashed"), read_only=True):
            pass


async def test_a_path_that_is_not_utf_8_is_refused_with_the_reason(tmp_path: Path) -> None:
    source = tmp_path / os.fsdecode(b"\xff")
    source.mkdir()
    with pytest.raises(NotAVolume, match="UTF-8"):
        async with open_test_volume(source):
            pass
    assert not list(source.iterdir())
