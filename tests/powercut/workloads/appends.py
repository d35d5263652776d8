"""Files that grow at their end, flushed now and then, and begun anew when they are long."""

from __future__ import annotations

from collections.abc import Iterator

from tests.powercut.record import Operation
from tests.powercut.workloads.base import FileWorkload

FILES = 3


class Appends(FileWorkload):
    """See the module."""

    def operations(self) -> Iterator[Operation]:
        nodes: dict[str, int] = {}
        while True:
            path = f"log-{self.random.randrange(FILES)}"
            if path in nodes and self.blocks[nodes[path]] > self.max_blocks:
                yield "unlink", path
                del nodes[path]
            if path not in nodes:
                operation, nodes[path] = self.create(path)
                yield operation
            node = nodes[path]
            yield self.write(path, node, self.blocks[node], self.random.choice((1, 1, 3, 8, 64, 130)))
            if self.sometimes(0.3):
                yield "fsync", path, node
