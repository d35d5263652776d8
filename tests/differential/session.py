"""A mount, a native tree, and the machine between them; and what is looked at when they are done with.

Imports this package and ``tests.support.mounting``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from benchfs_core.types import SyncMode
from tests.differential.client import Worker, worker
from tests.differential.machine import DifferentialMachine, machine_for
from tests.differential.protocol import CHUNK_BYTES
from tests.support.mounting import assert_same, manifest, volumes_in


@contextlib.contextmanager
def session(place: Path, sync: SyncMode, *, acl: bool) -> Iterator[tuple[type[DifferentialMachine], Worker]]:
    """The machine and its worker. At the end what was kept must be the same after a remount, and fsck finds nothing."""
    with volumes_in(place) as volumes:
        volume = volumes.make(f"sync={sync.value}", options=f"chunk_size={CHUNK_BYTES}{',acl' if acl else ''}")
        with worker(place, volume.directory) as process:
            yield machine_for(process, through=sync is SyncMode.WRITE, with_acl=acl), process
        before = manifest(volume.directory)
        volume.remount()
        assert_same(manifest(volume.directory), before)
