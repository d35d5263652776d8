"""POSIX access control lists: what they mean, as values; acl(5) and POSIX.1e draft 17, section 23.

Pure: imports ``errors``, struct and dataclasses. An ACL is kept in the form in which it travels as an xattr
(linux/posix_acl_xattr.h). Invariant: a value of ``Acl`` is a valid one, its entries in the order of ``Tag``.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass, replace

from benchfs_core.errors import InvalidArgument

ACCESS = b"system.posix_acl_access"
"""Who may do what with a file or directory."""

DEFAULT = b"system.posix_acl_default"
"""What the children of a directory start with."""

PERMISSION_BITS = 0o777

_VERSION = 2
_HEADER = struct.Struct("<I")
_ENTRY = struct.Struct("<HHI")
_NO_ID = 0xFFFF_FFFF


class Tag(enum.IntEnum):
    """Whom an entry is for."""

    OWNER = 0x01
    USER = 0x02
    """A user by number."""
    GROUP = 0x04
    """The file's group."""
    NAMED_GROUP = 0x08
    """A group by number."""
    MASK = 0x10
    """The most that USER, GROUP and NAMED_GROUP may get; there is one as soon as a user or group is named."""
    OTHERS = 0x20


_SHIFT = {Tag.OWNER: 6, Tag.MASK: 3, Tag.GROUP: 3, Tag.OTHERS: 0}
"""Where in a mode the permissions of an entry stand; of MASK and GROUP, MASK if there is one."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One line: ``permissions`` as in a mode (r 4, w 2, x 1), ``id`` of the user or group where it is named."""

    tag: Tag
    permissions: int
    id: int = _NO_ID


@dataclass(frozen=True, slots=True)
class Acl:
    """One access control list."""

    entries: tuple[Entry, ...]

    @property
    def mode(self) -> int:
        """The permission bits that say the same, or, with named users or groups, come nearest (acl(5))."""
        return sum(entry.permissions << _SHIFT[entry.tag] for entry in self._in_mode())

    @property
    def is_mode(self) -> bool:
        """Whether the permission bits say all of it."""
        return all(entry.tag in (Tag.OWNER, Tag.GROUP, Tag.OTHERS) for entry in self.entries)

    def with_mode(self, mode: int) -> Acl:
        """The list after chmod(2): the entries that a mode shows follow it."""
        shown = {entry.tag for entry in self._in_mode()}
        return Acl(
            tuple(
                replace(entry, permissions=mode >> _SHIFT[entry.tag] & 7) if entry.tag in shown else entry
                for entry in self.entries
            )
        )

    def to_xattr(self) -> bytes:
        """The value of the xattr."""
        return _HEADER.pack(_VERSION) + b"".join(_ENTRY.pack(e.tag, e.permissions, e.id) for e in self.entries)

    def _in_mode(self) -> list[Entry]:
        hidden = Tag.GROUP if any(entry.tag is Tag.MASK for entry in self.entries) else Tag.MASK
        return [entry for entry in self.entries if entry.tag in _SHIFT and entry.tag is not hidden]


def from_xattr(value: bytes) -> Acl | None:
    """The list in the value of an xattr; None for one without entries, which says that there is no list.

    Raises:
        InvalidArgument: malformed, entries missing, doubled or out of order (acl(5), VALID ACLs).
    """
    if len(value) < _HEADER.size or _HEADER.unpack_from(value)[0] != _VERSION:
        raise InvalidArgument("ACL of unknown version")
    if (len(value) - _HEADER.size) % _ENTRY.size:
        raise InvalidArgument(f"ACL of {len(value)} bytes")
    entries = []
    for tag, permissions, number in _ENTRY.iter_unpack(value[_HEADER.size :]):
        if tag not in Tag.__members__.values() or permissions & ~7:
            raise InvalidArgument(f"ACL entry with tag {tag:#x}, permissions {permissions:#o}")
        named = tag in (Tag.USER, Tag.NAMED_GROUP)
        if named and number == _NO_ID:
            raise InvalidArgument("ACL entry for a user or group without number")
        entries.append(Entry(Tag(tag), permissions, number if named else _NO_ID))
    _check(entries)
    return Acl(tuple(entries)) if entries else None


def inherited(default: Acl, mode: int) -> tuple[int, Acl | None]:
    """The permission bits and access list of something made with ``mode`` in a directory with a default list.

    The umask takes no part in it. No list is returned where the bits say all of it.
    """
    bits = mode & PERMISSION_BITS & default.mode
    return mode & ~PERMISSION_BITS | bits, None if default.is_mode else default.with_mode(bits)


def _check(entries: list[Entry]) -> None:
    tags = [entry.tag for entry in entries]
    if tags != sorted(tags):
        raise InvalidArgument("ACL entries out of order")
    for tag in (Tag.OWNER, Tag.GROUP, Tag.OTHERS):
        if entries and tags.count(tag) != 1:
            raise InvalidArgument(f"ACL with {tags.count(tag)} entries {tag.name}")
    if tags.count(Tag.MASK) > 1:
        raise InvalidArgument("ACL with more than one mask")
    if (Tag.USER in tags or Tag.NAMED_GROUP in tags) and Tag.MASK not in tags:
        raise InvalidArgument("ACL that names users or groups, without mask")
