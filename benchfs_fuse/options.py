"""Mount options: the table of those there are, and their parsing.

Imports the core's ``config``, ``types``, ``errors``. Every option is parsed here and none is handed down unseen: what
libfuse does not know would fail without a reason, and some would end the mount later. Invariant: ``parse`` returns
valid options or raises OptionError with one line for the user.
"""

from __future__ import annotations

import difflib
import enum
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from benchfs_core.config import FormatOptions, VolumeOptions
from benchfs_core.errors import OptionError
from benchfs_core.types import AtimeMode, StoreKind, SyncMode

E = TypeVar("E", bound=enum.Enum)


class PlaneKind(enum.Enum):
    """How requests come and go."""

    AUTO = "auto"
    RING = "ring"
    PYFUSE3 = "pyfuse3"


KERNEL_FLAGS = ("nosuid", "suid", "nodev", "dev", "noexec", "exec")
"""Options that the kernel itself enforces on the mount."""

IGNORED = (
    *("rw", "defaults", "auto", "noauto", "user", "nouser", "users", "owner", "group", "_netdev", "nofail", "async"),
    *("mand", "nomand", "symfollow"),
    *(
        "noiversion",
        "iversion",
        "silent",
        "loud",
        "lazytime",
        "nolazytime",
        "diratime",
        "nodiratime",
        "default_permissions",
    ),
)
"""What mount(8) and fstab(5) pass along that says nothing to BenchFS, or what it does anyway."""

REFUSED = {
    "remount": "the options of a mount cannot be changed: unmount it and mount it again",
    "dirsync": "changes of names are on disk at fsync(2), or within commit= seconds, not each at once: leave it out",
    "nosymfollow": "libfuse does not hand it on to the kernel, so it would not be enforced: leave it out",
}
"""Options of mount(8) that promise what BenchFS cannot keep, and why."""

IGNORED_PREFIXES = ("x-", "comment=", "helper=", "uhelper=")

_SIZES = {"": 1, "k": 1024, "m": 1024**2}


@dataclass(frozen=True, slots=True)
class MountOptions:
    """What ``mount.benchfs`` was asked for."""

    volume: VolumeOptions = field(default_factory=VolumeOptions)
    format: FormatOptions | None = None
    """Given only with ``chunk_size=``."""
    allow_other: bool | None = None
    """None: root's mounts are for everybody, others for their owner."""
    fsname: str | None = None
    """What mount(8) and df(1) show as the source; None: the directory."""
    plane: PlaneKind = PlaneKind.AUTO
    """How requests come and go."""
    log: str | None = None
    """``stderr``, ``syslog`` or a file; None: stderr in the foreground, else ``benchfs.log`` in the volume."""
    kernel_flags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Option:
    """One line of ``--help``."""

    name: str
    values: str
    default: str
    help: str


OPTIONS = (
    Option("sync", "write|fsync", "write", "when data is safe from power loss: at write(2), or at fsync(2) as on ext4"),
    Option("store", "auto|io_uring|file|memory", "auto", "how chunks are kept; memory: nothing outlives the mount"),
    Option("chunk_size", "SIZE", "4M", "bytes in a chunk, 64K to 64M, a power of two; only when it formats"),
    Option("inline", "SIZE", "16K", "files up to this size keep their content in the metadata; 0: none, 64K at most"),
    Option("ro", "", "off", "mount read-only"),
    Option("allow_other", "", "for root", "let other users in (no_allow_other: do not)"),
    Option("noatime|relatime|strictatime", "", "relatime", "when reading moves atime (atime: not noatime)"),
    Option("acl", "", "off", "POSIX ACLs (noacl: refuse them); needs fusermount3"),
    Option("fsname", "NAME", "SOURCE", "the source that mount(8) and df(1) show"),
    Option("commit", "SECONDS", "1", "time between commits of metadata that nobody asked to be flushed"),
    Option("plane", "auto|ring|pyfuse3", "auto", "how requests come: beside the ring, if that works, or by pyfuse3"),
    Option("queue_depth", "N", "128", "most chunk requests under way at once"),
    Option("max_handles", "N", "1024", "most chunk files open at once"),
    Option("log", "stderr|syslog|FILE", "SOURCE/benchfs.log", "where messages go (foreground: stderr)"),
    Option("/".join(KERNEL_FLAGS), "", "suid,dev,exec for root", "as in mount(8)"),
)
"""Every option with its values and default, in the order of the help."""


def parse(text: str) -> MountOptions:
    """Parse what follows ``-o``: options separated by commas; of two that contradict each other the later one holds.

    Raises:
        OptionError: unknown, malformed or out of range.
    """
    draft = _Draft()
    for item in text.split(","):
        if item and item not in IGNORED and not item.startswith(IGNORED_PREFIXES):
            draft.take(item)
    return draft.finish()


def parse_size(text: str) -> int:
    """Bytes from a number with an optional K or M, of 1024.

    Raises:
        OptionError: anything else.
    """
    digits = text.rstrip("kKmM")
    unit = text[len(digits) :].lower()
    if not digits.isdecimal() or unit not in _SIZES:
        raise OptionError(f"size {text!r}: write a number of bytes, or one with K or M, as in 4M")
    return int(digits) * _SIZES[unit]


class _Draft:
    """Options while they are being read."""

    def __init__(self) -> None:
        self._volume: dict[str, object] = {}
        self._mount: dict[str, object] = {}
        self._kernel_flags: list[str] = []
        self._flags: dict[str, Callable[[], None]] = {
            "ro": lambda: self._set("read_only", True),
            "sync": lambda: self._set("sync", SyncMode.WRITE),
            "acl": lambda: self._set("acl", True),
            "noacl": lambda: self._set("acl", False),
            "allow_other": lambda: self._mount.update(allow_other=True),
            "no_allow_other": lambda: self._mount.update(allow_other=False),
            **{mode.value: lambda mode=mode: self._set("atime", mode) for mode in AtimeMode},  # type: ignore[misc]
            "atime": lambda: self._unset("atime", AtimeMode.NOATIME),
            "norelatime": lambda: self._unset("atime", AtimeMode.RELATIME),
            "nostrictatime": lambda: self._unset("atime", AtimeMode.STRICTATIME),
            **{flag: lambda flag=flag: self._kernel_flags.append(flag) for flag in KERNEL_FLAGS},  # type: ignore[misc]
        }
        self._values: dict[str, Callable[[str], None]] = {
            "sync": lambda text: self._set("sync", _choice("sync", SyncMode, text)),
            "store": lambda text: self._set("store", _choice("store", StoreKind, text)),
            "chunk_size": lambda text: self._mount.update(format=FormatOptions(parse_size(text))),
            "plane": lambda text: self._mount.update(plane=_choice("plane", PlaneKind, text)),
            "inline": lambda text: self._set("inline_bytes", parse_size(text)),
            "fsname": lambda text: self._mount.update(fsname=_text("fsname", text)),
            "log": lambda text: self._mount.update(log=_text("log", text)),
            "commit": lambda text: self._set("commit_interval_s", _number("commit", text)),
            "queue_depth": lambda text: self._set("queue_depth", int(_number("queue_depth", text, whole=True))),
            "max_handles": lambda text: self._set("max_handles", int(_number("max_handles", text, whole=True))),
        }

    def take(self, item: str) -> None:
        """Read one option."""
        name, equals, value = item.partition("=")
        if item in REFUSED:
            raise OptionError(f"option {item}: {REFUSED[item]}")
        if equals and name in self._values:
            self._values[name](value)
        elif not equals and name in self._flags:
            self._flags[name]()
        elif name in self._values:
            raise OptionError(f"option {name} needs a value: {name}=…")
        elif name in self._flags:
            raise OptionError(f"option {name} takes no value")
        else:
            raise OptionError(f"unknown option {name!r}{self._nearest(name)}")

    def finish(self) -> MountOptions:
        """All of it, checked."""
        volume = VolumeOptions(**self._volume)  # type: ignore[arg-type]
        return MountOptions(volume=volume, kernel_flags=tuple(self._kernel_flags), **self._mount)  # type: ignore[arg-type]

    def _set(self, name: str, value: object) -> None:
        self._volume[name] = value

    def _unset(self, name: str, value: object) -> None:
        """Take one value back; any other stays (mount(8): ``atime`` says not noatime, and no more)."""
        if self._volume.get(name) is value:
            del self._volume[name]

    def _nearest(self, name: str) -> str:
        near = difflib.get_close_matches(name, [*self._values, *self._flags], n=1, cutoff=0.5)
        return f": did you mean {near[0]}?" if near else ": see mount.benchfs --help"


def _choice(name: str, kind: type[E], text: str) -> E:
    try:
        return kind(text)
    except ValueError:
        choices = ", ".join(str(member.value) for member in kind)
        raise OptionError(f"{name}={text}: must be one of {choices}") from None


def _number(name: str, text: str, *, whole: bool = False) -> float:
    try:
        return int(text) if whole else float(text)
    except ValueError:
        raise OptionError(f"{name}={text}: must be a {'whole ' if whole else ''}number") from None


def _text(name: str, text: str) -> str:
    if not text:
        raise OptionError(f"option {name} needs a value: {name}=…")
    return text
