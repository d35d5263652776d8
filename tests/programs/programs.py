"""The list of all programs of the campaign. Imports its neighbours; holds nothing of its own."""

from __future__ import annotations

from tests.programs import (
    benchmarks,
    c_project,
    copies,
    files,
    git_repository,
    postgres,
    python_packages,
    sqlite_modes,
    stress_ng,
)

PROGRAMS = (
    *postgres.PROGRAMS,
    *git_repository.PROGRAMS,
    *c_project.PROGRAMS,
    *python_packages.PROGRAMS,
    *copies.PROGRAMS,
    *sqlite_modes.PROGRAMS,
    *files.PROGRAMS,
    *benchmarks.PROGRAMS,
    *stress_ng.PROGRAMS,
)
