"""Dumps: the metadata of a volume as lines of JSON, of one instant, also of a live volume; and back.

Imports ``metadata.rows``, ``rebuild``, ``superblock``. The form is described in ``docs/dump-format.md``. Invariants: a
dump is restored whole or not at all, and only where there is no healthy database; after restoring, no number is handed
out under which there are chunk files already.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
import uuid
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchfs_core.chunk_checks import chunk_directory_number
from benchfs_core.config import FormatOptions
from benchfs_core.errors import DamagedVolume, MetadataFailed, NotAVolume, OptionError, UnknownFormat, VolumeBusy
from benchfs_core.metadata.database import Database, DatabaseError
from benchfs_core.metadata.expected_chunks import snapshot
from benchfs_core.metadata.rows import Row, RowWriter, Table, read_rows, schema_tables
from benchfs_core.metadata.schema import SCHEMA_VERSION
from benchfs_core.rebuild import fsync, new_database, write_superblock
from benchfs_core.superblock import CHUNKS, DATABASE, LOCK, SUPERBLOCK, Superblock, read_superblock
from benchfs_core.types import InodeId
from benchfs_core.volume_lock import VolumeLock

DUMP_VERSION = 1

_OF_A_VOLUME = {"meta", "meta.new", "meta.building", CHUNKS, LOCK, SUPERBLOCK, SUPERBLOCK + ".new", "lost+found"}
"""What may be in a directory that a dump is restored to; and logs."""


@dataclass(frozen=True, slots=True)
class Restored:
    """What restoring came to."""

    superblock: Superblock
    rows: int
    unknown: int
    """Chunk directories that the dump knows nothing of: for fsck to put in lost+found."""


def dump_lines(source: Path) -> Iterator[bytes]:
    """The dump of the volume in ``source``, mounted or not, line by line. Blocking.

    Raises:
        VolumeError: no volume, or one that is damaged.
        MetadataFailed: the database cannot be read to its end.
    """
    superblock = read_superblock(source, writing=False)
    if superblock is None:
        raise NotAVolume(f"{source}: empty: there is no volume to dump")
    database = Database.open(source / DATABASE, read_only=True)
    digest, counts = hashlib.sha256(), {}
    header = {
        "benchfs_dump": DUMP_VERSION,
        "schema": SCHEMA_VERSION,
        "uuid": superblock.uuid,
        "chunk_size": superblock.chunk_size,
        "created": superblock.created,
    }
    with closing(database), snapshot(database):
        line = _line(header)
        digest.update(line)
        yield line
        for table in schema_tables():
            counts[table.name] = 0
            for row in _rows(database, table, source):
                line = _line([table.name, *(_encoded(value) for value in row)])
                digest.update(line)
                counts[table.name] += 1
                yield line
    yield _line({"rows": counts, "sha256": digest.hexdigest()})


def write_dump(source: Path, file: Path) -> int:
    """Write the dump of a volume to a file, which is whole and durable on return or as it was; how many rows.

    Raises:
        VolumeError, MetadataFailed: see ``dump_lines``.
        OSError: the file cannot be written.
    """
    count = -2
    new = file.with_name(f"{file.name}.{uuid.uuid4().hex[:8]}.new")
    try:
        with new.open("xb") as stream:
            for line in dump_lines(source):
                stream.write(line)
                count += 1
            stream.flush()
            os.fsync(stream.fileno())
        new.replace(file)
    finally:
        new.unlink(missing_ok=True)
    fsync(file.absolute().parent)
    return count


def restore(lines: Iterable[bytes], source: Path) -> Restored:
    """Restore a dump to ``source``: an empty directory, or a volume without a healthy database. Blocking; durable.

    Chunk files stay as they are. What was there of a database goes to SOURCE/lost+found.

    Raises:
        NotAVolume: ``source`` holds other things, a healthy volume, or another volume.
        OptionError: the dump is damaged or cut off.
        UnknownFormat: made by a later release.
        OSError: the filesystem below refused.
    """
    iterator = iter(lines)
    first = next(iterator, b"")
    superblock = _header(first)
    _check_target(source, superblock)
    try:
        lock = VolumeLock.try_acquire(source / LOCK)
    except VolumeBusy as error:
        raise VolumeBusy(f"{error}: a dump is restored to a volume that is not mounted") from None
    try:
        _check_unhealthy(source)
        (source / CHUNKS).mkdir(mode=0o700, exist_ok=True)
        with new_database(source) as writer:
            rows = _fill(writer, first, iterator)
            unknown = _raise_numbers(writer, source / CHUNKS)
            if _superblock(source) is None:
                write_superblock(source, superblock)  # before the database: until that is there, mounting is refused
        return Restored(superblock, rows, unknown)
    finally:
        lock.release()


def _rows(database: Database, table: Table, source: Path) -> Iterator[Row]:
    try:
        yield from read_rows(database, table)
    except DatabaseError as error:
        raise MetadataFailed(f"{source / DATABASE}: {error}: repair it with benchfs fsck first") from error


def _line(content: object) -> bytes:
    return json.dumps(content, separators=(",", ":")).encode() + b"\n"


def _encoded(value: int | bytes | None) -> int | str | None:
    return base64.b64encode(value).decode() if isinstance(value, bytes) else value


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        raise OptionError("the dump is damaged, or no dump: a line is not JSON") from None


def _header(line: bytes) -> Superblock:
    content = _parsed(line)
    if not isinstance(content, dict) or "benchfs_dump" not in content:
        raise OptionError("no dump: its first line is not that of one")
    if (content["benchfs_dump"], content.get("schema")) != (DUMP_VERSION, SCHEMA_VERSION):
        raise UnknownFormat(
            f"a dump of version {content['benchfs_dump']}, schema {content.get('schema')}; this release knows "
            f"{DUMP_VERSION}, {SCHEMA_VERSION}"
        )
    try:
        superblock = Superblock(str(uuid.UUID(content["uuid"])), content["chunk_size"], str(content["created"]))
        FormatOptions(superblock.chunk_size)
    except (KeyError, ValueError, TypeError, AttributeError, OptionError) as error:
        raise OptionError(f"the dump is damaged: its first line: {error}") from None
    return superblock


def _fill(writer: RowWriter, first: bytes, lines: Iterator[bytes]) -> int:
    """Add every row of the dump; how many."""
    tables = {table.name: table for table in schema_tables()}
    counts = dict.fromkeys(tables, 0)
    digest = hashlib.sha256(first)
    for line in lines:
        content = _parsed(line)
        if isinstance(content, dict):
            if content != {"rows": counts, "sha256": digest.hexdigest()} or next(lines, None) is not None:
                raise OptionError("the dump is damaged: its rows are not those that were written")
            return sum(counts.values())
        digest.update(line)
        table = tables.get(content[0]) if isinstance(content, list) and content else None
        if table is None or not writer.add(table, _decoded(table, content[1:])):
            raise OptionError(f"the dump is damaged: a row cannot be: {line[:60]!r}")
        counts[table.name] += 1
    raise OptionError("the dump is cut off: its last line is missing")


def _decoded(table: Table, values: list[Any]) -> Row:
    if len(values) != len(table.columns):
        raise OptionError(f"the dump is damaged: a row of {table.name} with {len(values)} values")
    try:
        return tuple(
            base64.b64decode(value, validate=True) if blob else value
            for value, blob in zip(values, table.blobs, strict=True)
        )
    except (binascii.Error, TypeError, ValueError):
        raise OptionError(f"the dump is damaged: a row of {table.name} that is not base64") from None


def _raise_numbers(writer: RowWriter, chunks: Path) -> int:
    """Have numbers handed out above those of all chunk files, where the dump does not know some; how many those are."""
    low, high = writer.highest()
    unknown = [number for number in _chunk_directories(chunks) if number >= low and not writer.has_inode(number)]
    if unknown:
        high = max(high, max(unknown) + 1)
        writer.execute("UPDATE number SET low = ?, high = ?", (high, high))
    return len(unknown)


def _chunk_directories(chunks: Path) -> Iterator[InodeId]:
    with os.scandir(chunks) as entries:
        for entry in entries:
            number = chunk_directory_number(entry.name)
            if number is not None:
                yield number


def _superblock(source: Path) -> Superblock | None:
    try:
        return read_superblock(source)
    except (DamagedVolume, NotAVolume):
        return None


def _check_target(source: Path, superblock: Superblock) -> None:
    strange = sorted({entry.name for entry in os.scandir(source)} - _OF_A_VOLUME)
    strange = [name for name in strange if not name.startswith("benchfs.log")]
    if strange:
        raise NotAVolume(f"{source}: neither empty nor a BenchFS volume ({strange[0]!r} is there)")
    there = _superblock(source)
    if there is not None and (there.uuid, there.chunk_size) != (superblock.uuid, superblock.chunk_size):
        raise NotAVolume(f"{source}: is volume {there.uuid}, the dump is of volume {superblock.uuid}")


def _check_unhealthy(source: Path) -> None:
    """A database that can be read and used is not replaced."""
    try:
        database = Database.open(source / DATABASE, read_only=True)
    except DamagedVolume:
        return
    try:
        with closing(database):
            results = database.rows("PRAGMA integrity_check(1)")
    except (DatabaseError, MetadataFailed):
        return
    if results == [("ok",)]:
        raise NotAVolume(f"{source}: has a healthy database: move {source / 'meta'} away to have it replaced")
