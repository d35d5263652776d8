"""The commands ``mount.benchfs`` and ``benchfs``: their arguments, help and exit codes.

Imports this package and the core; it prints, as ``daemon`` and ``tools`` do. Bad input gets one line on stderr and
exit code 1; ``--help`` names every option with its default.
"""

from __future__ import annotations

import argparse
import os
import select
import sys
import textwrap
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

import trio

from benchfs_core.config import FormatOptions
from benchfs_core.errors import BenchFSError, OptionError
from benchfs_core.volume import make_volume
from benchfs_fuse import mounts
from benchfs_fuse.daemon import (
    EXIT_MOUNT_FAILED,
    EXIT_OK,
    EXIT_SYSTEM,
    EXIT_USAGE,
    complain,
    default_log,
    run_daemon,
    run_foreground,
)
from benchfs_fuse.mount import Request
from benchfs_fuse.options import IGNORED, OPTIONS, REFUSED, parse, parse_size
from benchfs_fuse.status import STATUS_FINE, STATUS_WRONG, ask_status, describe, is_fine

_UMOUNT = "benchfs umount"
_NOT_FOUND = "who serves it is not known: it may still be bringing things to disk"


class _Parser(argparse.ArgumentParser):
    """Complains in one line, with mount(8)'s exit code unless told otherwise."""

    usage_code = EXIT_USAGE
    prepare: Callable[[argparse.ArgumentParser], None] | None = None
    """Adds the arguments of a command that is rarely given, with the modules they take, when it is."""

    def parse_known_args(self, *args: Any, **kwargs: Any) -> Any:
        if self.prepare is not None:
            self.prepare(self)
            self.prepare = None
        return super().parse_known_args(*args, **kwargs)

    def error(self, message: str) -> NoReturn:
        self.exit(self.usage_code, f"{self.prog}: {mounts.printable(message)}: see {self.prog} --help\n")


def mount_main(arguments: Sequence[str] | None = None) -> NoReturn:
    """``mount.benchfs SOURCE DIR [-o …]``: mounts; also what mount(8) runs for ``mount -t benchfs``."""
    sys.exit(_mount(_mount_parser().parse_args(arguments)))


def benchfs_main(arguments: Sequence[str] | None = None) -> NoReturn:
    """``benchfs mkfs | umount | status | fsck | gc | dump | restore | bench | profile``."""
    given = _benchfs_parser().parse_args(arguments)
    try:
        code: int = given.run(given)
    except (BenchFSError, OSError) as error:
        complain(str(error), f"benchfs {given.command}")
        code = EXIT_USAGE if isinstance(error, OptionError) else getattr(given, "failed", EXIT_SYSTEM)
    sys.exit(code)


def _mount(given: argparse.Namespace) -> int:
    try:
        options = parse(",".join(given.options))
    except OptionError as error:
        complain(str(error))
        return EXIT_USAGE
    source, mount_point = Path(os.path.realpath(given.source)), Path(os.path.realpath(given.directory))
    store = options.volume.store
    log = os.path.abspath(options.log) if options.log not in (None, "stderr", "syslog") else options.log
    request = Request(source, mount_point, options, log or default_log(source, store, foreground=given.foreground))
    if given.fake:
        return EXIT_OK
    return run_foreground(request) if given.foreground else run_daemon(request)


def _mkfs(given: argparse.Namespace) -> int:
    options = FormatOptions() if given.chunk_size is None else FormatOptions(parse_size(given.chunk_size))
    source = Path(os.path.abspath(given.directory))
    superblock = trio.run(make_volume, source, options)
    print(
        f"{mounts.printable(str(source))}: formatted, chunks of {superblock.chunk_size} bytes, uuid {superblock.uuid}"
    )
    return EXIT_OK


def _umount(given: argparse.Namespace) -> int:
    mount_point = Path(os.path.realpath(given.directory))
    entry = mounts.find_mount(mount_point)
    if entry is None or entry.type != mounts.FILESYSTEM_TYPE:
        complain(f"{mount_point}: no BenchFS is mounted there", _UMOUNT)
        return EXIT_USAGE
    found = mounts.find_daemon(entry)
    process = _open_process(found[1]) if found is not None else None
    dead = found is None and _is_dead(mount_point)
    reason = mounts.unmount(mount_point)
    if reason is not None:
        complain(f"{mount_point}: {reason}", _UMOUNT)
        return EXIT_MOUNT_FAILED
    if found is None or process is None:
        mounts.forget_ended(entry)
        why = "its daemon is gone: the next mount recovers" if dead or found else _NOT_FOUND
        complain(f"{mount_point}: unmounted, but {why}", _UMOUNT)
        return EXIT_SYSTEM
    registration, daemon = found
    select.select([process], [], [])  # readable once the process has ended (pidfd_open(2))
    if registration.exists():
        registration.unlink()
        complain(f"{mount_point}: not everything is on disk: see {daemon.log}", _UMOUNT)
        return EXIT_SYSTEM
    return EXIT_OK


def _open_process(daemon: mounts.Daemon) -> int | None:
    """A descriptor of the process; None if it has ended."""
    try:
        process = os.pidfd_open(daemon.pid)
    except ProcessLookupError:
        return None
    return process if mounts.is_running(daemon) else None  # asked with the pid held: it is not used again from here


def _is_dead(mount_point: Path) -> bool:
    try:
        return mounts.is_dead(mount_point)
    except OSError:  # another user's mount lets not even root in
        return False


def _status(given: argparse.Namespace) -> int:
    status = ask_status(Path(os.path.realpath(given.directory)))
    print(describe(status, as_json=given.json))
    return STATUS_FINE if is_fine(status) else STATUS_WRONG


def _mount_parser() -> argparse.ArgumentParser:
    lines = [f"  {option.name}{'=' if option.values else ''}{option.values}" for option in OPTIONS]
    width = max(map(len, lines)) + 2
    table = "\n".join(
        f"{line:<{width}}{option.help} (default: {option.default})" for line, option in zip(lines, OPTIONS, strict=True)
    )
    parser = _Parser(
        prog="mount.benchfs",
        description="Mount the BenchFS volume in the directory SOURCE at DIR; an empty SOURCE is formatted first.",
        epilog=f"options for -o, separated by commas:\n{table}\n\n"
        f"{textwrap.fill('taken from fstab(5), without effect: ' + ', '.join(IGNORED), 100)}\n"
        f"refused, as it could not be kept: {', '.join(REFUSED)}\n\n"
        "exit codes: 0 mounted, 1 usage or permission, 2 system, 4 internal error, 8 interrupted, 32 mount failed",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("source", metavar="SOURCE", help="an empty directory, or one that holds a volume")
    parser.add_argument("directory", metavar="DIR", help="the mount point")
    parser.add_argument("-o", dest="options", action="append", default=[], metavar="OPT[,OPT…]", help="see below")
    parser.add_argument("--foreground", action="store_true", help="stay in the foreground, with messages on stderr")
    parser.add_argument("-f", dest="fake", action="store_true", help="check the arguments, mount nothing")
    for flag in ("s", "n", "v"):
        parser.add_argument(
            f"-{flag}", dest="_", action="store_true", help=argparse.SUPPRESS
        )  # from mount(8): no meaning here
    parser.add_argument("-V", "--version", action="version", version=f"mount.benchfs {version('benchfs')}")
    return parser


def _benchfs_parser() -> argparse.ArgumentParser:
    from benchfs_fuse import tools  # a mount, which has no need of fsck, dump and bench, starts the sooner

    parser = _Parser(
        prog="benchfs", description="Tools for BenchFS volumes; to mount one: mount.benchfs.", allow_abbrev=False
    )
    parser.add_argument("-V", "--version", action="version", version=f"benchfs {version('benchfs')}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    mkfs = commands.add_parser("mkfs", help="format an empty directory")
    mkfs.add_argument("directory", metavar="DIR")
    mkfs.add_argument("--chunk-size", metavar="SIZE", help="bytes in a chunk, 64K to 64M, a power of two (default: 4M)")
    mkfs.set_defaults(run=_mkfs)
    umount = commands.add_parser("umount", help="unmount, and return when everything is on disk")
    umount.add_argument("directory", metavar="DIR")
    umount.set_defaults(run=_umount)
    status = commands.add_parser(
        "status", help="ask a mount how it is: exit code 0 all is well, 4 read-only by a failure or data lost"
    )
    status.add_argument("directory", metavar="DIR")
    status.add_argument("--json", action="store_true", help="answer in JSON")
    status.set_defaults(run=_status)
    tools.add_commands(commands)
    return parser
