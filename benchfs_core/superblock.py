"""The superblock, ``benchfs.toml``: what a directory must say to be a volume, and how it comes to say so.

Imports the pure modules, os, tomllib. Invariants: the superblock is written last, and whole, when a volume is made; one
that this release does not know in full is refused, untouched.
"""

from __future__ import annotations

import os
import tomllib
import uuid
from dataclasses import dataclass
from pathlib import Path

from benchfs_core.config import FormatOptions
from benchfs_core.errors import DamagedVolume, MetadataFailed, NotAVolume, OptionError, UnknownFormat
from benchfs_core.metadata.database import Database
from benchfs_core.metadata.numbers import FIRST_NUMBER
from benchfs_core.types import ROOT_INODE

FORMAT_VERSION = 1
KNOWN_FEATURES: frozenset[str] = frozenset()
"""Feature flags that this release understands; a volume with any other is refused."""

KNOWN_READ_ONLY_FEATURES: frozenset[str] = frozenset()
"""Flags of what changes must heed and readers need not know; a volume with any other can only be read."""

SUPERBLOCK = "benchfs.toml"
DATABASE = "meta/benchfs.db"
CHUNKS = "chunks"
LOCK = "lock"

_REPAIR = "restore it from a backup, or run benchfs fsck --repair"

_UNFINISHED = {"meta", CHUNKS, LOCK, SUPERBLOCK + ".new"}
"""What an interrupted format may have left; together with nothing else it is formatted anew."""

_HARMLESS = {"lost+found"}
"""What a filesystem freshly made by mkfs(8) has in its root."""


@dataclass(frozen=True, slots=True)
class Superblock:
    """What ``benchfs.toml`` says."""

    uuid: str
    chunk_size: int
    created: str
    """When the volume was made: ISO 8601, UTC."""

    def to_toml(self) -> str:
        """The text of the file."""
        return (
            "# BenchFS volume. Do not edit: see docs/on-disk-format.md.\n"
            f"format_version = {FORMAT_VERSION}\n"
            "features = []\n"
            "read_only_features = []\n"
            "compatible_features = []\n"
            f'uuid = "{self.uuid}"\n'
            f"chunk_size = {self.chunk_size}\n"
            f'created = "{self.created}"\n'
        )


def read_superblock(source: Path, *, writing: bool = True) -> Superblock | None:
    """The superblock of the volume in ``source``; None if there is nothing yet: it may be formatted.

    Args:
        source: the directory.
        writing: whether the volume is to be changed, which asks for more to be understood.

    Raises:
        NotAVolume: other files are there.
        UnknownFormat: made by a later release.
        DamagedVolume: unreadable.
    """
    try:
        text = (source / SUPERBLOCK).read_bytes()
    except FileNotFoundError:
        _check_formattable(source)
        return None
    try:
        content = tomllib.loads(text.decode())
        version, features = content["format_version"], content["features"]
        if version != FORMAT_VERSION:
            raise UnknownFormat(
                f"{source}: format version {version}, this release knows {FORMAT_VERSION}: use a newer BenchFS"
            )
        if unknown := sorted(set(features) - KNOWN_FEATURES):
            raise UnknownFormat(
                f"{source}: made with feature {unknown[0]!r}, unknown to this release: use a newer BenchFS"
            )
        unknown = sorted(set(content.get("read_only_features", ())) - KNOWN_READ_ONLY_FEATURES)
        if unknown and writing:
            raise UnknownFormat(
                f"{source}: made with feature {unknown[0]!r}, which this release must not write to: mount it with ro, "
                "or use a newer BenchFS"
            )
        superblock = Superblock(str(uuid.UUID(content["uuid"])), content["chunk_size"], str(content["created"]))
        FormatOptions(superblock.chunk_size)
    except (ValueError, KeyError, TypeError, AttributeError, OptionError) as error:
        raise DamagedVolume(f"{source / SUPERBLOCK}: damaged superblock ({error}): {_REPAIR}") from error
    return superblock


def format_volume(
    source: Path, options: FormatOptions, *, owner: tuple[int, int], created: str, now_ns: int, uuid_hex: str
) -> Superblock:
    """Make an empty volume in the empty directory ``source``; durable on return.

    Args:
        source: an empty directory, or one with what an interrupted format left.
        options: what is fixed from now on.
        owner: user and group of the root directory.
        created: ISO 8601, UTC.
        now_ns: times of the root directory.
        uuid_hex: 32 hexadecimal digits.

    Raises:
        NotAVolume: other files are there.
        OSError: the filesystem below refused.
    """
    _check_formattable(source)
    database = source / DATABASE
    for leftover in (database, Path(f"{database}-wal"), Path(f"{database}-shm")):
        leftover.unlink(missing_ok=True)
    (source / CHUNKS).mkdir(mode=0o700, exist_ok=True)
    database.parent.mkdir(mode=0o700, exist_ok=True)
    create_database(database, owner, now_ns).close()
    for directory in (database.parent, source):
        _fsync(directory)
    superblock = Superblock(str(uuid.UUID(uuid_hex)), options.chunk_size, created)
    new = source / (SUPERBLOCK + ".new")
    new.write_text(superblock.to_toml())
    _fsync(database)
    _fsync(new)
    new.rename(source / SUPERBLOCK)
    _fsync(source)
    return superblock


def create_database(path: Path, owner: tuple[int, int], now_ns: int) -> Database:
    """Make the metadata of an empty volume: the root directory and the first number."""
    root = (ROOT_INODE, 0o40755, 2, *owner, 0, 0, 0, now_ns, now_ns, now_ns, ROOT_INODE, now_ns)
    return Database.create(
        path,
        (
            ("INSERT INTO inode VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0)", root),
            ("INSERT INTO number VALUES (?, ?)", (FIRST_NUMBER, FIRST_NUMBER)),
        ),
    )


def _check_formattable(source: Path) -> None:
    names = {entry.name for entry in os.scandir(source)} - _HARMLESS
    if strange := sorted(names - _UNFINISHED):
        raise NotAVolume(
            f"{source}: neither empty nor a BenchFS volume ({strange[0]!r} is there): give an empty directory"
        )
    if CHUNKS in names and os.listdir(source / CHUNKS):
        raise DamagedVolume(f"{source}: chunks but no {SUPERBLOCK}: {_REPAIR}")
    if (source / DATABASE).is_file() and _has_names(source / DATABASE):
        raise DamagedVolume(f"{source}: files but no {SUPERBLOCK}: {_REPAIR}")


def _has_names(database: Path) -> bool:
    """Whether a database is more than what an interrupted format leaves."""
    try:
        opened = Database.open(database, read_only=True)
    except DamagedVolume:
        return False
    try:
        return bool(opened.first_row("SELECT EXISTS (SELECT 1 FROM dentry)")[0])
    except MetadataFailed:
        return True
    finally:
        opened.close()


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
