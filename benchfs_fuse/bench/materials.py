"""What whole workloads work on: a source tree as an archive, a git repository of it, a C project; made once, on demand.

Imports the standard library and its neighbour ``source_tree``. Everything is made in a scratch directory beside what is
measured, from a seed.
"""

from __future__ import annotations

import functools
import os
import subprocess
import tarfile
from pathlib import Path

from benchfs_fuse.bench import source_tree

ENVIRONMENT = {
    "LC_ALL": "C",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_AUTHOR_NAME": "bench",
    "GIT_AUTHOR_EMAIL": "bench@localhost",
    "GIT_COMMITTER_NAME": "bench",
    "GIT_COMMITTER_EMAIL": "bench@localhost",
}
"""For programs: the same whoever runs them."""

OUTPUT_BYTES = 500
"""How much of what a program complains is shown."""


def run_program(*command: str | Path, cwd: Path | None = None) -> None:
    """Run a program, its output thrown away.

    Raises:
        OSError: it cannot be started.
        subprocess.CalledProcessError: it failed; ``stderr`` has the end of what it said.
    """
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, **ENVIRONMENT},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        check=False,
    )
    if done.returncode != 0:
        said = done.stderr[-OUTPUT_BYTES:].decode(errors="replace")
        raise subprocess.CalledProcessError(done.returncode, list(command), stderr=said)


class Materials:
    """Made in ``scratch`` when they are first asked for."""

    def __init__(self, scratch: Path, *, seed: int, tree_files: int, objects: int, archive: Path | None = None) -> None:
        """Make nothing yet.

        Args:
            scratch: an empty directory.
            seed: of everything that is made.
            tree_files: files in the source tree.
            objects: object files of the C project.
            archive: a tarball to use instead of a tree of our own.
        """
        self._scratch = scratch
        self._seed = seed
        self._tree_files = tree_files
        self._objects = objects
        self._given = archive

    @functools.cached_property
    def archive(self) -> Path:
        """The source tree as a tarball."""
        if self._given is not None:
            return self._given
        path = self._scratch / "tree.tar"
        source_tree.write_archive(path, files=self._tree_files, seed=self._seed)
        return path

    @functools.cached_property
    def archive_files(self) -> int:
        """Regular files in the tarball."""
        with tarfile.open(self.archive) as archive:
            return sum(member.isreg() for member in archive)

    @functools.cached_property
    def repository(self) -> Path:
        """A git repository with the source tree, in one commit."""
        path = self._scratch / "repository"
        path.mkdir()
        run_program("tar", "-xf", self.archive, "-C", path)
        for words in (("init", "-q"), ("add", "-A"), ("commit", "-q", "-m", "tree")):
            run_program("git", "-C", path, *words)
        return path

    @functools.cached_property
    def project(self) -> Path:
        """A C project with a Makefile, as a tarball."""
        path = self._scratch / "project.tar"
        source_tree.write_project(path, objects=self._objects, seed=self._seed)
        return path

    @property
    def objects(self) -> int:
        """How many object files the C project has."""
        return self._objects
