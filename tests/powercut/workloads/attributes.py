"""Modes, flags and extended attributes of files and directories."""

from __future__ import annotations

from collections.abc import Iterator

from tests.conformance.calls import NOATIME, NODUMP
from tests.powercut.record import Operation
from tests.powercut.workloads.base import FileWorkload

FILES = 4


class Attributes(FileWorkload):
    """See the module."""

    def operations(self) -> Iterator[Operation]:
        nodes: dict[str, int] = {}
        for number in range(FILES):
            path = f"file-{number}"
            operation, nodes[path] = self.create(path)
            yield operation
        yield "mkdir", "directory", self.node(), 0o755
        yield "fsyncdir", ""
        for step in range(1 << 60):
            path, kind = self.random.choice([*sorted(nodes), "directory"]), self.random.randrange(10)
            if kind < 1:
                yield "setflags", path, self.random.choice((0, NODUMP, NOATIME, NODUMP | NOATIME))
            elif kind < 4:
                yield "chmod", path, self.random.choice((0o600, 0o640, 0o644, 0o700, 0o755, 0o777))
            elif kind < 7:
                yield "setxattr", path, f"step {step} " + "x" * self.random.choice((0, 10, 900))
            elif path not in nodes:
                yield "fsyncdir", path
            elif kind < 8:
                yield self.write(path, nodes[path], self.random.randrange(50), 8)
            else:
                yield "fsync", path, nodes[path]
