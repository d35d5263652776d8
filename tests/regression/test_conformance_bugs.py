"""What differed from ext4 and no longer does, on real mounts: found by ``tests/differential``."""

from __future__ import annotations

import errno
import os
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
