"""Volumes for tests: small chunks, clocks that tick by themselves, copies of what a killed process would leave, fsck.

Imports the composition root and trio. Invariant: nothing here happens by time; a volume commits only when it is asked
to (its commit interval is longer than any test).
"""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from benchfs_core.chunks.io import ChunkIO
from benchfs_core.chunks.uring import io_uring_available
from benchfs_core.config import FormatOptions, VolumeOptions
from benchfs_core.filesystem import FileSystem
from benchfs_core.fsck import check_volume
from benchfs_core.types import ROOT_INODE, Credentials, DirectoryEntry, InodeId, StoreKind, SyncMode
from benchfs_core.volume import Clocks, Volume, open_volume

CHUNK_SIZE = 64 * 1024
OWNER = Credentials(1000, 1000)
NEVER_S = 300.0
"""The longest commit interval there is."""


class Ticks:
    """Clocks of which every reading is a microsecond after the one before."""

    def __init__(self) -> None:
        self.ns = 1_600_000_000 * 10**9

    def now_ns(self) -> int:
        self.ns += 1000
        return self.ns

    def now_s(self) -> float:
        return self.now_ns() / 1e9

    @property
    def clocks(self) -> Clocks:
        return Clocks(self.now_ns, self.now_s)


@asynccontextmanager
async def open_test_volume(
    source: Path,
    sync: SyncMode = SyncMode.WRITE,
    store: StoreKind = StoreKind.FILE,
    *,
    ticks: Ticks | None = None,
    read_only: bool = False,
    max_handles: int = 8,
    wrap_io: Callable[[ChunkIO], ChunkIO] | None = None,
    vfs: str | None = None,
    lock_wait_s: float = 0.0,
    inline_bytes: int = 0,
) -> AsyncIterator[Volume]:
    """Open the volume in ``source``, made if need be; see ``open_volume``."""
    source.mkdir(exist_ok=True)
    if store is StoreKind.IO_URING and (reason := io_uring_available()):
        pytest.skip(reason)
    options = VolumeOptions(
        sync=sync,
        store=store,
        read_only=read_only,
        commit_interval_s=NEVER_S,
        queue_depth=32,
        max_handles=max_handles,
        inline_bytes=inline_bytes,
    )
    async with open_volume(
        source,
        options,
        FormatOptions(CHUNK_SIZE),
        clocks=(ticks or Ticks()).clocks,
        wrap_io=wrap_io,
        vfs=vfs,
        lock_wait_s=lock_wait_s,
    ) as volume:
        yield volume


class Abandoned(Exception):
    """Raised in the body of ``open_test_volume`` to end it without bringing anything to disk."""


def crash_copy(source: Path, target: Path) -> Path:
    """Copy ``source`` as a process killed now would leave it: with the WAL, without what SQLite keeps in memory (-shm).

    Called between two checkpoints. Metadata first: chunk files may go away during the copy, after the metadata that
    makes them unneeded. By cp(1), since SQLite's files must not be opened and closed in this process.
    """
    target.mkdir()
    subprocess.run(["cp", "-a", source / "benchfs.toml", source / "lock", source / "meta", target], check=True)
    copied = subprocess.run(["cp", "-a", source / "chunks", target], capture_output=True, text=True, check=False)
    assert all("No such file" in line for line in copied.stderr.splitlines()), copied.stderr
    (target / "meta" / "benchfs.db-shm").unlink(missing_ok=True)
    return target


def findings(source: Path) -> list[str]:
    """What fsck finds in a volume that is not mounted."""
    return [str(finding) for finding in check_volume(source)]


def codes(source: Path) -> set[str]:
    """The codes of what fsck finds."""
    return {finding.code for finding in check_volume(source)}


async def listing(filesystem: FileSystem, directory: InodeId = ROOT_INODE) -> dict[bytes, DirectoryEntry]:
    """All entries of a directory by name."""
    handle = await filesystem.opendir(directory)
    entries = {entry.name: entry for entry in await filesystem.readdir(handle, 0)}
    await filesystem.releasedir(handle)
    return entries


async def write_file(filesystem: FileSystem, name: bytes, data: bytes, offset: int = 0) -> InodeId:
    """Make a file in the root directory, or open it, and write to it. The inode is not kept known."""
    entries = await listing(filesystem)
    if name in entries:
        inode = entries[name].attributes.inode
        handle = await filesystem.open(inode)
    else:
        handle, attributes = await filesystem.create(ROOT_INODE, name, 0o644, OWNER)
        inode = attributes.inode
        await filesystem.forget(inode, 1)
    assert await filesystem.write(handle, offset, data) == len(data)
    await filesystem.release(handle)
    return inode


async def read_inode(filesystem: FileSystem, inode: InodeId) -> bytes:
    """All of a file, to the end that stat shows and no further."""
    size = (await filesystem.getattr(inode)).size
    handle = await filesystem.open(inode, writes=False)
    data = bytes(await filesystem.read(handle, 0, size + 1))
    await filesystem.release(handle)
    assert len(data) == size
    return data


async def read_file(filesystem: FileSystem, name: bytes) -> bytes:
    """All of a file in the root directory."""
    attributes = await filesystem.lookup(ROOT_INODE, name)
    await filesystem.forget(attributes.inode, 1)
    return await read_inode(filesystem, attributes.inode)


def used_chunks(source: Path) -> list[str]:
    """Every chunk file there is, as ``inode/index``."""
    chunks = source / "chunks"
    return sorted(f"{path.parent.name}/{path.name}" for path in chunks.glob("*/*"))
