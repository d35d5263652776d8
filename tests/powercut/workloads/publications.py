"""Files published whole: made without a name (O_TMPFILE), written, fsynced, and then given one (linkat).

Until then nobody sees them, and a crash leaves nothing of them. What has its name durably has its whole content.
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.powercut.record import Operation
from tests.powercut.workloads.base import FileWorkload

FILES = 6


class Publications(FileWorkload):
    """See the module."""

    def operations(self) -> Iterator[Operation]:
        there: set[str] = set()
        mode = 0o640
        while True:
            path = f"page-{self.random.randrange(FILES)}"
            operation, node = self.nameless(mode)
            yield operation
            yield from self.whole_file("", node)
            if self.sometimes(0.8):
                yield "fsync", "", node
            if self.sometimes(0.1):
                continue  # given up
            temporary = f"{path}.new" if path in there else path
            yield "publish", "", temporary, node, mode
            there.add(path)
            if self.sometimes(0.3):
                yield self.write(temporary, node, self.blocks[node], 1)
            if self.sometimes(0.3):
                yield "fsync", temporary, node
            if temporary != path:
                yield "rename", temporary, path
            if self.sometimes(0.4):
                yield "fsyncdir", ""
            if self.sometimes(0.2):
                there.remove(path)
                yield "unlink", path
