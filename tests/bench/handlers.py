"""CPU time of the handlers alone: requests are handed to them in this process, without a kernel and a mount.

    .venv/bin/python -m tests.bench.handlers [--files N] [DIRECTORY]

Opens a volume in a new directory in DIRECTORY (default: the current one) with ``sync=fsync``, and prints for each kind
of request the CPU time of one, in microseconds, with its share of the commit that follows 200 of them. What it leaves
out, next to what is asked of disks, is what a request costs before and after: system calls, decoding, the reply. Steady
where timing a mount is not: for changes of Python.
"""

from __future__ import annotations

import argparse
import os
import shutil
import struct
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import trio

from benchfs_core.config import VolumeOptions
from benchfs_core.errors import NoSuchAttribute
from benchfs_core.types import ROOT_INODE, SyncMode
from benchfs_core.volume import Volume, open_volume
from benchfs_fuse.plane import protocol
from benchfs_fuse.plane.handlers import Handlers
from benchfs_fuse.plane.protocol import Opcode, Request
from benchfs_fuse.plane.write_back import WriteBack
from benchfs_fuse.tuning import collect_rarely

_AT_A_TIME = 200
"""So many requests between commits, as they come between those of a mount."""

_HANDLE_AT = 128
"""Where the handle is in the reply to CREATE."""


class _Timed:
    """Handlers, and what they take."""

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        unused = WriteBack(Path(), 0)  # nobody asks for holes
        self._table = Handlers(volume.filesystem, unused, writeback_cache=True, now_ns=time.time_ns).table

    async def run(self, label: str, requests: Sequence[Request]) -> list[bytes]:
        """Handle the requests; their replies."""
        replies, spent_s, filesystem = list[bytes](), 0.0, self._volume.filesystem
        root = await filesystem.opendir(ROOT_INODE)
        for start in range(0, len(requests), _AT_A_TIME):
            await filesystem.sync()
            begun_s = time.thread_time()
            for request in requests[start : start + _AT_A_TIME]:
                try:
                    replies.append(bytes(await self._table[request.opcode][1](request) or b""))
                except NoSuchAttribute:
                    replies.append(b"")
            await filesystem.fsync_directory(root)
            spent_s += time.thread_time() - begun_s
        await filesystem.releasedir(root)
        print(f"{label:<40}{spent_s / len(requests) * 1e6:8.1f}")
        return replies


def _requests(opcode: Opcode, inodes: Iterable[int], bodies: Iterable[bytes], data: bytes = b"") -> list[Request]:
    pairs = zip(inodes, bodies, strict=True)
    return [Request(opcode, 2, inode, 0, 0, os.getpid(), body, data) for inode, body in pairs]


def _times(second: int) -> bytes:
    """What the kernel tells of a file that was written or renamed."""
    fields = protocol.SetattrField.MTIME | protocol.SetattrField.CTIME
    return protocol.SETATTR_IN.pack(fields, 0, 0, 0, second, second, second, 0, 5, 5, 0, 0, 0, 0)


async def _measure(source: Path, files: int) -> None:
    async with open_volume(source, VolumeOptions(sync=SyncMode.FSYNC)) as volume:
        collect_rarely()
        timed, root, data = _Timed(volume), [1] * files, os.urandom(4096)
        names = [b"file%d\0" % index for index in range(files)]
        create = protocol.CREATE_IN.pack(os.O_WRONLY | os.O_CREAT, 0o100644, 0o22, 0)
        await timed.run("lookup of a name that is not there", _requests(Opcode.LOOKUP, root, names))
        made = await timed.run("create", _requests(Opcode.CREATE, root, [create + name for name in names]))
        inodes = [struct.unpack_from("<Q", reply)[0] for reply in made]
        handles = [struct.unpack_from("<Q", reply, _HANDLE_AT)[0] for reply in made]
        writes = [protocol.WRITE_IN.pack(handle, 0, len(data), 0, 0, 0) for handle in handles]
        await timed.run("write 4 KiB to a new file", _requests(Opcode.WRITE, inodes, writes, data))
        later = int(time.time()) + 1
        await timed.run("setattr of its times", _requests(Opcode.SETATTR, inodes, [_times(later)] * files))
        closes = [protocol.RELEASE_IN.pack(handle, 0, 0, 0) for handle in handles]
        await timed.run("release", _requests(Opcode.RELEASE, inodes, closes))
        await timed.run("lookup", _requests(Opcode.LOOKUP, root, names))
        await timed.run("getattr", _requests(Opcode.GETATTR, inodes, [bytes(16)] * files))
        asked = [protocol.OPEN_IN.pack(os.O_RDONLY, 0)] * files
        opened = await timed.run("open", _requests(Opcode.OPEN, inodes, asked))
        reads = [protocol.READ_IN.pack(struct.unpack_from("<Q", reply)[0], 0, 4096, 0, 0, 0) for reply in opened]
        await timed.run("read 4 KiB of a small file", _requests(Opcode.READ, inodes, reads))
        renames = [protocol.RENAME2_IN.pack(1, 0) + name + b"new" + name for name in names]
        sized = protocol.GETXATTR_IN.pack(0)
        wanted = [sized + b"security.capability\0"] * files
        await timed.run("getxattr of a file without any", _requests(Opcode.GETXATTR, inodes, wanted))
        await timed.run("listxattr of a file without any", _requests(Opcode.LISTXATTR, inodes, [sized] * files))
        await timed.run("rename", _requests(Opcode.RENAME2, root, renames))
        await timed.run("unlink", _requests(Opcode.UNLINK, root, [b"new" + name for name in names]))
        mkdir = protocol.MKDIR_IN.pack(0o755, 0o22)
        await timed.run("mkdir", _requests(Opcode.MKDIR, root, [mkdir + name for name in names]))


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.handlers", description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=3000, metavar="N", help="how many of each request; 3000")
    parser.add_argument("directory", nargs="?", type=Path, default=Path(), metavar="DIRECTORY")
    arguments = parser.parse_args()
    source = Path(tempfile.mkdtemp(prefix="benchfs-handlers-", dir=arguments.directory))
    try:
        trio.run(_measure, source, arguments.files)
    finally:
        shutil.rmtree(source)


if __name__ == "__main__":
    main()
