"""A model filesystem of dicts: what POSIX says of names, link counts, contents, sizes and xattrs; the tests' oracle.

Imports only the errors and types it speaks of. Directories, files and links are numbered by whoever makes them, so that
the numbers are those of the filesystem under test. Nothing here knows of chunks, handles, caches or disks.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from benchfs_core import errors
from benchfs_core.types import ROOT_INODE

IMMUTABLE, APPEND, INHERITED = 0x10, 0x20, 0xC0
DIRECTORY, FILE, SYMLINK = "directory", "file", "symlink"
Snapshot = dict[int, tuple[Any, ...]]
"""What is to be seen of every inode that has a name: kind, links, mode, target, flags, xattrs, entries."""


@dataclass
class Node:
    """One inode. ``data`` is a file's content, holes as zeros."""

    number: int
    kind: str
    mode: int
    links: int = 1
    target: bytes = b""
    parent: int = 0
    entries: dict[bytes, int] = field(default_factory=dict)
    xattrs: dict[bytes, bytes] = field(default_factory=dict)
    data: bytearray = field(default_factory=bytearray)
    flags: int = 0
    linkable: bool = False
    """Whether it was made without a name, and may still get one."""

    def seen(self) -> tuple[Any, ...]:
        entries, xattrs = tuple(sorted(self.entries.items())), tuple(sorted(self.xattrs.items()))
        return self.kind, self.links, self.mode, self.target, self.flags, xattrs, entries

    def unprotected(self) -> None:
        if self.flags & (IMMUTABLE | APPEND):
            raise errors.NotPermitted

    def mutable(self) -> None:
        if self.flags & IMMUTABLE:
            raise errors.NotPermitted

    def write(self, offset: int, data: bytes) -> None:
        if data:
            self.data.extend(bytes(max(0, offset - len(self.data))))
            self.data[offset : offset + len(data)] = data

    def truncate(self, size: int) -> None:
        del self.data[size:]
        self.data.extend(bytes(size - len(self.data)))


class Model:
    """All inodes, those without a name as well; errors are those that ``FileSystem`` documents."""

    def __init__(self) -> None:
        self.nodes: dict[int, Node] = {ROOT_INODE: Node(ROOT_INODE, DIRECTORY, 0o755, 2, parent=ROOT_INODE)}

    def snapshot(self) -> Snapshot:
        return {number: node.seen() for number, node in self.nodes.items() if node.links}

    def lookup(self, parent: int, name: bytes) -> Node:
        if self._directory(parent).entries.get(name) is None:
            raise errors.NoSuchEntry
        return self.nodes[self.nodes[parent].entries[name]]

    def make(self, parent: int, name: bytes, kind: str, mode: int, number: int, target: bytes = b"") -> None:
        self._free(parent, name)
        links, flags = 2 if kind == DIRECTORY else 1, self.nodes[parent].flags & INHERITED
        node = Node(number, kind, mode, links, target, parent, flags=flags)
        assert number not in self.nodes, "an inode number was used twice"
        self.nodes[number] = node
        self._enter(parent, name, node)

    def make_nameless(self, number: int, mode: int, linkable: bool) -> None:
        assert number not in self.nodes, "an inode number was used twice"
        self.nodes[ROOT_INODE].mutable()
        flags = self.nodes[ROOT_INODE].flags & INHERITED
        self.nodes[number] = Node(number, FILE, mode, 0, flags=flags, linkable=linkable)

    def link(self, number: int, parent: int, name: bytes) -> None:
        node = self.nodes[number]
        if node.kind == DIRECTORY:
            raise errors.NotPermitted
        if not (node.links or node.linkable):
            raise errors.NoSuchEntry
        self._free(parent, name)
        node.unprotected()
        node.links, node.linkable = node.links + 1, False
        self._enter(parent, name, node)

    def unlink(self, parent: int, name: bytes) -> None:
        node = self._removable(parent, name)
        if node.kind == DIRECTORY:
            raise errors.IsADirectory
        self._leave(parent, name).links -= 1

    def rmdir(self, parent: int, name: bytes) -> None:
        node = self._removable(parent, name)
        if node.kind != DIRECTORY:
            raise errors.NotADirectory
        if node.entries:
            raise errors.DirectoryNotEmpty
        self._leave(parent, name).links = 0

    def rename(self, parent: int, name: bytes, new_parent: int, new_name: bytes, overwrite: bool) -> None:
        moved = self.lookup(parent, name)
        target = self.nodes.get(self._directory(new_parent).entries.get(new_name, 0))
        if target is not None and not overwrite:
            raise errors.EntryExists
        self._not_below(new_parent, moved)
        if target is moved:
            return
        self._removable(parent, name)
        if target is not None:
            self._removable(new_parent, new_name)
        if target is None:
            self._free(new_parent, new_name)
        elif target.kind == DIRECTORY and moved.kind != DIRECTORY:
            raise errors.IsADirectory
        elif target.kind == DIRECTORY:
            self.rmdir(new_parent, new_name)
        elif moved.kind == DIRECTORY:
            raise errors.NotADirectory
        else:
            self.unlink(new_parent, new_name)
        self._enter(new_parent, new_name, self._leave(parent, name))

    def exchange(self, parent: int, name: bytes, new_parent: int, new_name: bytes) -> None:
        one, other = self.lookup(parent, name), self.lookup(new_parent, new_name)
        if one is other:
            return
        self._removable(parent, name)
        self._removable(new_parent, new_name)
        self._not_below(new_parent, one)
        self._not_below(parent, other)
        self._leave(parent, name)
        self._leave(new_parent, new_name)
        self._enter(parent, name, other)
        self._enter(new_parent, new_name, one)

    def _directory(self, number: int) -> Node:
        if self.nodes[number].kind != DIRECTORY:
            raise errors.NotADirectory
        return self.nodes[number]

    def _free(self, parent: int, name: bytes) -> None:
        directory = self._directory(parent)
        if not directory.links:
            raise errors.NoSuchEntry
        if name in directory.entries:
            raise errors.EntryExists
        directory.mutable()

    def _removable(self, parent: int, name: bytes) -> Node:
        node = self.lookup(parent, name)
        self.nodes[parent].unprotected()
        node.unprotected()
        return node

    def set_flags(self, number: int, flags: int) -> None:
        node = self.nodes[number]
        if node.flags & flags & IMMUTABLE and node.flags != flags:
            raise errors.NotPermitted
        node.flags = flags

    def chmod(self, number: int, mode: int) -> None:
        self.nodes[number].unprotected()
        self.nodes[number].mode = mode

    def _enter(self, parent: int, name: bytes, node: Node) -> None:
        self.nodes[parent].entries[name] = node.number
        self.nodes[parent].links += node.kind == DIRECTORY
        node.parent = parent

    def _leave(self, parent: int, name: bytes) -> Node:
        node = self.nodes[self.nodes[parent].entries.pop(name)]
        self.nodes[parent].links -= node.kind == DIRECTORY
        return node

    def _not_below(self, directory: int, moved: Node) -> None:
        while moved.kind == DIRECTORY and directory != ROOT_INODE:
            if directory == moved.number:
                raise errors.InvalidArgument
            directory = self.nodes[directory].parent
