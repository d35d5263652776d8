"""Files that keep their length and are overwritten in place."""

from __future__ import annotations

from collections.abc import Iterator

from tests.powercut.record import Operation
from tests.powercut.workloads.base import FileWorkload

FILES = 3
BLOCKS = 600


class Overwrites(FileWorkload):
    """See the module."""

    def operations(self) -> Iterator[Operation]:
        nodes: dict[str, int] = {}
        for number in range(FILES):
            path = f"table-{number}"
            operation, nodes[path] = self.create(path)
            yield operation
            yield self.write(path, nodes[path], 0, BLOCKS)
            yield "fsync", path, nodes[path]
        while True:
            path, node = self.random.choice(sorted(nodes.items()))
            for _ in range(self.random.randrange(1, 8)):
                count = self.random.choice((1, 8, 8, 16, 150))
                yield self.write(path, node, self.random.randrange(BLOCKS - count), count)
            if self.sometimes(0.7):
                yield "fsync", path, node
