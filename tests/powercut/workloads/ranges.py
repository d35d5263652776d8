"""Files whose space is allocated beforehand, and parts of which are punched out, zeroed, and copied to and fro."""

from __future__ import annotations

from collections.abc import Iterator

from tests.powercut.blocks import BLOCK
from tests.powercut.record import Operation
from tests.powercut.workloads.base import FileWorkload

FILES = 3
COUNTS = (1, 3, 8, 40, 140)


class Ranges(FileWorkload):
    """See the module."""

    def operations(self) -> Iterator[Operation]:
        nodes: dict[str, int] = {}
        for number in range(FILES):
            path = f"part-{number}"
            operation, nodes[path] = self.create(path)
            yield operation
            yield self.write(path, nodes[path], 0, 40)
        while True:
            path, node = self.random.choice(sorted(nodes.items()))
            blocks, kind, count = self.blocks[node], self.random.randrange(20), self.random.choice(COUNTS)
            if kind < 5:
                yield self.write(path, node, self.random.randrange(min(blocks + 50, self.max_blocks)), count)
            elif kind < 8:
                yield "punch", path, node, self.random.randrange(blocks + 1), count
            elif kind < 10:
                first = self.random.randrange(min(blocks + 50, self.max_blocks))
                self.blocks[node] = max(blocks, first + count)
                yield "zero", path, node, first, count
            elif kind < 11:
                size = self.random.randrange(1, self.max_blocks) * BLOCK
                self.blocks[node] = max(blocks, size // BLOCK)
                yield "allocate", path, node, size
            elif kind < 15:
                yield from self._copied(nodes, path, node, count)
            elif kind < 16:
                yield self.truncate(path, node, self.random.randrange(1, blocks + 1) * BLOCK)
            else:
                yield "fsync", path, node

    def _copied(self, nodes: dict[str, int], path: str, node: int, count: int) -> Iterator[Operation]:
        other, source = self.random.choice(sorted(nodes.items()))
        if source == node or self.blocks[source] < count:
            return
        first = self.random.randrange(self.blocks[source] - count + 1)
        to = self.random.choice((first, self.random.randrange(min(self.blocks[node] + 50, self.max_blocks))))
        self.blocks[node] = max(self.blocks[node], to + count)
        yield self.copy(path, node, other, source, first, count, to)
