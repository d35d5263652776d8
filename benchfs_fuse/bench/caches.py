"""Making things cold: what the kernel has cached is dropped before a step, as far as this user can.

Imports the standard library. Invariant: ``description`` says how cold cold is, for the report: what a daemon keeps in
its own memory stays in any case.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Protocol

DROP = Path("/proc/sys/vm/drop_caches")
_PAGES_AND_NAMES = "3"


class Caches(Protocol):
    """A way to drop what is cached of a directory."""

    @property
    def description(self) -> str:
        """What is dropped, in a few words."""
        ...

    def drop(self, directory: Path) -> None:
        """Drop what is cached of everything below ``directory``. OSError, CalledProcessError: it could not."""
        ...


class DropAll:
    """For root: the kernel's caches of the whole machine."""

    description = "pages, names and attributes in the kernel's caches, dropped through /proc/sys/vm/drop_caches"

    def drop(self, directory: Path) -> None:
        """See ``Caches``."""
        os.sync()
        DROP.write_text(_PAGES_AND_NAMES)


class DropPages:
    """For anybody: the pages of the files, asked for with posix_fadvise(2)."""

    description = (
        "pages of files, dropped by posix_fadvise(2); names, attributes and what lies below a mount stay cached "
        "(root can drop them)"
    )

    def drop(self, directory: Path) -> None:
        """See ``Caches``."""
        for parent, _, names in os.walk(directory):
            for name in names:
                path = os.path.join(parent, name)
                if not os.path.islink(path):
                    _forget(path)


class Command:
    """A command of the user's, as to remount: it is given the directory in ``$BENCH_DIRECTORY``."""

    def __init__(self, command: str) -> None:
        self._command = command
        self.description = f"whatever is dropped by the command {command!r}"

    def drop(self, directory: Path) -> None:
        """See ``Caches``."""
        environment = {**os.environ, "BENCH_DIRECTORY": os.fspath(directory)}
        subprocess.run(["sh", "-c", self._command], env=environment, stdout=subprocess.DEVNULL, check=True)


def choose(command: str | None) -> Caches:
    """The coldest way there is."""
    if command is not None:
        return Command(command)
    return DropAll() if os.geteuid() == 0 and os.access(DROP, os.W_OK) else DropPages()


def _forget(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)  # dirty pages cannot be dropped
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)
