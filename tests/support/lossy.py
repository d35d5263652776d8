"""A disk in memory that keeps its effects as a log, and what a power cut at any point of the log may leave of them.

Imports the in-memory store. What was not flushed may be lost: of the database a suffix of its commits (the WAL's
checksums see to that); of each inode's directory and sizes a suffix of the changes (filesystems journal them in order);
of the data any subset of the writes, each whole, in part or not at all. A file whose entry is lost takes its data
along.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

from benchfs_core.chunks.memory import InMemoryChunkStore
from benchfs_core.types import Buffer, ChunkIndex, ChunkRange, InodeId
from tests.support.volumes import CHUNK_SIZE

_JOURNALLED = ("create", "cut", "delete")
_PART = 512
"""Writes are torn at multiples of this."""


@dataclass(frozen=True, slots=True)
class Effect:
    """One effect on disk. ``commit``, ``wal``; ``create``, ``write``, ``cut``, ``delete`` of a chunk; its flushes."""

    kind: str
    inode: int = 0
    chunk: int = 0
    offset: int = 0
    data: bytes = b""


@dataclass(slots=True)
class Disk:
    """What is on disk: an image of the database, and chunk files by inode and index."""

    image: bytes
    chunks: dict[int, dict[int, bytes]] = field(default_factory=dict)

    @property
    def fingerprint(self) -> int:
        """The same for disks that are the same."""
        files = tuple(sorted((inode, *sorted(chunks.items())) for inode, chunks in self.chunks.items()))
        return hash((self.image, files))


class LossyStore(InMemoryChunkStore):
    """A store whose effects are logged, each when it has been had."""

    def __init__(self, log: list[Effect], *, durable_writes: bool, disk: Disk) -> None:
        super().__init__(chunk_size=CHUNK_SIZE, durable_writes=durable_writes)
        self._log = log
        for inode, chunks in disk.chunks.items():
            self._files[InodeId(inode)] = {ChunkIndex(index): bytearray(data) for index, data in chunks.items()}

    def disk(self, image: bytes) -> Disk:
        """All of it, nothing lost."""
        chunks = {inode: {index: bytes(data) for index, data in held.items()} for inode, held in self._files.items()}
        return Disk(
            image, {int(inode): {int(index): data for index, data in held.items()} for inode, held in chunks.items()}
        )

    async def write_chunk(self, inode: InodeId, chunk_index: ChunkIndex, offset: int, data: Buffer) -> int:
        if chunk_index not in self._files.get(inode, {}):
            self._log.append(Effect("create", inode, chunk_index))
        written = await super().write_chunk(inode, chunk_index, offset, data)
        self._log.append(Effect("write", inode, chunk_index, offset, bytes(data)))
        if self._durable:
            self._log.append(Effect("flush", inode, chunk_index))
        return written

    async def allocate_chunk(self, part: ChunkRange) -> None:
        self._created(part)
        await super().allocate_chunk(part)

    async def zero_chunk(self, part: ChunkRange) -> None:
        await super().zero_chunk(part)
        self._changed(part)

    async def copy_chunk(self, source: ChunkRange, target: ChunkRange) -> int:
        held = self._files.get(source.inode, {}).get(source.chunk_index, b"")
        if any(held[source.offset : source.offset + source.length]):
            self._created(target)
        copied = await super().copy_chunk(source, target)
        self._changed(target)
        return copied

    def _created(self, part: ChunkRange) -> None:
        if part.chunk_index not in self._files.get(part.inode, {}):
            self._log.append(Effect("create", part.inode, part.chunk_index))

    def _changed(self, part: ChunkRange) -> None:
        """Note what a part of a chunk holds now as a write: of a hole or clone any part may survive as of that."""
        held = self._files.get(part.inode, {}).get(part.chunk_index, b"")
        if data := bytes(held[part.offset : part.offset + part.length]):
            self._log.append(Effect("write", part.inode, part.chunk_index, part.offset, data))

    async def fsync_chunk(self, inode: InodeId, chunk_index: ChunkIndex) -> None:
        await super().fsync_chunk(inode, chunk_index)
        self._log.append(Effect("flush", inode, chunk_index))

    async def fsync_entries(self, inode: InodeId) -> None:
        await super().fsync_entries(inode)
        self._log.append(Effect("entries", inode))

    async def fsync_all(self) -> None:
        await super().fsync_all()
        self._log.append(Effect("all"))

    async def fsync_deletions(self) -> None:
        await super().fsync_deletions()
        self._log.append(Effect("deletions"))

    async def truncate_chunk(self, inode: InodeId, chunk_index: ChunkIndex, length: int) -> None:
        before = len(self._files.get(inode, {}).get(chunk_index, b""))
        await super().truncate_chunk(inode, chunk_index, length)
        if before > length:
            self._log.append(Effect("cut", inode, chunk_index, length))

    async def delete_chunk(self, inode: InodeId, chunk_index: ChunkIndex) -> None:
        there = chunk_index in self._files.get(inode, {})
        await super().delete_chunk(inode, chunk_index)
        if there:
            self._log.append(Effect("delete", inode, chunk_index))

    async def delete_file_chunks(self, inode: InodeId) -> int:
        indices = sorted(self._files.get(inode, {}))
        removed = await super().delete_file_chunks(inode)
        self._log += [Effect("delete", inode, index) for index in indices]
        return removed


def crash(before: Disk, effects: Sequence[Effect], random: Random) -> Disk:
    """What a power cut after these effects may leave of a disk that was as ``before``: one choice of many."""
    kept = _kept_changes(effects, random)
    certain = _certain_writes(effects)
    on_disk = {(inode, index): bytearray(data) for inode, held in before.chunks.items() for index, data in held.items()}
    written_to = dict(on_disk)
    """The chunk files as the process knows them, named on disk or not."""
    for position, effect in enumerate(effects):
        key = effect.inode, effect.chunk
        if effect.kind == "create":
            written_to[key] = bytearray()
            if position in kept:
                on_disk[key] = written_to[key]
        elif effect.kind == "delete" and position in kept:
            on_disk.pop(key, None)
        elif effect.kind == "cut" and position in kept:
            _resize(written_to[key], effect.offset)
        elif effect.kind == "write":
            _write(written_to[key], effect, len(effect.data) if position in certain else _part(effect, random))
    disk = Disk(_kept_image(before, effects, random))
    for (inode, index), data in on_disk.items():
        disk.chunks.setdefault(inode, {})[index] = bytes(data)
    return disk


def _kept_image(before: Disk, effects: Sequence[Effect], random: Random) -> bytes:
    images, flushed = [before.image], 0
    for effect in effects:
        if effect.kind == "commit":
            images.append(effect.data)
        elif effect.kind == "wal":
            flushed = len(images) - 1
    return images[random.randint(flushed, len(images) - 1)]


def _kept_changes(effects: Sequence[Effect], random: Random) -> set[int]:
    """Positions of the changes to directories and sizes that survive: of each inode, those up to some point."""
    changes: dict[int, list[int]] = defaultdict(list)
    safe: dict[int, int] = defaultdict(int)
    for position, effect in enumerate(effects):
        if effect.kind in _JOURNALLED:
            changes[effect.inode].append(position)
        elif effect.kind == "flush":
            of_chunk = [at for at in changes[effect.inode] if effects[at].chunk == effect.chunk]
            reached = changes[effect.inode].index(of_chunk[-1]) + 1 if of_chunk else 0
            safe[effect.inode] = max(safe[effect.inode], reached)
        elif effect.kind == "entries":
            safe[effect.inode] = len(changes[effect.inode])
        elif effect.kind in ("all", "deletions"):
            safe.update({inode: len(positions) for inode, positions in changes.items()})
    return {
        position
        for inode, positions in changes.items()
        for position in positions[: random.randint(safe[inode], len(positions))]
    }


def _certain_writes(effects: Sequence[Effect]) -> set[int]:
    certain: set[int] = set()
    waiting: dict[tuple[int, int], set[int]] = defaultdict(set)
    for position, effect in enumerate(effects):
        if effect.kind == "write":
            waiting[effect.inode, effect.chunk].add(position)
        elif effect.kind == "flush":
            certain |= waiting.pop((effect.inode, effect.chunk), set())
        elif effect.kind == "all":
            certain.update(*waiting.values())
            waiting.clear()
    return certain


def _part(effect: Effect, random: Random) -> int:
    """How many bytes of an unflushed write survive."""
    length = len(effect.data)
    return random.choice((0, length, random.randint(0, length // _PART) * _PART))


def _write(chunk: bytearray, effect: Effect, length: int) -> None:
    if length:
        _resize(chunk, max(len(chunk), effect.offset + length))
        chunk[effect.offset : effect.offset + length] = effect.data[:length]


def _resize(chunk: bytearray, length: int) -> None:
    del chunk[length:]
    chunk.extend(bytes(length - len(chunk)))
