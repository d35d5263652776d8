"""``workload.py DIRECTORY WORKER SEED [MIX]``: writes files on a mount until the mount dies, and tells what was done.

Each line on stdout is a JSON list. An operation is told before it is begun and again when the mount has acknowledged it
(``["done"]``); the operation that failed is told with its errno (``["failed", errno]``) and is the last line. The
reader keeps the lines: they lie outside the mount, and nothing that is told as done was not done.

Operations: ``["write", name, offset, seed, length]``, ``["fsync", name]``, ``["replace", name, seed, length]`` (written
to a temporary name, fsynced, renamed, directory fsynced), ``["unlink", name]`` (and directory fsynced),
``["attribute", name, seed, length]`` (set, and the file fsynced). MIX says how often each of them comes.
"""

from __future__ import annotations

import errno
import json
import os
import random
import sys
from collections.abc import Iterator, Sequence

FILES = 4
MAX_FILE_BYTES = 500_000
XATTR = "user.value"

KINDS = "write", "fsync", "replace", "unlink", "attribute"
MIXES = {"files": (60, 25, 10, 5, 0), "metadata": (15, 10, 5, 5, 65)}
"""How often each kind comes; ``metadata`` makes the database's WAL long."""


def content(seed: int, length: int) -> bytes:
    """The bytes of one write; never zero, so that what is missing shows."""
    return random.Random(seed).randbytes(length).replace(b"\0", b"\1")


def tell(*words: object) -> None:
    """One line; complete in the pipe when this returns."""
    os.write(1, json.dumps(words).encode() + b"\n")


def work(directory: str, worker: str, seed: int, mix: str = "files") -> None:
    """Operate until one fails."""
    rng, here = random.Random(seed), os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    names = [f"{worker}-{number}" for number in range(FILES)]
    opened: dict[str, int] = {}

    def file(name: str) -> int:
        if name not in opened:
            opened[name] = os.open(name, os.O_WRONLY | os.O_CREAT, 0o644, dir_fd=here)
        return opened[name]

    def forget(name: str) -> None:
        if name in opened:
            os.close(opened.pop(name))

    for operation in _operations(rng, names, MIXES[mix]):
        tell(*operation)
        match operation:
            case ("write", str(name), int(offset), int(number), int(length)):
                if os.pwrite(file(name), content(number, length), offset) < length:
                    raise OSError(errno.ECONNABORTED, "the mount died half-way")
            case ("fsync", str(name)):
                os.fsync(file(name))
            case ("attribute", str(name), int(number), int(length)):
                os.setxattr(file(name), XATTR, content(number, length))
                os.fsync(file(name))
            case ("replace", str(name), int(number), int(length)):
                new = file(f"{name}.new")
                os.ftruncate(new, 0)
                os.pwrite(new, content(number, length), 0)
                os.fsync(new)
                forget(f"{name}.new")
                forget(name)
                os.rename(f"{name}.new", name, src_dir_fd=here, dst_dir_fd=here)
                os.fsync(here)
            case ("unlink", str(name)):
                forget(name)
                file(name)
                forget(name)
                os.unlink(name, dir_fd=here)
                os.fsync(here)
        tell("done")


def _operations(rng: random.Random, names: list[str], mix: Sequence[int]) -> Iterator[tuple[object, ...]]:
    while True:
        name, seed = rng.choice(names), rng.getrandbits(40)
        kind = rng.choices(KINDS, mix)[0]
        if kind == "write":
            length = rng.choice((1, 100, 4096, 5000, 65_536, 150_000))
            yield "write", name, rng.randrange(MAX_FILE_BYTES - length), seed, length
        elif kind == "replace":
            yield "replace", name, seed, rng.randrange(1, 200_000)
        elif kind == "attribute":
            yield "attribute", name, seed, rng.randrange(40_000, 60_000)
        else:
            yield kind, name


if __name__ == "__main__":
    try:
        work(sys.argv[1], sys.argv[2], int(sys.argv[3]), *sys.argv[4:])
    except OSError as error:
        tell("failed", error.errno)
