"""C projects from Debian's source packages: configure, make, and the projects' own tests.

Imports its neighbours and ``tests.support.mounting``. The sources are fetched by apt with the sources that this
machine already has, asked for source packages, into the scratch directory: nothing of the system's configuration
changes.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

from tests.programs.program import Place, Program, ToolMissing, expect, need
from tests.support.mounting import run

SOURCES = Path("/etc/apt/sources.list.d/debian.sources")
SOURCES_OF_OLD = Path("/etc/apt/sources.list")
BUILD_S = 900


def fetch(package: str, scratch: Path) -> Path:
    """The archive of a package's original source."""
    need("apt-get", "make", "gcc")
    if SOURCES.exists():
        mine = scratch / "apt.sources"
        mine.write_text(re.sub(r"^Types:.*$", "Types: deb-src", SOURCES.read_text(), flags=re.MULTILINE))
    elif SOURCES_OF_OLD.exists():
        mine = scratch / "apt.list"
        mine.write_text(re.sub(r"^deb ", "deb-src ", SOURCES_OF_OLD.read_text(), flags=re.MULTILINE))
    else:
        raise ToolMissing("no Debian sources are configured")
    (scratch / "lists" / "partial").mkdir(parents=True)
    settings = (
        f"Dir::Etc::sourcelist={mine}",
        "Dir::Etc::sourceparts=/dev/null",
        f"Dir::State::lists={scratch / 'lists'}",
        "APT::Sandbox::User=root",
    )
    apt = ("apt-get", "-q", *(word for setting in settings for word in ("-o", setting)))
    for words in (("update",), ("source", "--download-only", package)):
        done = run(*apt, *words, cwd=scratch, check=False)
        if done.returncode:
            raise ToolMissing(f"apt-get {words[0]}: {done.stderr[-200:]}")
    return next(scratch.glob("*.orig.tar.*"))


def objects(top: Path) -> dict[Path, int]:
    """When each object file was made."""
    return {path: path.stat().st_mtime_ns for path in top.rglob("*.o")}


def work(package: str, tests: str, place: Place) -> str:
    archive = fetch(package, place.scratch)
    run("tar", "-xf", archive, "-C", place.directory)
    (top,) = place.directory.iterdir()
    configure = top / "configure"
    run("sh", configure, cwd=top, timeout_s=BUILD_S)
    run("make", "-j2", cwd=top, timeout_s=BUILD_S)
    output = run("make", "check", cwd=top, timeout_s=BUILD_S).stdout
    passed = len(re.findall(tests, output, re.MULTILINE))
    expect(passed > 0, f"no test said that it passed: {output[-300:]}")
    built = objects(top)
    for _ in range(2):
        run("make", cwd=top, timeout_s=BUILD_S)
        expect(objects(top) == built, "make made again what was up to date")
        place.remount()
    return f"built; {passed} own tests passed; up to date after a remount"


PROGRAMS = (
    Program("zlib", "configure, make -j2, make check, make does nothing", partial(work, "zlib", r"test OK")),
    Program("xz", "configure, make -j2, make check, make does nothing", partial(work, "xz-utils", r"^PASS: ")),
)
