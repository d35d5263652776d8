"""``benchfs status DIR``: asks the daemon of a mount how it is, and tells it in a few lines or in JSON.

Imports this package's ``mounts`` and ``control``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchfs_core.errors import BenchFSError
from benchfs_fuse import mounts
from benchfs_fuse.control import ControlError, ask

STATUS_FINE, STATUS_WRONG = 0, 4
"""Exit codes: all is well; the mount has turned read-only, or data was lost."""


_TOLD = {
    *("pid", "since", "failure", "read_only", "store", "store_note", "sync", "acl", "chunk_size", "open_handles"),
    *("dirty_files", "wal_bytes", "files_with_lost_data", "lost_data"),
}
"""What the lines below show."""


class StatusError(BenchFSError):
    """The mount could not be asked."""


@dataclass(frozen=True, slots=True)
class Asked:
    """The daemon of a mount, to be asked."""

    mount_point: str
    source: str
    log: str
    pid: int
    socket: Path

    def ask(self, command: str, **more: object) -> dict[str, Any]:
        """Its answer. StatusError: it does not give one."""
        try:
            return ask(self.socket, command, more)
        except ControlError as error:
            raise StatusError(
                f"{self.mount_point}: its daemon, process {self.pid}, does not answer: {error}"
            ) from error


def find_asked(mount_point: Path) -> Asked:
    """The daemon of a mount.

    Raises:
        StatusError: no BenchFS is mounted there, or its daemon is gone.
    """
    entry = mounts.find_mount(mount_point)
    if entry is None or entry.type != mounts.FILESYSTEM_TYPE:
        raise StatusError(f"{mount_point}: no BenchFS is mounted there")
    found = mounts.find_daemon(entry)
    if found is None:
        raise StatusError(f"{mount_point}: its daemon is gone or not known: unmount it with benchfs umount")
    registration, daemon = found
    socket = mounts.control_socket(registration)
    return Asked(daemon.mount_point, daemon.source, daemon.log, daemon.pid, socket)


def ask_status(mount_point: Path) -> dict[str, Any]:
    """What the daemon of a mount says of itself.

    Raises:
        StatusError: no BenchFS is mounted there, its daemon is gone, or it does not answer.
    """
    daemon = find_asked(mount_point)
    status = daemon.ask("status")
    missing = _TOLD - status.keys()
    if missing or not isinstance(status["lost_data"], list):
        raise StatusError(f"{mount_point}: its daemon is of another release, or none")
    return {"mount_point": daemon.mount_point, "source": daemon.source, "log": daemon.log, **status}


def is_fine(status: dict[str, Any]) -> bool:
    """Whether nothing went wrong."""
    return status["failure"] is None and not status["files_with_lost_data"]


def describe(status: dict[str, Any], *, as_json: bool) -> str:
    """The status as text, without a newline at its end."""
    if as_json:
        return json.dumps(status, indent=2)
    state = "read-only, as asked for" if status["read_only"] else "writable"
    if status["failure"] is not None:
        state = f"read-only since {status['failure']}"
    store = f"{status['store']} ({status['store_note']})" if status["store_note"] else status["store"]
    lines = [
        f"{status['source']} on {status['mount_point']}, process {status['pid']}, since {status['since']}",
        f"state     {state}",
        f"store     {store}, sync={status['sync']}{', acl' if status['acl'] else ''}, "
        f"chunks of {status['chunk_size']} bytes",
        f"files     {status['open_handles']} handles open, {status['dirty_files']} dirty; "
        f"{status['wal_bytes']} bytes of metadata to be checkpointed",
        f"log       {status['log']}",
    ]
    if status["files_with_lost_data"]:
        lines.append(f"LOST DATA in {status['files_with_lost_data']} files; write them again, or restore them:")
        lines += [f"  {one}" for one in status["lost_data"]]
    return "\n".join(mounts.printable(line) for line in lines)
