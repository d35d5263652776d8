"""chmod, chown, utimensat, setgid directories: who may change what, and to whom things belong."""

from __future__ import annotations

import os
import stat
from errno import EACCES, EPERM
from functools import partial

import pytest

from tests.conformance.calls import UTIME_NOW, UTIME_OMIT, utimensat
from tests.conformance.world import (
    MEMBER,
    OTHER,
    OWNER,
    SPECIAL,
    Rule,
    Rules,
    User,
    World,
    make,
    mode_of,
    opened,
    write,
)

pytestmark = pytest.mark.fuse
rules = Rules()

OWNS = User(OWNER.uid, OWNER.gid, (70011, 70012))
"""OWNER with groups to give files to."""

KEEP = -1


def test_rule(rule: Rule, world: World) -> None:
    rule.verify(world)


def owner_of(name: str) -> tuple[int, int]:
    status = os.lstat(name)
    return status.st_uid, status.st_gid


# chmod


@rules("chmod(2)")
def only_the_owner_and_root_change_the_mode(world: World) -> None:
    for kind in ("file", "dir", *SPECIAL):
        world.own(kind, OWNER, 0o666, kind=kind)
        world.denied(MEMBER, EPERM, os.chmod, kind, 0o600)
        world.denied(OTHER, EPERM, os.chmod, kind, 0o666)  # not even to what it is
        assert mode_of(kind) == 0o666
        world.run(OWNER, os.chmod, kind, 0o640)
        assert mode_of(kind) == 0o640
        os.chmod(kind, 0o7777)
        assert mode_of(kind) == 0o7777


@rules("chmod(2)")
def every_mode_of_twelve_bits_is_kept(world: World) -> None:
    for kind in ("file", "dir", "fifo"):
        make(kind, kind)
        for bit in range(12):
            for mode in (1 << bit, 0o7777 & ~(1 << bit)):
                os.chmod(kind, mode)
                assert mode_of(kind) == mode
        assert stat.S_IFMT(os.stat(kind).st_mode) == {
            "file": stat.S_IFREG, "dir": stat.S_IFDIR, "fifo": stat.S_IFIFO
        }[kind]  # fmt: skip


@rules("chmod(2)")
def chmod_follows_symlinks_and_fchmod_means_the_open_file(world: World) -> None:
    write("file")
    os.symlink("file", "link")
    os.chmod("link", 0o600)
    assert (mode_of("file"), mode_of("link")) == (0o600, 0o777)
    descriptor = os.open("file", os.O_RDONLY)
    os.rename("file", "moved")
    write("file")
    os.fchmod(descriptor, 0o640)
    os.unlink("moved")
    os.fchmod(descriptor, 0o641)
    assert stat.S_IMODE(os.fstat(descriptor).st_mode) == 0o641
    os.close(descriptor)
    assert mode_of("file") == 0o644


@rules("chmod(2): S_ISGID is cleared without an error")
def a_user_outside_the_file_s_group_cannot_set_setgid(world: World) -> None:
    for kind in ("file", "dir", "fifo"):
        make(kind, kind)
        os.chown(kind, OWNER.uid, OTHER.gid)
        world.run(OWNER, os.chmod, kind, 0o6755)
        assert mode_of(kind) == 0o4755
        os.chmod(kind, 0o6755)
        assert mode_of(kind) == 0o6755
        os.chown(kind, OWNS.uid, 70011)
        world.run(OWNS, os.chmod, kind, 0o2750)
        assert mode_of(kind) == 0o2750


@rules("chmod(2)")
def on_linux_every_owner_may_set_the_sticky_bit_of_a_file(world: World) -> None:
    world.own("file")
    world.run(OWNER, os.chmod, "file", 0o1644)
    assert mode_of("file") == 0o1644


# chown


@rules("chown(2)")
def only_root_gives_files_away(world: World) -> None:
    for kind in ("file", "dir", "symlink", *SPECIAL):
        world.own(kind, OWNS, kind=kind)
        for user, uid, gid in (
            (OWNS, OTHER.uid, KEEP),
            (OWNS, OTHER.uid, 70011),
            (OWNS, KEEP, OTHER.gid),
            (MEMBER, MEMBER.uid, KEEP),
            (MEMBER, KEEP, 70011),
            (OTHER, OTHER.uid, OTHER.gid),
            (OTHER, OWNS.uid, OWNS.gid),
        ):
            world.denied(user, EPERM, os.lchown, kind, uid, gid)
        assert owner_of(kind) == (OWNS.uid, OWNS.gid)
        os.lchown(kind, OTHER.uid, 70012)
        assert owner_of(kind) == (OTHER.uid, 70012)


@rules("chown(2)")
def the_owner_may_give_a_file_to_any_group_of_hers(world: World) -> None:
    for kind in ("file", "dir", "symlink", "fifo"):
        world.own(kind, OWNS, kind=kind)
        for uid, gid in ((KEEP, 70011), (OWNS.uid, 70012), (KEEP, OWNS.gid), (OWNS.uid, OWNS.gid), (OWNS.uid, KEEP)):
            world.run(OWNS, os.lchown, kind, uid, gid)
            assert gid in (owner_of(kind)[1], KEEP)
            assert owner_of(kind)[0] == OWNS.uid


@rules("chown(2): −1")
def an_id_of_minus_one_is_not_changed_and_both_may_be_given_by_everybody(world: World) -> None:
    world.own("file", OWNER)
    os.chown("file", KEEP, 7)
    assert owner_of("file") == (OWNER.uid, 7)
    os.chown("file", 8, KEEP)
    assert owner_of("file") == (8, 7)
    world.run(OTHER, os.chown, "file", KEEP, KEEP)
    assert owner_of("file") == (8, 7)


@rules("chown(2), lchown(2)")
def chown_follows_symlinks_lchown_does_not_and_fchown_means_the_open_file(world: World) -> None:
    write("file")
    os.symlink("file", "link")
    os.chown("link", 1, 2)
    assert (owner_of("file"), owner_of("link")) == ((1, 2), (0, 0))
    os.lchown("link", 3, 4)
    assert (owner_of("file"), owner_of("link")) == ((1, 2), (3, 4))
    descriptor = os.open("file", os.O_RDONLY)
    os.unlink("file")
    os.fchown(descriptor, 5, 6)
    assert (os.fstat(descriptor).st_uid, os.fstat(descriptor).st_gid) == (5, 6)
    os.close(descriptor)


@rules("chown(2)")
def ids_may_be_any_of_32_bits_but_the_last(world: World) -> None:
    write("file")
    for number in (0, 65534, 65535, 65536, (1 << 31) - 1, 1 << 31, (1 << 32) - 2):
        os.chown("file", number, number)
        assert owner_of("file") == (number, number)


# setgid directories


@rules("inode(7): S_ISGID on a directory")
def what_is_made_in_a_setgid_directory_gets_its_group_and_directories_the_bit(world: World) -> None:
    world.own("d", User(OWNER.uid, 70012), 0o2777, kind="dir")

    def fill() -> None:
        os.mkdir("d/dir", 0o755)
        opened("d/file", os.O_CREAT | os.O_WRONLY, 0o755)
        os.symlink("target", "d/symlink")
        os.mkfifo("d/fifo")
        os.mknod("d/node")
        make("d/socket", "socket")
        os.mkdir("d/dir/dir")

    world.run(MEMBER, fill)
    for name in ("dir", "file", "symlink", "fifo", "node", "socket", "dir/dir"):
        assert owner_of(f"d/{name}") == (MEMBER.uid, 70012), name
    assert (mode_of("d/dir"), mode_of("d/dir/dir"), mode_of("d/file")) == (0o2755, 0o2755, 0o755)
    os.mkdir("d/root", 0o700)
    assert (owner_of("d/root"), mode_of("d/root")) == ((0, 70012), 0o2700)
    os.rename("d/file", "d/renamed")
    write("from outside")
    os.rename("from outside", "d/moved")
    assert owner_of("d/moved") == (0, 0)


@rules("inode(7), Linux 6.0 mode_strip_sgid")
def a_user_outside_the_directory_s_group_makes_no_setgid_program_there(world: World) -> None:
    world.own("d", User(OWNER.uid, 70012), 0o2777, kind="dir")

    def fill() -> None:
        opened("d/program", os.O_CREAT | os.O_WRONLY, 0o2755)
        opened("d/lock", os.O_CREAT | os.O_WRONLY, 0o2644)
        os.mknod("d/node", stat.S_IFREG | 0o2755)

    world.run(OTHER, fill)
    assert [mode_of(f"d/{name}") for name in ("program", "lock", "node")] == [0o755, 0o2644, 0o755]


# utimensat

NOW, OMIT, PAST = (0, UTIME_NOW), (0, UTIME_OMIT), (1_000_000_000, 5)

UTIMES = {
    "both now": (NOW, NOW, None, EACCES),
    "both given": (PAST, PAST, EPERM, EPERM),
    "now and omitted": (NOW, OMIT, EPERM, EPERM),
    "omitted and now": (OMIT, NOW, EPERM, EPERM),
    "now and given": (NOW, PAST, EPERM, EPERM),
    "both omitted": (OMIT, OMIT, None, None),
}
"""Times asked for; the errno for who may only write, and for who may not even that."""


def _utimes(
    atime: tuple[int, int], mtime: tuple[int, int], writer: int | None, nobody: int | None, world: World
) -> None:
    for kind in ("file", "dir", "fifo"):
        world.own(kind, OWNER, 0o620, kind=kind)
        world.run(OWNER, utimensat, kind, atime, mtime)
        for user, number in ((MEMBER, writer), (OTHER, nobody)):
            if number is None:
                world.run(user, utimensat, kind, atime, mtime)
            else:
                world.denied(user, number, utimensat, kind, atime, mtime)
        os.chmod(kind, 0)
        world.run(OWNER, utimensat, kind, atime, mtime)


for _name, (_atime, _mtime, _writer, _nobody) in UTIMES.items():
    rules.add(f"utimensat {_name}", "utimensat(2)", partial(_utimes, _atime, _mtime, _writer, _nobody))
