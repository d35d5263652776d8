"""Programs that people use, on a real mount, with both stores in both modes; and everything again after a remount.

Each test runs its program in a volume of its own, then unmounts, has fsck look, mounts again, and compares every name,
byte, mode, time and link with what was there before.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import sysconfig
import textwrap
from pathlib import Path

import pytest

from benchfs_core.types import StoreKind, SyncMode
from tests.support.mounting import (
    SETUPS,
    TIMEOUT_S,
    MountedVolume,
    Setup,
    Volumes,
    assert_same,
    manifest,
    run,
)

pytestmark = pytest.mark.fuse

PART = (
    "asyncio",
    "collections",
    "concurrent",
    "ctypes",
    "email",
    "encodings",
    "importlib",
    "json",
    "logging",
    "unittest",
)
"""Of the standard library, some three hundred files."""

CHUNK_SIZE = 64 * 1024
"""Small, so that ordinary files have several chunks."""


@pytest.fixture(params=SETUPS, ids=str)
def volume(request: pytest.FixtureRequest, volumes: Volumes) -> MountedVolume:
    setup: Setup = request.param
    return volumes.make(setup, options=f"chunk_size={CHUNK_SIZE}")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Part of the standard library, and what its files do not have: links, odd modes and times, holes."""
    top = tmp_path_factory.mktemp("tree") / "tree"
    library = Path(sysconfig.get_path("stdlib"))
    for name in PART:
        shutil.copytree(library / name, top / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    _add_oddities(top)
    return top


def _add_oddities(top: Path) -> None:
    odd = top / "odd"
    odd.mkdir()
    (odd / "empty").touch()
    (odd / "one").write_bytes(b"x")
    (odd / "hole").write_bytes(b"start")
    os.truncate(odd / "hole", 5 * CHUNK_SIZE + 1)
    for number in (CHUNK_SIZE - 1, CHUNK_SIZE, CHUNK_SIZE + 1, 1_500_000):
        (odd / f"{number} bytes").write_bytes(os.urandom(number))
    for mode in (0o000, 0o444, 0o600, 0o755, 0o1777, 0o2755, 0o4755):
        (odd / f"mode {mode:o}").write_text(oct(mode))
        (odd / f"mode {mode:o}").chmod(mode)
    os.link(odd / "one", odd / "second name of one")
    os.link(odd / "one", top / "third name of one")
    (odd / "link").symlink_to("one")
    (odd / "dangling").symlink_to("nowhere/" + "long/" * 300)
    (odd / "to directory").symlink_to("../json")
    os.mkfifo(odd / "pipe")
    os.chown(odd / "empty", 1234, 4321)
    (odd / "größe\n\t 漢字").write_text("name")
    Path(os.fsdecode(os.fsencode(odd) + b"/not \xff\xfe utf-8")).write_text("name")
    directory = odd / "deep"
    for _ in range(40):
        directory = directory / "deeper"
    directory.mkdir(parents=True)
    (directory / "bottom").write_text("here")
    # Long ago: rsync takes two times in one second for the same, so none may be from the second it runs in.
    for number, path in enumerate(sorted([top, *top.rglob("*")])):
        os.utime(path, ns=(number, 946_684_800_000_000_000 + number * 1_234_567_891), follow_symlinks=False)


def remount_and_compare(volume: MountedVolume) -> None:
    before = manifest(volume.directory)
    assert len(before) > 1, "nothing to compare"
    volume.remount()
    assert_same(manifest(volume.directory), before)


def test_cp_copies_a_tree_with_content_modes_times_and_links(volume: MountedVolume, tree: Path) -> None:
    run("cp", "-a", tree, volume.directory)
    assert_same(manifest(volume.directory / "tree", own=False), manifest(tree, own=False))
    remount_and_compare(volume)


def test_cp_copies_back_what_it_had_copied_there(volume: MountedVolume, tree: Path, tmp_path: Path) -> None:
    run("cp", "-a", tree, volume.directory / "there")
    run("cp", "-a", volume.directory / "there", tmp_path / "back")
    assert_same(manifest(tmp_path / "back", own=False), manifest(tree, own=False))


def test_the_entire_standard_library_comes_back_as_it_was(volumes: Volumes, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    ignored = shutil.ignore_patterns("__pycache__", "site-packages", "dist-packages", "test", "tests", "config-*")
    shutil.copytree(sysconfig.get_path("stdlib"), whole, symlinks=True, ignore=ignored)
    volume = volumes.make(Setup(StoreKind.IO_URING, SyncMode.FSYNC))
    run("cp", "-a", whole, volume.directory)
    assert_same(manifest(volume.directory / "whole", own=False), manifest(whole, own=False))
    run("tar", "-cf", "whole.tar", "whole", cwd=volume.directory)
    run("tar", "--compare", "-f", volume.directory / "whole.tar", cwd=tmp_path)
    remount_and_compare(volume)
    shutil.rmtree(volume.directory / "whole")
    assert sorted(os.listdir(volume.directory)) == ["whole.tar"]


def test_tar_packs_and_unpacks_a_tree_on_the_mount(volume: MountedVolume, tree: Path) -> None:
    archive, there = volume.directory / "tree.tar", volume.directory / "unpacked"
    there.mkdir()
    run("tar", "--format=pax", "-cf", archive, "-C", tree.parent, "tree")
    run("tar", "-xpf", archive, "-C", there)
    assert_same(manifest(there / "tree", own=False), manifest(tree, own=False))
    run("tar", "-df", archive, "-C", there)
    remount_and_compare(volume)


def test_git_keeps_a_repository_on_the_mount(volume: MountedVolume, tree: Path, tmp_path: Path) -> None:
    env = {
        "HOME": os.fspath(tmp_path),
        "GIT_CONFIG_NOSYSTEM": "1",
        **{f"GIT_{who}_{what}": "t@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
    }
    work, clone = volume.directory / "work", volume.directory / "clone"

    def git(*words: str | Path, cwd: Path = work) -> str:
        return run("git", *words, cwd=cwd, env=env).stdout

    work.mkdir()
    git("init", "-q", "-b", "main")
    shutil.copytree(tree / "email", work / "email")
    git("add", ".")
    git("commit", "-q", "-m", "first")
    (work / "email" / "parser.py").write_text("changed\n")
    (work / "email" / "utils.py").unlink()
    git("mv", "email/errors.py", "email/mistakes.py")
    git("commit", "-q", "-a", "-m", "second")
    git("clone", "-q", "--no-hardlinks", work, clone, cwd=volume.directory)
    git("gc", "-q", "--aggressive", "--prune=now")
    git("fsck", "--full", "--strict")
    git("fsck", "--full", "--strict", cwd=clone)
    head = git("rev-parse", "HEAD")
    remount_and_compare(volume)
    for repository in (work, clone):
        git("fsck", "--full", "--strict", cwd=repository)
        assert git("status", "--porcelain", cwd=repository) == ""
        assert git("rev-parse", "HEAD", cwd=repository) == head
    assert git("show", "HEAD:email/parser.py") == "changed\n"


SQLITE_WRITER = """
import sqlite3, sys
path, writer, rows = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
connection = sqlite3.connect(path, timeout=60, isolation_level=None)
for number in range(rows):
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("INSERT INTO entry VALUES (?, ?, randomblob(3000))", (writer, number))
    connection.execute("UPDATE total SET count = count + 1")
    connection.execute("COMMIT")
connection.close()
"""


@pytest.mark.parametrize("journal", ["wal", "delete"])
def test_sqlite_has_several_writers_and_keeps_its_integrity(volume: MountedVolume, journal: str) -> None:
    path, writers, rows = volume.directory / "a.db", 3, 20
    with sqlite3.connect(path) as connection:
        assert connection.execute(f"PRAGMA journal_mode={journal}").fetchone() == (journal,)
        connection.execute("CREATE TABLE entry (writer, number, content, PRIMARY KEY (writer, number))")
        connection.execute("CREATE TABLE total (count)")
        connection.execute("INSERT INTO total VALUES (0)")
    connection.close()
    processes = [
        subprocess.Popen([sys.executable, "-c", SQLITE_WRITER, path, str(writer), str(rows)])
        for writer in range(writers)
    ]
    try:
        assert [process.wait(TIMEOUT_S) for process in processes] == [0] * writers
    finally:
        for process in processes:
            process.kill()
            process.wait()
    check = "PRAGMA integrity_check; SELECT count(*), count(DISTINCT writer) FROM entry; SELECT count FROM total;"
    expected = f"ok\n{writers * rows}|{writers}\n{writers * rows}\n"
    assert run("sqlite3", path, check).stdout == expected
    remount_and_compare(volume)
    assert run("sqlite3", path, check).stdout == expected


FIO_JOBS = """
[global]
directory={directory}
ioengine=psync
verify=crc32c
verify_fatal=1
do_verify=1
randrepeat=1
[sequential-4k]
rw=write
bs=4k
size=2m
[random-512]
rw=randwrite
bs=512
size=256k
[random-4k-two-jobs]
rw=randwrite
bs=4k
size=1m
numjobs=2
fsync=64
[random-mixed]
rw=randwrite
bsrange=512-1m
bs_unaligned=1
size=8m
[sequential-1m]
rw=write
bs=1m
size=16m
end_fsync=1
[random-1m]
rw=randwrite
bs=1m
size=16m
[direct-sequential-64k]
rw=write
bs=64k
size=4m
direct=1
[direct-random-4k]
rw=randwrite
bs=4k
size=1m
direct=1
[direct-random-512]
rw=randwrite
bs=512
size=128k
direct=1
[direct-random-1m-libaio]
rw=randwrite
bs=1m
size=8m
direct=1
ioengine=libaio
iodepth=8
"""


def test_fio_reads_back_what_it_wrote(volume: MountedVolume, tmp_path: Path) -> None:
    jobs = tmp_path / "jobs.fio"
    jobs.write_text(FIO_JOBS.format(directory=volume.directory))
    result = json.loads(run("fio", "--output-format=json", jobs, cwd=tmp_path).stdout)
    assert len(result["jobs"]) == 11
    for job in result["jobs"]:
        assert job["error"] == 0, job["jobname"]
        assert job["write"]["io_bytes"] > 0, job["jobname"]
        assert job["read"]["io_bytes"] == job["write"]["io_bytes"], job["jobname"]
    remount_and_compare(volume)


def test_dd_writes_what_it_read(volume: MountedVolume, tmp_path: Path) -> None:
    original = tmp_path / "original"
    for number, (length, words) in enumerate(
        (
            (9_000_001, ("bs=1M", "conv=fsync")),
            (500_001, ("bs=4095", "conv=fdatasync")),
            (4 << 20, ("bs=64K", "oflag=direct", "conv=fsync")),
            (1_000_000, ("bs=100000", "oflag=dsync")),
        )
    ):
        copy = volume.directory / f"copy {number}"
        original.write_bytes(os.urandom(length))
        run("dd", f"if={original}", f"of={copy}", *words)
        run("cmp", original, copy)
        run("dd", f"if={original}", f"of={copy}", "bs=1000", "count=3", "skip=7", "seek=123", "conv=notrunc,fsync")
        expected = bytearray(original.read_bytes())
        expected[123_000:126_000] = expected[7_000:10_000]
        assert copy.read_bytes() == expected
    remount_and_compare(volume)


def test_rsync_copies_a_tree_and_then_finds_nothing_to_do(volume: MountedVolume, tree: Path) -> None:
    words = ("rsync", "-aH", "--checksum", "--itemize-changes", f"{tree}/", f"{volume.directory}/copy/")
    assert len(run(*words).stdout.splitlines()) > 200
    assert_same(manifest(volume.directory / "copy", own=False), manifest(tree, own=False))
    assert run(*words).stdout == ""
    remount_and_compare(volume)
    assert run(*words).stdout == ""


C_PROGRAM = textwrap.dedent(r"""
    #define _GNU_SOURCE
    #include <fcntl.h>
    #include <stdio.h>
    #include <stdlib.h>
    #include <string.h>
    #include <sys/mman.h>
    #include <sys/stat.h>
    #include <unistd.h>
    #define MUST(what) do { if (!(what)) { fprintf(stderr, "line %d: ", __LINE__); perror(#what); exit(1); } } while (0)
    enum { LENGTH = 3 * 65536 + 100 };
    int main(void) {
        int file = open("mapped", O_RDWR | O_CREAT | O_EXCL, 0640);
        MUST(file >= 0);
        MUST(ftruncate(file, LENGTH) == 0);
        char *map = mmap(NULL, LENGTH, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
        MUST(map != MAP_FAILED);
        for (int i = 0; i < LENGTH; i++) { MUST(map[i] == 0); map[i] = (char)(i * 7 + i / 4096); }
        MUST(msync(map, LENGTH, MS_SYNC) == 0);
        char *buffer = malloc(LENGTH);
        MUST(pread(file, buffer, LENGTH, 0) == LENGTH);
        MUST(memcmp(buffer, map, LENGTH) == 0);
        MUST(pwrite(file, "through write(2)", 16, 65530) == 16);
        MUST(memcmp(map + 65530, "through write(2)", 16) == 0);
        map[LENGTH - 1] = '!';
        MUST(munmap(map, LENGTH) == 0);
        MUST(pread(file, buffer, 1, LENGTH - 1) == 1 && buffer[0] == '!');
        MUST(fsync(file) == 0);
        struct stat status;
        MUST(fstat(file, &status) == 0 && status.st_size == LENGTH && (status.st_mode & 07777) == 0640);
        MUST(posix_fallocate(file, 0, LENGTH + 10) == 0);
        MUST(lseek(file, 0, SEEK_END) == LENGTH + 10);
        MUST(close(file) == 0);
        MUST(rename("mapped", "renamed") == 0 && access("mapped", F_OK) == -1);
        puts("done");
        return 0;
    }
""")


def test_a_c_program_is_compiled_and_run_on_the_mount(volume: MountedVolume) -> None:
    (volume.directory / "program.c").write_text(C_PROGRAM)
    run("gcc", "-Wall", "-Werror", "-O1", "-o", "program", "program.c", cwd=volume.directory)
    assert run(volume.directory / "program", cwd=volume.directory).stdout == "done\n"
    length = 3 * 65536 + 100
    expected = bytearray((i * 7 + i // 4096) & 0xFF for i in range(length))
    expected[65530:65546] = b"through write(2)"
    expected[-1:] = b"!"
    assert (volume.directory / "renamed").read_bytes() == expected + bytes(10)
    remount_and_compare(volume)
    (volume.directory / "renamed").unlink()
    assert run(volume.directory / "program", cwd=volume.directory).stdout == "done\n"


APPENDER = """
import os, sys
path, mark, records = sys.argv[1], sys.argv[2], int(sys.argv[3])
file = os.open(path, os.O_WRONLY | os.O_APPEND)
sys.stdin.readline()
for number in range(records):
    record = f"{mark}{number:06d}:".encode() + mark.encode() * (number * 37 % 900) + b"\\n"
    assert os.write(file, record) == len(record)
os.close(file)
"""


def test_two_processes_append_to_one_file_and_no_byte_is_lost(volume: MountedVolume) -> None:
    path, records = volume.directory / "appended", 400
    path.touch()
    processes = [
        subprocess.Popen([sys.executable, "-c", APPENDER, path, mark, str(records)], stdin=subprocess.PIPE)
        for mark in "ab"
    ]
    try:
        for process in processes:
            assert process.stdin is not None
            process.stdin.write(b"go\n")
            process.stdin.flush()
        assert [process.wait(TIMEOUT_S) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    lines = path.read_text().splitlines()
    for mark in "ab":
        expected = [f"{mark}{number:06d}:" + mark * (number * 37 % 900) for number in range(records)]
        assert [line for line in lines if line.startswith(mark)] == expected
    assert len(lines) == 2 * records
    remount_and_compare(volume)
