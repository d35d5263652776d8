"""Compares BenchFS with its peers in one run, in turns, and writes the tables of ``docs/performance.md``.

    .venv/bin/python -m tests.bench.peers [DIRECTORY] [--only-peers NAME,…] [--render] [-- OPTIONS OF benchfs bench]

Mounts each peer over a directory of its own below DIRECTORY (default: the current one), beside a native directory; runs
``benchfs bench`` on all of them; keeps what came of it in ``docs/data/peers.json`` and writes tables and plot from that
(``--render``: nothing but that). Packages that are missing are installed. A peer that cannot be had is named there,
with the reason. Needs root. When it ends, also by Ctrl-C, everything is unmounted and removed.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchfs_fuse.options import OPTIONS
from tests.bench import page
from tests.bench.peer_mounts import COMMANDS, DEBIAN, Mounted, Peer, PeerMissing, juicefs, mounted, ours

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "docs" / "data" / "peers.json"
NATIVE = "native"


def all_peers(place: Path) -> list[Peer]:
    """Everything that is compared, BenchFS in its modes last."""
    modes = [ours(sync) for sync in ("fsync", "write")]
    if any(option.name == "plane" for option in OPTIONS):
        modes += [ours(sync, "pyfuse3") for sync in ("fsync", "write")]
    return [*DEBIAN, juicefs(place / "juicefs"), *modes]


def mount_all(peers: list[Peer], place: Path, stack: ExitStack) -> tuple[list[Mounted], dict[str, str]]:
    """Mount what can be mounted; the reasons for the others by name."""
    found, missing = [], {}
    for peer in peers:
        try:
            found.append(stack.enter_context(mounted(peer, place / peer.name.replace(" ", "-"))))
            print(f"{peer.name}: {found[-1].command}", file=sys.stderr)
        except PeerMissing as error:
            missing[peer.name] = str(error)
            print(f"{peer.name}: not measured: {error}", file=sys.stderr)
    return found, missing


def measure(place: Path, found: list[Mounted], options: list[str]) -> dict[str, Any]:
    """Run the bench on a native directory and all mounts."""
    native, output = place / NATIVE, place / "out.json"
    native.mkdir()
    words = [f"{NATIVE}={native}", *(f"{one.peer.name}={one.directory}" for one in found)]
    for one in found:
        if not one.peer.is_ours:
            words += [word for pid in one.pids for word in ("--pid", f"{one.peer.name}={pid}")]
    command = [str(COMMANDS / "benchfs"), "bench", *words, "--keep-going", "--output", str(output), *options]
    done = subprocess.run(command, check=False)
    if not output.exists():
        sys.exit(done.returncode)
    document: dict[str, Any] = json.loads(output.read_text())
    return document


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", nargs="?", default=".", type=Path)
    parser.add_argument("--only-peers", metavar="NAME,…", help="such as bindfs,benchfs fsync")
    parser.add_argument("--data", type=Path, default=DATA, help="where figures are kept")
    parser.add_argument("--render", action="store_true", help="only write the tables from what is kept")
    ours_to_read, options = sys.argv[1:], list[str]()
    if "--" in ours_to_read:
        cut = ours_to_read.index("--")
        ours_to_read, options = ours_to_read[:cut], ours_to_read[cut + 1 :]
    given = parser.parse_args(ours_to_read)
    if not given.render:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        place = Path(tempfile.mkdtemp(prefix="benchfs-peers-", dir=given.directory)).resolve()
        try:
            with ExitStack() as stack:
                chosen = given.only_peers.split(",") if given.only_peers else None
                peers = [peer for peer in all_peers(place) if chosen is None or peer.name in chosen]
                found, missing = mount_all(peers, place, stack)
                document = measure(place, found, options)
        except KeyboardInterrupt:
            sys.exit("interrupted: everything is unmounted, nothing is kept")
        finally:
            shutil.rmtree(place)
        document["peers"] = {
            one.peer.name: {"command": one.command, "version": one.version, "ours": one.peer.is_ours} for one in found
        }
        document["peers_missing"] = missing
        document["options"] = options
        given.data.parent.mkdir(parents=True, exist_ok=True)
        given.data.write_text(json.dumps(document, indent=1) + "\n")
    page.render(given.data, ROOT / "docs" / "performance.md")
    page.render_summary(given.data, ROOT / "README.md")
    page.render_scale(DATA.parent, ROOT / "docs" / "performance.md")


if __name__ == "__main__":
    main()
