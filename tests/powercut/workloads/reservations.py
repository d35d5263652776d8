"""Files with space beyond their end: allocated, partly written, cut off to any size and allocated again.

Often the names are flushed, and with them what was cut, while the data is not.
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.powercut.blocks import BLOCK
from tests.powercut.record import Operation
from tests.powercut.workloads.base import FileWorkload

FILES = 3


class Reservations(FileWorkload):
    """See the module."""

    def operations(self) -> Iterator[Operation]:
        nodes: dict[str, int] = {}
        for number in range(FILES):
            path = f"reserved-{number}"
            operation, nodes[path] = self.create(path)
            yield operation
        while True:
            path, node = self.random.choice(sorted(nodes.items()))
            blocks, kind = self.blocks[node], self.random.randrange(15)
            if kind < 4:
                # From where the space begins, which is not where the file ends after it was cut.
                first = min(blocks - self.random.randrange(min(blocks, 20) + 1), self.max_blocks)
                yield self.write(path, node, first, self.random.choice((1, 8, 40, 140)))
            elif kind < 8:
                first = self.random.randrange(blocks + 1)
                yield "reserve", path, node, first, self.random.choice((1, 8, 40, 400))
            elif kind < 11:
                yield self.truncate(path, node, self.random.randrange(blocks * BLOCK + 1))
            elif kind < 14:
                yield "fsyncdir", ""
            else:
                yield "fsync", path, node
