"""When setuid, setgid and the capabilities of a file are taken away, and what setuid does."""

from __future__ import annotations

import mmap
import os
import shutil
from collections.abc import Callable
from errno import EPERM
from functools import partial

import pytest

from tests.conformance.calls import KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE, fallocate
from tests.conformance.world import (
    MEMBER,
    OTHER,
    OWNER,
    ROOT,
    Rule,
    Rules,
    User,
    World,
    mode_of,
    opened,
    write,
)

pytestmark = pytest.mark.fuse
rules = Rules()

OWNS = User(OWNER.uid, OWNER.gid, (70011, 70012))
"""OWNER with groups to give files to."""

KEEP = -1
KERNEL = tuple(int(part) for part in os.uname().release.split(".")[:2])
CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")
"""``security.capability``: cap_net_bind_service, effective and permitted."""


def test_rule(rule: Rule, world: World) -> None:
    rule.verify(world)


def _chown_clears(user: User, before: int, after: int, kind: str, world: World) -> None:
    world.own("x", OWNS, kind=kind)
    for uid, gid in ((OWNS.uid, OWNS.gid), (KEEP, 70011), (KEEP, KEEP)):
        os.chown("x", OWNS.uid, OWNS.gid)
        os.chmod("x", before)
        world.run(user, os.chown, "x", uid, gid)
        assert mode_of("x") == after, f"chown {uid} {gid}: {mode_of('x'):o}, not {after:o}"


for _kind in ("file", "fifo"):
    for _user, _who in ((OWNS, "its owner"), (ROOT, "root")):
        for _before, _after in ((0o4755, 0o755), (0o2755, 0o755), (0o6644, 0o2644), (0o6711, 0o711), (0o1755, 0o1755)):
            rules.add(
                f"chown of a {_kind} {_before:o} by {_who}",
                "chown(2): setgid without S_IXGRP is kept",
                partial(_chown_clears, _user, _before, _after, _kind),
            )
for _user, _who in ((OWNS, "its owner"), (ROOT, "root")):
    rules.add(f"chown of a directory by {_who}", "chown(2)", partial(_chown_clears, _user, 0o7777, 0o7777, "dir"))


def _write() -> None:
    descriptor = os.open("x", os.O_WRONLY)
    os.write(descriptor, b"more")
    os.close(descriptor)


def _ftruncate() -> None:
    descriptor = os.open("x", os.O_WRONLY)
    os.ftruncate(descriptor, 3)
    os.close(descriptor)


def _copy() -> None:
    source, target = os.open("source", os.O_RDONLY), os.open("x", os.O_WRONLY)
    assert os.copy_file_range(source, target, 7) == 7


def _append() -> None:
    descriptor = os.open("x", os.O_WRONLY | os.O_APPEND)
    os.write(descriptor, b"more")
    os.close(descriptor)


def _send() -> None:
    source, target = os.open("source", os.O_RDONLY), os.open("x", os.O_WRONLY)
    assert os.sendfile(target, source, 0, 7) == 7


def _fallocate(mode: int) -> None:
    descriptor = os.open("x", os.O_WRONLY)
    fallocate(descriptor, mode, 0, 5000)
    os.close(descriptor)


CHANGES: dict[str, Callable[[], object]] = {
    "write": _write,
    "write with O_APPEND": _append,
    "truncate": lambda: os.truncate("x", 3),
    "truncate to the same size": lambda: os.truncate("x", 7),
    "truncate to more": lambda: os.truncate("x", 9),
    "ftruncate": _ftruncate,
    "open with O_TRUNC": lambda: opened("x", os.O_WRONLY | os.O_TRUNC),
    "open with O_CREAT and O_TRUNC": lambda: opened("x", os.O_WRONLY | os.O_TRUNC | os.O_CREAT),
    "copy_file_range": _copy,
    "sendfile": _send,
    "fallocate": lambda: _fallocate(0),
    "fallocate that keeps the size": lambda: _fallocate(KEEP_SIZE),
    "punching a hole": lambda: _fallocate(KEEP_SIZE | PUNCH_HOLE),
    "zeroing a range": lambda: _fallocate(ZERO_RANGE),
}


def _change_clears(change: Callable[[], object], world: World) -> None:
    write("source")
    os.chown(write("x"), OWNER.uid, OWNER.gid)
    for user, before, after in (
        (OTHER, 0o6777, 0o777),
        (OTHER, 0o4666, 0o666),
        (OTHER, 0o2676, 0o676),
        (MEMBER, 0o2666, 0o2666),
        (OTHER, 0o1666, 0o1666),
        (OWNER, 0o6755, 0o755),
        (MEMBER, 0o6777, 0o777),
        (ROOT, 0o6777, 0o6777),
    ):
        os.truncate("x", 7)
        os.chmod("x", before)
        world.run(user, lambda: change() and None)
        assert mode_of("x") == after, f"{user}: {before:o} became {mode_of('x'):o}, not {after:o}"


for _name, _change in CHANGES.items():
    rules.add(
        f"{_name} takes setuid and setgid from users, not root",
        "write(2), truncate(2)",
        partial(_change_clears, _change),
    )


@rules("POSIX 2024 §XSH write: on error nothing is changed; zero bytes are no change")
def what_changes_nothing_leaves_setuid(world: World) -> None:
    world.own("x", OWNER, 0o6777)

    def nothing() -> None:
        descriptor = os.open("x", os.O_RDWR)
        assert os.write(descriptor, b"") == 0
        os.read(descriptor, 10)
        os.close(descriptor)

    world.run(OTHER, nothing)
    world.run(OTHER, os.utime, "x")
    assert mode_of("x") == 0o6777


@rules("mmap(2)")
def writing_through_a_mapping_leaves_setuid_as_no_call_is_made(world: World) -> None:
    os.chown(write("x"), OWNER.uid, OWNER.gid)
    os.chmod("x", 0o6777)

    def change() -> None:
        descriptor = os.open("x", os.O_RDWR)
        with mmap.mmap(descriptor, 7) as mapping:
            mapping[0:1] = b"C"
            mapping.flush()
        os.close(descriptor)

    world.run(OTHER, change)
    assert mode_of("x") == 0o6777


def _capability_goes(change: Callable[[], object], user: User, world: World) -> None:
    write("source")
    os.chown(write("x"), OWNER.uid, OWNER.gid)
    os.chmod("x", 0o777)
    os.setxattr("x", "security.capability", CAPABILITY)
    os.setxattr("x", "user.other", b"stays")
    assert os.getxattr("x", "security.capability") == CAPABILITY
    world.run(user, lambda: change() and None)
    assert os.listxattr("x") == ["user.other"]


for _name, _change in {**CHANGES, "chown": lambda: os.chown("x", KEEP, OWNER.gid)}.items():
    for _user, _who in ((OWNER, "owner"), (ROOT, "root")):
        rules.add(
            f"{_name} by {_who} removes the file's capabilities",
            "capabilities(7)",
            partial(_capability_goes, _change, _user),
        )


def _change_leaves_setuid(change: Callable[[], object], world: World) -> None:
    write("source")
    os.chown(write("x"), OWNER.uid, OWNER.gid)
    os.chmod("x", 0o6755)
    os.setxattr("x", "security.capability", CAPABILITY)
    world.run(ROOT, lambda: change() and None)
    assert mode_of("x") == 0o6755
    assert os.listxattr("x") == []


for _name, _change in CHANGES.items():
    rules.add(
        f"{_name} by root removes capabilities and leaves setuid",
        "capabilities(7), write(2)",
        partial(_change_leaves_setuid, _change),
    )


def _chown_by_a_stranger(world: World, *, is_refused: bool) -> None:
    world.own("x", OWNER)
    for mode in (0o6755, 0o4755, 0o2755, 0o2644):
        os.chmod("x", mode)
        if is_refused:
            world.denied(OTHER, EPERM, os.chown, "x", KEEP, KEEP)
        else:
            world.run(OTHER, os.chown, "x", KEEP, KEEP)
        assert mode_of("x") == mode


rules.add(
    "chown by a stranger that names nobody takes nothing",
    "chown(2): EPERM",
    partial(_chown_by_a_stranger, is_refused=True),
    differs="the kernel asks as it does before somebody who may write changes the content, which must not fail",
    benchfs=partial(_chown_by_a_stranger, is_refused=False),
)


@rules("execve(2)")
def a_setuid_program_runs_as_its_owner_and_a_setgid_program_as_its_group(world: World) -> None:
    shutil.copyfile(shutil.which("id") or "/usr/bin/id", "id")
    os.chown("id", OWNER.uid, 70011)
    os.chmod("id", 0o6755)

    def who(option: str) -> int:
        reader, writer = os.pipe()
        child = os.posix_spawn("./id", ["id", option], {}, file_actions=[(os.POSIX_SPAWN_DUP2, writer, 1)])
        os.close(writer)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        with open(reader) as stream:
            return int(stream.read())

    assert (world.run(OTHER, who, "-u"), world.run(OTHER, who, "-g")) == (OWNER.uid, 70011)


def _setgid_without_execution(change: Callable[[], object], after: int, world: World) -> None:
    os.chown(write("x"), OWNER.uid, OWNER.gid)
    os.chmod("x", 0o2666)
    world.run(OTHER, lambda: change() and None)
    assert mode_of("x") == after


_SINCE_6_2 = 0o666 if KERNEL >= (6, 2) else 0o2666

for _name in ("write", "write with O_APPEND", "truncate", "ftruncate", "open with O_TRUNC"):
    rules.add(
        f"setgid without execution goes by {_name} from outside the group",
        "Linux 6.2 setattr_should_drop_sgid; before that it is kept",
        partial(_setgid_without_execution, CHANGES[_name], _SINCE_6_2),
        differs="" if KERNEL >= (6, 2) else "BenchFS does as newer kernels do",
        benchfs=None if KERNEL >= (6, 2) else partial(_setgid_without_execution, CHANGES[_name], 0o666),
    )
