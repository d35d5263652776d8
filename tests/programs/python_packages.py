"""pip: a virtual environment on the filesystem, packages installed into it, compiled and imported.

Imports its neighbours and ``tests.support.mounting``. Packages come from whatever index pip is configured with.
"""

from __future__ import annotations

import sys

from tests.programs.program import Place, Program, ToolMissing, expect
from tests.support.mounting import run

PACKAGES, IMPORTS = ("pygments", "attrs", "sortedcontainers"), "pygments, pygments.lexers, attr, sortedcontainers"


def work(place: Place) -> str:
    venv = place.directory / "venv"
    run(sys.executable, "-m", "venv", venv)
    python = venv / "bin" / "python"
    done = run(python, "-m", "pip", "install", "-q", "--no-compile", "--only-binary", ":all:", *PACKAGES, check=False)
    if done.returncode:
        if "No matching distribution" in done.stderr or "connect" in done.stderr:
            raise ToolMissing("pip's index is not to be reached")
        expect(False, done.stderr)
    library = next((venv / "lib").iterdir()) / "site-packages"
    run(python, "-m", "compileall", "-q", "-j", "2", library)
    compiled = len(list(library.rglob("*.pyc")))
    expect(compiled > 300, f"only {compiled} files were compiled")
    place.remount()
    # Bytecode that does not fit its source's mtime and size is not used, and -v tells so.
    said = run(python, "-B", "-v", "-c", f"import {IMPORTS}").stderr
    expect("matches" in said and "bytecode is stale" not in said, "the bytecode is out of date after a remount")
    run(python, "-m", "pip", "check")
    run(python, "-m", "pip", "uninstall", "-q", "-y", *PACKAGES)
    return f"venv, {len(PACKAGES)} wheels, {compiled} files compiled, imported after a remount, uninstalled"


PROGRAMS = (Program("pip", "venv, install, compileall, import, uninstall", work),)
