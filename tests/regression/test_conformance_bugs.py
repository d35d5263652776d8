"""What differed from ext4 and no longer does, on real mounts: found by ``tests/differential``."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.mounting import Volumes, volumes_in

pytestmark = pytest.mark.fuse


@pytest.fixture
def volumes(tmp_path: Path) -> Iterator[Volumes]:
    """Makes volumes; when the test has ended they are unmounted, checked and removed."""
    with volumes_in(tmp_path) as volumes:
        yield volumes


@pytest.mark.parametrize("namespace", ["user.", "trusted.", "security."])
def test_a_bare_namespace_is_no_attribute(volumes: Volumes, namespace: str) -> None:
    file = volumes.make().directory / "file"
    file.touch()
    for action in (os.getxattr, os.removexattr, lambda path, name: os.setxattr(path, name, b"value")):
        with pytest.raises(OSError) as failure:
            action(file, namespace)
        assert failure.value.errno == errno.EINVAL


@pytest.mark.parametrize("sync", ["write", "fsync"])
@pytest.mark.parametrize("left", [0, 1, 7419, 65536, 65537])
def test_what_truncate_cut_off_takes_no_blocks(volumes: Volumes, sync: str, left: int) -> None:
    file = volumes.make(f"sync={sync}", options="chunk_size=65536").directory / "file"
    with file.open("wb") as stream:
        stream.write(b"x" * 3 * 65536)
        stream.flush()
        assert os.fstat(stream.fileno()).st_size == 3 * 65536
        os.truncate(file, left)
        assert os.fstat(stream.fileno()).st_blocks * 512 <= -(-left // 4096) * 4096
    status = file.stat()
    assert status.st_blocks * 512 <= -(-left // 4096) * 4096
    assert (status.st_blocks > 0) == (left > 0)


def test_setting_an_attribute_to_what_it_is_moves_no_ctime(volumes: Volumes) -> None:
    file = volumes.make().directory / "file"
    file.touch()
    os.setxattr(file, "user.a", b"value")
    before = file.stat().st_ctime_ns
    os.setxattr(file, "user.a", b"value")
    assert file.stat().st_ctime_ns == before
    os.setxattr(file, "user.a", b"other")
    assert file.stat().st_ctime_ns > before


def test_an_acl_that_stays_as_it_is_moves_no_ctime(volumes: Volumes) -> None:
    directory = volumes.make(options="acl").directory / "directory"
    directory.mkdir()
    before = directory.stat().st_ctime_ns
    for name in ("system.posix_acl_access", "system.posix_acl_default"):
        os.removexattr(directory, name)
        assert directory.stat().st_ctime_ns == before
    entries = ((0x01, 7), (0x04, 5), (0x20, 5))
    acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", tag, bits, 0xFFFFFFFF) for tag, bits in entries)
    os.setxattr(directory, "system.posix_acl_default", acl)
    before, earlier = directory.stat().st_ctime_ns, before
    assert before > earlier
    os.setxattr(directory, "system.posix_acl_default", acl)
    assert directory.stat().st_ctime_ns == before
