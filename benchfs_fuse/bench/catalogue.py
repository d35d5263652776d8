"""Every workload there is, and the choice of some.

Imports the modules of workloads.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from benchfs_fuse.bench import data, programs, small_files, trees
from benchfs_fuse.bench.workload import BenchError, Figure, Workload

ALL: tuple[Workload, ...] = (*data.WORKLOADS, *small_files.WORKLOADS, *trees.WORKLOADS, *programs.WORKLOADS)


def choose(names: Sequence[str]) -> tuple[Workload, ...]:
    """The workloads of these names, or all where none is given.

    Raises:
        BenchError: there is no such workload.
    """
    known = {workload.name: workload for workload in ALL}
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f": did you mean {close[0]}?" if close else f": there are {', '.join(known)}"
            raise BenchError(f"no workload is called {name!r}{hint}")
    return tuple(workload for workload in ALL if not names or workload.name in names)


def figures(workloads: Sequence[Workload]) -> dict[str, Figure]:
    """The figures of workloads by key, in the order of the table."""
    return {figure.key: figure for workload in workloads for figure in workload.figures}
