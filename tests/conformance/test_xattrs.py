"""Extended attributes: xattr(7), setxattr(2), getxattr(2), listxattr(2), removexattr(2)."""

from __future__ import annotations

import os
import struct
from errno import E2BIG, EEXIST, ENODATA, EOPNOTSUPP, EPERM, ERANGE
from functools import partial

import pytest

from tests.conformance.calls import list_size, xattr_size
from tests.conformance.world import OTHER, OWNER, SPECIAL, Rule, Rules, World, fails, make, write

pytestmark = pytest.mark.fuse
rules = Rules()


def test_rule(rule: Rule, world: World) -> None:
    rule.verify(world)


@rules("setxattr(2)")
def create_refuses_what_is_there_and_replace_what_is_not(world: World) -> None:
    for kind in ("file", "dir"):
        make(kind, kind)
        fails(ENODATA, os.setxattr, kind, "user.a", b"1", os.XATTR_REPLACE)
        os.setxattr(kind, "user.a", b"1", os.XATTR_CREATE)
        fails(EEXIST, os.setxattr, kind, "user.a", b"2", os.XATTR_CREATE)
        os.setxattr(kind, "user.a", b"3", os.XATTR_REPLACE)
        assert os.getxattr(kind, "user.a") == b"3"
        os.removexattr(kind, "user.a")
        fails(ENODATA, os.removexattr, kind, "user.a")
        fails(ENODATA, os.getxattr, kind, "user.a")
        assert os.listxattr(kind) == []


@rules("getxattr(2), listxattr(2): a size of zero asks for the size; ERANGE")
def sizes_are_told_and_a_small_buffer_is_refused(world: World) -> None:
    os.setxattr(write("file"), "user.a", b"12345")
    os.setxattr("file", "user.empty", b"")
    assert [xattr_size("file", "user.a", room) for room in (0, 5, 6)] == [5, 5, 5]
    fails(ERANGE, xattr_size, "file", "user.a", 4)
    assert [xattr_size("file", "user.empty", room) for room in (0, 1)] == [0, 0]
    length = len("user.a\0user.empty\0")
    assert [list_size("file", room) for room in (0, length, length + 1)] == [length] * 3
    fails(ERANGE, list_size, "file", length - 1)


@rules("xattr(7)")
def values_are_any_bytes_and_names_too(world: World) -> None:
    write("file")
    values = {
        "user.x": b"",
        "user.X": b"\0",
        "user.sp ace\n": bytes(range(256)),
        "user.e": b"v" * 1500,
        "user." + "n" * 250: b"n",
    }
    for name, value in values.items():
        os.setxattr("file", name, value)
    assert sorted(os.listxattr("file")) == sorted(values)
    assert {name: os.getxattr("file", name) for name in values} == values


@rules("setxattr(2): ERANGE, XATTR_NAME_MAX")
def a_name_has_at_most_255_bytes_with_its_namespace(world: World) -> None:
    write("file")
    os.setxattr("file", "user." + "n" * 250, b"")
    for attempt in (
        lambda name: os.setxattr("file", name, b""),
        lambda name: os.getxattr("file", name),
        lambda name: os.removexattr("file", name),
    ):
        fails(ERANGE, attempt, "user." + "n" * 251)
        fails(ERANGE, attempt, "")


@rules("setxattr(2): E2BIG, XATTR_SIZE_MAX")
def a_value_has_at_most_64_kib(world: World) -> None:
    fails(E2BIG, os.setxattr, write("file"), "user.a", bytes(65537))
    assert os.listxattr("file") == []


def _large(largest: int, world: World) -> None:
    write("file")
    value = os.urandom(largest)
    os.setxattr("file", "user.large", value)
    assert os.getxattr("file", "user.large") == value
    if largest < 65536:
        fails(28, os.setxattr, "file", "user.large", bytes(65536))
        assert os.getxattr("file", "user.large") == value


rules.add(
    "what does not fit is ENOSPC and leaves the old value",
    "setxattr(2), ext4 without ea_inode",
    partial(_large, 3000),
    differs="BenchFS has room for values up to the kernel's limit of 64 KiB",
    benchfs=partial(_large, 65536),
)


@rules("xattr(7): user namespace")
def user_attributes_are_for_files_and_directories_only(world: World) -> None:
    for kind in ("symlink", *SPECIAL):
        make(kind, kind)
        fails(EPERM, os.setxattr, kind, "user.a", b"", follow_symlinks=False)
        fails(ENODATA, os.getxattr, kind, "user.a", follow_symlinks=False)
        fails(EPERM, os.removexattr, kind, "user.a", follow_symlinks=False)
        assert os.listxattr(kind, follow_symlinks=False) == []
        os.setxattr(kind, "trusted.a", b"1", follow_symlinks=False)
        assert os.getxattr(kind, "trusted.a", follow_symlinks=False) == b"1"


@rules("xattr(7): sticky directories")
def user_attributes_of_a_sticky_directory_are_for_its_owner(world: World) -> None:
    world.own("d", OWNER, 0o1777, kind="dir")
    world.denied(OTHER, EPERM, os.setxattr, "d", "user.a", b"")
    world.run(OWNER, os.setxattr, "d", "user.a", b"")
    world.denied(OTHER, EPERM, os.removexattr, "d", "user.a")
    os.chmod("d", 0o777)
    world.run(OTHER, os.setxattr, "d", "user.b", b"")


@rules("xattr(7): trusted namespace")
def trusted_attributes_are_root_s_and_unseen_by_others(world: World) -> None:
    world.own("file", OWNER, 0o666)
    os.setxattr("file", "trusted.a", b"1")
    os.setxattr("file", "user.a", b"2")
    world.denied(OWNER, EPERM, os.setxattr, "file", "trusted.b", b"")
    world.denied(OWNER, ENODATA, os.getxattr, "file", "trusted.a")
    world.denied(OWNER, EPERM, os.removexattr, "file", "trusted.a")
    assert world.run(OWNER, os.listxattr, "file") == ["user.a"]
    assert sorted(os.listxattr("file")) == ["trusted.a", "user.a"]


@rules("xattr(7): security namespace")
def security_attributes_are_set_by_root_and_read_by_all(world: World) -> None:
    world.own("file", OWNER, 0o600)
    os.setxattr("file", "security.test", b"1")
    world.denied(OWNER, EPERM, os.setxattr, "file", "security.test", b"2")
    world.denied(OWNER, EPERM, os.removexattr, "file", "security.test")
    assert world.run(OTHER, os.getxattr, "file", "security.test") == b"1"
    assert world.run(OTHER, os.listxattr, "file") == ["security.test"]


@rules("xattr(7)")
def other_namespaces_are_not_supported(world: World) -> None:
    write("file")
    for name in ("a", "user", "user_a", "other.a", "system.a", ".a"):
        fails(EOPNOTSUPP, os.setxattr, "file", name, b"")
        fails(EOPNOTSUPP, os.getxattr, "file", name)
        fails(EOPNOTSUPP, os.removexattr, "file", name)


ACL = "system.posix_acl_access"


def _keeps_acls(world: World) -> None:
    fails(ENODATA, os.getxattr, write("file"), ACL)
    entries = ((1, 6, -1), (2, 4, OTHER.uid), (4, 4, -1), (0x10, 4, -1), (0x20, 0, -1))
    value = struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *entry) for entry in entries)
    os.setxattr("file", ACL, value)
    assert os.getxattr("file", ACL) == value
    os.removexattr("file", ACL)


def _refuses_acls(world: World) -> None:
    fails(EOPNOTSUPP, os.getxattr, write("file"), ACL)
    fails(EOPNOTSUPP, os.setxattr, "file", ACL, struct.pack("<I", 2))
    assert os.listxattr("file") == []


rules.add(
    "POSIX ACLs are kept as attributes",
    "acl(5)",
    _keeps_acls,
    differs="what is stored and not enforced would promise what is not kept",
    benchfs=_refuses_acls,
)


@rules("xattr(7)")
def attributes_belong_to_the_inode_and_not_the_name(world: World) -> None:
    os.setxattr(write("file"), "user.a", b"1")
    os.link("file", "link")
    os.rename("file", "moved")
    os.symlink("moved", "symlink")
    assert [os.getxattr(name, "user.a") for name in ("link", "moved", "symlink")] == [b"1"] * 3
    descriptor = os.open("moved", os.O_RDONLY)
    os.unlink("link")
    os.unlink("moved")
    os.setxattr(descriptor, "user.b", b"2")
    assert sorted(os.listxattr(descriptor)) == ["user.a", "user.b"]
    os.close(descriptor)
    write("moved")
    assert os.listxattr("moved") == []
