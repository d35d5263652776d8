"""What is open: the table from handles to files and directories.

Imports ``types``, ``errors``, ``inodes``. Invariant: a handle is given once, and means one file or one directory until
it is dropped.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import NamedTuple

from benchfs_core.errors import BadHandle
from benchfs_core.flags import APPEND
from benchfs_core.inodes import ActiveInode
from benchfs_core.types import HandleId, InodeId


class OpenDirectory(NamedTuple):
    """What the handle of a directory stands for."""

    inode: InodeId
    noatime: bool
    """Whether listing it moves no atime."""


@dataclass(slots=True)
class OpenFile:
    """What the handle of a file stands for."""

    node: ActiveInode
    noatime: bool
    """Whether reading through it moves no atime."""
    writes: bool
    """Whether it may be written through."""
    append_only: bool
    """Whether it was opened for writing of an append-only file: nothing but appending may be done through it."""
    failures_told: int
    """``node.lost.failures`` when the handle was opened or its last fsync ended."""


class OpenFiles:
    """The handles of one mount."""

    def __init__(self) -> None:
        self._numbers = (HandleId(number) for number in itertools.count(1))
        self._files: dict[HandleId, OpenFile] = {}
        self._directories: dict[HandleId, OpenDirectory] = {}

    def __len__(self) -> int:
        return len(self._files) + len(self._directories)

    def add_file(self, node: ActiveInode, *, noatime: bool, writes: bool) -> HandleId:
        """A new handle of a file, counted."""
        handle = next(self._numbers)
        append_only = writes and bool(node.flags & APPEND)
        self._files[handle] = OpenFile(node, noatime, writes, append_only, node.lost.failures)
        node.open_count += 1
        node.writer_count += writes
        return handle

    def add_directory(self, inode: InodeId, *, noatime: bool) -> HandleId:
        """A new handle of a directory."""
        handle = next(self._numbers)
        self._directories[handle] = OpenDirectory(inode, noatime)
        return handle

    def file(self, handle: HandleId) -> OpenFile:
        """What the handle of a file stands for. BadHandle."""
        file = self._files.get(handle)
        if file is None:
            raise BadHandle(f"file handle {handle}")
        return file

    def directory(self, handle: HandleId) -> OpenDirectory:
        """What the handle of a directory stands for. BadHandle."""
        directory = self._directories.get(handle)
        if directory is None:
            raise BadHandle(f"directory handle {handle}")
        return directory

    def drop_file(self, handle: HandleId) -> ActiveInode:
        """Close a file; return it. BadHandle."""
        file = self.file(handle)
        del self._files[handle]
        file.node.open_count -= 1
        file.node.writer_count -= file.writes
        return file.node

    def drop_directory(self, handle: HandleId) -> None:
        """Close a directory. BadHandle."""
        self.directory(handle)
        del self._directories[handle]
