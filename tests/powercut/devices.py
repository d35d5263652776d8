"""Filesystems in files: made, mounted through loop devices, and cloned while in use.

Imports ``tests.support.mounting`` to run programs. Invariant: what a context manager here mounted is unmounted at the
end of its block; the loop devices go with the mounts.
"""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.support.mounting import run

FICLONE = 0x40049409
"""ioctl_ficlonerange(2): the target shares all of the source's extents, as of one instant."""

OUTER_BYTES = 16 << 30
INNER_BYTES = 512 << 20

_MAKE = {
    "ext4": ("mkfs.ext4", "-q", "-F"),
    "xfs": ("mkfs.xfs", "-q", "-m", "reflink=1"),
    "btrfs": ("mkfs.btrfs", "-q"),
}
_MOUNT_CLONE = {"ext4": "loop", "xfs": "loop,nouuid", "btrfs": "loop"}
"""A clone of a mounted xfs has the same UUID, which xfs takes only when told to; btrfs finds a temporary one."""

FILESYSTEMS = tuple(_MAKE)


def make_image(path: Path, filesystem: str, size_bytes: int = INNER_BYTES) -> None:
    """A filesystem in a new sparse file."""
    with path.open("xb") as file:
        file.truncate(size_bytes)
    run(*_MAKE[filesystem], path)


@contextlib.contextmanager
def mounted(image: Path, filesystem: str, directory: Path, options: str = "") -> Iterator[Path]:
    """Mount an image for the length of the block; mounting replays its journal."""
    directory.mkdir()
    words = ",".join(filter(None, (_MOUNT_CLONE[filesystem], options)))
    run("mount", "-t", filesystem, "-o", words, image, directory)
    try:
        yield directory
    finally:
        run("umount", "--recursive", directory)
        directory.rmdir()


def clone(image: Path, to: Path) -> None:
    """What a power cut at this instant would leave of an image."""
    with image.open("rb") as source, to.open("xb") as target:
        fcntl.ioctl(target.fileno(), FICLONE, source.fileno())


def _can_clone(directory: Path) -> bool:
    with tempfile.TemporaryDirectory(dir=directory, prefix="benchfs-reflink-") as name:
        source, target = Path(name, "source"), Path(name, "target")
        source.write_bytes(b"content")
        try:
            clone(source, target)
        except OSError:  # what a filesystem without clones answers differs from one to the next
            return False
        return True


@contextlib.contextmanager
def cloning_directory(directory: Path) -> Iterator[Path]:
    """A directory below this one where files can be cloned: in it, or on an xfs made in it."""
    place = Path(tempfile.mkdtemp(dir=directory, prefix="benchfs-powercut-"))
    try:
        with contextlib.ExitStack() as stack:
            if not _can_clone(place):
                make_image(place / "outer.image", "xfs", OUTER_BYTES)
                # discard: the image gives back what was in clones that are gone
                yield stack.enter_context(mounted(place / "outer.image", "xfs", place / "outer", "discard"))
            else:
                yield place
    finally:
        shutil.rmtree(place)
