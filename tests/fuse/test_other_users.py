"""What a user without privileges sees and changes on root's mount."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable

import pytest

from tests.fuse.user_mount import become_nobody
from tests.support.mounting import Volumes

pytestmark = pytest.mark.fuse


def as_nobody(action: Callable[[], None]) -> None:
    """Run ``action`` as a user without privileges, in a child; it must not raise."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            become_nobody()
            action()
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize("sync", ["write", "fsync"])
@pytest.mark.parametrize(
    ("before", "after"), [(0o6777, 0o777), (0o4666, 0o666), (0o2676, 0o676), (0o2666, 0o666), (0o1666, 0o1666)]
)
def test_opening_with_o_trunc_takes_privileges_away(volumes: Volumes, sync: str, before: int, after: int) -> None:
    volume = volumes.make(f"sync={sync}")
    file = volume.directory / "file"
    file.write_bytes(b"content")
    file.chmod(before)
    os.close(os.open(file, os.O_WRONLY | os.O_TRUNC))
    assert stat.S_IMODE(file.stat().st_mode) == before  # root keeps them
    file.write_bytes(b"content")
    file.chmod(before)
    directory = os.open(volume.directory, os.O_RDONLY)  # what is above it is not nobody's to pass
    try:
        as_nobody(lambda: os.close(os.open("file", os.O_WRONLY, dir_fd=directory)))
        assert stat.S_IMODE(file.stat().st_mode) == before
        as_nobody(lambda: os.close(os.open("file", os.O_WRONLY | os.O_TRUNC, dir_fd=directory)))
    finally:
        os.close(directory)
    status = file.stat()
    assert (stat.S_IMODE(status.st_mode), status.st_size) == (after, 0)
    volume.remount()
    status = file.stat()
    assert (stat.S_IMODE(status.st_mode), status.st_size) == (after, 0)


def test_names_of_trusted_attributes_are_for_root(volumes: Volumes) -> None:
    """xattr(7): without CAP_SYS_ADMIN they are not visible."""
    volume = volumes.make()
    file = volume.directory / "file"
    file.touch()
    for name in ("user.one", "trusted.two"):
        os.setxattr(file, name, b"value")
    assert sorted(os.listxattr(file)) == ["trusted.two", "user.one"]
    opened = os.open(file, os.O_RDONLY)

    def look() -> None:
        assert os.listxattr(opened) == ["user.one"]

    try:
        as_nobody(look)
    finally:
        os.close(opened)
