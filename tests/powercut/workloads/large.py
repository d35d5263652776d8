"""Files written in large pieces, past the mount's page cache or not, in chunks as large as they are by default.

Such pieces reach the chunks in one request each, and past the page cache below where that can be had.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from mmap import mmap
from typing import ClassVar

from benchfs_core.layout import DEFAULT_CHUNK_BYTES
from tests.powercut.blocks import BLOCK, run_of_blocks
from tests.powercut.record import Operation
from tests.powercut.workloads.base import FileWorkload

NAMES = ("direct-0", "direct-1", "cached")
MAX_BLOCKS = 12_000
"""A bit more than a chunk."""

PAGE = 8
"""Blocks that are a page, as direct I/O has it."""


class Large(FileWorkload):
    """See the module."""

    chunk_size: ClassVar[int] = DEFAULT_CHUNK_BYTES

    def operations(self) -> Iterator[Operation]:
        nodes: dict[str, int] = {}
        for path in NAMES:
            operation, nodes[path] = self.create(path)
            yield operation
        while True:
            time.sleep(0.2)  # the judge looks at every block by itself
            path, node = self.random.choice(sorted(nodes.items()))
            for _ in range(self.random.randrange(1, 4)):
                count = self.random.choice((PAGE, 1024, 2048, 2048, 3000, 4096))
                end = min(self.blocks[node], MAX_BLOCKS - count)
                first = end if self.sometimes(0.5) else self.random.randrange(end + 1)
                yield self.write(path, node, first - first % PAGE, count)
            if self.sometimes(0.2):
                yield self.truncate(path, node, self.random.randrange(self.blocks[node] // PAGE + 1) * 4096)
            if self.sometimes(0.6):
                yield "fsync", path, node

    def _do(self, operation: Operation) -> int:
        match operation:
            case ("write", str(path), int(node), int(first), int(count), int(generation)):
                with mmap(-1, count * BLOCK) as pages:  # else the kernel would cut the write within a block
                    pages.write(run_of_blocks(node, first, count, generation))
                    if os.pwrite(self._handle(path, node), pages, first * BLOCK) != len(pages):
                        raise OSError(f"{path}: short write")
                return 0
        return super()._do(operation)

    def _keep(self, node: int, handle: int) -> None:
        path = os.readlink(f"/proc/self/fd/{handle}")
        if "direct" in os.path.basename(path):
            os.close(handle)
            handle = os.open(path, os.O_WRONLY | os.O_DIRECT)
        super()._keep(node, handle)
