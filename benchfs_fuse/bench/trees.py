"""The workloads on trees: listing many entries, unpacking, copying, searching, cloning and removing a source tree.

Imports ``materials`` and ``workload``. The programs are those that users run: ls, tar, cp, grep, git, rm.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from benchfs_fuse.bench.materials import run_program
from benchfs_fuse.bench.workload import Done, Figure, NotMeasurable, Place, Step, Workload

_ENTRIES_PER_DIRECTORY = 500


def need(*programs: str) -> None:
    """NotMeasurable unless these can be run."""
    if missing := [name for name in programs if shutil.which(name) is None]:
        raise NotMeasurable(f"not installed: {', '.join(missing)}")


def _listing(place: Place) -> Iterator[Step]:
    need("ls")
    top, entries = place.kept / "entries", place.settings.entries

    def prepare() -> None:
        _make_entries(top, entries)

    def list_all() -> Done:
        run_program("ls", "-lR", top)
        return Done(entries)

    yield Step(None, prepare)
    yield Step("list-cold", list_all, cold=True)
    yield Step(None, list_all)
    yield Step("list", list_all)


def _make_entries(top: Path, entries: int) -> None:
    """Empty files in directories; those of an earlier round are still there."""
    if top.exists():
        return
    unfinished = top.with_name("unfinished")
    unfinished.mkdir(parents=True)
    for number in range(entries):
        directory = unfinished / f"d{number // _ENTRIES_PER_DIRECTORY}"
        if number % _ENTRIES_PER_DIRECTORY == 0:
            directory.mkdir()
        os.close(os.open(directory / f"f{number}", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644))
    unfinished.rename(top)


def _source_tree(place: Place) -> Iterator[Step]:
    need("tar", "cp", "grep", "rm")
    archive, files = place.materials.archive, place.materials.archive_files
    tree, copy = place.directory / "tree", place.directory / "copy"

    def unpack() -> Done:
        tree.mkdir()
        run_program("tar", "-xf", archive, "-C", tree)
        return Done(files)

    def copy_tree() -> Done:
        run_program("cp", "-a", tree, copy)
        return Done(files)

    def search() -> Done:
        run_program("grep", "-rc", "e", tree)  # in every file, or grep would call it a failure
        return Done(files)

    def remove() -> Done:
        run_program("rm", "-r", copy)
        return Done(files)

    yield Step("unpack", unpack)
    yield Step("copy", copy_tree)
    yield Step("search-cold", search, cold=True)
    yield Step(None, lambda: run_program("ls", "-lR", copy))
    yield Step("remove", remove)


def _clone(place: Place) -> Iterator[Step]:
    need("git", "tar")
    repository, files = place.materials.repository, place.materials.archive_files

    def clone() -> Done:
        run_program("git", "clone", "-q", "--no-hardlinks", repository, place.directory / "clone")
        return Done(files)

    def status() -> Done:
        run_program("git", "-C", place.directory / "clone", "status", "--porcelain")
        return Done(files)

    yield Step("git-clone", clone)
    yield Step("git-status-cold", status, cold=True)


WORKLOADS = (
    Workload(
        "listing",
        (Figure("list-cold", "ls -lR, cold", "entries"), Figure("list", "ls -lR again", "entries")),
        _listing,
    ),
    Workload(
        "source-tree",
        (
            Figure("unpack", "unpack a source tree (tar)", "files"),
            Figure("copy", "copy a source tree (cp -a)", "files"),
            Figure("search-cold", "search a source tree (grep -r), cold", "files"),
            Figure("remove", "remove a source tree (rm -r)", "files"),
        ),
        _source_tree,
    ),
    Workload(
        "git",
        (
            Figure("git-clone", "git clone", "files"),
            Figure("git-status-cold", "git status, cold", "files"),
        ),
        _clone,
    ),
)
