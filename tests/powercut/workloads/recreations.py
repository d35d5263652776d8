"""Names that are removed and made again: nothing of the file before may show in the one after."""

from __future__ import annotations

from collections.abc import Iterator

from tests.powercut.record import Operation
from tests.powercut.workloads.base import FileWorkload

FILES = 4


class Recreations(FileWorkload):
    """See the module."""

    def operations(self) -> Iterator[Operation]:
        there: set[str] = set()
        while True:
            path = f"lock-{self.random.randrange(FILES)}"
            if path in there:
                there.remove(path)
                yield "unlink", path
                if self.sometimes(0.4):
                    yield "fsyncdir", ""
            if self.sometimes(0.8):
                operation, node = self.create(path)
                there.add(path)
                yield operation
                yield from self.whole_file(path, node)
                if self.sometimes(0.5):
                    yield "fsync", path, node
