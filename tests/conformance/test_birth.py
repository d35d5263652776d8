"""When an inode was made: statx(2) with STATX_BTIME, through the plane; through pyfuse3 it is not told."""

from __future__ import annotations

import os
import time

import pytest

from tests.conformance.calls import (
    DONT_SYNC,
    FORCE_SYNC,
    STATX_BASIC_STATS,
    STATX_BTIME,
    Statx,
    statx,
)
from tests.conformance.world import (
    CLOCK_REALTIME_COARSE,
    KINDS,
    OTHER,
    OWNER,
    Rule,
    Rules,
    World,
    make,
    tick,
    write,
)
from tests.support.mounting import run

pytestmark = pytest.mark.fuse
rules = Rules()


def test_rule(rule: Rule, world: World) -> None:
    rule.verify(world)


@rules("statx(2): STATX_BTIME")
def every_kind_of_inode_has_been_made_at_some_time(world: World) -> None:
    for kind in KINDS:
        before_ns = time.clock_gettime_ns(CLOCK_REALTIME_COARSE)
        make(kind, kind)
        found = statx(kind)
        assert found.mask & STATX_BTIME
        assert before_ns <= found.birth_ns <= time.clock_gettime_ns(time.CLOCK_REALTIME), kind
        assert found.birth_ns <= os.lstat(kind).st_ctime_ns


@rules("statx(2): btime is when the file was made")
def nothing_moves_it(world: World) -> None:
    made_ns = statx(write("file")).birth_ns
    tick()
    write("file", b"something else")
    os.truncate("file", 3)
    os.chmod("file", 0o600)
    os.utime("file", ns=(1, 2))
    os.link("file", "link")
    os.rename("file", "renamed")
    os.unlink("link")
    os.setxattr("renamed", "user.a", b"1")
    assert statx("renamed").birth_ns == made_ns
    tick()
    os.unlink("renamed")
    assert statx(write("renamed")).birth_ns > made_ns


@rules("statx(2)")
def it_comes_with_all_that_stat_tells(world: World) -> None:
    for kind in KINDS:
        make(kind, kind)
        os.lchown(kind, OWNER.uid, OTHER.gid)
        seen, found = os.lstat(kind), statx(kind)
        wanted = (seen.st_nlink, seen.st_uid, seen.st_gid, seen.st_mode, seen.st_ino, seen.st_size, seen.st_blocks)
        assert found.status == wanted, kind
        assert found.mask & STATX_BASIC_STATS == STATX_BASIC_STATS


@rules("statx(2): AT_STATX_FORCE_SYNC, AT_STATX_DONT_SYNC")
def however_it_is_asked_for(world: World) -> None:
    wanted = statx(write("file"), flags=FORCE_SYNC)
    for flags in (0, FORCE_SYNC, DONT_SYNC):
        assert statx("file", flags=flags).birth_ns == wanted.birth_ns
        assert statx("file", STATX_BTIME, flags).birth_ns == wanted.birth_ns


@rules("statx(2)")
def of_a_file_that_was_just_written(world: World) -> None:
    with open("file", "wb") as stream:
        for length in (1, 5000, 70_000):
            stream.write(bytes(length))
            stream.flush()
            found: Statx = statx("file")
            assert found.status[5] == os.fstat(stream.fileno()).st_size == stream.tell()


@rules("stat(1): %w, %W")
def stat_shows_it(world: World) -> None:
    made_ns = statx(write("file")).birth_ns
    shown = run("stat", "-c", "%W %w", "file").stdout.split()
    assert int(shown[0]) == made_ns // 10**9
    assert shown[2] == time.strftime("%H:%M:%S", time.localtime(made_ns // 10**9)) + f".{made_ns % 10**9:09}"
