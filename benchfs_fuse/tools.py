"""The commands on volumes rather than mounts: ``benchfs fsck | gc | dump | restore``: arguments, output, exit codes.

Also the way to ``benchfs bench`` and ``benchfs profile``, which are imported only when they are asked for.

Imports the core and ``daemon`` for its exit codes; prints, as ``cli`` does. Invariants: what is meant for programs goes
to stdout, progress to stderr and only if that is a terminal; a failure is one line on stderr.
"""

from __future__ import annotations

import argparse
import datetime
import json
import logging
import os
import signal
import sys
import time
import uuid
from pathlib import Path
from typing import Any

from benchfs_core.dump import dump_lines, restore, write_dump
from benchfs_core.findings import CODES, Finding
from benchfs_core.fsck import Options, Repaired, check_volume, repair_volume
from benchfs_core.garbage import SAFETY_AGE_S, collect
from benchfs_fuse.daemon import EXIT_INTERRUPTED, EXIT_OK
from benchfs_fuse.mounts import printable

FSCK_OK, FSCK_CORRECTED, FSCK_LEFT, FSCK_FAILED, FSCK_USAGE, FSCK_CANCELLED = 0, 1, 4, 8, 16, 32
"""Bits of the exit code of ``benchfs fsck``, as fsck(8) has them."""

JSON_VERSION = 1
"""Version of what ``fsck --json`` prints."""

_PROGRESS_EVERY_S = 0.2


def add_commands(commands: Any) -> None:
    """Add the subcommands to the parser of ``benchfs``."""
    codes = "exit code, a sum: 0 clean, 1 corrected, 4 left uncorrected, 8 could not check, 16 usage, 32 cancelled"
    fsck = commands.add_parser(
        "fsck", help="check a volume, and repair one that is not mounted", epilog=f"{codes}; manual: docs/fsck.md"
    )
    fsck.usage_code = FSCK_USAGE
    fsck.add_argument("volume", metavar="VOLUME")
    fsck.add_argument("--repair", action="store_true", help="repair what is found; the volume must not be mounted")
    fsck.add_argument("--data", action="store_true", help="read every chunk file through as well")
    fsck.add_argument("--json", action="store_true", help="print one JSON document")
    fsck.set_defaults(run=_fsck, failed=FSCK_FAILED)
    gc = commands.add_parser("gc", help="remove chunk files and rows that nothing leads to")
    gc.add_argument("volume", metavar="VOLUME")
    gc.add_argument("--dry-run", action="store_true", help="only say what would be removed")
    gc.add_argument(
        "--older-than",
        type=_seconds,
        default=SAFETY_AGE_S,
        metavar="SECONDS",
        help=f"leave what changed later than so many seconds ago (default: {SAFETY_AGE_S})",
    )
    gc.set_defaults(run=_gc)
    dump = commands.add_parser("dump", help="write the metadata of a volume, mounted or not, as lines of JSON")
    dump.add_argument("volume", metavar="VOLUME")
    dump.add_argument("file", metavar="FILE", nargs="?", default="-", help="default: standard output")
    dump.set_defaults(run=_dump)
    back = commands.add_parser("restore", help="restore a dump to a volume without a healthy database")
    back.add_argument("file", metavar="FILE", help="- for standard input")
    back.add_argument("volume", metavar="VOLUME", help="an empty directory, or a volume that is not mounted")
    back.set_defaults(run=_restore)
    bench = commands.add_parser(
        "bench", help="measure directories, mounts among them, with the same workloads in turns"
    )
    bench.prepare = _prepare_bench
    profile = commands.add_parser("profile", help="tell what a mount's requests cost, and where their time goes")
    profile.prepare = _prepare_profile


def _prepare_bench(parser: argparse.ArgumentParser) -> None:
    from benchfs_fuse.bench import command

    command.add_arguments(parser)
    parser.set_defaults(run=command.run)


def _prepare_profile(parser: argparse.ArgumentParser) -> None:
    from benchfs_fuse.profiling import command

    command.add_arguments(parser)
    parser.set_defaults(run=_profile)


def _profile(given: argparse.Namespace) -> int:
    from benchfs_fuse.profiling import command

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does
    try:
        found = command.measure(Path(os.path.realpath(given.directory)), given.seconds, given.trace, as_json=given.json)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    print(found.text)
    if found.note:
        print(printable(found.note), file=sys.stderr)
    return EXIT_INTERRUPTED if found.interrupted else EXIT_OK


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 <= seconds < 1 << 40:
        raise ValueError(text)
    return seconds


def _fsck(given: argparse.Namespace) -> int:
    logging.getLogger("benchfs_core").addHandler(logging.NullHandler())  # what it has to say comes as an error, too
    volume = Path(os.path.abspath(given.volume))
    progress, done = _Progress(), list[str]()
    findings: list[Finding] = []

    def tell(line: str) -> None:
        done.append(line)
        if not given.json:
            progress.print(f"repair: {line}")

    options = Options(
        live=not given.repair,
        data=given.data,
        begin=progress.begin,
        progress=progress.more,
        tell=tell,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        uuid=str(uuid.uuid4()),
        now_ns=time.time_ns(),
    )
    try:
        if given.repair:
            repaired = repair_volume(volume, options)
        else:
            for finding in check_volume(volume, options):
                findings.append(finding)
                if not given.json:
                    progress.print(str(finding))
            repaired = Repaired(findings, findings)
    except KeyboardInterrupt:
        return FSCK_CANCELLED
    finally:
        progress.clear()
    _report(given, volume, repaired, done)
    return _code(repaired)


def _code(repaired: Repaired) -> int:
    code = FSCK_LEFT if repaired.left else FSCK_OK
    if any(repaired.corrected(finding) for finding in repaired.findings):
        code |= FSCK_CORRECTED
    return code


def _report(given: argparse.Namespace, volume: Path, repaired: Repaired, done: list[str]) -> None:
    corrected = [finding for finding in repaired.findings if repaired.corrected(finding)]
    if given.json:
        document = {
            "benchfs_fsck": JSON_VERSION,
            "volume": str(volume),
            "findings": [_as_json(finding, corrected=finding in corrected) for finding in repaired.findings],
            "left": [_as_json(finding, corrected=False) for finding in repaired.left],
            "done": done,
            "exit_code": _code(repaired),
        }
        print(json.dumps(document, indent=1))
        return
    name, count = printable(str(volume)), len(repaired.findings)
    if given.repair:
        for finding in repaired.findings:
            print(printable(f"{'corrected: ' if finding in corrected else ''}{finding}"))
        for finding in repaired.left:
            print(printable(f"left: {finding}"))
    if not count:
        print(f"{name}: clean")
    else:
        more = f", {len(corrected)} corrected, {len(repaired.left)} left" if given.repair else ""
        print(f"{name}: {count} finding{'' if count == 1 else 's'}{more}")


def _as_json(finding: Finding, *, corrected: bool) -> dict[str, object]:
    return {
        "code": finding.code,
        "inode": finding.inode,
        "path": finding.path,
        "text": finding.text,
        "repair": CODES[finding.code].repair if corrected else None,
    }


def _gc(given: argparse.Namespace) -> int:
    volume = Path(os.path.abspath(given.volume))
    removed, size = 0, 0
    found = collect(volume, older_than_s=given.older_than, now_s=time.time(), dry_run=given.dry_run)
    for garbage in found:
        what = "rows" if garbage.kind == "rows" else "files"
        verb = f"left ({garbage.note})" if garbage.note else "removed" if garbage.removed else "would be removed"
        print(f"{garbage.kind} inode {garbage.inode}: {garbage.files} {what}, {garbage.size} bytes: {verb}")
        if not garbage.note:
            removed, size = removed + 1, size + garbage.size
    print(f"{printable(str(volume))}: {removed} {'would be ' if given.dry_run else ''}removed, {size} bytes")
    return EXIT_OK


def _dump(given: argparse.Namespace) -> int:
    volume = Path(os.path.abspath(given.volume))
    if given.file != "-":
        count = write_dump(volume, Path(given.file))
        print(f"{printable(given.file)}: {count} rows of {printable(str(volume))}")
        return EXIT_OK
    for line in dump_lines(volume):
        sys.stdout.buffer.write(line)
    sys.stdout.buffer.flush()
    return EXIT_OK


def _restore(given: argparse.Namespace) -> int:
    volume = Path(os.path.abspath(given.volume))
    if given.file == "-":
        restored = restore(sys.stdin.buffer, volume)
    else:
        with Path(given.file).open("rb") as stream:
            restored = restore(stream, volume)
    print(f"{printable(str(volume))}: {restored.rows} rows restored: check it with benchfs fsck")
    if restored.unknown:
        print(f"{restored.unknown} inodes with chunk files are younger than the dump: benchfs fsck --repair names them")
    return EXIT_OK


class _Progress:
    """A line on stderr, if that is a terminal, that says how far the check is and how fast."""

    def __init__(self) -> None:
        self._shown = False
        self._is_terminal = sys.stderr.isatty()
        self.begin(0)

    def begin(self, inodes: int) -> None:
        self._total, self._files, self._bytes = inodes, 0, 0
        self._began_s = time.monotonic()
        self._due_s = self._began_s + _PROGRESS_EVERY_S

    def more(self, files: int, size: int) -> None:
        self._files += files
        self._bytes += size
        now_s = time.monotonic()
        if not self._is_terminal or now_s < self._due_s:
            return
        self._due_s = now_s + _PROGRESS_EVERY_S
        spent_s = now_s - self._began_s
        share = min(1.0, self._files / max(self._total, 1))
        read = f", {self._bytes / spent_s / (1 << 20):,.0f} MiB/s" if self._bytes else ""
        bar = "#" * round(share * 30)
        rate = f"{self._files:,} files, {self._files / spent_s:,.0f}/s{read}"
        print(f"\r\x1b[K[{bar:<30}] {share:4.0%} {rate}", end="", file=sys.stderr, flush=True)
        self._shown = True

    def print(self, line: str) -> None:
        """A line on stdout."""
        self.clear()
        print(printable(line))

    def clear(self) -> None:
        """Take the line away."""
        if self._shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
            self._shown = False
