"""Volumes to damage: one of each kind of file, its content as it was, and a reader that looks at everything.

Imports the composition root, through ``volumes``. Invariant: reading everything raises where anything cannot be read.
"""

from __future__ import annotations

import sqlite3
import stat
from collections.abc import Sequence
from pathlib import Path

from benchfs_core.extended_attributes import ExtendedAttributes
from benchfs_core.filesystem import FileSystem
from benchfs_core.fsck import Options, Repaired, check_volume, repair_volume
from benchfs_core.superblock import DATABASE
from benchfs_core.types import ROOT_INODE, DirectoryEntry, InodeId
from tests.support.volumes import CHUNK_SIZE, OWNER, listing, open_test_volume, read_inode, write_file

UUID = "12345678-1234-1234-1234-123456789abc"


class Damaged:
    """A closed volume with a directory, a file in it, a file with two chunks and a hole, a symlink and an xattr."""

    def __init__(self, source: Path) -> None:
        self.source = source
        self.inodes: dict[str, InodeId] = {}

    async def make(self) -> None:
        async with open_test_volume(self.source) as volume:
            fs = volume.filesystem
            inodes = self.inodes
            inodes["directory"] = (await fs.mkdir(ROOT_INODE, b"directory", 0o755, OWNER)).inode
            inodes["inner"] = (await fs.mkdir(inodes["directory"], b"inner", 0o755, OWNER)).inode
            inodes["file"] = await write_file(fs, b"file", b"x" * 100)
            await write_file(fs, b"file", b"y" * 10, offset=2 * CHUNK_SIZE)
            inodes["empty"] = (await fs.mknod(inodes["inner"], b"empty", 0o100644, OWNER)).inode
            inodes["symlink"] = (await fs.symlink(ROOT_INODE, b"symlink", b"target", OWNER)).inode
            await fs.xattrs.set(inodes["file"], b"user.x", b"1")

    def sql(self, statement: str) -> None:
        """Change the database; names in braces stand for inode numbers."""
        assert run_sql(self.source, statement.format(**self.inodes)) > 0

    def chunk(self, index: int = 0, inode: str = "file") -> Path:
        return self.source / "chunks" / str(self.inodes[inode]) / str(index)


def run_sql(source: Path, statement: str, values: Sequence[object] = ()) -> int:
    """Change the database of a closed volume; how many rows."""
    connection = sqlite3.connect(source / DATABASE)
    try:
        count = connection.execute(statement, values).rowcount
        connection.commit()
        return count
    finally:
        connection.close()


def repair(source: Path, *, told: list[str] | None = None) -> Repaired:
    """Repair a closed volume."""
    lines: list[str] = [] if told is None else told
    return repair_volume(source, Options(tell=lines.append, uuid=UUID, now_ns=1))


def left(source: Path) -> list[str]:
    """What fsck finds."""
    return [str(finding) for finding in check_volume(source)]


async def read_everything(source: Path) -> dict[str, bytes]:
    """Open the volume and read all there is: content and targets by path. Whatever cannot be read raises."""
    content: dict[str, bytes] = {}
    async with open_test_volume(source) as volume:
        fs = volume.filesystem
        assert (await fs.getattr(ROOT_INODE)).mode & 0o170000 == stat.S_IFDIR
        todo = [("", ROOT_INODE)]
        while todo:
            path, directory = todo.pop()
            for name, entry in (await listing(fs, directory)).items():
                here = f"{path}/{name.decode(errors='surrogateescape')}"
                content[here] = await _read(fs, fs.xattrs, entry, directory)
                if stat.S_ISDIR(entry.attributes.mode):
                    todo.append((here, entry.attributes.inode))
    return content


async def _read(fs: FileSystem, xattrs: ExtendedAttributes, entry: DirectoryEntry, directory: InodeId) -> bytes:
    attributes = await fs.lookup(directory, entry.name)
    assert attributes.inode == entry.attributes.inode
    for name in await xattrs.names(attributes.inode):
        assert await xattrs.get(attributes.inode, name) is not None
    data = b""
    if stat.S_ISREG(attributes.mode) and attributes.size < 1 << 24:
        data = await read_inode(fs, attributes.inode)
    elif stat.S_ISLNK(attributes.mode):
        data = await fs.readlink(attributes.inode)
    await fs.forget(attributes.inode, 1)
    return data
