"""A scripted session on one volume that a single fault hits somewhere, and what must hold all the same.

Imports the core's ``FileSystem``, ``translate`` for which errors a caller can be told, and ``faults``. ``Session.run``
does each step of the script once, and once more where it failed: the fault is gone by then. It keeps a model of every
file: which contents it may have after a crash, from the last one that was acknowledged on. Invariant: a step that
nothing was injected into may fail only for what an earlier fault left: metadata that has failed.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress

from benchfs_core.errors import FlushFailed, MetadataFailed, NoSuchEntry, VolumeReadOnly
from benchfs_core.flags import NODUMP
from benchfs_core.types import ROOT_INODE, AttributeChange, HandleId, InodeId, SyncMode
from benchfs_core.volume import Volume
from benchfs_fuse.translate import ERRNO
from tests.support.faults import FaultPlan
from tests.support.volumes import CHUNK_SIZE, OWNER, listing, read_inode

Content = bytes | None
"""What a name leads to; None: nothing."""

Step = tuple[str, Callable[[], Awaitable[None]]]


class Lines(logging.Handler):
    """Log lines of level WARNING and above."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """A line, with what it was raised by if it is an internal error."""
        self.lines.append(record.getMessage() + (f": {record.exc_info[1]!r}" if record.exc_info else ""))


def can_be_told(error: BaseException) -> bool:
    """Whether a caller gets an errno for it that means something."""
    return type(error) in ERRNO or (isinstance(error, OSError) and error.errno is not None)


def pattern(seed: int, length: int) -> bytes:
    """Bytes that tell where they belong, none of them zero."""
    row = bytes((seed * 31 + place) % 255 + 1 for place in range(199))
    return (row * (length // len(row) + 1))[:length]


class Model:
    """What each name may lead to after a crash: the last content that was acknowledged, and those since."""

    def __init__(self) -> None:
        self._versions: dict[bytes, list[Content]] = {}

    def now(self, name: bytes) -> Content:
        """What it leads to while nothing crashes."""
        return self._versions.get(name, [None])[-1]

    def changes(self, name: bytes, content: Content) -> None:
        """It is being changed: from now on either may be found."""
        self._versions.setdefault(name, [None]).append(content)

    def acknowledge(self, *names: bytes) -> None:
        """What they lead to now survives."""
        for name in names or tuple(self._versions):
            self._versions[name] = self._versions[name][-1:]

    def breaches(self, found: dict[bytes, bytes], *, crashed: bool) -> list[str]:
        """Where what was found is nothing that may be."""
        said = [f"{name!r} should not be there" for name in found.keys() - self._versions.keys()]
        for name, versions in self._versions.items():
            allowed = versions if crashed else versions[-1:]
            if not _may_be(found.get(name), allowed):
                said.append(f"{name!r}: {_short(found.get(name))}, not one of {[_short(one) for one in allowed]}")
        return said


def _may_be(found: Content, allowed: list[Content]) -> bool:
    if found in allowed:
        return True
    contents = [content for content in allowed if content is not None]
    if found is None or not contents:
        return False
    if not min(map(len, contents)) <= len(found) <= max(map(len, contents)):
        return False
    longest = [content.ljust(len(found), b"\0") for content in contents]
    return all(byte in choices for byte, *choices in zip(found, *longest, strict=False))


def _short(content: Content) -> str:
    return "nothing" if content is None else f"{len(content)} bytes {content[:4]!r}"


class Session:
    """The script, and how far it has come."""

    def __init__(self, volume: Volume, plan: FaultPlan, sync: SyncMode, log: Lines, model: Model) -> None:
        self.fs = volume.filesystem
        self.volume = volume
        self.plan = plan
        self.durable_writes = sync is SyncMode.WRITE
        self.log = log
        self.model = model
        self.problems: list[str] = []
        self.failed_steps: list[str] = []
        self._handles: dict[bytes, HandleId] = {}
        self._inodes: dict[bytes, InodeId] = {}
        self._nameless = b""
        """What was written to the file that has no name yet."""

    @property
    def metadata_failed(self) -> bool:
        """Whether the volume has turned read-only."""
        return self.volume.database.failure is not None

    async def run(self, after_fault: Callable[[], Awaitable[None]]) -> None:
        """All steps; ``after_fault`` is called when the one that was hit has ended."""
        for name, step in self.script():
            hits = len(self.plan.hit)
            error = await self._attempt(name, step)
            hit = len(self.plan.hit) > hits
            if hit:
                await after_fault()
            if error is None or self.metadata_failed:
                continue
            if not hit and not (hits and isinstance(error, FlushFailed)):
                self.problems.append(f"{name}: {error!r}, though nothing was injected")
            if isinstance(error, FlushFailed):
                await self._rewrite()
            again = await self._attempt(name, step)
            if again is not None and not (self._names_in_doubt() and isinstance(again, FlushFailed)):
                self.problems.append(f"{name}: {again!r} after the fault had gone")

    def _names_in_doubt(self) -> bool:
        """Whether a directory's flush failed: nothing that is written makes that good before the next mount."""
        return any(call.layer != "metadata" and call.operation == "fsync" for call in self.plan.hit)

    async def _attempt(self, name: str, step: Callable[[], Awaitable[None]]) -> Exception | None:
        try:
            await step()
        except Exception as error:
            self.failed_steps.append(name)
            if not can_be_told(error) and not (self.metadata_failed and isinstance(error, KeyError)):
                self.problems.append(f"{name}: {error!r} would be an internal error")
            if self.metadata_failed and not isinstance(error, VolumeReadOnly | MetadataFailed | NoSuchEntry | KeyError):
                self.problems.append(f"{name}: {error!r} after the metadata failed")
            return error
        return None

    async def _rewrite(self) -> None:
        """What may be lost is written again: only then may a flush end well; and each handle is told once."""
        for file, handle in self._handles.items():
            with suppress(FlushFailed):
                if content := self.model.now(file) or (self._nameless if file == b"n" else b""):
                    await self.fs.write(handle, 0, content)
            with suppress(FlushFailed):
                await self.fs.fsync(handle)

    # The script

    def script(self) -> list[Step]:
        """Every kind of change, on two files whose chunks are written, cut and deleted."""
        first, second = pattern(1, CHUNK_SIZE), pattern(2, 30_000)
        return [
            ("create a", lambda: self._create(b"a")),
            ("write a 0", lambda: self._write(b"a", 0, first)),
            ("write a 1", lambda: self._write(b"a", CHUNK_SIZE, second)),
            ("fsync a", lambda: self._fsync(b"a")),
            ("truncate a down", lambda: self._truncate(b"a", CHUNK_SIZE + 5)),
            ("write a after the cut", lambda: self._write(b"a", CHUNK_SIZE + 9, b"after the cut")),
            ("fsync a again", lambda: self._fsync(b"a")),
            ("truncate a to 10", lambda: self._truncate(b"a", 10)),
            ("extend a", lambda: self._truncate(b"a", 2 * CHUNK_SIZE + 7)),
            ("read a", lambda: self._read(b"a")),
            ("write a over chunks", lambda: self._write(b"a", CHUNK_SIZE - 100, pattern(3, 300))),
            ("create b", lambda: self._create(b"b")),
            ("write b", lambda: self._write(b"b", 0, pattern(4, 5000))),
            ("fsync b", lambda: self._fsync(b"b")),
            ("allocate b", lambda: self._allocate(b"b", 2 * CHUNK_SIZE + 3)),
            ("punch a", lambda: self._punch(b"a", CHUNK_SIZE - 50, 100)),
            ("copy a to b", lambda: self._copy(b"a", b"b", CHUNK_SIZE - 100, 90_000)),
            ("zero b", lambda: self._punch(b"b", 1000, CHUNK_SIZE, allocates=True)),
            ("fsync b after all that", lambda: self._fsync(b"b")),
            ("rename b over a", self._rename),
            ("mkdir", self._mkdir),
            ("xattr", self._xattr),
            ("readdir", self._readdir),
            ("link", self._link),
            ("symlink", self._symlink),
            ("sync", self._sync),
            ("rmdir", self._rmdir),
            ("write a again", lambda: self._write(b"a", 4000, pattern(5, 2 * CHUNK_SIZE))),
            ("make n nameless", self._make_nameless),
            ("write n", lambda: self._write_nameless(pattern(6, CHUNK_SIZE + 700))),
            ("fsync n", lambda: self.fs.fsync(self._handles[b"n"])),
            ("flags of n", lambda: self.fs.flags.set(self._inodes[b"n"], NODUMP)),
            ("name n", self._publish),
            ("fsync n with its name", lambda: self._fsync(b"n")),
            ("unlink c", lambda: self._unlink(b"c")),
            ("fsync directory", self._fsync_directory),
            ("close", self._close),
            ("deletion", self.volume.maintenance.delete_waiting_orphans),
            ("reopen", self._reopen),
            ("last read", lambda: self._read(b"a")),
            ("last sync", self._sync),
        ]

    async def _create(self, name: bytes) -> None:
        self.model.changes(name, self.model.now(name))
        handle, attributes = await self.fs.create(ROOT_INODE, name, 0o644, OWNER)
        self.model.changes(name, b"")
        self._handles[name], self._inodes[name] = handle, attributes.inode

    async def _make_nameless(self) -> None:
        handle, attributes = await self.fs.create_nameless(ROOT_INODE, 0o600, OWNER, linkable=True)
        self._handles[b"n"], self._inodes[b"n"] = handle, attributes.inode

    async def _write_nameless(self, data: bytes) -> None:
        await self.fs.write(self._handles[b"n"], 0, data)
        self._nameless = data

    async def _publish(self) -> None:
        await self.fs.link(self._inodes[b"n"], ROOT_INODE, b"n")
        self.model.changes(b"n", self._nameless)

    def _note(self, name: bytes, content: Content) -> None:
        """The file that has this name changes, under all its names."""
        for other, inode in self._inodes.items():
            if inode == self._inodes.get(name) and self.model.now(other) is not None:
                self.model.changes(other, content)

    async def _write(self, name: bytes, offset: int, data: bytes) -> None:
        await self._overwrite(name, offset, data, lambda: self.fs.write(self._handles[name], offset, data))

    async def _allocate(self, name: bytes, length: int) -> None:
        grown = bytes(max(0, length - len(self.model.now(name) or b"")))
        handle, end = self._handles[name], length - len(grown)
        await self._overwrite(name, end, grown, lambda: self.fs.ranges.allocate(handle, 0, length, keep_size=False))

    async def _punch(self, name: bytes, offset: int, length: int, *, allocates: bool = False) -> None:
        ranges, handle = self.fs.ranges, self._handles[name]
        if allocates:
            await self._overwrite(
                name, offset, bytes(length), lambda: ranges.zero(handle, offset, length, keep_size=False)
            )
        else:
            await self._overwrite(name, offset, bytes(length), lambda: ranges.punch(handle, offset, length))

    async def _copy(self, source: bytes, target: bytes, offset: int, to: int) -> None:
        data = (self.model.now(source) or b"")[offset : offset + 300]
        places = (self._handles[source], offset, self._handles[target], to, len(data))
        await self._overwrite(target, to, data, lambda: self.fs.ranges.copy(*places))

    async def _overwrite(self, name: bytes, offset: int, data: bytes, call: Callable[[], Awaitable[object]]) -> None:
        before = self.model.now(name)
        changed = (before or b"").ljust(offset, b"\0")
        changed = changed[:offset] + data + changed[offset + len(data) :]
        self._note(name, changed)
        try:
            await call()
        except BaseException:
            self._note(name, before)
            raise
        if self.durable_writes:
            self.model.acknowledge(name)

    async def _truncate(self, name: bytes, size: int) -> None:
        before = self.model.now(name)
        after = (before or b"")[:size].ljust(size, b"\0")
        self._note(name, after)
        try:
            await self.fs.setattr(self._inodes[name], AttributeChange(), size)
        except BaseException:
            found = (await self.fs.getattr(self._inodes[name])).size
            if found != size:
                self._note(name, before)
            raise
        if self.durable_writes:
            self.model.acknowledge(name)

    async def _fsync(self, name: bytes) -> None:
        await self.fs.fsync(self._handles[name])
        self.model.acknowledge(name)

    async def _sync(self) -> None:
        await self.fs.sync()
        self.model.acknowledge()

    async def _read(self, name: bytes) -> None:
        found = await read_inode(self.fs, self._inodes[name])
        if found != self.model.now(name) and not self.metadata_failed:
            self.problems.append(f"read {name!r}: {_short(found)} instead of {_short(self.model.now(name))}")

    async def _rename(self) -> None:
        await self.fs.rename(ROOT_INODE, b"b", ROOT_INODE, b"a")
        self.model.changes(b"a", self.model.now(b"b"))
        self.model.changes(b"b", None)
        self._handles[b"old a"], self._inodes[b"old a"] = self._handles[b"a"], self._inodes[b"a"]
        self._handles[b"a"], self._inodes[b"a"] = self._handles.pop(b"b"), self._inodes.pop(b"b")

    async def _mkdir(self) -> None:
        await self.fs.mkdir(ROOT_INODE, b"d", 0o755, OWNER)

    async def _rmdir(self) -> None:
        await self.fs.rmdir(ROOT_INODE, b"d")

    async def _xattr(self) -> None:
        await self.fs.xattrs.set(self._inodes[b"a"], b"user.x", b"v" * 3000)
        assert await self.fs.xattrs.get(self._inodes[b"a"], b"user.x") == b"v" * 3000

    async def _readdir(self) -> None:
        found = await listing(self.fs)
        if not self.metadata_failed and not {b"a", b"d"} <= found.keys():
            self.problems.append(f"readdir: {sorted(found)}")

    async def _link(self) -> None:
        await self.fs.link(self._inodes[b"a"], ROOT_INODE, b"c")
        self.model.changes(b"c", self.model.now(b"a"))
        self._inodes[b"c"] = self._inodes[b"a"]

    async def _symlink(self) -> None:
        attributes = await self.fs.symlink(ROOT_INODE, b"s", b"a", OWNER)
        assert await self.fs.readlink(attributes.inode) == b"a"

    async def _unlink(self, name: bytes) -> None:
        await self.fs.unlink(ROOT_INODE, name)
        self.model.changes(name, None)

    async def _fsync_directory(self) -> None:
        handle = await self.fs.opendir(ROOT_INODE)
        try:
            await self.fs.fsync_directory(handle)
        finally:
            await self.fs.releasedir(handle)

    async def _close(self) -> None:
        while self._handles:
            name, handle = self._handles.popitem()
            await self.fs.release(handle)
            if name == b"old a":
                await self.fs.forget(self._inodes[name], 1)

    async def _reopen(self) -> None:
        self._handles[b"a"] = await self.fs.open(self._inodes[b"a"])


async def contents(volume: Volume) -> dict[bytes, bytes]:
    """Every regular file in the root directory, read to its end."""
    found = {}
    for name, entry in (await listing(volume.filesystem)).items():
        if entry.attributes.mode & 0o170000 == 0o100000:
            found[name] = await read_inode(volume.filesystem, entry.attributes.inode)
    return found
