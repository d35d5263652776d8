"""Files with several names, written and removed by any of them."""

from __future__ import annotations

from collections.abc import Iterator

from tests.powercut.record import Operation
from tests.powercut.workloads.base import FileWorkload

NAMES = 8


class Links(FileWorkload):
    """See the module."""

    def operations(self) -> Iterator[Operation]:
        nodes: dict[str, int] = {}
        while True:
            path, kind = f"name-{self.random.randrange(NAMES)}", self.random.randrange(10)
            node = nodes.get(path)
            if node is None:
                other = self.random.choice(sorted(nodes)) if nodes and kind < 7 else None
                if other is None:
                    operation, nodes[path] = self.create(path)
                    yield operation
                    yield from self.whole_file(path, nodes[path])
                else:
                    nodes[path] = nodes[other]
                    yield "link", other, path
            elif kind < 3:
                del nodes[path]
                yield "unlink", path
            elif kind < 6:
                yield self.write(path, node, self.random.randrange(self.max_blocks // 4), 8)
            elif kind < 8:
                yield "fsync", path, node
            else:
                yield "fsyncdir", ""
