"""The campaign of kills, a bounded part of it, and what it must not accept."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchfs_core.types import SyncMode
from tests.crash.campaign import Campaign, Row
from tests.crash.phases import Doomed
from tests.support.mounting import Volumes

pytestmark = pytest.mark.fuse

SEED = 20261125
KILLS = 2
MAX_KILLS = 12
"""So many until one has hit."""


@pytest.mark.parametrize(
    ("phase", "sync"),
    [
        ("checkpoint", SyncMode.WRITE),
        ("deletion", SyncMode.FSYNC),
        ("recovery", SyncMode.WRITE),
        ("recovery", SyncMode.FSYNC),
        ("unmount", SyncMode.FSYNC),
        ("format", SyncMode.WRITE),
    ],
    ids=str,
)
def test_what_was_acknowledged_survives_a_kill_in_the_middle_of(phase: str, sync: SyncMode, tmp_path: Path) -> None:
    campaign = Campaign(tmp_path, phase, sync, SEED)
    row = campaign.run(KILLS)
    while not row.problems and not row.hits and row.kills < MAX_KILLS:
        row = campaign.run(row.kills + 1)
    assert not row.problems, "\n".join(row.problems)
    assert not row.failed, f"none of {row.kills} kills hit"


def test_a_campaign_without_a_hit_or_without_risk_fails() -> None:
    assert Row("recovery", "write", kills=5).failed
    assert Row("load", "write", kills=5, hits=5).failed
    assert Row("load", "write", kills=5, hits=5, at_risk=1, problems=["wrong"]).failed
    assert not Row("load", "write", kills=5, hits=5, at_risk=1).failed
    assert not Row("recovery", "write", kills=5, hits=1).failed


def test_a_file_that_lost_chunks_and_kept_its_name_is_noticed(volumes: Volumes) -> None:
    volume = volumes.make("sync=fsync", options="chunk_size=64K")
    doomed = Doomed(volume, "doomed")
    assert doomed.problems() == []
    assert doomed.leftovers(), "with a name, it has chunks"
    volume.unmount()
    kept = (doomed.chunks / "7").read_bytes()
    (doomed.chunks / "7").unlink()
    volume.mount()
    assert "not all of its content" in doomed.problems()[0]
    volume.unmount()
    (doomed.chunks / "7").write_bytes(kept)  # fsck looks at the volume at the end
