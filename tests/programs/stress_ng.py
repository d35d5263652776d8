"""stress-ng's stressors of the filesystem, each with ``--verify``.

Imports its neighbours and ``tests.support.mounting``. Left out are stressors of the class ``filesystem`` that do not
touch the directory they are given (bind-mount, binderfs, eventfd, ioprio, procfs). What ext4 itself fails or cannot
run, the campaign shows in the native column.
"""

from __future__ import annotations

import re
from functools import partial

from tests.programs.program import Place, Program, ProgramFailed, ToolMissing, need
from tests.support.mounting import run

SECONDS, SECONDS_QUICK = 5, 1
NOT_RUN = (3, 4)
"""Exit codes of stress-ng: 3 is lack of resources, 4 not implemented here."""

FILESYSTEM = [
    "access",
    "chattr",
    "chdir",
    "chmod",
    "chown",
    "copy-file",
    "dentry",
    "dir",
    "dirdeep",
    "dirmany",
    "dnotify",
    "dup",
    "fallocate",
    "fanotify",
    "fcntl",
    "fiemap",
    "file-ioctl",
    "filename",
    "flock",
    "fpunch",
    "fsize",
    "fstat",
    "getdent",
    "handle",
    "hdd",
    "inode-flags",
    "inotify",
    "io",
    "iomix",
    "lease",
    "link",
    "locka",
    "lockf",
    "lockofd",
    "mknod",
    "open",
    "rename",
    "symlink",
    "sync-file",
    "touch",
    "utime",
    "verity",
    "xattr",
]
OTHERS = [
    "aio",
    "aiol",
    "io-uring",
    "mmap",
    "mmapfixed",
    "mmapmany",
    "msync",
    "readahead",
    "revio",
    "seek",
    "sendfile",
    "splice",
    "fault",
    "mlock",
    "vm-splice",
]
"""Stressors of other classes that work on files, too."""

VARIANTS = {
    # Where fallocate(2) is emulated by writes, the default of 1 GiB is not done within the time.
    "fallocate 2 MiB": ("--fallocate", "2", "--fallocate-bytes", "2m"),
    "hdd direct": ("--hdd", "2", "--hdd-opts", "direct,wr-rnd,rd-rnd,fsync"),
    "hdd sync": ("--hdd", "2", "--hdd-opts", "sync,wr-seq,rd-seq"),
    "hdd vectors": ("--hdd", "2", "--hdd-opts", "iovec,syncfs,utimes"),
    "mmap file": ("--mmap", "2", "--mmap-file", "--mmap-bytes", "16m"),
    "mmap file async": ("--mmap", "2", "--mmap-file", "--mmap-async", "--mmap-bytes", "16m"),
    "mmap file direct": ("--mmap", "2", "--mmap-odirect", "--mmap-bytes", "4m"),
    "dentry reverse": ("--dentry", "2", "--dentry-order", "reverse"),
    "dentry random": ("--dentry", "2", "--dentry-order", "random"),
    "seek punch": ("--seek", "2", "--seek-punch"),
    "lockf nonblocking": ("--lockf", "2", "--lockf-nonblock"),
    "open fd": ("--open", "2", "--open-fd"),
}


def stress(words: tuple[str, ...], place: Place) -> str:
    """Run one stressor, two processes of it, for seconds."""
    need("stress-ng")
    seconds = SECONDS_QUICK if place.quick else SECONDS
    bounds = ("--timeout", f"{seconds}s", "--verify", "--metrics-brief", "--temp-path", place.directory)
    done = run("stress-ng", *words, *bounds, check=False, cwd=place.directory)
    output = done.stdout + done.stderr
    if "skipping" in output or done.returncode in NOT_RUN:
        raise ToolMissing(next((line for line in output.splitlines() if "skipping" in line), output[-200:]))
    if done.returncode:
        said = [line.partition("] ")[2] for line in output.splitlines() if "fail" in line or "error" in line]
        raise ProgramFailed(f"exit {done.returncode}: {'; '.join(said[:4]) or output[-400:]}")
    operations = re.search(rf"metrc:.*\s{words[0].removeprefix('--')}\s+(\d+)\s", output)
    return f"{operations[1] if operations else 'unknown'} operations"


NATIVE_ONLY = {"fiemap": "the kernel gives no FUSE filesystem FIEMAP"}

PROGRAMS = (
    *(
        Program(
            f"stress-ng {name}",
            "two processes, --verify",
            partial(stress, (f"--{name}", "2")),
            NATIVE_ONLY.get(name, ""),
        )
        for name in (*FILESYSTEM, *OTHERS)
    ),
    *(
        Program(f"stress-ng {name}", f"{' '.join(words)} --verify", partial(stress, words))
        for name, words in VARIANTS.items()
    ),
)
