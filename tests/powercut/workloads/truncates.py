"""Files that are cut to any size and made longer again, by writing and by truncate, with holes."""

from __future__ import annotations

from collections.abc import Iterator

from tests.powercut.blocks import BLOCK
from tests.powercut.record import Operation
from tests.powercut.workloads.base import FileWorkload

FILES = 3


class Truncates(FileWorkload):
    """See the module."""

    def operations(self) -> Iterator[Operation]:
        nodes: dict[str, int] = {}
        for number in range(FILES):
            path = f"cut-{number}"
            operation, nodes[path] = self.create(path)
            yield operation
        while True:
            path, node = self.random.choice(sorted(nodes.items()))
            blocks, kind = self.blocks[node], self.random.randrange(10)
            if kind < 5:
                first = self.random.randrange(min(blocks + 100, self.max_blocks))
                yield self.write(path, node, first, self.random.choice((1, 8, 40, 140)))
            elif kind < 7:
                yield self.truncate(path, node, self.random.randrange(blocks * BLOCK + 1))
            elif kind < 8:
                yield self.truncate(
                    path, node, (blocks + self.random.randrange(200)) * BLOCK % (self.max_blocks * BLOCK)
                )
            else:
                yield "fsync", path, node
