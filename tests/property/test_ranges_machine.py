"""``FileSystem`` against the model, as ``test_filesystem_machine`` does it, with parts of files as well.

What is allocated, punched, zeroed and copied must read as the model says, survive as writes of the same would, and lie
where lseek says that data is.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from benchfs_core.errors import BeyondEnd
from benchfs_core.types import HandleId, StoreKind, SyncMode
from tests.property.test_filesystem_machine import OFFSET, PICK, FilesystemMachine, needs_io_uring
from tests.support.model import APPEND, IMMUTABLE, Node
from tests.support.volumes import CHUNK_SIZE

LENGTH = st.one_of(st.integers(1, 9000), st.sampled_from([1, 4096, CHUNK_SIZE, 2 * CHUNK_SIZE + 7]))


class RangesMachine(FilesystemMachine):
    """More rules."""

    def _refused(self, node: Node, flags: int, real: Callable[[], Awaitable[object]]) -> bool:
        """Whether the file's flags forbid it; then it is tried, and changes nothing."""
        if not node.flags & flags:
            return False
        self._both(real, node.unprotected if flags & APPEND else node.mutable)
        return True

    def _handle(self, which: int) -> tuple[HandleId, int, Node]:
        handle, number = self.handles[which % len(self.handles)]
        return handle, number, self.model.nodes[number]

    @precondition(lambda self: self.handles)
    @rule(which=PICK, offset=OFFSET, length=LENGTH, keep_size=st.booleans())
    def allocate(self, which: int, offset: int, length: int, keep_size: bool) -> None:
        handle, number, node = self._handle(which)

        async def real() -> None:
            await self.fs.ranges.allocate(handle, offset, length, keep_size=keep_size)

        if not self._refused(node, IMMUTABLE, real):
            self.portal.call(real)
            node.truncate(max(len(node.data), 0 if keep_size else offset + length))
            self._wrote(number)

    @precondition(lambda self: self.handles)
    @rule(which=PICK, offset=OFFSET, length=LENGTH, how=st.sampled_from(["punch", "zero", "zero and keep the size"]))
    def clear(self, which: int, offset: int, length: int, how: str) -> None:
        handle, number, node = self._handle(which)

        async def real() -> None:
            if how == "punch":
                await self.fs.ranges.punch(handle, offset, length)
            else:
                await self.fs.ranges.zero(handle, offset, length, keep_size=how != "zero")

        if self._refused(node, IMMUTABLE | APPEND, real):
            return
        self.portal.call(real)
        if how == "zero":
            node.truncate(max(len(node.data), offset + length))
        end = min(offset + length, len(node.data))
        if end > offset:
            node.data[offset:end] = bytes(end - offset)
            self.contents[number].wrote(offset, bytes(end - offset))
        self._wrote(number)

    @precondition(lambda self: self.handles)
    @rule(which=PICK, other=PICK, offset=OFFSET, to=OFFSET, length=LENGTH)
    def copy(self, which: int, other: int, offset: int, to: int, length: int) -> None:
        handle, number, node = self._handle(which)
        source, other_number, origin = self._handle(other)
        if number == other_number and abs(offset - to) < length:
            return

        async def real() -> int:
            return await self.fs.ranges.copy(source, offset, handle, to, length)

        if self._refused(node, IMMUTABLE, real):
            return
        copied = self.portal.call(real)
        data = bytes(origin.data[offset : offset + length])
        assert bool(copied) == bool(data)
        assert copied <= len(data)
        node.write(to, data[:copied])
        self.contents[number].wrote(to, data[:copied])
        if copied:
            self._wrote(number)

    @precondition(lambda self: self.handles)
    @rule(which=PICK)
    def seek(self, which: int) -> None:
        handle, _, node = self._handle(which)
        end, seen = 0, bytearray(len(node.data))
        while end < len(node.data):
            try:
                start = self.portal.call(lambda end=end: self.fs.ranges.seek(handle, end, data=True))  # type: ignore[misc]
            except BeyondEnd:
                break
            assert start >= end
            end = self.portal.call(lambda start=start: self.fs.ranges.seek(handle, start, data=False))  # type: ignore[misc]
            assert start < end <= len(node.data)
            seen[start:end] = node.data[start:end]
        assert seen == node.data, "data in what is told as a hole"


def machine(kind: StoreKind, mode: SyncMode, inline_bytes: int) -> type[RangesMachine]:
    """The machine for one store and mode; under its name hypothesis derives its examples."""
    settings = {"store": kind, "sync": mode, "inline_bytes": inline_bytes}
    return type(f"RangesMachine_{kind.value}_{mode.value}", (RangesMachine,), settings)


TestRangesInMemory = machine(StoreKind.MEMORY, SyncMode.WRITE, 5000).TestCase
TestRangesFileWrite = machine(StoreKind.FILE, SyncMode.WRITE, 0).TestCase
TestRangesIOUringFsync = needs_io_uring(machine(StoreKind.IO_URING, SyncMode.FSYNC, 16384).TestCase)
