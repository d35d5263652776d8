"""The daemon's memory and descriptors stay bounded, however much is written and however many files there are."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests.support.mounting import MountedVolume, Volumes

pytestmark = [pytest.mark.fuse, pytest.mark.slow]

MIB = 1 << 20
MAX_RESIDENT_MIB = 200
MAX_HANDLES = 256
OTHER_DESCRIPTORS = 64
"""Database, ring, log, /dev/fuse and the like."""

LARGE_FILES, LARGE_FILE_MIB = 4, 1024
SMALL_FILES, SMALL_FILES_IN_A_DIRECTORY = 50_000, 1000


class Watcher:
    """The worst that was seen of a daemon."""

    def __init__(self, volume: MountedVolume) -> None:
        self._process = Path("/proc") / str(volume.pid)
        self.resident_mib = 0.0
        self.descriptors = 0

    def look(self) -> None:
        """Take a sample."""
        resident = re.search(r"VmRSS:\s+(\d+) kB", (self._process / "status").read_text())
        assert resident is not None
        self.resident_mib = max(self.resident_mib, int(resident[1]) / 1024)
        self.descriptors = max(self.descriptors, len(os.listdir(self._process / "fd")))


def test_4_gib_and_50000_files_take_less_than_200_mib_and_few_descriptors(volumes: Volumes) -> None:
    volume = volumes.make(f"sync=fsync,max_handles={MAX_HANDLES}")
    watcher = Watcher(volume)
    block = os.urandom(MIB)
    for number in range(LARGE_FILES):
        with (volume.directory / f"large {number}").open("xb", buffering=0) as stream:
            for index in range(LARGE_FILE_MIB):
                assert stream.write(block) == MIB
                if index % 64 == 0:
                    watcher.look()
        watcher.look()
    for number in range(SMALL_FILES):
        directory = volume.directory / f"small {number // SMALL_FILES_IN_A_DIRECTORY}"
        if number % SMALL_FILES_IN_A_DIRECTORY == 0:
            directory.mkdir()
            watcher.look()
        file = os.open(directory / str(number), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        os.write(file, b"small")
        os.close(file)
    watcher.look()
    assert sum(entry.stat().st_size for entry in os.scandir(volume.directory) if entry.is_file()) == (
        LARGE_FILES * LARGE_FILE_MIB * MIB
    )
    assert sum(len(files) for _, _, files in os.walk(volume.directory)) == LARGE_FILES + SMALL_FILES
    watcher.look()
    assert watcher.resident_mib < MAX_RESIDENT_MIB
    assert MAX_HANDLES // 2 < watcher.descriptors <= MAX_HANDLES + OTHER_DESCRIPTORS
    print(f"at most {watcher.resident_mib:.0f} MiB resident, {watcher.descriptors} descriptors")
