"""Runs a mount in the foreground or as a daemon, sets up its log, and tells the terminal how it went.

Imports ``mount`` and the standard library. The exit codes are mount(8)'s: 0 mounted (foreground: ended in order), 1
usage or permission, 2 system error, 4 internal error, 8 interrupted, 32 mount failed. Invariant: whoever started the
command gets one line and a code, whatever happens to the daemon before it is ready.
"""

from __future__ import annotations

import contextlib
import logging
import logging.handlers
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import trio

from benchfs_core.errors import BenchFSError, OptionError
from benchfs_core.types import StoreKind
from benchfs_fuse import mounts
from benchfs_fuse.mount import Interrupted, Request, serve
from benchfs_fuse.tuning import collect_rarely

EXIT_OK, EXIT_USAGE, EXIT_SYSTEM, EXIT_INTERNAL, EXIT_INTERRUPTED, EXIT_MOUNT_FAILED = 0, 1, 2, 4, 8, 32

LOG_NAME = "benchfs.log"
_LOG_BYTES = 1 << 20

log = logging.getLogger(__name__)


def default_log(source: Path, store: StoreKind, *, foreground: bool) -> str:
    """Where messages go without ``log=``: the terminal, the volume, or, for one in memory, the system's log."""
    if foreground:
        return "stderr"
    return "syslog" if store is StoreKind.MEMORY else str(source / LOG_NAME)


def run_foreground(request: Request) -> int:
    """Serve until unmounted; the exit code."""
    return _serve(request, lambda line: print(line, flush=True), complain)


def run_daemon(request: Request) -> int:
    """Serve in a process of its own; return once it is ready, or has failed and said why."""
    readable, writable = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    if os.fork() != 0:
        os.close(writable)
        return _await_ready(readable)
    os.close(readable)
    _close_inherited()
    os.setsid()
    os.chdir("/")

    def report(code: int, line: str) -> None:
        try:
            os.write(writable, f"{code} {mounts.printable(line)}\n".encode())
        finally:
            os.close(writable)
            _leave_terminal()

    code = EXIT_INTERNAL
    failures: list[str] = []
    try:
        code = _serve(request, lambda line: report(EXIT_OK, line), failures.append)
        if failures:
            try:
                report(code, failures[0])
            except BrokenPipeError:
                # Only the system's log is certain to be allowed: a SOURCE that was refused may be anybody's directory.
                _log_to("syslog" if request.options.log is None else request.log)
                log.critical("%s; whoever asked for the mount no longer waits to be told", failures[0])
    finally:
        logging.shutdown()
        os._exit(code)


def _await_ready(readable: int) -> int:
    try:
        with os.fdopen(readable, "rb") as pipe:
            said = pipe.readline().decode()
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    if not said:
        complain("the daemon ended without a word: see its log")
        return EXIT_INTERNAL
    code, _, line = said.rstrip("\n").partition(" ")
    if int(code) == EXIT_OK:
        print(line)
    else:
        complain(line)
    return int(code)


def _serve(request: Request, ready: Callable[[str], None], failed: Callable[[str], None]) -> int:
    """Serve; exit code. ``failed`` hears of what went wrong before the mount was ready, the log of the rest."""
    was_ready = False

    def now_ready(line: str) -> None:
        nonlocal was_ready
        _log_to(request.log)
        was_ready = True
        collect_rarely()
        ready(line)

    logging.basicConfig(level=logging.INFO, handlers=[_Held()], force=True)
    try:
        _check_log(request)
        trio.run(serve, request, now_ready)
        return EXIT_OK
    except BaseException as error:
        root = _root(error)
        code, line = _explain(root)
        if was_ready:
            log.critical("%s", line, exc_info=error if code == EXIT_INTERNAL else None)
        else:
            if code == EXIT_INTERNAL:
                traceback.print_exception(error)
            failed(line)
        return code


def _explain(error: BaseException) -> tuple[int, str]:
    if isinstance(error, OptionError | PermissionError):
        return EXIT_USAGE, str(error)
    if isinstance(error, Interrupted):
        return EXIT_INTERRUPTED, str(error)
    if isinstance(error, BenchFSError):
        return EXIT_MOUNT_FAILED, str(error)
    if isinstance(error, OSError):
        return EXIT_SYSTEM, str(error)
    if isinstance(error, KeyboardInterrupt):
        return EXIT_INTERRUPTED, "interrupted"
    return EXIT_INTERNAL, f"internal error: {type(error).__name__}: {error}"


def _root(error: BaseException) -> BaseException:
    """The one failure inside nested groups, where there is but one."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


class _Held(logging.handlers.MemoryHandler):
    """Keeps messages until it is known where they go: nothing is written into a directory that may yet be refused."""

    def __init__(self) -> None:
        super().__init__(capacity=1000, flushLevel=logging.CRITICAL + 1)


def _check_log(request: Request) -> None:
    """See that a log file the user named can be one: the mount must not wait for a file of its own.

    Raises:
        OptionError: it lies inside the mount point, or nowhere, or is not a file.
    """
    given = request.options.log
    if given in (None, "stderr", "syslog"):
        return
    place = Path(os.path.realpath(request.log))
    if request.mount_point in (place, *place.parents):
        raise OptionError(f"log={given}: lies inside the mount point: give a file outside")
    if not place.parent.is_dir():
        raise OptionError(f"log={given}: {place.parent} is not a directory: make it first")
    if place.is_dir() or place.is_fifo():
        raise OptionError(f"log={given}: not a file: give one that can be written to")


def _log_to(place: str) -> None:
    """Send messages, those held as well, to ``place``: ``stderr``, ``syslog`` or a file, which is kept below 2 MiB."""
    handler: logging.Handler
    try:
        if place == "stderr":
            handler = logging.StreamHandler()
        elif place == "syslog":
            handler = logging.handlers.SysLogHandler("/dev/log")
        else:
            handler = logging.handlers.RotatingFileHandler(
                place, maxBytes=_LOG_BYTES, backupCount=1, errors="backslashreplace"
            )
    except OSError as error:
        print(f"benchfs: no log: {place}: {error.strerror}", file=sys.stderr)
        handler = logging.NullHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s benchfs[%(process)d] %(levelname)s %(message)s"))
    logging.raiseExceptions = False  # a full disk must not fill the terminal with tracebacks of the log
    root = logging.getLogger()
    held = [one for one in root.handlers if isinstance(one, _Held)]
    root.addHandler(handler)
    for one in held:
        one.setTarget(handler)
        one.close()
        root.removeHandler(one)


def _close_inherited() -> None:
    """Close what the caller had open besides the terminal: others may wait for a lock or for the end of a pipe.

    Inherited is what is not to be closed at exec(2): Python opens nothing that way (PEP 446).
    """
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the listing's own descriptor is closed by now
            if int(name) > 2 and os.get_inheritable(int(name)):
                os.close(int(name))


def _leave_terminal() -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    os.close(null)


def complain(line: str, program: str = "mount.benchfs") -> None:
    """Tell the user in one line what went wrong."""
    print(f"{program}: {mounts.printable(line)}", file=sys.stderr, flush=True)
