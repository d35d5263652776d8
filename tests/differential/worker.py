"""The process that runs every system call, in both trees, with the credentials of the user it is for.

Run as ``python -m tests.differential.worker``; talks pickles over stdin and stdout with ``client.Worker``. Imports this
package's ``calls``, ``handles``, ``protocol``. Invariants: single-threaded, for credentials are switched for each call
(the saved user id stays 0; effective and real ids are the user's, and so are the capabilities); a tree's top is the
root directory meanwhile, so that no path and no symbolic link leaves it; between calls the process is root, outside.
"""

from __future__ import annotations

import errno
import os
import pickle
import shutil
import stat
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.differential.calls import CALLS, Status, flags
from tests.differential.handles import Handles
from tests.differential.protocol import Everything, Looked, Outcome, Step, User

CLOCK_REALTIME_COARSE = 5
"""The clock that moves with the kernel's ticks; ``time`` does not name it (linux/time.h)."""


@dataclass(slots=True)
class Tree:
    """One of the two trees, for one example."""

    base: bytes
    """Where trees are made."""
    view: bytes
    """The same directory, through a mount without atime if there is one."""
    name: bytes = b""
    top: int = -1
    handles: Handles = field(default_factory=Handles)

    def begin(self, name: bytes) -> None:
        self.name = name
        os.mkdir(os.path.join(self.base, name))
        os.chmod(os.path.join(self.base, name), 0o777)
        self.top = os.open(os.path.join(self.base, name), os.O_PATH | os.O_DIRECTORY)

    def end(self, *, keep: bool) -> None:
        self.handles.close_all()
        os.close(self.top)
        if not keep:
            shutil.rmtree(os.path.join(self.base, self.name))

    def status(self, path: bytes) -> Status | None:
        try:
            return Status.of(os.stat(path, dir_fd=self.top, follow_symlinks=False))
        except FileNotFoundError:
            return None

    def paths(self) -> Iterator[tuple[bytes, bool]]:
        """Every path below the top, parents first, and whether it is a directory; the top is `.`."""
        yield b".", True
        top = os.path.join(self.view, self.name)
        waiting = [b""]
        while waiting:
            directory = waiting.pop()
            with os.scandir(os.path.join(top, directory)) as found:
                for entry in sorted(found, key=lambda entry: entry.name):
                    path = os.path.join(directory, entry.name)
                    is_directory = entry.is_dir(follow_symlinks=False)
                    yield path, is_directory
                    if is_directory:
                        waiting.append(path)

    def everything(self) -> dict[bytes, Everything]:
        found = {}
        # All of stat before anything is read: reading moves atime, of every name of an inode.
        listed_paths = [
            (path, is_directory, Status.of(os.lstat(os.path.join(self.base, self.name, path))))
            for path, is_directory in self.paths()
        ]
        for path, is_directory, status in listed_paths:
            full = os.path.join(self.base, self.name, path)
            names = tuple(sorted(os.listxattr(full, follow_symlinks=False)))
            xattrs = tuple((name, os.getxattr(full, name, follow_symlinks=False)) for name in names)
            listed = tuple(sorted(os.listdir(full))) if is_directory else ()
            has_flags = stat.S_ISREG(status.mode) or is_directory
            found[path] = Everything(status, _content(full, status), xattrs, listed, flags(full) if has_flags else 0)
        return found


def _content(path: bytes, status: Status) -> bytes:
    if stat.S_ISLNK(status.mode):
        return os.readlink(path)
    if not stat.S_ISREG(status.mode):
        return b""
    with open(path, "rb") as stream:
        return stream.read()


class Worker:
    """Runs what ``client.Worker`` asks for."""

    def __init__(self, native: Tree, mounted: Tree) -> None:
        self._trees = (native, mounted)
        self._outside = os.open("/", os.O_PATH | os.O_DIRECTORY)
        self._pause = threading.Event()

    def begin(self, name: bytes) -> tuple[int, int]:
        """Make two empty trees; return when."""
        start_ns = self._next_tick()
        for tree in self._trees:
            tree.begin(name)
        return start_ns, time.clock_gettime_ns(time.CLOCK_REALTIME)

    def end(self, *, keep: bool) -> None:
        """Close all descriptors and remove the trees, unless they are to be kept."""
        for tree in self._trees:
            tree.end(keep=keep)

    def step(self, user: User, umask: int, name: str, arguments: tuple[object, ...]) -> Step:
        """Run one call, in the native tree first."""
        start_ns = self._next_tick()
        native, mounted = (self._call(tree, user, umask, name, arguments) for tree in self._trees)
        end_ns, handles = time.clock_gettime_ns(time.CLOCK_REALTIME), self._trees[0].handles
        inode = handles.inode(arguments[0]) if name in handles.calls and isinstance(arguments[0], int) else 0
        return Step(start_ns, end_ns, (native, mounted), inode)

    def known(self) -> list[tuple[bytes, int]]:
        """Paths of the native tree and their types; no time stamp moves."""
        native = self._trees[0]
        return [(path, stat.S_IFMT(status.mode)) for path, _ in native.paths() if (status := native.status(path))]

    def look(self) -> Looked:
        """What stat says, in both trees, of every path of the native tree; no time stamp moves."""
        native, mounted = self._trees
        return [(path, status, mounted.status(path)) for path, _ in native.paths() if (status := native.status(path))]

    def everything(self) -> tuple[dict[bytes, Everything], dict[bytes, Everything]]:
        """All there is to read in both trees; moves atime."""
        native, mounted = self._trees
        return native.everything(), mounted.everything()

    def _next_tick(self) -> int:
        """Wait for the kernel's clock to move on: what happens from now on has later time stamps than all before."""
        last_ns = time.clock_gettime_ns(time.CLOCK_REALTIME)
        while (now_ns := time.clock_gettime_ns(CLOCK_REALTIME_COARSE)) <= last_ns:
            self._pause.wait(0.0005)
        return now_ns

    def _call(self, tree: Tree, user: User, umask: int, name: str, arguments: tuple[object, ...]) -> Outcome:
        function = CALLS.get(name) or tree.handles.calls[name]
        os.fchdir(tree.top)
        os.chroot(b".")
        os.umask(umask)
        try:
            with _credentials(user):
                return Outcome("", function(*arguments))
        except OSError as error:
            return Outcome(errno.errorcode[error.errno or 0])
        finally:
            os.fchdir(self._outside)
            os.chroot(b".")
            os.umask(0)


@contextmanager
def _credentials(user: User) -> Iterator[None]:
    os.setgroups(user.groups)
    os.setresgid(user.gid, user.gid, user.gid)
    os.setresuid(user.uid, user.uid, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)
        os.setresgid(0, 0, 0)


def main() -> None:
    """Answer requests until stdin ends: (method, arguments, keywords) → (text of an exception or "", result)."""
    native, view, mounted = (os.fsencode(word) for word in sys.argv[1:])
    os.setgroups(())
    worker = Worker(Tree(native, view), Tree(mounted, mounted))
    while True:
        try:
            method, arguments, keywords = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            reply = "", getattr(worker, method)(*arguments, **keywords)
        except Exception:
            reply = traceback.format_exc(), None
        pickle.dump(reply, sys.stdout.buffer)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
