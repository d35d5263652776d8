"""The core over a disk in memory that loses what was not flushed: scripted sessions, crashes, recovery, and the judge.

Imports the core, ``lossy``, and the judge of the power-cut campaign. The layers are wired as ``volume`` does, without
tasks in the background: what they would do is an operation of the script (``settle``), so that a crash can come at each
point of it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass

import apsw
import trio

from benchfs_core.data_durability import DataDurability
from benchfs_core.file_io import FileIO
from benchfs_core.filesystem import FileSystem
from benchfs_core.inline_data import InlineData
from benchfs_core.inodes import InodeTable
from benchfs_core.maintenance import Maintenance
from benchfs_core.metadata.checks import check_rules
from benchfs_core.metadata.database import IN_MEMORY, Database
from benchfs_core.metadata.group_commit import GroupCommit
from benchfs_core.metadata.manager import MetadataManager
from benchfs_core.metadata.numbers import Numbers
from benchfs_core.mounting import Mounting
from benchfs_core.recovery import recover
from benchfs_core.superblock import create_database
from benchfs_core.types import ROOT_INODE, AtimeMode, AttributeChange, HandleId, InodeId, SyncMode
from tests.powercut.blocks import BLOCK, run_of_blocks
from tests.powercut.file_judge import FileJudge, Found
from tests.support.lossy import Disk, Effect, LossyStore
from tests.support.volumes import CHUNK_SIZE, NEVER_S, OWNER, Ticks, listing, read_inode

Step = tuple[str | int, ...]
"""An operation of a script: ``("write", "a", first block, count)``; without the numbers of files and writes."""


NAMELESS = "#"
"""The path of the file without a name: ``("nameless", NAMELESS, PUBLISHED_MODE)``, ``("publish", NAMELESS, "a")``."""

PUBLISHED_MODE = 0o640


def empty_disk() -> Disk:
    """A volume just formatted."""
    database = create_database(IN_MEMORY, (0, 0), 1)
    try:
        return Disk(database_image(database))
    finally:
        database.close()


def database_image(database: Database) -> bytes:
    """What a database in memory would have on disk."""
    return database._connection.serialize("main")


class Layers:
    """An open volume over a disk; every effect on it is appended to ``effects``."""

    def __init__(self, disk: Disk, sync: SyncMode, inline_bytes: int = 0) -> None:
        self.effects: list[Effect] = []
        ticks = Ticks()
        connection = apsw.Connection(":memory:")
        connection.deserialize("main", disk.image)
        self.database = Database(connection, IN_MEMORY)
        self.numbers, self.inodes = Numbers(self.database), InodeTable()
        self.commit = GroupCommit(self.database, self.numbers, self._flush_wal, None)
        self.metadata = MetadataManager(self.database, self.numbers)
        self.store = LossyStore(self.effects, durable_writes=sync is SyncMode.WRITE, disk=disk)
        marks = self.metadata.marks
        durability = DataDurability(self.store, marks, self.commit, CHUNK_SIZE, sync)
        self.maintenance = Maintenance(self.store, marks, self.commit, self.inodes, durability, NEVER_S, ticks.now_s)
        inline = InlineData(self.metadata.contents, marks, self.store, self.commit, durability, inline_bytes)
        file_io = FileIO(self.store, marks, self.commit, durability, inline, CHUNK_SIZE, ticks.now_ns, ticks.now_s)
        mounting = Mounting(False, AtimeMode.NOATIME, False, lambda: os.statvfs("/"))
        self.filesystem = FileSystem(
            self.metadata, self.commit, file_io, self.inodes, self.maintenance, mounting, ticks.now_ns
        )

    async def recover(self) -> None:
        """What a mount does before it serves."""
        await recover(self.store, self.metadata, self.numbers, self.inodes, CHUNK_SIZE, read_only=False)
        await self.commit.writable()

    async def settle(self) -> None:
        """What the background does in time."""
        await self.maintenance.sync()
        await self.maintenance.delete_waiting_orphans()

    async def close(self) -> Disk:
        """End in order; what is then on disk."""
        await self.settle()
        self.numbers.settle()
        await self.commit.commit()
        return self.store.disk(database_image(self.database))

    async def _flush_wal(self) -> None:
        self.effects.append(Effect("commit", data=database_image(self.database)))
        await trio.lowlevel.checkpoint()
        self.effects.append(Effect("wal"))


@dataclass(slots=True)
class Session:
    """A script being played on a volume, and its judge."""

    layers: Layers
    judge: FileJudge
    made: int = 0
    nameless: tuple[int, HandleId, InodeId] | None = None
    """The file without a name, whose path in scripts is ``NAMELESS``: its number, handle and inode."""

    def applies(self, step: Step) -> bool:
        """Whether the operation is one that succeeds."""
        names = self.judge.names
        match step:
            case ("settle",):
                return True
            case ("nameless", *_):
                return self.nameless is None
            case ("publish", _, str(path)):
                return self.nameless is not None and path not in names
            case (_, str(path), *_) if path == NAMELESS:
                return self.nameless is not None
            case ("create" | "mkdir", str(path), *_):
                return path not in names
            case ("link", str(old), str(new)):
                return old in names and new not in names
            case ("copy", str(path), str(other), int(first), int(count), int(to)):
                if path not in names or other not in names:
                    return False
                target, source = names[path].node, names[other].node
                apart = target != source or abs(first - to) >= count
                return apart and self.judge.blocks_of(source) >= first + count
            case (_, str(path), *_):
                return path in names
        raise AssertionError(step)

    def begin(self, step: Step) -> Step:
        """Tell the judge; the operation with its numbers."""
        operation = self._numbered(step)
        if step != ("settle",):
            self.judge.begin(operation)
        return operation

    async def do(self, operation: Step) -> int:
        """Do it; the inode, where one was made."""
        fs = self.layers.filesystem
        match operation:
            case ("settle",):
                await self.layers.settle()
            case ("create", str(path), _, int(mode)):
                handle, attributes = await fs.create(ROOT_INODE, path.encode(), mode, OWNER)
                await fs.release(handle)
                await fs.forget(attributes.inode, 1)
                return attributes.inode
            case ("mkdir", str(path), _, int(mode)):
                attributes = await fs.mkdir(ROOT_INODE, path.encode(), mode, OWNER)
                await fs.forget(attributes.inode, 1)
                return attributes.inode
            case ("nameless", _, int(node), int(mode)):
                handle, attributes = await fs.create_nameless(ROOT_INODE, mode, OWNER, linkable=True)
                self.nameless = node, handle, attributes.inode
                return attributes.inode
            case (str(kind), str(path), *more) if path == NAMELESS:
                await self._do_nameless(kind, more)
            case ("unlink", str(path)):
                await fs.unlink(ROOT_INODE, path.encode())
            case ("rename", str(old), str(new)):
                await fs.rename(ROOT_INODE, old.encode(), ROOT_INODE, new.encode(), overwrite=True)
            case (str(kind), str(path), *more):
                attributes = await fs.lookup(ROOT_INODE, path.encode())
                await self._do_with(kind, attributes.inode, more)
                await fs.forget(attributes.inode, 1)
        return 0

    def done(self, operation: Step, inode: int) -> None:
        """Tell the judge that it was acknowledged."""
        if operation != ("settle",):
            self.judge.done(operation, inode, at_ns=0)
            return
        self.judge.done(("fsyncdir", ""), 0, at_ns=0)
        for path, entry in self.judge.names.items():
            if not entry.directory:
                self.judge.done(("fsync", path, entry.node), 0, at_ns=0)
        if self.nameless is not None:
            self.judge.done(("fsync", NAMELESS, self.nameless[0]), 0, at_ns=0)

    async def play(self, steps: Sequence[Step]) -> None:
        """Do all of them."""
        for step in steps:
            operation = self.begin(step)
            self.done(operation, await self.do(operation))

    def _numbered(self, step: Step) -> Step:
        self.made += 1
        match step:
            case ("create" | "mkdir" | "nameless", str(path), int(mode)):
                return step[0], path, self.made, mode
            case ("publish", str(path), str(new)):
                return "publish", path, new, self._node(path), PUBLISHED_MODE
            case ("write", str(path), int(first), int(count)):
                return "write", path, self._node(path), first, count, self.made
            case ("truncate", str(path), int(size)):
                return "truncate", path, self._node(path), size, self.made
            case ("punch" | "zero" | "allocate" as kind, str(path), *numbers):
                return kind, path, self._node(path), *numbers
            case ("copy", str(path), str(other), *numbers):
                return "copy", path, self._node(path), other, self._node(other), *numbers, self.made
            case ("fsync", str(path)):
                return "fsync", path, self._node(path)
        return step

    def _node(self, path: str) -> int:
        if path != NAMELESS:
            return self.judge.names[path].node
        assert self.nameless is not None
        return self.nameless[0]

    async def _do_nameless(self, kind: str, words: Sequence[str | int]) -> None:
        fs = self.layers.filesystem
        assert self.nameless is not None
        _, handle, inode = self.nameless
        if kind == "publish":
            await fs.link(inode, ROOT_INODE, str(words[0]).encode())
            await fs.release(handle)
            await fs.forget(inode, 2)
            self.nameless = None
        else:
            await self._do_with(kind, inode, words)

    async def _do_with(self, kind: str, inode: InodeId, words: Sequence[str | int]) -> None:
        fs = self.layers.filesystem
        match kind, *words:
            case "link", str(new):
                await fs.link(inode, ROOT_INODE, new.encode())
                await fs.forget(inode, 1)
            case "setflags", int(flags):
                await fs.flags.set(inode, flags)
            case "truncate", _, int(size), _:
                await fs.setattr(inode, AttributeChange(), size)
            case "write", int(node), int(first), int(count), int(generation):
                handle = await fs.open(inode)
                await fs.write(handle, first * BLOCK, run_of_blocks(node, first, count, generation))
                await fs.release(handle)
            case (("punch" | "zero" | "allocate" | "copy"), *_):
                handle = await fs.open(inode)
                await self._do_with_range(kind, handle, words)
                await fs.release(handle)
            case "fsync", _:
                handle = await fs.open(inode)
                await fs.fsync(handle)
                await fs.release(handle)

    async def _do_with_range(self, kind: str, handle: HandleId, words: Sequence[str | int]) -> None:
        fs = self.layers.filesystem
        match kind, *words:
            case "punch", _, int(first), int(count):
                await fs.ranges.punch(handle, first * BLOCK, count * BLOCK)
            case "zero", _, int(first), int(count):
                await fs.ranges.zero(handle, first * BLOCK, count * BLOCK, keep_size=False)
            case "allocate", _, int(size):
                await fs.ranges.allocate(handle, size, CHUNK_SIZE, keep_size=True)
                await fs.ranges.allocate(handle, 0, size, keep_size=False)
            case "copy", _, str(other), _, int(first), int(count), int(to), _:
                attributes = await fs.lookup(ROOT_INODE, other.encode())
                source, done = await fs.open(attributes.inode, writes=False), 0
                while done < count * BLOCK:
                    rest = count * BLOCK - done
                    done += await fs.ranges.copy(source, first * BLOCK + done, handle, to * BLOCK + done, rest)
                await fs.release(source)
                await fs.forget(attributes.inode, 1)


async def problems_after_crash(disk: Disk, sync: SyncMode, judge: FileJudge, inline_bytes: int = 0) -> list[str]:
    """Mount what a crash left, look, end in order, look again: what is wrong."""
    layers = Layers(disk, sync, inline_bytes)
    try:
        problems = [f"before recovery: {rule}" for rule in check_rules(layers.database, CHUNK_SIZE)]
        await layers.recover()
        found, contents = await _look(layers.filesystem)
        problems += judge.judge(found, contents.__getitem__)
        await layers.close()
        again = await _look(layers.filesystem)
        if again != (found, contents):
            problems.append("what is there changed while it was settled")
        problems += [f"after recovery: {rule}" for rule in check_rules(layers.database, CHUNK_SIZE)]
        return problems + await _chunk_problems(layers)
    finally:
        layers.database.close()


async def _look(filesystem: FileSystem) -> tuple[dict[str, Found], dict[str, bytes]]:
    found, contents = {}, {}
    for name, entry in (await listing(filesystem)).items():
        seen, path = entry.attributes, name.decode()
        directory = stat.S_ISDIR(seen.mode)
        found[path] = Found(directory, stat.S_IMODE(seen.mode), "", seen.link_count, seen.inode, seen.flags)
        contents[path] = b"" if directory else await read_inode(filesystem, seen.inode)
    return found, contents


async def _chunk_problems(layers: Layers) -> list[str]:
    """What fsck says of chunk files that the database does not describe as they are."""
    rows_of: dict[int, dict[int, int]] = {}
    for number, index, length in layers.database.execute("SELECT inode, chunk_index, length FROM chunk").fetchall():
        rows_of.setdefault(int(str(number)), {})[int(str(index))] = int(str(length))
    problems = []
    there = layers.store.disk(b"").chunks
    for number in {*there, *rows_of}:
        inode, rows = InodeId(number), rows_of.get(number, {})
        files = {index: len(data) for index, data in there.get(number, {}).items()}
        if files and not layers.metadata.marks.inode_exists(inode):
            problems.append(f"chunks of inode {inode}, which does not exist")
        elif rows != files:
            problems.append(f"inode {inode}: chunk files {files}, rows {rows}")
    return problems
