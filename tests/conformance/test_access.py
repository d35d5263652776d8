"""Who may do what, by permission bits: files, directories on the way, sticky directories, umask."""

from __future__ import annotations

import os
import shutil
import socket
import stat
from collections.abc import Callable
from dataclasses import dataclass
from errno import EACCES, ELOOP, EPERM
from functools import partial
from pathlib import Path

import pytest

from tests.conformance.calls import access, renameat2
from tests.conformance.world import (
    MEMBER,
    OTHER,
    OWNER,
    ROOT,
    Rule,
    Rules,
    User,
    World,
    fails,
    make,
    mode_of,
    opened,
    read,
    write,
)

pytestmark = pytest.mark.fuse
rules = Rules()


def test_rule(rule: Rule, world: World) -> None:
    rule.verify(world)


def execute(name: str) -> int:
    """Run a program on the filesystem; its exit code."""
    child = os.posix_spawn(name, [name], {})
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def program(name: str) -> str:
    """Put a program there that ends with 0; return its name."""
    shutil.copyfile(shutil.which("true") or "/bin/true", name)
    return name


CLASSES = {
    "owner": (OWNER, 6),
    "group": (User(70004, OWNER.gid), 3),
    "supplementary group": (MEMBER, 3),
    "others": (OTHER, 0),
}
"""Each class of users: one of it, and where its bits are."""


@dataclass(frozen=True, slots=True)
class Need:
    """An action, and which bits (4, 2, 1) the object that is called ``x`` must grant to whoever does it."""

    bits: int
    action: Callable[[], object]
    kind: str = "file"
    prepare: Callable[[], object] = lambda: None


def in_directory(*kinds: str, mode: int | None = None) -> Callable[[], None]:
    """Entries that the directory ``x`` is to have, called by their types; and a file beside it."""

    def prepare() -> None:
        for kind in kinds:
            make(f"x/{kind}", kind)
            if mode is not None:
                os.chmod(f"x/{kind}", mode)
        make("beside", "file")
        os.chmod("beside", 0o666)

    return prepare


def _fresh_attribute() -> None:
    for name in os.listxattr("x"):
        os.removexattr("x", name)
    os.setxattr("x", "user.name", b"")


NEEDS = {
    "open O_RDONLY": Need(4, lambda: opened("x")),
    "open O_WRONLY": Need(2, lambda: opened("x", os.O_WRONLY)),
    "open O_RDWR": Need(6, lambda: opened("x", os.O_RDWR)),
    "open O_RDONLY O_TRUNC": Need(6, lambda: opened("x", os.O_RDONLY | os.O_TRUNC)),
    "open O_CREAT of what exists": Need(2, lambda: opened("x", os.O_WRONLY | os.O_CREAT)),
    "truncate": Need(2, lambda: os.truncate("x", 0)),
    "utimensat with both times now": Need(2, lambda: os.utime("x"), "fifo"),
    "setxattr": Need(2, lambda: os.setxattr("x", "user.name", b"")),
    "removexattr": Need(2, lambda: os.removexattr("x", "user.name"), prepare=lambda: _fresh_attribute()),
    "getxattr": Need(4, lambda: os.getxattr("x", "user.name"), prepare=lambda: os.setxattr("x", "user.name", b"")),
    "execve": Need(1, lambda: execute("./x"), prepare=lambda: program("x")),
    "open a fifo": Need(6, lambda: opened("x", os.O_RDWR), "fifo"),
    "open a device": Need(6, lambda: opened("x", os.O_RDWR), "char"),
    "access R_OK": Need(4, lambda: access("x", os.R_OK)),
    "access W_OK": Need(2, lambda: access("x", os.W_OK)),
    "access X_OK": Need(1, lambda: access("x", os.X_OK)),
    "opendir": Need(4, lambda: os.listdir("x"), "dir"),
    "chdir": Need(1, lambda: os.chdir("x"), "dir"),
    "stat of an entry": Need(1, lambda: os.stat("x/file"), "dir", in_directory("file")),
    "utimensat of an entry": Need(1, lambda: os.utime("x/file"), "dir", in_directory("file", mode=0o777)),
    "readlink of an entry": Need(1, lambda: os.readlink("x/symlink"), "dir", in_directory("symlink")),
    "open O_CREAT of a new entry": Need(3, lambda: opened("x/new", os.O_CREAT | os.O_WRONLY), "dir"),
    "mkdir": Need(3, lambda: os.mkdir("x/new"), "dir"),
    "mkfifo": Need(3, lambda: os.mkfifo("x/new"), "dir"),
    "mknod of a file": Need(3, lambda: os.mknod("x/new"), "dir"),
    "bind": Need(3, lambda: make("x/new", "socket"), "dir"),
    "symlink": Need(3, lambda: os.symlink("target", "x/new"), "dir"),
    "link to": Need(3, lambda: os.link("beside", "x/new"), "dir", in_directory()),
    "rename to": Need(3, lambda: os.rename("beside", "x/new"), "dir", in_directory()),
    "rename from": Need(3, lambda: os.rename("x/file", "new"), "dir", in_directory("file")),
    "unlink": Need(3, lambda: os.unlink("x/file"), "dir", in_directory("file")),
    "rmdir": Need(3, lambda: os.rmdir("x/dir"), "dir", in_directory("dir")),
}


def _only_own_bits_count(who: str, need: Need, world: World) -> None:
    user, shift = CLASSES[who]
    missing = [bit for bit in (4, 2, 1) if need.bits & bit]
    modes = [(need.bits << shift, 0), *((0o777 & ~(bit << shift), EACCES) for bit in missing)]
    for mode, number in modes:
        place = f"{mode:o}"
        os.mkdir(place)
        os.chmod(place, 0o777)
        os.chdir(place)
        world.own("x", kind=need.kind)
        need.prepare()
        os.chmod("x", mode)
        if number:
            world.denied(user, number, need.action)
        else:
            world.run(user, lambda: need.action() and None)
        os.chdir("..")


IN_EVERY_CLASS = ("open O_RDONLY", "open O_WRONLY", "execve", "access R_OK", "stat of an entry", "mkdir", "unlink")
"""Needs asked of every class; the others, of two."""

for _who in CLASSES:
    for _name, _need in NEEDS.items():
        if _name in IN_EVERY_CLASS or _who in ("supplementary group", "others"):
            rules.add(f"{_name} as {_who}", "POSIX 2024 §4.7 file access", partial(_only_own_bits_count, _who, _need))


@rules("POSIX 2024 §4.16 pathname resolution")
def every_directory_on_the_way_must_be_searchable(world: World) -> None:
    os.makedirs("a/b/c")
    for closed in ("a", "a/b", "a/b/c"):
        os.chmod(closed, 0o766)
        write("a/b/c/file")
        world.denied(OTHER, EACCES, os.stat, "a/b/c/file")
        world.denied(OTHER, EACCES, os.stat, "a/b/c/missing")
        os.symlink("a/b/c/file", f"link-{closed.count('/')}")
        world.denied(OTHER, EACCES, os.stat, f"link-{closed.count('/')}")
        os.chmod(closed, 0o755)
    world.run(OTHER, read, "a/b/c/file")


@rules("symlink(7)")
def permissions_of_a_symlink_are_never_asked(world: World) -> None:
    write("file")
    os.symlink("file", "link")
    os.lchown("link", OWNER.uid, OWNER.gid)
    assert mode_of("link") == 0o777
    world.run(OTHER, read, "link")
    fails(ELOOP, opened, "link", os.O_NOFOLLOW)


@rules("capabilities(7)")
def root_passes_every_check_but_execution_without_any_x_bit(world: World) -> None:
    program("x")
    os.chmod("x", 0)
    read("x")
    opened("x", os.O_RDWR)
    assert not os.access("x", os.X_OK)
    fails(EACCES, execute, "./x")
    for bit in (0o100, 0o010, 0o001):
        os.chmod("x", bit)
        assert os.access("x", os.X_OK)
        assert execute("./x") == 0
    os.mkdir("d", 0)
    make("d/file", "file")
    assert os.listdir("d") == ["file"]


@rules("access(2), faccessat(2)")
def access_asks_for_the_real_user_and_at_eaccess_for_the_effective(world: World) -> None:
    make("file", "file")
    os.chmod("file", 0o600)

    def as_effective_other() -> tuple[bool, bool]:
        os.setgroups([])
        os.setresgid(-1, OTHER.gid, -1)
        os.setresuid(-1, OTHER.uid, -1)
        return os.access("file", os.R_OK), os.access("file", os.R_OK, effective_ids=True)

    assert world.start(as_effective_other).result() == (True, False)


@rules("umask(2)")
def the_umask_is_taken_off_every_new_inode_but_symlinks_and_from_no_chmod(world: World) -> None:
    for umask in (0o000, 0o022, 0o077, 0o151, 0o777):
        os.umask(umask)
        opened(f"open{umask}", os.O_CREAT | os.O_WRONLY, 0o777)
        os.mkdir(f"mkdir{umask}", 0o777)
        os.mkfifo(f"mkfifo{umask}", 0o777)
        os.mknod(f"mknod{umask}", stat.S_IFREG | 0o777)
        os.mknod(f"device{umask}", stat.S_IFCHR | 0o777, os.makedev(1, 3))
        make(f"bind{umask}", "socket")
        os.symlink("target", f"symlink{umask}")
        for name in ("open", "mkdir", "mkfifo", "mknod", "device", "bind"):
            assert mode_of(f"{name}{umask}") == 0o777 & ~umask, name
        assert mode_of(f"symlink{umask}") == 0o777
        os.chmod(f"open{umask}", 0o777)
        assert mode_of(f"open{umask}") == 0o777


@rules("open(2), mkdir(2), mknod(2)")
def a_new_inode_belongs_to_the_effective_user_and_group(world: World) -> None:
    def create() -> None:
        opened("open", os.O_CREAT | os.O_WRONLY)
        os.mkdir("mkdir")
        os.mkfifo("mkfifo")
        os.mknod("mknod")
        os.symlink("target", "symlink")
        make("bind", "socket")

    world.run(MEMBER, create)
    for name in os.listdir():
        status = os.lstat(name)
        assert (status.st_uid, status.st_gid) == (MEMBER.uid, MEMBER.gid), name


@rules("open(2)")
def the_mode_given_does_not_bind_the_descriptor_that_made_the_file(world: World) -> None:
    def create() -> bytes:
        descriptor = os.open("file", os.O_CREAT | os.O_RDWR, 0)
        os.write(descriptor, b"content")
        assert mode_of("file") == 0
        return os.pread(descriptor, 10, 0)

    assert world.run(OTHER, create) == b"content"
    world.denied(OTHER, EACCES, opened, "file")


@rules("open(2)")
def access_is_checked_at_open_and_not_again(world: World) -> None:
    write("file")

    def use() -> bytes:
        descriptor = os.open("file", os.O_RDWR)
        os.chmod("file", 0)
        os.write(descriptor, b"C")
        return os.pread(descriptor, 7, 0)

    os.chown("file", OWNER.uid, OWNER.gid)
    assert world.run(OWNER, use) == b"Content"


@rules("open(2)")
def o_noatime_is_for_the_owner(world: World) -> None:
    world.own("file", OWNER, 0o666)
    world.run(OWNER, opened, "file", os.O_NOATIME)
    world.run(ROOT, opened, "file", os.O_NOATIME)
    world.denied(OTHER, EPERM, opened, "file", os.O_NOATIME)


@rules("mknod(2)")
def device_nodes_are_made_by_root_only(world: World) -> None:
    for kind in (stat.S_IFCHR, stat.S_IFBLK):
        world.denied(OTHER, EPERM, os.mknod, "device", kind | 0o666, os.makedev(1, 3))


@rules("connect(2), unix(7)")
def connecting_to_a_socket_needs_write_permission(world: World) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
        listener.listen()
        os.chmod("socket", 0o755)
        world.denied(OTHER, EACCES, lambda: socket.socket(socket.AF_UNIX).connect("socket"))
        os.chmod("socket", 0o722)
        world.run(OTHER, lambda: socket.socket(socket.AF_UNIX).connect("socket"))


# Hard links


def protected(what: str) -> bool:
    """Whether the machine protects these in directories that all may write to (proc_sys_fs(5))."""
    return Path(f"/proc/sys/fs/protected_{what}").read_text().strip() != "0"


@rules("link(2), proc_sys_fs(5) protected_hardlinks")
def who_may_link_a_file_of_somebody_else(world: World) -> None:
    for name, mode, allowed in (("readable", 0o644, False), ("writable", 0o666, True), ("setuid", 0o4666, False)):
        world.own(name, OWNER, mode)
        if allowed or not protected("hardlinks"):
            world.run(OTHER, os.link, name, f"{name} linked")
        else:
            world.denied(OTHER, EPERM, os.link, name, f"{name} linked")
        world.run(OWNER, os.link, name, f"{name} linked by its owner")


# Sticky directories

HOLDERS = {"owner of the entry": (OWNER, True), "owner of the directory": (MEMBER, True), "somebody": (OTHER, False)}


def _sticky(world: World) -> None:
    os.mkdir("d")
    os.chown("d", MEMBER.uid, MEMBER.gid)
    os.chmod("d", 0o1777)
    for kind in ("file", "dir", "symlink", "fifo"):
        world.own(f"d/{kind}", kind=kind)


REMOVALS: dict[str, Callable[[], object]] = {
    "unlink": lambda: os.unlink("d/file"),
    "unlink of a symlink": lambda: os.unlink("d/symlink"),
    "unlink of a fifo": lambda: os.unlink("d/fifo"),
    "rmdir": lambda: os.rmdir("d/dir"),
    "rename within": lambda: os.rename("d/file", "d/new"),
    "rename out": lambda: os.rename("d/file", "new"),
    "rename over": lambda: os.rename("mine", "d/file"),
    "rename over from within": lambda: os.rename("d/mine", "d/file"),
    "rename of a directory over": lambda: os.rename("mine dir", "d/dir"),
    "exchange": lambda: renameat2("mine", "d/file", 2),
    "exchange the other way round": lambda: renameat2("d/file", "mine", 2),
}


def _removal(action: Callable[[], object], user: User, allowed: bool, world: World) -> None:
    _sticky(world)
    world.own("mine", user)
    world.own("d/mine", user)
    world.own("mine dir", user, kind="dir")
    if allowed:
        world.run(user, lambda: action() and None)
        return
    world.denied(user, EPERM, action)
    assert sorted(os.listdir("d")) == ["dir", "fifo", "file", "mine", "symlink"]
    os.chmod("d", 0o777)
    world.run(user, lambda: action() and None)


for _name, _action in REMOVALS.items():
    for _holder, (_user, _allowed) in HOLDERS.items():
        rules.add(
            f"{_name} in a sticky directory by the {_holder}",
            "unlink(2), rmdir(2), rename(2): EPERM",
            partial(_removal, _action, _user, _allowed),
        )


@rules("open(2), link(2), proc_sys_fs(5) protected_regular")
def a_sticky_directory_takes_new_entries_of_everybody(world: World) -> None:
    _sticky(world)
    world.run(OTHER, opened, "d/new", os.O_CREAT | os.O_WRONLY)
    world.run(OTHER, os.mkdir, "d/new dir")
    world.run(OTHER, os.link, "d/new", "d/linked")
    world.run(OTHER, os.rename, "d/new", "d/renamed")
    world.run(OTHER, os.rename, "d/renamed", "out")
    os.chmod("d/file", 0o666)
    if protected("regular"):
        world.denied(OTHER, EACCES, opened, "d/file", os.O_CREAT | os.O_WRONLY)
    else:
        world.run(OTHER, opened, "d/file", os.O_CREAT | os.O_WRONLY)
    world.run(OTHER, opened, "d/file", os.O_WRONLY)


@rules("rename(2)")
def moving_a_directory_needs_write_permission_on_it_for_its_new_parent(world: World) -> None:
    world.own("moved", MEMBER, 0o755, kind="dir")
    os.mkdir("to")
    os.chmod("to", 0o777)
    world.run(OTHER, os.rename, "moved", "renamed")  # the parent stays
    world.denied(OTHER, EACCES, os.rename, "renamed", "to/moved")
    os.chmod("renamed", 0o777)
    world.run(OTHER, os.rename, "renamed", "to/moved")
