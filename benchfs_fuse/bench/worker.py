"""One of several processes that work at the same time: makes, reads, renames and removes small files.

Run with ``python -m``: DIRECTORY FILES SEED. Says that it is ready, then waits for the end of its standard input.
Imports ``small_files``.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from benchfs_fuse.bench import small_files

READY = b"ready\n"


def work(directory: Path, files: int, seed: int) -> None:
    """Everything to one file after the other."""
    data = small_files.content(seed)
    for number in range(files):
        paths, new = [directory / f"f{number}"], [directory / f"r{number}"]
        small_files.create(paths, data)
        small_files.read(paths)
        small_files.rename(paths, new)
        if number % 2:
            small_files.unlink(new)


def main() -> None:
    """See the module."""
    directory, files, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    directory.mkdir()
    os.write(1, READY)
    sys.stdin.buffer.read()
    work(directory, files, seed)


if __name__ == "__main__":
    main()
