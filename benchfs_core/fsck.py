"""fsck: every documented invariant of a volume's database and chunk files, checked and, on request, repaired.

Imports the parts: ``metadata.checks`` and ``chunk_checks`` find, ``metadata.tree_repairs``, ``chunk_repairs`` and
``rebuild`` repair. A volume that is mounted can be checked, not repaired. What recovery will still put in order (dirty
files, orphans, numbers of an unclean end) is no finding. Memory is bounded by one inode's chunks and by the damage.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchfs_core.chunk_checks import ChunkChecks, Pread, Progress
from benchfs_core.chunk_repairs import ChunkRepairs
from benchfs_core.errors import DamagedVolume, MetadataFailed, VolumeBusy
from benchfs_core.findings import CODES, Finding
from benchfs_core.metadata.checks import check_rules
from benchfs_core.metadata.database import Database, DatabaseError
from benchfs_core.metadata.expected_chunks import ChunkExpectation
from benchfs_core.metadata.rows import clear_unrepaired
from benchfs_core.metadata.tree_repairs import repair_rows
from benchfs_core.rebuild import (
    finish_exchange,
    guess_superblock,
    salvage_database,
    superblock_or_none,
    waits_for_exchange,
    write_superblock,
)
from benchfs_core.superblock import CHUNKS, DATABASE, LOCK
from benchfs_core.volume_lock import VolumeLock

_ROUNDS = 3
"""How often rows and files are put right before what is left counts as not repairable."""


@dataclass(frozen=True, slots=True)
class Options:
    """How to check and to repair."""

    live: bool = False
    """Whether a volume that is mounted may be checked."""
    data: bool = False
    """Whether to read every chunk file through."""
    pread: Pread = os.pread
    begin: Callable[[int], None] = lambda _inodes: None
    """Hears how many inodes there are, before the chunk files are looked at."""
    progress: Progress = lambda _files, _bytes: None
    tell: Callable[[str], None] = lambda _line: None
    """Hears of each thing that a repair did."""
    created: str = "1970-01-01T00:00:00+00:00"
    """When a volume was made whose superblock does not tell any more."""
    uuid: str = "00000000-0000-0000-0000-000000000000"
    """Identity of such a volume."""
    now_ns: int = 0
    """The time that inodes get that a repair makes."""


@dataclass(frozen=True, slots=True)
class Repaired:
    """What a repair came to."""

    findings: list[Finding]
    """What there was."""
    left: list[Finding] = field(default_factory=list)
    """What there is still."""

    def corrected(self, finding: Finding) -> bool:
        """Whether there is nothing of a finding's kind left at the same place."""
        return not any((each.code, each.inode) == (finding.code, finding.inode) for each in self.left)


def check_volume(source: Path, options: Options | None = None) -> Iterator[Finding]:
    """Check the volume in ``source``; by default it must not be mounted. Blocking, changes nothing.

    Raises:
        VolumeError: no volume, of a later release, or mounted.
        OSError: it cannot be read.
    """
    options = options or Options()
    superblock_or_none(source)
    lock: VolumeLock | None = None
    try:
        lock = VolumeLock.try_acquire(source / LOCK)
    except VolumeBusy:
        if not options.live:
            raise
    try:
        yield from _Volume(source, options, live=lock is None).check()
    finally:
        if lock is not None:
            lock.release()


def repair_volume(source: Path, options: Options) -> Repaired:
    """Check the volume in ``source``, which is not mounted, and repair what is found. Blocking.

    Every repair is durable before the next; interrupted at any instant, it can be run again.

    Raises:
        VolumeError: no volume, of a later release, or mounted.
        OSError: it cannot be read, or the repairs cannot be written.
    """
    superblock_or_none(source)
    lock = VolumeLock.try_acquire(source / LOCK)
    try:
        volume = _Volume(source, options, live=False)
        findings = list(volume.check())
        if not any(CODES[finding.code].repair or waits_for_exchange(source) for finding in findings):
            volume.call_repaired(findings)
            return Repaired(findings, findings)
        volume.repair({finding.code for finding in findings})
        left: list[Finding] = []
        for _ in range(_ROUNDS):
            left = list(replace_options(volume, data=False).check())
            if not any(CODES[finding.code].repair for finding in left):
                break
            volume.repair({finding.code for finding in left})
        if options.data:
            left = list(volume.check())
        volume.call_repaired(left)
        return Repaired(findings, left)
    finally:
        lock.release()


@dataclass(frozen=True, slots=True)
class _Volume:
    """One volume while it is checked or repaired."""

    source: Path
    options: Options
    live: bool

    def check(self) -> Iterator[Finding]:
        if waits_for_exchange(self.source):
            text = f"{DATABASE}: a repair was interrupted: repair it again"
            yield Finding("database-unreadable", None, None, text)
            return
        try:
            database = Database.open(self.source / DATABASE, read_only=True)
        except DamagedVolume as error:
            yield Finding("database-unreadable", None, None, f"{_reason(error)}: restore it with benchfs restore")
            return
        with closing(database):
            yield from self._check(database)

    def _check(self, database: Database) -> Iterator[Finding]:
        if not (self.source / CHUNKS).is_dir():
            yield Finding("chunks-missing", None, None, f"{CHUNKS} is missing: restore it from a backup")
            return
        superblock = superblock_or_none(self.source)
        try:
            if superblock is None:
                yield Finding("superblock", None, None, "benchfs.toml is missing or damaged")
                superblock = guess_superblock(self.source, database, self.options.created, self.options.uuid)
            expectation = ChunkExpectation(database)
            for code, inode, text in check_rules(database, superblock.chunk_size):
                yield Finding(code, inode or None, expectation.path(inode) if inode else None, text)
            self.options.begin(expectation.count())
            yield from self._checks(database, superblock.chunk_size).run()
        except DamagedVolume as error:
            yield Finding("superblock", None, None, f"{_reason(error)}: the rest cannot be checked")
        except (DatabaseError, MetadataFailed) as error:
            yield Finding("database", None, None, f"SQLite: {error}: the rest cannot be checked")

    def repair(self, codes: set[str]) -> None:
        """Do what can be done about findings of these codes."""
        tell = self.options.tell
        if finish_exchange(self.source):
            tell("put the new database in place")
        if codes & {"chunks-missing"}:
            return
        if "database" in codes:
            salvage_database(self.source, tell)
        try:
            self._repair()
        except (DatabaseError, MetadataFailed, DamagedVolume) as error:
            tell(f"stopped: {_reason(error)}")

    def _repair(self) -> None:
        database = Database.open(self.source / DATABASE)
        with closing(database):
            database.execute("PRAGMA synchronous = FULL")
            superblock = superblock_or_none(self.source)
            if superblock is None:
                superblock = guess_superblock(self.source, database, self.options.created, self.options.uuid)
                write_superblock(self.source, superblock)
                self.options.tell(f"made a superblock: uuid {superblock.uuid}, chunks of {superblock.chunk_size} bytes")
            files = ChunkRepairs(self._checks(database, superblock.chunk_size), self.options.tell)
            files.clear_foreign()
            unowned = files.numbers_without_inode()
            repair_rows(
                database,
                superblock.chunk_size,
                self.options.now_ns,
                unowned=unowned,
                tell=self.options.tell,
            )
            files.clear_unowned()
            files.follow_files(database)

    def call_repaired(self, left: list[Finding]) -> None:
        """Take the mark off a database that was restored or rebuilt, once nothing contradicts it."""
        if any(finding.code != "chunk-unreadable" for finding in left):
            return
        with closing(Database.open(self.source / DATABASE)) as database:
            database.execute("PRAGMA synchronous = FULL")
            clear_unrepaired(database)

    def _checks(self, database: Database, chunk_size: int) -> ChunkChecks:
        return ChunkChecks(
            ChunkExpectation(database),
            self.source / CHUNKS,
            chunk_size,
            self.live,
            self.options.data,
            self.options.pread,
            self.options.progress,
        )


def replace_options(volume: _Volume, *, data: bool) -> _Volume:
    """The same volume, checked otherwise."""
    return replace(volume, options=replace(volume.options, data=data))


def _reason(error: Exception) -> str:
    return str(error).removesuffix(": restore it from a backup")
