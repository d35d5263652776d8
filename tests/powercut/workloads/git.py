"""``git commit``: what was committed is in the repository, and ``git fsck`` finds nothing.

git renames its ref and flushes no directory, so a commit counts as acknowledged once the directory of the refs has been
flushed. With ``sync=fsync`` git is told to flush everything that it can; what ``git init`` makes is flushed here, and
there is no log of refs, as both are left unflushed.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from benchfs_core.types import SyncMode
from tests.powercut.record import Judge, Settled, Teller
from tests.powercut.workloads.base import Workload
from tests.powercut.workloads.sqlite import payload

FILES = 5
_SETTINGS = (
    "user.name=Nobody",
    "user.email=nobody@example.org",
    "gc.auto=0",
    "commit.gpgsign=false",
    "core.logAllRefUpdates=false",
)
_ENVIRONMENT = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", "LC_ALL": "C"}


def git(repository: Path, *words: str, settings: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    """Run git there, by itself, whatever the machine has configured."""
    options = [word for setting in (*_SETTINGS, "safe.directory=*", *settings) for word in ("-c", setting)]
    return subprocess.run(
        ["git", "-C", repository, *options, *words],
        env={**os.environ, **_ENVIRONMENT},
        capture_output=True,
        text=True,
        check=False,
    )


class GitJudge:
    """See ``record.Judge``."""

    def __init__(self) -> None:
        self.settled = Settled()
        self._committed = self._begun = 0
        self._hash = ""
        self._lengths: dict[int, int] = {}

    def begin(self, operation: Sequence[object]) -> None:
        match operation:
            case ["commit", int(number), int(length)]:
                self._begun = number
                self._lengths[number] = length

    def done(self, operation: Sequence[object], result: object, at_ns: int) -> None:
        match operation:
            case ["commit", int(number), int(length)]:
                self._committed, self._hash = number, str(result)
                self.settled.add(at_ns, length)

    def problems(self, directory: Path) -> list[str]:
        repository = directory / "repository"
        if not self._committed:
            return []  # it may be half made
        checked = git(repository, "fsck", "--full", "--strict", "--no-dangling")
        if checked.returncode != 0:
            return [f"git fsck: exit {checked.returncode}: {checked.stdout}{checked.stderr}"]
        head = git(repository, "log", "-1", "--format=%s").stdout.strip()
        if not head.isdigit() or not self._committed <= int(head) <= self._begun:
            return [f"HEAD is commit {head!r}; {self._committed} was acknowledged, {self._begun} begun"]
        if git(repository, "merge-base", "--is-ancestor", self._hash, "HEAD").returncode != 0:
            return [f"commit {self._hash} is not in the history of HEAD"]
        shown = git(repository, "show", f"HEAD:file-{int(head) % FILES}").stdout
        if shown != payload(int(head), self._lengths[int(head)]).hex():
            return [f"the file of commit {head} is wrong"]
        return []


class Git(Workload):
    """See the module."""

    @staticmethod
    def judge(sync: SyncMode) -> Judge:
        return GitJudge()

    def work(self, directory: Path, tell: Teller) -> None:
        settings = () if self.every_write_is_durable else ("core.fsync=all", "core.fsyncMethod=fsync")
        repository = directory / "repository"
        repository.mkdir()
        self._git(repository, "init", "--quiet", "--initial-branch=main")
        for path in [*repository.rglob("*"), repository]:
            handle = os.open(path, os.O_RDONLY)
            os.fsync(handle)
            os.close(handle)
        refs = os.open(repository / ".git" / "refs", os.O_RDONLY | os.O_DIRECTORY)
        for number in range(1, 1 << 60):
            length = self.random.choice((100, 2000, 30_000))
            name = f"file-{number % FILES}"
            tell.begin(("commit", number, length))
            (repository / name).write_text(payload(number, length).hex())
            self._git(repository, "add", name, settings=settings)
            self._git(repository, "commit", "--quiet", "--no-verify", "-m", str(number), settings=settings)
            os.fsync(refs)
            tell.done(self._git(repository, "rev-parse", "HEAD"))

    @staticmethod
    def _git(repository: Path, *words: str, settings: Sequence[str] = ()) -> str:
        done = git(repository, *words, settings=settings)
        if done.returncode != 0:
            raise OSError(f"git {words[0]}: {done.stderr}")
        return done.stdout.strip()
