"""Open files: flags of open(2), several processes at once, files that are renamed or unlinked while open."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable
from errno import EBADF, EEXIST, EINVAL, ELOOP, ENOENT, ENOTDIR, EPERM, ETXTBSY
from functools import partial
from pathlib import Path

import pytest

from tests.conformance.calls import link_followed
from tests.conformance.world import KINDS, OTHER, Rule, Rules, World, fails, inode, make, opened, read, write

pytestmark = pytest.mark.fuse
rules = Rules()

PROCESSES = 4


def test_rule(rule: Rule, world: World) -> None:
    rule.verify(world)


def at_once(world: World, action: Callable[[int], object]) -> list[object]:
    """Run ``action`` in several processes that start together; what each returned."""
    gate, starter = os.pipe()

    def wait_and_act(number: int) -> object:
        os.close(starter)
        os.read(gate, 1)
        return action(number)

    children = [world.start(partial(wait_and_act, number)) for number in range(PROCESSES)]
    os.close(gate)
    os.close(starter)
    return [child.result() for child in children]


@rules("open(2): O_EXCL")
def of_several_processes_that_create_a_name_one_succeeds(world: World) -> None:
    def create(_number: int) -> list[bool]:
        won = []
        for attempt in range(20):
            try:
                opened(f"file {attempt}", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
                won.append(True)
            except FileExistsError:
                won.append(False)
        return won

    results = at_once(world, create)
    assert [sum(column) for column in zip(*results, strict=True)] == [1] * 20


MAKE_OR_TAKE: dict[str, tuple[Callable[[str], object], Callable[[str], object]]] = {
    "mkdir": (lambda name: None, os.mkdir),
    "link": (lambda name: None, lambda name: os.link("source", name)),
    "symlink": (lambda name: None, lambda name: os.symlink("target", name)),
    "unlink": (write, os.unlink),
    "rmdir": (os.mkdir, os.rmdir),
    "rename": (write, lambda name: os.rename(name, f"{name} of {os.getpid()}")),
}


def _one_succeeds(prepare: Callable[[str], object], act: Callable[[str], object], world: World) -> None:
    write("source")
    for number in range(10):
        prepare(f"name {number}")

    def attempt(_number: int) -> list[bool]:
        won = []
        for number in range(10):
            try:
                act(f"name {number}")
                won.append(True)
            except (FileExistsError, FileNotFoundError):
                won.append(False)
        return won

    results = at_once(world, attempt)
    assert [sum(column) for column in zip(*results, strict=True)] == [1] * 10


for _name, (_prepare, _act) in MAKE_OR_TAKE.items():
    rules.add(
        f"of several processes that {_name} at once one succeeds", f"{_name}(2)", partial(_one_succeeds, _prepare, _act)
    )


@rules("write(2): O_APPEND")
def appends_of_several_processes_lose_nothing(world: World) -> None:
    def append(number: int) -> None:
        descriptor = os.open("log", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        for count in range(40):
            os.write(descriptor, f"{number} {count:04d}\n".encode() * 30)
        os.close(descriptor)

    at_once(world, append)
    lines = read("log").decode().splitlines()
    for number in range(PROCESSES):
        own = [line for line in lines if line.startswith(f"{number} ")]
        assert own == [f"{number} {count:04d}" for count in range(40) for _ in range(30)]
    assert len(lines) == PROCESSES * 40 * 30


@rules("open(2): O_APPEND, lseek(2), pwritev2(2): RWF_APPEND")
def appending_is_at_the_end_wherever_the_offset_is(world: World) -> None:
    descriptor = os.open(write("file", b"123"), os.O_RDWR | os.O_APPEND)
    os.lseek(descriptor, 0, os.SEEK_SET)
    os.write(descriptor, b"4")
    assert os.lseek(descriptor, 0, os.SEEK_CUR) == 4
    os.pwrite(descriptor, b"5", 0)  # Linux appends, against POSIX (BUGS in pwrite(2))
    os.truncate("file", 2)
    os.write(descriptor, b"6")
    os.close(descriptor)
    assert read("file") == b"126"
    descriptor = os.open("file", os.O_RDWR)
    assert os.pwritev(descriptor, [b"7"], 0, os.RWF_APPEND) == 1
    os.close(descriptor)
    assert read("file") == b"1267"


@rules("unlink(2)")
def an_unlinked_open_file_is_a_file_in_every_respect_but_its_name(world: World) -> None:
    descriptor = os.open(write("file"), os.O_RDWR)
    os.unlink("file")
    assert os.fstat(descriptor).st_nlink == 0
    os.pwrite(descriptor, b"C", 0)
    os.ftruncate(descriptor, 3)
    assert os.pread(descriptor, 10, 0) == b"Con"
    os.fchmod(descriptor, 0o600)
    os.fchown(descriptor, 5, 5)
    os.utime(descriptor, ns=(1, 2))
    os.fsync(descriptor)
    status = os.fstat(descriptor)
    assert (status.st_size, stat.S_IMODE(status.st_mode), status.st_uid, status.st_mtime_ns) == (3, 0o600, 5, 2)
    with open(f"/proc/self/fd/{descriptor}", "r+b") as again:
        assert again.read() == b"Con"
    os.close(descriptor)


@rules("linkat(2): a link count of zero")
def an_unlinked_open_file_gets_no_new_name(world: World) -> None:
    descriptor = os.open(write("file"), os.O_RDWR)
    link_followed(f"/proc/self/fd/{descriptor}", "second")
    os.unlink("file")
    link_followed(f"/proc/self/fd/{descriptor}", "third")
    os.unlink("second")
    os.unlink("third")
    fails(ENOENT, link_followed, f"/proc/self/fd/{descriptor}", "fourth")
    os.close(descriptor)


@rules("rename(2)")
def an_open_file_follows_its_inode_through_renames(world: World) -> None:
    os.mkdir("d")
    descriptor = os.open(write("file"), os.O_RDWR)
    os.rename("file", "d/moved")
    write("file", b"another")
    os.pwrite(descriptor, b"C", 0)
    assert read("d/moved") == b"Content"
    os.rename("file", "d/moved")
    assert os.fstat(descriptor).st_nlink == 0
    assert os.pread(descriptor, 10, 0) == b"Content"
    assert read("d/moved") == b"another"
    os.close(descriptor)


@rules("open(2): O_TRUNC")
def o_trunc_empties_the_file_for_everybody_who_has_it_open(world: World) -> None:
    descriptor = os.open(write("file", bytes(100_000)), os.O_RDWR)
    os.lseek(descriptor, 50_000, os.SEEK_SET)
    opened("file", os.O_WRONLY | os.O_TRUNC)
    assert os.fstat(descriptor).st_size == 0
    assert os.read(descriptor, 10) == b""
    os.write(descriptor, b"x")
    assert read("file") == bytes(50_000) + b"x"
    os.close(descriptor)


@rules("open(2), read(2), write(2), ftruncate(2)")
def descriptors_do_only_what_they_were_opened_for(world: World) -> None:
    reader, writer = os.open(write("file"), os.O_RDONLY), os.open("file", os.O_WRONLY)
    fails(EBADF, os.write, reader, b"x")
    fails(EBADF, os.read, writer, 1)
    fails(EINVAL, os.ftruncate, reader, 1)
    directory = os.open(".", os.O_RDONLY)
    fails(21, os.read, directory, 1)
    fails(EBADF, os.write, directory, b"")
    fails(EINVAL, os.ftruncate, directory, 0)
    os.fsync(reader)  # needs no right to write
    os.fdatasync(directory)
    for descriptor in (reader, writer, directory):
        os.close(descriptor)


@rules("open(2): O_DIRECTORY, O_NOFOLLOW")
def o_directory_and_o_nofollow_refuse_other_types(world: World) -> None:
    for kind in KINDS:
        make(kind, kind)
        if kind not in ("dir", "symlink"):
            fails(ENOTDIR, os.open, kind, os.O_RDONLY | os.O_DIRECTORY)
    os.symlink("dir", "to dir")
    opened("to dir", os.O_DIRECTORY)
    fails(ELOOP, os.open, "symlink", os.O_NOFOLLOW)
    fails(ELOOP, os.open, "symlink", os.O_NOFOLLOW | os.O_CREAT | os.O_WRONLY)
    fails(ENOTDIR, os.open, "to dir", os.O_DIRECTORY | os.O_NOFOLLOW)
    fails(EEXIST, os.open, "dir", os.O_CREAT | os.O_EXCL)


@rules("open(2): O_PATH")
def o_path_names_an_inode_and_opens_nothing(world: World) -> None:
    os.chmod(write("file"), 0)
    os.symlink("file", "link")

    def look() -> None:
        descriptor = os.open("file", os.O_PATH)
        fails(EBADF, os.read, descriptor, 1)
        fails(EBADF, os.fchmod, descriptor, 0o777)
        fails(EBADF, os.ftruncate, descriptor, 0)
        assert os.stat(descriptor).st_ino == inode("file")
        symlink = os.open("link", os.O_PATH | os.O_NOFOLLOW)
        assert os.readlink("", dir_fd=symlink) == "file"

    world.run(OTHER, look)


@rules("execve(2), open(2): ETXTBSY")
def a_running_program_is_not_written_and_a_file_open_for_writing_not_run(world: World) -> None:
    shutil.copy(shutil.which("cat") or "/bin/cat", "program")
    run: Callable[[], int] = lambda: os.posix_spawn("./program", ["program"], {})  # noqa: E731
    descriptor = os.open("program", os.O_WRONLY)
    fails(ETXTBSY, run)
    os.close(descriptor)
    reader, writer = os.pipe()
    os.set_inheritable(reader, True)
    pid = os.posix_spawn("./program", ["program"], {}, file_actions=[(os.POSIX_SPAWN_DUP2, reader, 0)])
    os.close(reader)
    fails(ETXTBSY, os.open, "program", os.O_WRONLY)
    fails(ETXTBSY, os.truncate, "program", 0)
    os.rename("program", "renamed")
    os.unlink("renamed")
    os.close(writer)
    assert os.waitpid(pid, 0)[1] == 0


@rules("execve(2)")
def scripts_run_from_the_filesystem(world: World) -> None:
    os.chmod(write("script", b"#!/bin/sh\nexit 7\n"), 0o755)
    pid = os.posix_spawn("./script", ["script"], {})
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7


@rules("fsync(2), syncfs(2), POSIX 2024 §XSH fsync")
def what_can_be_opened_can_be_flushed(world: World) -> None:
    for name in (write("file"), "."):
        descriptor = os.open(name, os.O_RDONLY)
        os.fsync(descriptor)
        os.fdatasync(descriptor)
        os.close(descriptor)
    os.mkfifo("fifo")
    descriptor = os.open("fifo", os.O_RDWR)
    fails(EINVAL, os.fsync, descriptor)
    os.close(descriptor)


@rules("chroot(2), mount(8), rename(2)")
def a_working_directory_can_be_renamed(world: World) -> None:
    os.makedirs("a/b")
    os.chdir("a/b")
    os.rename("../../a", "../../renamed")
    assert Path.cwd() == world.top / "renamed" / "b"
    write("file")
    assert read("../b/file") == b"content"
    os.chdir(world.top)


@rules("unlink(2): EPERM; chattr(1)")
def links_to_directories_are_not_made(world: World) -> None:
    os.mkdir("d")
    fails(EPERM, os.link, "d", "e")
    os.symlink("d", "s")
    fails(EPERM, link_followed, "s", "e")
