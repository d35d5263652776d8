"""What an open volume can say of itself, for people and programs that ask.

Imports ``volume``. Plain values only (JSON's), bounded in size whatever the volume holds; nothing here waits.
"""

from __future__ import annotations

import datetime
from typing import TypeAlias

from benchfs_core.volume import Volume

Json: TypeAlias = bool | int | str | list["Json"] | dict[str, "Json"] | None

MAX_LISTED = 20
"""Most files with lost data that are named; the rest are counted."""


def status_of(volume: Volume) -> dict[str, Json]:
    """The state of ``volume``: what it is, whether it can be changed, if not why and since when, what is under way."""
    active = list(volume.inodes.active.values())
    lost = [node for node in active if node.lost.remains(node.size)]
    return {
        "uuid": volume.superblock.uuid,
        "chunk_size": volume.superblock.chunk_size,
        "store": volume.store.value,
        "store_note": volume.store_note,
        "sync": volume.options.sync.value,
        "acl": volume.options.acl,
        "read_only": volume.options.read_only,
        "failure": _failure(volume),
        "recovered": volume.recovered.unclean,
        "open_handles": volume.filesystem.open_handles,
        "files_in_memory": len(active),
        "dirty_files": sum(node.dirty for node in active),
        "files_with_lost_data": len(lost),
        "lost_data": [node.lost.reason for node in lost[:MAX_LISTED]],
        "wal_bytes": volume.database.wal_bytes,
        "io": {**volume.count()},
    }


def _failure(volume: Volume) -> Json:
    """Since when the mount has been read-only by itself, and why; None if it has not."""
    if volume.database.failure is None:
        return None
    since = datetime.datetime.fromtimestamp(volume.database.failed_at_s, datetime.UTC)
    return f"{since.isoformat(timespec='seconds')}: {volume.database.failure}"
