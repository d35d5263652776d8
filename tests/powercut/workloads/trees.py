"""Directories made, filled, moved with all that is in them, emptied and removed."""

from __future__ import annotations

from collections.abc import Iterator

from tests.powercut.record import Operation
from tests.powercut.workloads.base import FileWorkload

TREES = 3


class Trees(FileWorkload):
    """See the module."""

    def operations(self) -> Iterator[Operation]:
        filled: dict[str, list[str]] = {}
        while True:
            top = f"tree-{self.random.randrange(TREES)}"
            if top not in filled:
                filled[top] = []
                yield "mkdir", top, self.node(), 0o755
                yield "mkdir", f"{top}/below", self.node(), 0o700
                for number in range(self.random.randrange(1, 5)):
                    path = f"{top}/below/{number}"
                    operation, node = self.create(path)
                    filled[top].append(path)
                    yield operation
                    yield from self.whole_file(path, node)
                    if self.sometimes(0.5):
                        yield "fsync", path, node
            elif self.sometimes(0.5):
                for path in filled.pop(top):
                    yield "unlink", path
                yield "rmdir", f"{top}/below"
                yield "rmdir", top
            else:
                new = f"moved-{self.random.randrange(TREES)}"
                if new not in filled:
                    filled[new] = [new + path[len(top) :] for path in filled.pop(top)]
                    yield "rename", top, new
                    yield from self._remove(filled, new)
            if self.sometimes(0.5):
                yield "fsyncdir", self.random.choice(["", *sorted(filled)])

    def _remove(self, filled: dict[str, list[str]], top: str) -> Iterator[Operation]:
        if self.sometimes(0.5):
            yield "fsyncdir", top
        for path in filled.pop(top):
            yield "unlink", path
        yield "rmdir", f"{top}/below"
        yield "rmdir", top
