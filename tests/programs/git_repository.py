"""git on thousands of files: branches, merge, worktree, clone, gc, and an index that a remount leaves valid.

Imports its neighbours and ``tests.support.mounting``.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

from tests.programs.program import Place, Program, expect, need
from tests.support.mounting import run

DIRECTORIES, FILES, FILES_QUICK = 50, 80, 6


class Repository:
    """git in one directory, with no configuration but its own."""

    def __init__(self, top: Path, home: Path) -> None:
        self.top = top
        people = {f"GIT_{who}_{what}": "t@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        self._env = {"HOME": os.fspath(home), "GIT_CONFIG_NOSYSTEM": "1", **people}

    def git(self, *words: str | Path, at: Path | None = None, check: bool = True) -> str:
        return run("git", *words, cwd=at or self.top, env=self._env, check=check).stdout

    def expect_clean(self) -> None:
        """Not only without changes: the index's stat data must say so, without a look into the files."""
        expect(self.git("diff-files", "--name-only") == "", "the index's stat data are out of date")
        expect(self.git("status", "--porcelain") == "", "status is not clean")


def fill(top: Path, files: int) -> None:
    rng = random.Random(1)
    for directory in range(DIRECTORIES):
        (top / f"d{directory}").mkdir()
        for file in range(files):
            (top / f"d{directory}" / f"f{file}").write_bytes(rng.randbytes(rng.randrange(2000)).hex().encode())


def work(place: Place) -> str:
    need("git")
    files = FILES_QUICK if place.quick else FILES
    top, clone, other = (place.directory / name for name in ("repository", "clone", "worktree"))
    top.mkdir()
    repository = Repository(top, place.scratch)
    git = repository.git
    git("init", "-q", "-b", "main")
    fill(top, files)
    git("add", ".")
    git("commit", "-q", "-m", "first")
    git("checkout", "-q", "-b", "side")
    for directory in range(0, DIRECTORIES, 2):
        git("mv", f"d{directory}", f"moved{directory}")
    (top / "d1" / "f1").write_text("side\n")
    git("commit", "-q", "-a", "-m", "side")
    git("checkout", "-q", "main")
    for directory in range(1, DIRECTORIES, 2):
        (top / f"d{directory}" / "f0").write_text("main\n")
        (top / f"d{directory}" / "f2").unlink()
    git("commit", "-q", "-a", "-m", "main")
    for _ in range(2):
        git("checkout", "-q", "side")
        git("checkout", "-q", "main")
    git("merge", "-q", "--no-edit", "side")
    repository.expect_clean()
    git("worktree", "add", "-q", other, "side")
    git("clone", "-q", "--local", top, clone, at=place.directory)
    git("gc", "-q", "--prune=now")
    for each in (top, clone, other):
        git("fsck", "--full", "--strict", at=each)
        expect(git("status", "--porcelain", at=each) == "", f"{each.name} is not clean")
    os.utime(top / "d1" / "f1")
    expect(git("status", "--porcelain") == "", "not clean after touch")
    repository.expect_clean()
    place.remount()
    repository.expect_clean()
    for each in (top, clone, other):
        git("fsck", "--full", "--strict", at=each)
    expect(git("grep", "-c", "-e", "^main$", "--", "d1/f0") == "d1/f0:1\n", "the merge lost a change")
    return f"{DIRECTORIES * files} files, branches, merge, worktree, clone, gc, fsck, index valid after a remount"


PROGRAMS = (Program("git", "init to gc, fsck --full --strict, index after a remount", work),)
