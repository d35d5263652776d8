"""Files replaced as programs do it: write a new one, fsync it, rename it over the old one.

With the fsync before the rename, neither the old version nor the new one may be lost, whenever the power is cut; so the
names that were made durable once are there for ever, with the whole content of one version.
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.powercut.record import Operation
from tests.powercut.workloads.base import FileWorkload

FILES = 4


class Renames(FileWorkload):
    """See the module."""

    def operations(self) -> Iterator[Operation]:
        while True:
            path = f"settings-{self.random.randrange(FILES)}"
            operation, node = self.create(f"{path}.new")
            yield operation
            yield from self.whole_file(f"{path}.new", node)
            yield "fsync", f"{path}.new", node
            yield "rename", f"{path}.new", path
            if self.sometimes(0.5):
                yield "fsyncdir", ""
