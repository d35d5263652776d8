"""4 KiB random reads whose data lies in the page cache below: BenchFS against bindfs, alternating.

    python -m tests.bench.cached_below DIRECTORY [--rounds R] [--seconds S] [--size BYTES] [--depth D]

Needs fio and bindfs. The file is written through each mount. Before each reading all files below are read through, so
that the page cache below has them; the mount is read with O_DIRECT, so that its own is not asked. Prints requests a
second of each round, and the ratio of the medians, which tells nothing while others use the machine.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from contextlib import ExitStack
from pathlib import Path
from statistics import median

from benchfs_fuse.bench import fio
from tests.bench.peer_mounts import DEBIAN, Mounted, mounted, ours

BLOCK_BYTES = 1 << 20


def read_through(directory: Path) -> int:
    """Have the page cache hold every file below the directory; how many bytes they have."""
    total = 0
    for path in directory.rglob("*"):
        if path.is_file() and not path.is_symlink():
            with path.open("rb") as stream:
                while part := stream.read(BLOCK_BYTES):
                    total += len(part)
    return total


def requests_a_second(mount: Mounted, source: Path, seconds: float, depth: int, seed: int) -> float:
    """Of one round."""
    file = mount.directory / "file"
    assert read_through(source) >= file.stat().st_size
    done = fio.at_random(file, writing=False, seconds=seconds, seed=seed, direct=True, depth=depth)
    assert done.seconds is not None
    return done.operations / done.seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--size", type=int, default=64 << 20, help="of the file, in bytes")
    parser.add_argument("--depth", type=int, default=16)
    given = parser.parse_args()
    (bindfs,) = (peer for peer in DEBIAN if peer.name == "bindfs")
    rates: dict[str, list[float]] = {}
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=given.directory, prefix="benchfs-cached-")))
        mounts: list[tuple[Mounted, Path]] = []
        for peer in (bindfs, ours("fsync"), ours("write")):
            below = place / peer.name.replace(" ", "-")
            mount = stack.enter_context(mounted(peer, below))
            with (mount.directory / "file").open("wb") as stream:
                for _ in range(given.size // BLOCK_BYTES):
                    stream.write(os.urandom(BLOCK_BYTES))
                os.fsync(stream.fileno())
            mounts.append((mount, below / "source"))
        for number in range(given.rounds):
            for mount, source in mounts:
                rate = requests_a_second(mount, source, given.seconds, given.depth, number)
                rates.setdefault(mount.peer.name, []).append(rate)
                print(f"round {number + 1}: {mount.peer.name}: {rate:,.0f} a second", flush=True)
    base = median(rates[bindfs.name])
    for name, found in rates.items():
        spread = f"{min(found):,.0f} to {max(found):,.0f}"
        print(f"{name}: {median(found):,.0f} ({spread}): {median(found) / base:.0%} of bindfs")


if __name__ == "__main__":
    main()
