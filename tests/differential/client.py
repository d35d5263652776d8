"""The tests' end of the worker process, with a limit on how long it may take, and the two trees it works in.

Imports this package's ``protocol`` and ``tests.support.mounting``. Invariants: the native tree is ext4, in an image of
its own on a loop device; whatever happens, image, mounts and process are gone at the end.
"""

from __future__ import annotations

import collections
import contextlib
import os
import pickle
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.differential.protocol import Everything, Looked, Step, User
from tests.support.mounting import TIMEOUT_S, run

IMAGE_BYTES = 2 << 30
INODE_BYTES = 1024
"""Large inodes: extended attributes have room in them and take no block, which st_blocks would count."""


@contextlib.contextmanager
def native_ext4(place: Path) -> Iterator[tuple[Path, Path]]:
    """A directory on ext4, and the same through a mount that moves no atime. Both end with the block."""
    image, native, view = place / "ext4.image", place / "native", place / "view"
    native.mkdir(parents=True)
    view.mkdir()
    with image.open("wb") as stream:
        stream.truncate(IMAGE_BYTES)
    run("mkfs.ext4", "-q", "-F", "-b", "4096", "-I", str(INODE_BYTES), "-N", "100000", image)
    with contextlib.ExitStack() as stack:
        stack.callback(image.unlink)
        run("mount", "-t", "ext4", "-o", "loop,relatime", image, native)
        stack.callback(run, "umount", native)
        run("mount", "--bind", native, view)
        stack.callback(run, "umount", view)
        run("mount", "-o", "remount,bind,noatime", view)
        yield native, view


class Worker:
    """The worker process; its methods are those of ``worker.Worker``."""

    def __init__(self, native: Path, view: Path, mounted: Path) -> None:
        self.steps = 0
        self.examples = 0
        self.answers: collections.Counter[tuple[str, str]] = collections.Counter()
        """How often each call was answered with each errno, or with success (an empty string)."""
        command: list[str | Path] = [sys.executable, "-m", "tests.differential.worker", native, view, mounted]
        root = Path(__file__).resolve().parents[2]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=root)

    def begin(self) -> tuple[int, int]:
        self.examples += 1
        interval: tuple[int, int] = self._ask("begin", b"%d" % self.examples)
        return interval

    def end(self) -> None:
        # Some stay, for fsck and the remount at the end to have something to look at.
        self._ask("end", keep=self.examples % 8 == 1)

    def step(self, user: User, umask: int, name: str, arguments: tuple[object, ...]) -> Step:
        self.steps += 1
        step: Step = self._ask("step", user, umask, name, arguments)
        self.answers[name, step.outcomes[0].error] += 1
        return step

    def known(self) -> list[tuple[bytes, int]]:
        known: list[tuple[bytes, int]] = self._ask("known")
        return known

    def look(self) -> Looked:
        looked: Looked = self._ask("look")
        return looked

    def everything(self) -> tuple[dict[bytes, Everything], dict[bytes, Everything]]:
        found: tuple[dict[bytes, Everything], dict[bytes, Everything]] = self._ask("everything")
        return found

    def close(self) -> None:
        """End the process; a call that hangs is ended with it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def _ask(self, method: str, *arguments: object, **keywords: object) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        pickle.dump((method, arguments, keywords), self._process.stdin)
        self._process.stdin.flush()
        if not select.select([self._process.stdout], [], [], TIMEOUT_S)[0]:
            self._process.kill()
            pytest.fail(f"not answered within {TIMEOUT_S} s: {method}{arguments}")
        problem, result = pickle.load(self._process.stdout)
        if problem:
            pytest.fail(f"{method}{arguments}:\n{problem}")
        return result


@contextlib.contextmanager
def worker(place: Path, mounted: Path) -> Iterator[Worker]:
    """A worker on a native tree of its own and on what is mounted."""
    os.chmod(mounted, 0o755)
    with native_ext4(place) as (native, view):
        process = Worker(native, view, mounted)
        try:
            yield process
        finally:
            process.close()
