"""Seconds of the soak: on a mount in both modes, and on the directory below, which keeps to the same errnos."""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchfs_core.types import StoreKind, SyncMode
from tests.programs.soak import Outcome, soak_on_directory, soak_on_volume
from tests.programs.soak_errors import ALLOWED
from tests.programs.soak_operations import MAX_SECTORS, SECTOR, SharedTree, WrongContent, opened
from tests.programs.soak_worker import ALL_KINDS, OwnFiles
from tests.support.mounting import Setup, volumes_in

pytestmark = pytest.mark.fuse

PROCESSES, SEED, SECONDS = 6, 20261122, 7.0
MAX_RESIDENT_MIB = 150
MAX_HANDLES, OTHER_DESCRIPTORS = 64, 64


@pytest.fixture
def place() -> Iterator[Path]:
    """Where others than root come to, too; pytest keeps its own to the user, again whenever another one starts."""
    with tempfile.TemporaryDirectory(prefix="benchfs-soak-") as place:
        Path(place).chmod(0o755)
        yield Path(place)


def judge(outcome: Outcome) -> None:
    assert outcome.problems == []
    assert outcome.operations > 500
    done = {kind for kind, counts in outcome.counts.items() if "ok" in counts}
    # Each process knows the kinds by the same names; what never succeeds would test nothing.
    assert len(done) > len(ALLOWED) - 5, f"never done: {set(ALLOWED) - done}"


@pytest.mark.parametrize("sync", SyncMode, ids=lambda sync: sync.value)
def test_nothing_goes_wrong_that_would_not_on_ext4(sync: SyncMode, place: Path) -> None:
    with volumes_in(place) as volumes:
        volume = volumes.make(Setup(StoreKind.IO_URING, sync), options=f"chunk_size=64K,max_handles={MAX_HANDLES}")
        outcome = soak_on_volume(volume, place, processes=PROCESSES, seed=SEED, seconds=SECONDS)
    judge(outcome)
    assert 0 < outcome.resident_mib_at_most < MAX_RESIDENT_MIB
    assert 0 < outcome.descriptors_at_most <= MAX_HANDLES + OTHER_DESCRIPTORS


def test_the_table_of_errnos_holds_on_the_filesystem_below(place: Path) -> None:
    tree = place / "tree"
    tree.mkdir()
    judge(soak_on_directory(tree, place, processes=PROCESSES, seed=SEED, seconds=3.0))


def test_the_table_knows_every_kind_of_operation() -> None:
    assert ALLOWED.keys() == set(ALL_KINDS) - {"nothing"}


def test_bytes_of_another_file_or_place_are_noticed(tmp_path: Path) -> None:
    tree = SharedTree(random.Random(1), 0)
    made = os.O_RDWR | os.O_CREAT
    with opened(f"{tmp_path}/a", made) as one, opened(f"{tmp_path}/b", made) as other:
        for first in range(0, MAX_SECTORS, 8):
            os.pwrite(one, tree.sectors(one, first, 8), first * SECTOR)
        for _ in range(20):
            tree.verify(one)
        os.pwrite(other, os.pread(one, MAX_SECTORS * SECTOR, 0), 0)
        with pytest.raises(WrongContent):
            tree.verify(other)
        os.pwrite(one, os.pread(one, MAX_SECTORS * SECTOR, 0), SECTOR)
        with pytest.raises(WrongContent):
            tree.verify(one)


def test_a_change_of_a_file_of_its_own_is_noticed(tmp_path: Path) -> None:
    own = OwnFiles(random.Random(1), tmp_path)
    while not any(own.contents.values()):
        own.perform()
    name = next(name for name, content in own.contents.items() if content)
    own.compare(name)
    data = bytearray((tmp_path / name).read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / name).write_bytes(data)
    with pytest.raises(WrongContent, match="1 differ"):
        own.compare(name)
