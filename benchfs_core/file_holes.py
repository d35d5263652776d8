"""``FileHoles``: where a file has data and where holes (lseek(2), SEEK_DATA and SEEK_HOLE).

Imports ``file_parts``. Invariant: no byte that was written is told as part of a hole. Who knows of writes that have not
come here yet, as a kernel with a page cache of its own, has them come (``settle``) before a hole is told.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from benchfs_core.errors import BeyondEnd
from benchfs_core.file_parts import FileParts
from benchfs_core.inodes import ActiveInode
from benchfs_core.types import MAX_FILE_BYTES, ChunkIndex

Settle = Callable[[int, int], Awaitable[None]]
"""Has what others know was written between two file offsets written here; called without any lock."""

_UNIT_BYTES = 4096
"""What holes begin at a multiple of, as filesystems commonly allocate; a file in one piece would show the same."""

_CHUNKS_IN_ONE_GO = 256


@dataclass(frozen=True, slots=True)
class _Answer:
    """What lseek says, and in which range nothing may be unknown for that to be so; ``found`` None: nothing."""

    found: int | None
    start: int
    end: int


class FileHoles:
    """Holes of active inodes."""

    def __init__(self, parts: FileParts) -> None:
        self._parts = parts

    async def seek(self, node: ActiveInode, offset: int, *, data: bool, settle: Settle | None) -> int:
        """The first offset from ``offset`` on that lies in data, or in a hole; the end of the file counts as a hole.

        What is allocated and not written is a hole.

        Raises:
            BeyondEnd: the file ends before, or has no more data.
        """
        settled = (0, 0)
        while True:
            answer = await self._look(node, offset, data=data)
            certain = settled[0] <= answer.start and answer.end <= settled[1]
            if settle is None or certain or answer.start >= answer.end:
                break
            await settle(answer.start, answer.end)
            settled = (answer.start, answer.end)
        if answer.found is None:
            raise BeyondEnd(f"inode {node.inode}: nothing from offset {offset} on")
        return answer.found

    async def _look(self, node: ActiveInode, offset: int, *, data: bool) -> _Answer:
        await node.data_lock.acquire_shared()
        try:
            if offset < 0 or offset >= node.size:
                return _Answer(None, max(offset, 0), MAX_FILE_BYTES)
            if data:
                found = await self._data_from(node, offset)
                return _Answer(found, offset, MAX_FILE_BYTES if found is None else found)
            hole = await self._hole_from(node, offset)
            return _Answer(hole, hole, MAX_FILE_BYTES)
        finally:
            node.data_lock.release_shared()

    async def _data_from(self, node: ActiveInode, offset: int) -> int | None:
        content = self._parts.inline.find(node)
        if content is not None:
            return offset if offset < len(content) else None
        end, at = self._parts.live_end(node), offset
        while at < end and (known := self._parts.known_chunks(node, at, end)):
            first = known[0] * self._parts.chunk_size
            found = await self._parts.store.find_data(node.inode, known, max(0, at - first))
            if found is not None:
                place = found[0] * self._parts.chunk_size + found[1]
                return place if place < end else None
            at = (known[-1] + 1) * self._parts.chunk_size
        return None

    async def _hole_from(self, node: ActiveInode, offset: int) -> int:
        content = self._parts.inline.find(node)
        if content is not None:
            return min(node.size, max(offset, _rounded(len(content))))
        end, at = self._parts.live_end(node), offset
        while at < end:
            found = await self._next_hole(node, at, end)
            if found == (at := min(_rounded(found), end)) or found == offset:
                return found
        return end

    async def _next_hole(self, node: ActiveInode, offset: int, end: int) -> int:
        size = self._parts.chunk_size
        first, inside = divmod(offset, size)
        below = -(-end // size)
        for start in range(first, below, _CHUNKS_IN_ONE_GO):
            chunks = [ChunkIndex(index) for index in range(start, min(start + _CHUNKS_IN_ONE_GO, below))]
            found = await self._parts.store.find_hole(node.inode, chunks, inside if start == first else 0)
            if found is not None:
                return min(end, found[0] * size + found[1])
        return end


def _rounded(offset: int) -> int:
    return -(-offset // _UNIT_BYTES) * _UNIT_BYTES
