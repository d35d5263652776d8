"""The workloads by name."""

from __future__ import annotations

from tests.powercut.workloads.appends import Appends
from tests.powercut.workloads.attributes import Attributes
from tests.powercut.workloads.base import Workload
from tests.powercut.workloads.git import Git
from tests.powercut.workloads.large import Large
from tests.powercut.workloads.links import Links
from tests.powercut.workloads.overwrites import Overwrites
from tests.powercut.workloads.publications import Publications
from tests.powercut.workloads.ranges import Ranges
from tests.powercut.workloads.recreations import Recreations
from tests.powercut.workloads.renames import Renames
from tests.powercut.workloads.reservations import Reservations
from tests.powercut.workloads.small_files import SmallFiles
from tests.powercut.workloads.sqlite import SQLite
from tests.powercut.workloads.trees import Trees
from tests.powercut.workloads.truncates import Truncates

WORKLOADS: dict[str, type[Workload]] = {
    "appends": Appends,
    "overwrites": Overwrites,
    "large": Large,
    "truncates": Truncates,
    "ranges": Ranges,
    "reservations": Reservations,
    "small": SmallFiles,
    "renames": Renames,
    "recreations": Recreations,
    "publications": Publications,
    "links": Links,
    "trees": Trees,
    "attributes": Attributes,
    "sqlite": SQLite,
    "git": Git,
}
