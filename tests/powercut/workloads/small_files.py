"""Small files, which grow beyond what the metadata keeps of a file and are cut to nothing, or to little, again."""

from __future__ import annotations

from collections.abc import Iterator

from tests.powercut.blocks import BLOCK
from tests.powercut.record import Operation
from tests.powercut.workloads.base import FileWorkload

FILES = 8
LIMIT_BLOCKS = 32
"""16 KiB: files of that size and less are kept in the metadata, unless a mount is told otherwise."""


class SmallFiles(FileWorkload):
    """See the module."""

    def operations(self) -> Iterator[Operation]:
        nodes: dict[str, int] = {}
        while True:
            path = f"small-{self.random.randrange(FILES)}"
            if path not in nodes:
                operation, nodes[path] = self.create(path)
                yield operation
            node, kind = nodes[path], self.random.randrange(20)
            blocks = self.blocks[node]
            if kind < 8:
                first = self.random.randrange(min(blocks, LIMIT_BLOCKS) + 2)
                yield self.write(path, node, first, self.random.choice((1, 1, 2, 7, LIMIT_BLOCKS - 1, LIMIT_BLOCKS)))
            elif kind < 11:
                yield self.truncate(path, node, 0)
            elif kind < 13:
                yield self.truncate(path, node, self.random.randrange(blocks * BLOCK + 1))
            elif kind < 14:
                yield self.truncate(path, node, self.random.randrange(2 * LIMIT_BLOCKS) * BLOCK)
            elif kind < 19:
                yield "fsync", path, node
            else:
                yield "unlink", path
                del nodes[path]
