"""Small programs that deal in files: archives, packages, holes, walks, deliveries of mail, a database of mapped pages.

Imports its neighbours and ``tests.support.mounting``.
"""

from __future__ import annotations

import filecmp
import os
import random
import struct
import subprocess
import sys
import zlib
from pathlib import Path

from tests.programs.program import Place, Program, end_well, expect, need
from tests.support.mounting import run

FILES = 300


def some_files(top: Path) -> int:
    """Files to pack; returns how many bytes they have."""
    rng, total = random.Random(3), 0
    for number in range(FILES):
        directory = top / f"d{number % 17}"
        directory.mkdir(parents=True, exist_ok=True)
        data = rng.randbytes(rng.randrange(8000))
        (directory / str(number)).write_bytes(data)
        total += len(data)
    return total


def expect_equal_trees(left: Path, right: Path) -> None:
    done = run("diff", "-r", left, right, check=False)
    expect(done.returncode == 0, done.stdout[:300])


def archives(place: Place) -> str:
    need("zip", "unzip", "ar", "dpkg-deb")
    top, here = place.directory / "tree", place.directory
    some_files(top)
    run("zip", "-qr", "tree.zip", "tree", cwd=here)
    run("unzip", "-q", "tree.zip", "-d", "unzipped", cwd=here)
    expect_equal_trees(top, here / "unzipped" / "tree")
    members = sorted(os.fspath(path) for path in (top / "d0").iterdir())
    run("ar", "rcs", here / "a.a", *members)
    (here / "ar").mkdir()
    run("ar", "x", here / "a.a", cwd=here / "ar")
    expect_equal_trees(top / "d0", here / "ar")
    control = "Package: a\nVersion: 1\nArchitecture: all\nMaintainer: t <t@example.org>\nDescription: a\n"
    (top / "DEBIAN").mkdir(mode=0o755)
    (top / "DEBIAN" / "control").write_text(control)
    run("dpkg-deb", "--root-owner-group", "--build", top, here / "a.deb")
    run("dpkg-deb", "--raw-extract", here / "a.deb", here / "deb")
    expect_equal_trees(top, here / "deb")
    place.remount()
    run("unzip", "-tq", "tree.zip", cwd=here)
    expect_equal_trees(top, here / "deb")
    return f"{FILES} files through zip, ar, dpkg-deb"


def copies_and_walks(place: Place) -> str:
    here = place.directory
    total = some_files(here / "tree")
    sparse = here / "sparse"
    with sparse.open("wb") as stream:
        stream.seek(50 << 20)
        stream.write(b"end")
    for how in ("always", "auto", "never"):
        run("cp", f"--sparse={how}", sparse, here / how)
        expect(filecmp.cmp(sparse, here / how, shallow=False), f"cp --sparse={how} changed bytes")
    expect((here / "always").stat().st_blocks < 1000, "cp --sparse=always kept no hole")
    expect((here / "never").stat().st_blocks >= (50 << 20) // 512, "cp --sparse=never made holes")
    run("cp", "-a", "--reflink=auto", here / "tree", here / "copy")
    expect_equal_trees(here / "tree", here / "copy")
    expect(int(run("du", "-sb", "--apparent-size", here / "tree" / "d0").stdout.split()[0]) > 0, "du says nothing")
    found = run("find", here / "tree", "-type", "f", "-printf", "%s\n").stdout.split()
    expect((len(found), sum(map(int, found))) == (FILES, total), "find saw something else")
    (here / "copy").rename(here / "moved")
    for name in ("d1", "d2"):
        run("mv", here / "moved" / name, place.scratch)
        expect_equal_trees(here / "tree" / name, place.scratch / name)
        run("mv", place.scratch / name, here / "moved")
    place.remount()
    expect_equal_trees(here / "tree", here / "moved")
    run("rm", "-rf", here / "moved", here / "tree")
    return "cp --sparse, cp -a, du, find, mv from and to another filesystem, rm -r"


DELIVERY = """
import os, sys
top, who, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
for number in range(count):
    name = f"{number}.{who}.host"
    file = os.open(f"{top}/tmp/{name}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    os.write(file, (name * (number % 300 + 1)).encode())
    os.fsync(file)
    os.close(file)
    os.link(f"{top}/tmp/{name}", f"{top}/new/{name}")
    os.unlink(f"{top}/tmp/{name}")
    directory = os.open(f"{top}/new", os.O_RDONLY)
    os.fsync(directory)
    os.close(directory)
"""
READER = """
import os, sys
top, count, seen = sys.argv[1], int(sys.argv[2]), 0
while seen < count:
    for name in os.listdir(f"{top}/new"):
        with open(f"{top}/new/{name}") as stream:
            content = stream.read()
        assert content == name * (int(name.split(".")[0]) % 300 + 1), name
        os.rename(f"{top}/new/{name}", f"{top}/cur/{name}:2,S")
        seen += 1
"""


def maildir(place: Place) -> str:
    count, writers = 60 if place.quick else 400, 3
    for name in ("tmp", "new", "cur"):
        (place.directory / name).mkdir()
    words = [sys.executable, "-c"]
    deliveries = [
        subprocess.Popen([*words, DELIVERY, place.directory, str(number), str(count)]) for number in range(writers)
    ]
    end_well(*deliveries, subprocess.Popen([*words, READER, place.directory, str(count * writers)]))
    place.remount()
    found = [len(os.listdir(place.directory / name)) for name in ("tmp", "new", "cur")]
    expect(found == [0, 0, count * writers], f"messages in tmp, new, cur: {found}")
    return f"{writers} deliver {count} messages each, one reads at the same time; none lost, none partial"


MAPPED = """
import mmap, os, random, struct, sys, zlib
path, number, rounds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
PAGE, PAGES = 4096, 256
rng = random.Random(number)
file = os.open(path, os.O_RDWR)
with mmap.mmap(file, 0) as mapped:
    for turn in range(rounds):
        page = rng.randrange(PAGES) * 4 + number
        body = rng.randbytes(PAGE - 8)
        mapped[page * PAGE : (page + 1) * PAGE] = struct.pack("<II", page, zlib.crc32(body)) + body
        if turn % 50 == 0:
            mapped.flush(page * PAGE, PAGE)
            assert os.pread(file, PAGE, page * PAGE)[8:] == body
"""


def mapped_pages(place: Place) -> str:
    path, page_bytes, pages = place.directory / "pages", 4096, 4 * 256
    with path.open("wb") as stream:
        stream.truncate(page_bytes * pages)
    rounds = 300 if place.quick else 5000
    end_well(*(subprocess.Popen([sys.executable, "-c", MAPPED, path, str(number), str(rounds)]) for number in range(4)))
    before = path.read_bytes()
    place.remount()
    expect(path.read_bytes() == before, "a page is not as it was before the remount")
    written = 0
    for page in range(pages):
        content = before[page * page_bytes : (page + 1) * page_bytes]
        if any(content):
            written += 1
            expect(_is_page(content, page), f"page {page} is wrong")
    return f"4 processes store {rounds} pages each through a shared mapping; {written} pages right after a remount"


def _is_page(content: bytes, page: int) -> bool:
    return struct.unpack("<II", content[:8]) == (page, zlib.crc32(content[8:]))


PROGRAMS = (
    Program("archives", "zip, ar, dpkg-deb: pack, unpack, compare", archives),
    Program("coreutils", "cp --sparse, du, find, mv across filesystems, rm -r", copies_and_walks),
    Program("maildir", "deliveries with fsync and link, a concurrent reader", maildir),
    Program("mapped pages", "four processes store pages through MAP_SHARED", mapped_pages),
)
