"""Small real filesystems for tests: each in a file, mounted through a loop device, gone at the end of its block.

Imports ``mounting`` to run programs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from tests.support.mounting import run

_MAKE = {
    "ext4": ("mkfs.ext4", "-q", "-F", "-m", "0"),  # nothing kept back for root, who runs the tests
    "xfs": ("mkfs.xfs", "-q"),
    "btrfs": ("mkfs.btrfs", "-q"),
}
_LEAST_BYTES = {"ext4": 96 << 20, "xfs": 320 << 20, "btrfs": 256 << 20}
"""About the smallest that the tools will make, and room for the WAL's reserve."""


@contextlib.contextmanager
def small_disk(place: Path, filesystem: str, options: str = "loop") -> Iterator[Path]:
    """A directory on a filesystem of its own, as small as may be."""
    image, directory = place / f"{filesystem}.image", place / "disk"
    with image.open("xb") as file:
        file.truncate(_LEAST_BYTES[filesystem])
    run(*_MAKE[filesystem], image)
    directory.mkdir()
    run("mount", "-t", filesystem, "-o", options, image, directory)
    try:
        yield directory
    finally:
        run("umount", directory, check=False)
        image.unlink()
