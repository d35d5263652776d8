"""What the machine draws from: users, modes, sizes, times, flags, names and places in the tree.

Imports this package's ``calls``, ``protocol``. Places are drawn as numbers and resolved against the tree as it is, so
that most calls meet something that exists, whatever the steps before did.
"""

from __future__ import annotations

import os
import stat
import struct
from dataclasses import dataclass

from hypothesis import strategies as st

from tests.differential.calls import KEEP_SIZE, NOW, OMIT, PUNCH_HOLE, ZERO_RANGE
from tests.differential.protocol import CHUNK_BYTES, User

SHARED_GROUP = 2000
ROOT = User(0, 0)
ALICE = User(1000, 1000, (SHARED_GROUP,))
BOB = User(65534, 65534, (SHARED_GROUP,))
USERS = st.sampled_from([ALICE, ROOT, BOB])

COMMON_NAMES = (b"a", b"b", b"c", b"d")
ODD_NAMES = (b"\xff\n", b"n" * 255, b"n" * 256)
ENDINGS = (b"/", b"/.", b"/..")
WORD_OF_TYPE = 0o170000
"""The bits of a mode that say the type (``S_IFMT``)."""

ODD_ONE_IN = 12
"""How often a place is an odd one, in any of several ways: most must be plain for steps to get anywhere."""


@dataclass(frozen=True, slots=True)
class Place:
    """A path: of something that exists, or of a name in a directory that exists. Smaller numbers are plainer."""

    pick: int
    name: int
    """Which name; -1: something that exists."""
    oddness: int
    """0: not odd."""

    def resolve(self, known: list[tuple[bytes, int]], wanted: int = 0) -> bytes:
        """The path, given paths and types of what there is (the first is the top); of type ``wanted``, mostly."""
        odd, way = self.oddness // ODD_ONE_IN, self.oddness % ODD_ONE_IN
        is_odd = way == ODD_ONE_IN - 1
        ending = ENDINGS[odd % 3] if is_odd and odd % 4 < 2 else b""
        if self.name < 0:
            below = known if is_odd else known[1:] or known
            if wanted and self.oddness % 4:
                below = [(path, kind) for path, kind in below if kind & WORD_OF_TYPE == wanted] or below
            return below[self.pick % len(below)][0] + ending
        parents = [path for path, kind in known if is_odd or stat.S_ISDIR(kind)]
        parent = parents[self.pick % len(parents)]
        names = ODD_NAMES if is_odd and odd % 4 == 2 else COMMON_NAMES
        return (b"" if parent == b"." else parent + b"/") + names[self.name % len(names)] + ending


_PICK = st.integers(0, 255)
_ODDNESS = st.integers(0, 16 * ODD_ONE_IN - 1)
EXISTING = st.builds(Place, _PICK, st.just(-1), _ODDNESS)
NEW = st.builds(Place, _PICK, st.integers(0, 11), _ODDNESS)
ANY = st.builds(Place, _PICK, st.integers(-4, 3).map(lambda name: max(name, -1)), _ODDNESS)

MODES = st.sampled_from(
    [0o644, 0o755, 0o777, 0o600, 0o000, 0o4755, 0o2755, 0o2745, 0o6777, 0o1777, 0o2777, 0o7777, 0o070, 0o007, 0o711]
)
UMASKS = st.sampled_from([0o022, 0o000, 0o077, 0o777, 0o027])
IDS = st.sampled_from([-1, 0, 1000, 65534, SHARED_GROUP])
SIZES = st.one_of(
    st.sampled_from([0, 1, 4096, CHUNK_BYTES, CHUNK_BYTES + 1, -1]),
    st.integers(0, 3 * CHUNK_BYTES),
)
OFFSETS = st.one_of(st.just(0), st.sampled_from([1, 4095, 4096, CHUNK_BYTES - 1, CHUNK_BYTES]), st.integers(0, 200_000))
LENGTHS = st.one_of(st.sampled_from([1, 0, 4096]), st.integers(0, 9000), st.just(CHUNK_BYTES + 10))
LONG_LENGTHS = st.one_of(LENGTHS, st.integers(0, 3 * CHUNK_BYTES))
ALLOCATIONS = st.sampled_from([0, KEEP_SIZE, PUNCH_HOLE | KEEP_SIZE, ZERO_RANGE, ZERO_RANGE | KEEP_SIZE, PUNCH_HOLE])
DATA = st.builds(lambda length, byte: bytes((byte,)) * length, LENGTHS, st.integers(1, 255))

_SECOND = 10**9
MOMENTS = st.one_of(
    st.sampled_from([NOW, OMIT, 0, -1, -(2**31) * _SECOND, 2**31 * _SECOND, 4_000_000_000 * _SECOND + 123_456_789]),
    st.integers(-(2**31 - 1) * _SECOND, 2**33 * _SECOND),
)
TIMES = st.one_of(st.none(), st.tuples(MOMENTS, MOMENTS))

_HOW = st.sampled_from([os.O_RDWR, os.O_RDONLY, os.O_WRONLY])
_MORE = st.lists(
    st.sampled_from(
        [
            *(os.O_CREAT, os.O_EXCL, os.O_TRUNC, os.O_APPEND, os.O_NOFOLLOW, os.O_DIRECTORY, os.O_SYNC, os.O_DSYNC),
            *(os.O_PATH, os.O_NOATIME, os.O_CREAT, os.O_CREAT | os.O_EXCL),
        ]
    ),
    max_size=3,
)


def _flags(how: int, more: list[int]) -> int:
    for flag in more:
        how |= flag
    return how


FILE_FLAGS = st.sampled_from(
    [os.O_RDWR, os.O_RDWR | os.O_CREAT, os.O_WRONLY | os.O_APPEND, os.O_RDWR | os.O_TRUNC, os.O_RDONLY, os.O_WRONLY]
)
OPEN_FLAGS = st.builds(_flags, _HOW, _MORE)
TARGETS = st.sampled_from(
    [
        *(b"a", b"b", b"c", b".", b"..", b"../a", b"d/b", b"/a", b"nowhere/x", b"a/"),
        *(b"", b"t" * 100, b"t" * 4095, b"t" * 4096),
    ]
)
TYPES = st.sampled_from([stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFREG, stat.S_IFCHR, stat.S_IFBLK, 0])
DEVICES = st.sampled_from([os.makedev(1, 3), os.makedev(240, 70000)])
XATTR_NAMES = st.sampled_from(
    [
        *(
            b"user.a",
            b"user.a",
            b"user.a",
            b"user.bc",
            b"user.bc",
            b"trusted.a",
            b"security.a",
            b"user.",
            b"a",
            b"other.a",
        ),
        *(b"user." + b"x" * 250, b"user." + b"x" * 251),
    ]
)
XATTR_VALUES = st.sampled_from([b"", b"value", b"\0\xff" * 30])
XATTR_FLAGS = st.sampled_from([0, os.XATTR_CREATE, os.XATTR_REPLACE])
XATTR_SIZES = st.sampled_from([0, 1, 5, 1000])


ACL_NAMES = st.sampled_from([b"system.posix_acl_access", b"system.posix_acl_default"])
MINIMAL_ACL_BYTES = 4 + 3 * 8
"""One that says what the mode says has no more."""

_OWNER, _USER, _GROUP_OBJECT, _GROUP, _MASK, _OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20


def _acl(permissions: list[int], users: list[int], with_group: bool, with_mask: bool) -> bytes:
    """An ACL as acl(5) has it, in the form of linux/posix_acl_xattr.h; invalid where it names some and has no mask."""
    nobody = 0xFFFFFFFF
    entries = [(_OWNER, permissions[0], nobody)]
    entries += [(_USER, permissions[1], uid) for uid in sorted(users)]
    entries.append((_GROUP_OBJECT, permissions[2], nobody))
    entries += [(_GROUP, permissions[3], SHARED_GROUP)] * with_group
    entries += [(_MASK, permissions[4], nobody)] * with_mask
    entries.append((_OTHER, permissions[5], nobody))
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


ACLS = st.one_of(
    st.builds(
        _acl,
        st.lists(st.integers(0, 7), min_size=6, max_size=6),
        st.lists(st.sampled_from([ALICE.uid, BOB.uid, 7]), max_size=2),
        st.booleans(),
        st.sampled_from([True, True, True, False]),
    ),
    st.sampled_from([b"", b"junk", struct.pack("<I", 2), struct.pack("<I", 1)]),
)
"""Valid ones for the most part; those are refused that name a user twice or lack a mask."""
