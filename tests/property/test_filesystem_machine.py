"""``FileSystem`` against the model of dicts: any order of requests, remounts and crashes, in every store and mode.

A crash is a copy of the volume as a killed process would leave it. What it must give back: the names and attributes of
one instant, not before the last request that made them durable; with ``sync=write`` every byte; with ``sync=fsync``
what was fsynced, and elsewhere only zeros or what was written there. fsck finds nothing, before recovery and after.
"""

from __future__ import annotations

import shutil
import stat
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import ClassVar, TypeVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from benchfs_core.chunks.uring import io_uring_available
from benchfs_core.errors import FileSystemError, NoSuchAttribute
from benchfs_core.filesystem import FileSystem
from benchfs_core.types import ROOT_INODE, AttributeChange, Attributes, HandleId, InodeId, StoreKind, SyncMode
from tests.support.durable import DurableContent, pattern
from tests.support.model import APPEND, DIRECTORY, FILE, IMMUTABLE, SYMLINK, Model, Node, Snapshot
from tests.support.portal import HeldVolume, Portal
from tests.support.volumes import CHUNK_SIZE, OWNER, Ticks, crash_copy, findings, listing, read_inode

T = TypeVar("T")
PICK = st.integers(0, 255)
NAME = st.sampled_from([b"a", b"ab", b"ba", b"\xff\n"])
NEAR_A_BOUNDARY = st.builds(lambda chunk, off: max(0, chunk * CHUNK_SIZE + off), st.integers(0, 4), st.integers(-2, 2))
OFFSET = st.one_of(NEAR_A_BOUNDARY, st.integers(0, 9000), st.integers(0, 4 * CHUNK_SIZE))
LENGTH = st.one_of(st.integers(0, 5000), st.sampled_from([1, CHUNK_SIZE, CHUNK_SIZE + 1, 2 * CHUNK_SIZE + 7]))
FLAGS = st.sampled_from([0, 0, IMMUTABLE, APPEND, IMMUTABLE | APPEND, 0xC0, 0x40 | IMMUTABLE])
MODE = st.sampled_from([0o600, 0o644, 0o4755])
KINDS = {stat.S_IFDIR: DIRECTORY, stat.S_IFREG: FILE, stat.S_IFLNK: SYMLINK}
MAX_OPEN = 4


class FilesystemMachine(RuleBasedStateMachine):
    """One volume, the model, and what is known to be durable."""

    sync: ClassVar[SyncMode]
    store: ClassVar[StoreKind]
    inline_bytes: ClassVar[int]

    def __init__(self) -> None:
        super().__init__()
        self.base = Path(tempfile.mkdtemp(prefix="benchfs-machine-"))
        self.source = self.base / "0"
        self.portal = Portal().__enter__()
        self.ticks, self.model = Ticks(), Model()
        self.contents: dict[int, DurableContent] = {}
        self.handles: list[tuple[HandleId, int]] = []
        self.writes = 0
        self.history: list[Snapshot] = [self.model.snapshot()]
        self.floor = 0
        """What a crash leaves is one of ``history[floor:]``."""
        self.changed_at: dict[int, int] = {}
        self.held = self._open()

    def _open(self) -> HeldVolume:
        return HeldVolume(self.portal, self.source, self.sync, self.store, self.ticks, self.inline_bytes)

    @property
    def fs(self) -> FileSystem:
        return self.held.volume.filesystem

    def teardown(self) -> None:
        try:
            self._release_all()
            self.check_everything()
            self.held.close()
            if self.store is not StoreKind.MEMORY:
                assert findings(self.source) == []
        finally:
            self.portal.__exit__(None, None, None)
            shutil.rmtree(self.base)

    # Both at once

    def _both(self, real: Callable[[], Awaitable[T]], model: Callable[[], None], *touched: int) -> T | None:
        """Do it to the filesystem and to the model: both succeed, or both fail with the same error."""
        result = None
        error: type[Exception] | None = None
        expected: type[Exception] | None = None
        try:
            result = self.portal.call(real)
        except FileSystemError as raised:
            error = type(raised)
        try:
            self.made = result.inode if isinstance(result, Attributes) else -1
            model()
        except FileSystemError as raised:
            expected = type(raised)
        assert error is expected
        if error is None:
            self._changed(*touched)
        return result

    def _changed(self, *touched: int) -> None:
        self.history.append(self.model.snapshot())
        for number in touched:
            self.changed_at[number] = len(self.history) - 1

    def _durable(self, number: int) -> None:
        """The file's names and content are durable."""
        self.floor = max(self.floor, self.changed_at.get(number, 0))
        self.contents[number].synced(bytes(self.model.nodes[number].data))

    def _wrote(self, number: int) -> None:
        if self.sync is SyncMode.WRITE:
            self._durable(number)

    def _all_durable(self) -> None:
        self.floor = len(self.history) - 1
        for number in self.contents:
            self._durable(number)

    def _named(self, kind: str) -> list[int]:
        return sorted(number for number, node in self.model.nodes.items() if node.kind == kind and node.links)

    def _directory(self, pick: int) -> InodeId:
        directories = self._named(DIRECTORY)
        return InodeId(directories[pick % len(directories)])

    def _file(self, pick: int) -> int | None:
        files = sorted({*self._named(FILE), *(number for _, number in self.handles)})
        return files[pick % len(files)] if files else None

    def _entry(self, pick: int) -> tuple[InodeId, bytes]:
        """A name that is there, most of the time."""
        entries = [(node.number, name) for node in self.model.nodes.values() if node.links for name in node.entries]
        parent, name = entries[pick % len(entries)] if entries else (ROOT_INODE, b"a")
        return InodeId(parent), name

    def _target(self, parent: InodeId, name: bytes) -> int:
        return self.model.nodes[parent].entries.get(name, 0)

    # Names

    @initialize(offset=OFFSET, length=LENGTH)
    def begin_with_a_file(self, offset: int, length: int) -> None:
        self.create(0, b"a", 0o644, keep=True)
        self.write(0, offset, length)

    @rule(where=PICK, name=NAME, mode=MODE, keep=st.booleans())
    def create(self, where: int, name: bytes, mode: int, keep: bool) -> None:
        parent = self._directory(where)
        opened: list[HandleId] = []

        async def real() -> Attributes:
            handle, attributes = await self.fs.create(parent, name, mode, OWNER)
            await self.fs.forget(attributes.inode, 1)
            opened.append(handle)
            return attributes

        self._both(real, lambda: self.model.make(parent, name, FILE, mode, self.made))
        if opened:
            self.contents[self.made] = DurableContent()
            self.changed_at[self.made] = len(self.history) - 1
            self.handles.append((opened[0], self.made))
            if not keep or len(self.handles) > MAX_OPEN:
                self.release(len(self.handles) - 1)

    @precondition(lambda self: len(self.handles) < MAX_OPEN)
    @rule(mode=MODE, linkable=st.booleans(), offset=OFFSET, length=LENGTH)
    def create_nameless(self, mode: int, linkable: bool, offset: int, length: int) -> None:
        opened: list[HandleId] = []

        async def real() -> Attributes:
            handle, attributes = await self.fs.create_nameless(ROOT_INODE, mode, OWNER, linkable=linkable)
            opened.append(handle)
            await self.fs.forget(attributes.inode, 1)
            return attributes

        self._both(real, lambda: self.model.make_nameless(self.made, mode, linkable))
        if not opened:
            return
        self.contents[self.made] = DurableContent()
        self.changed_at[self.made] = len(self.history) - 1
        self.handles.append((opened[0], self.made))
        self.write(len(self.handles) - 1, offset, length)

    @rule(where=PICK, name=NAME)
    def publish(self, where: int, name: bytes) -> None:
        """Name one of the files without a name."""
        nameless = [number for _, number in self.handles if not self.model.nodes[number].links]
        if nameless:
            files = sorted({*self._named(FILE), *(number for _, number in self.handles)})
            self.link(files.index(nameless[0]), where, name)

    @rule(where=PICK, name=NAME, symlink=st.booleans())
    def make_other(self, where: int, name: bytes, symlink: bool) -> None:
        parent = self._directory(where)
        kind, mode, target = (SYMLINK, 0o777, b"../" + name) if symlink else (DIRECTORY, 0o755, b"")

        async def real() -> Attributes:
            call = self.fs.symlink(parent, name, target, OWNER) if symlink else self.fs.mkdir(parent, name, mode, OWNER)
            attributes = await call
            await self.fs.forget(attributes.inode, 1)
            return attributes

        self._both(real, lambda: self.model.make(parent, name, kind, mode, self.made, target))

    @rule(which=PICK, where=PICK, name=NAME)
    def link(self, which: int, where: int, name: bytes) -> None:
        number, parent = self._file(which), self._directory(where)
        if number is None:
            return

        async def real() -> None:
            await self.fs.link(InodeId(number), parent, name)
            await self.fs.forget(InodeId(number), 1)

        self._both(real, lambda: self.model.link(number, parent, name), number)

    @rule(which=PICK, directory=st.booleans())
    def remove(self, which: int, directory: bool) -> None:
        parent, name = self._entry(which)
        target = self._target(parent, name)
        if directory:
            self._both(lambda: self.fs.rmdir(parent, name), lambda: self.model.rmdir(parent, name), target)
        else:
            self._both(lambda: self.fs.unlink(parent, name), lambda: self.model.unlink(parent, name), target)

    @rule(which=PICK, where=PICK, name=NAME, overwrite=st.booleans())
    def rename(self, which: int, where: int, name: bytes, overwrite: bool) -> None:
        parent, old = self._entry(which)
        to = self._directory(where)
        touched = self._target(parent, old), self._target(to, name)
        self._both(
            lambda: self.fs.rename(parent, old, to, name, overwrite=overwrite),
            lambda: self.model.rename(parent, old, to, name, overwrite),
            *touched,
        )

    @rule(which=PICK, other=PICK)
    def exchange(self, which: int, other: int) -> None:
        one, two = self._entry(which), self._entry(other)
        touched = self._target(*one), self._target(*two)
        self._both(lambda: self.fs.exchange(*one, *two), lambda: self.model.exchange(*one, *two), *touched)

    @rule(which=PICK, mode=MODE)
    def chmod(self, which: int, mode: int) -> None:
        number = self._target(*self._entry(which))
        node = self.model.nodes.get(number)
        if node is not None and node.kind != SYMLINK:
            change = AttributeChange(mode=mode)
            model = self.model
            self._both(lambda: self.fs.setattr(InodeId(number), change), lambda: model.chmod(number, mode), number)

    @rule(which=PICK, flags=FLAGS)
    def set_flags(self, which: int, flags: int) -> None:
        number = InodeId(self._target(*self._entry(which)) or ROOT_INODE)
        if self.model.nodes[number].kind != SYMLINK:
            self._both(lambda: self.fs.flags.set(number, flags), lambda: self.model.set_flags(number, flags), number)
            if flags & (IMMUTABLE | APPEND) and flags & 1 == which & 1:  # not for long, for then nothing happens
                self.chmod(which, 0o600)
                self.set_flags(which, 0)

    @rule(which=PICK, name=st.sampled_from([b"user.a", b"user.b"]), value=st.none() | st.binary(max_size=9))
    def xattr(self, which: int, name: bytes, value: bytes | None) -> None:
        number = InodeId(self._target(*self._entry(which)) or ROOT_INODE)
        node = self.model.nodes[number]
        xattrs = node.xattrs

        def put() -> None:
            node.unprotected()
            xattrs[name] = value or b""

        def remove() -> None:
            node.unprotected()
            if xattrs.pop(name, None) is None:
                raise NoSuchAttribute

        if value is None:
            self._both(lambda: self.fs.xattrs.remove(number, name), remove, number)
        else:
            self._both(lambda: self.fs.xattrs.set(number, name, value), put, number)

    # Content

    @rule(which=PICK, truncate=st.booleans())
    def open(self, which: int, truncate: bool) -> None:
        number = self._file(which)
        if number is None or len(self.handles) >= MAX_OPEN:
            return
        model = self.model.nodes[number]
        handle = self._both(lambda: self.fs.open(InodeId(number), truncate=truncate), model.unprotected, number)
        if handle is None:
            return
        self.handles.append((handle, number))
        self.changed_at[number] = len(self.history) - 1
        if truncate:
            self.model.nodes[number].truncate(0)
            self.contents[number].truncated(0)
            self._wrote(number)

    @precondition(lambda self: self.handles)
    @rule(which=PICK)
    def release(self, which: int) -> None:
        handle = self.handles.pop(which % len(self.handles))[0]
        self.portal.call(lambda: self.fs.release(handle))

    @precondition(lambda self: self.handles)
    @rule(which=PICK, offset=OFFSET, length=LENGTH)
    def write(self, which: int, offset: int, length: int) -> None:
        handle, number = self.handles[which % len(self.handles)]
        self.writes += 1
        data = pattern(self.writes, offset, length)
        if self.model.nodes[number].flags & IMMUTABLE:
            self._both(lambda: self.fs.write(handle, offset, data), self.model.nodes[number].mutable)
            return
        assert self.portal.call(lambda: self.fs.write(handle, offset, data)) == length
        self.model.nodes[number].write(offset, data)
        self.contents[number].wrote(offset, data)
        if length:
            self._wrote(number)

    @precondition(lambda self: self.handles)
    @rule(which=PICK, offset=OFFSET, length=LENGTH)
    def read(self, which: int, offset: int, length: int) -> None:
        handle, number = self.handles[which % len(self.handles)]
        data = bytes(self.portal.call(lambda: self.fs.read(handle, offset, length)))
        assert data == self.model.nodes[number].data[offset : offset + length]

    @rule(which=PICK, size=OFFSET)
    def truncate(self, which: int, size: int) -> None:
        number = self._file(which)
        if number is not None and self.model.nodes[number].flags & (IMMUTABLE | APPEND):
            change, node = AttributeChange(), self.model.nodes[number]
            self._both(lambda: self.fs.setattr(InodeId(number), change, size), node.unprotected)
        elif number is not None:
            seen = self.portal.call(lambda: self.fs.setattr(InodeId(number), AttributeChange(), size))
            assert seen.size == size
            self.model.nodes[number].truncate(size)
            self.contents[number].truncated(size)
            self._wrote(number)

    @precondition(lambda self: self.handles)
    @rule(which=PICK, datasync=st.booleans())
    def fsync(self, which: int, datasync: bool) -> None:
        handle, number = self.handles[which % len(self.handles)]
        self.portal.call(lambda: self.fs.fsync(handle, datasync=datasync))
        self._durable(number)

    @rule()
    def sync_all(self) -> None:
        self.portal.call(self.fs.sync)
        self._all_durable()

    # Ends

    @precondition(lambda self: self.store is not StoreKind.MEMORY)
    @rule(in_use=st.booleans())
    def remount(self, in_use: bool) -> None:
        if not in_use:
            self._release_all()
        self.held.close()
        self.handles = []
        assert findings(self.source) == []
        self.held = self._open()
        self._all_durable()
        assert not self.held.volume.recovered.unclean
        self.check_everything()

    @precondition(lambda self: self.store is not StoreKind.MEMORY)
    @rule()
    def crash(self) -> None:
        old, self.source = self.source, self.source.with_name(self.source.name + "+")

        async def copy() -> None:
            crash_copy(old, self.source)

        self.portal.call(copy)  # in the loop: between two checkpoints
        self.held.close(abandon=True)
        shutil.rmtree(old)
        self.handles = []
        assert findings(self.source) == []
        self.held = self._open()
        self._roll_back(self.portal.call(self._look))
        for number in self._named(FILE):
            found = self.portal.call(lambda number=number: read_inode(self.fs, number))  # type: ignore[misc]
            if self.sync is SyncMode.WRITE:
                assert found == self.model.nodes[number].data
            self.contents[number].check(found)
            self.model.nodes[number].data = bytearray(found)

    def _roll_back(self, seen: Snapshot) -> None:
        assert seen in self.history[self.floor :], "not the names of any instant since they were made durable"
        for number, node in self.model.nodes.items():
            node.links = 0
            if number in seen:
                _, node.links, node.mode, node.target, flags, xattrs, entries = seen[number]
                node.flags = flags
                node.xattrs, node.entries = dict(xattrs), dict(entries)
        for number in self._named(DIRECTORY):
            for child in self.model.nodes[number].entries.values():
                self.model.nodes[child].parent = number
        self.history, self.floor, self.changed_at = [seen], 0, {}

    # Looking

    @invariant()
    def one_file_is_as_in_the_model(self) -> None:
        number = self._file(self.writes)
        if number is not None:
            seen = self.portal.call(lambda: self.fs.getattr(InodeId(number)))
            node = self.model.nodes[number]
            assert (seen.size, seen.link_count) == (len(node.data), node.links)

    @rule()
    def check_everything(self) -> None:
        assert self.portal.call(self._look) == self.model.snapshot()
        for number in self._named(FILE):
            found = self.portal.call(lambda number=number: read_inode(self.fs, number))  # type: ignore[misc]
            assert found == self.model.nodes[number].data

    async def _look(self) -> Snapshot:
        """All that is to be seen of names and attributes, from the root down."""
        snapshot: Snapshot = {}
        waiting = [await self.fs.getattr(ROOT_INODE)]
        while waiting:
            seen = waiting.pop()
            inode, kind = seen.inode, KINDS[stat.S_IFMT(seen.mode)]
            entries = await listing(self.fs, inode) if kind == DIRECTORY else {}
            target = await self.fs.readlink(inode) if kind == SYMLINK else b""
            xattrs = {name: await self.fs.xattrs.get(inode, name) for name in await self.fs.xattrs.names(inode)}
            node = Node(inode, kind, stat.S_IMODE(seen.mode), seen.link_count, target, 0, {}, xattrs, flags=seen.flags)
            node.entries = {name: entry.attributes.inode for name, entry in entries.items()}
            snapshot[inode] = node.seen()
            waiting += [entry.attributes for entry in entries.values()]
        return snapshot

    def _release_all(self) -> None:
        while self.handles:
            self.release(0)


def machine(kind: StoreKind, mode: SyncMode, inline_bytes: int) -> type[FilesystemMachine]:
    """The machine for one store and mode; under its name hypothesis derives its examples."""
    settings = {"store": kind, "sync": mode, "inline_bytes": inline_bytes}
    return type(f"Machine_{kind.value}_{mode.value}", (FilesystemMachine,), settings)


needs_io_uring = pytest.mark.skipif(io_uring_available() is not None, reason="io_uring is not to be had here")

TestMemory = machine(StoreKind.MEMORY, SyncMode.FSYNC, 5000).TestCase
TestFileWrite = machine(StoreKind.FILE, SyncMode.WRITE, 0).TestCase
TestFileFsync = machine(StoreKind.FILE, SyncMode.FSYNC, 0).TestCase
TestIOUringWrite = needs_io_uring(machine(StoreKind.IO_URING, SyncMode.WRITE, 16384).TestCase)
TestIOUringFsync = needs_io_uring(machine(StoreKind.IO_URING, SyncMode.FSYNC, 16384).TestCase)
