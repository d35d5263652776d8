"""Volumes for the tests in this directory, which all mount them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.mounting import Volumes, volumes_in


@pytest.fixture
def volumes(tmp_path: Path) -> Iterator[Volumes]:
    """Makes volumes; when the test has ended they are unmounted, checked and removed."""
    with volumes_in(tmp_path) as volumes:
        yield volumes
