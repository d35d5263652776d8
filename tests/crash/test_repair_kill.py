"""kill -9 in the middle of repairs and restores, at random instants, again and again: run again, they come to the end.

Nothing that was in the volume may be gone: every byte of every chunk file is in a file of the volume or in
SOURCE/lost+found afterwards. A campaign in which no kill came in the middle fails.
"""

from __future__ import annotations

import random
import shutil
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest
import trio

from benchfs_core.dump import dump_lines
from benchfs_core.superblock import DATABASE
from tests.support.damage import left, read_everything, run_sql
from tests.support.mounting import BENCHFS, TIMEOUT_S
from tests.support.volumes import CHUNK_SIZE, open_test_volume, write_file

ROUNDS = 5
FILES = 60

DAMAGE = (
    "DELETE FROM inode WHERE inode % 3 = 0",
    "DELETE FROM dentry WHERE inode % 5 = 0",
    "DELETE FROM chunk WHERE inode % 2 = 0",
    "UPDATE inode SET link_count = 7, mode = mode & 4095 WHERE inode % 7 = 0",
    "UPDATE number SET low = 1",
)


def content(number: int) -> bytes:
    return f"file {number};".encode() * 100


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = tmp_path_factory.mktemp("pristine") / "volume"

    async def make() -> None:
        async with open_test_volume(source) as volume:
            for number in range(FILES):
                await write_file(volume.filesystem, b"%d" % number, content(number), offset=number % 3 * CHUNK_SIZE)

    trio.run(make)
    return source


def damaged(pristine: Path, target: Path, rng: random.Random) -> Path:
    """A copy with damage of every kind."""
    shutil.copytree(pristine, target)
    for statement in DAMAGE:
        run_sql(target, statement)
    chunks = sorted((target / "chunks").iterdir())
    for directory in rng.sample(chunks, 10):
        (directory / "007").write_bytes(b"foreign")
    for chunk in rng.sample(sorted((target / "chunks").glob("*/[0-9]")), 5):
        with chunk.open("r+b") as file:
            file.seek(CHUNK_SIZE)
            file.write(b"excess")
    superblock = target / "benchfs.toml"
    superblock.write_text(superblock.read_text().partition("created")[0])
    return target


def run_killed(command: list[str | Path], after_s: float | None) -> bool:
    """Run a program, or kill it after a while; whether it was killed."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        _, errors = process.communicate(timeout=TIMEOUT_S if after_s is None else after_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return True
    assert (process.returncode in (0, 1), errors) == (True, "")
    return False


def texts(source: Path) -> Counter[bytes]:
    """Which content there is, and how often, in the volume and beside it."""
    whole = [*trio.run(read_everything, source).values()]
    whole += [path.read_bytes() for path in (source / "lost+found").rglob("*") if path.is_file()]
    return Counter(part for text in whole for part in text.replace(b"\0", b"").split(b";"))


def test_a_repair_may_be_killed_at_any_instant(pristine: Path, tmp_path: Path) -> None:
    rng = random.Random("repair")
    began_s = time.monotonic()
    run_killed([BENCHFS, "fsck", "--repair", damaged(pristine, tmp_path / "first", rng)], None)
    takes_s = time.monotonic() - began_s
    kills = 0
    for number in range(ROUNDS):
        source = damaged(pristine, tmp_path / str(number), rng)
        for _ in range(3):
            killed = run_killed([BENCHFS, "fsck", "--repair", source], rng.uniform(0.3, 1.1) * takes_s)
            kills += killed
            takes_s *= 1.1 if killed else 0.7  # how long it takes varies with what else the machine does
        run_killed([BENCHFS, "fsck", "--repair", source], None)
        assert left(source) == []
        found = texts(source)
        assert [n for n in range(FILES) if found[f"file {n}".encode()] < 100] == []
        assert left(source) == []
        shutil.rmtree(source)
    assert kills > ROUNDS, "hardly any kill came in the middle"


def test_a_restore_may_be_killed_at_any_instant(pristine: Path, tmp_path: Path) -> None:
    rng = random.Random("restore")
    before, dump = trio.run(read_everything, pristine), tmp_path / "dump"
    lines = list(dump_lines(pristine))
    (tmp_path / "empty").mkdir()
    began_s = time.monotonic()
    dump.write_bytes(b"".join(lines))
    run_killed([BENCHFS, "restore", dump, tmp_path / "empty"], None)
    takes_s, kills = time.monotonic() - began_s, 0
    for number in range(ROUNDS):
        source = Path(shutil.copytree(pristine, tmp_path / str(number)))
        (source / DATABASE).write_bytes(b"damaged")
        kills += run_killed([BENCHFS, "restore", dump, source], rng.uniform(0.5, 1.1) * takes_s)
        if list((source / "meta").glob("benchfs.db")) and (source / DATABASE).read_bytes() != b"damaged":
            assert left(source) == []  # it had come to the end
        else:
            run_killed([BENCHFS, "restore", dump, source], None)
        assert list(dump_lines(source)) == lines
        assert trio.run(read_everything, source) == before
        shutil.rmtree(source)
    assert kills, "no kill came in the middle"
