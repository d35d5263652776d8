"""``WriteBack``: has the kernel write back what it holds of a file of our own mount, range by range.

Imports trio and the program that does it, in a process of its own, which is started when it is first needed: who serves
the mount must not wait for it. Neither may it tell the kernel to drop the pages (FUSE_NOTIFY_INVAL_INODE), which writes
them back first: killed meanwhile, the thread that tells it would keep /dev/fuse open and wait for its own answer for
good. Invariant: the process ends with us, however we end, and holds nothing of ours.
"""

from __future__ import annotations

import errno
import os
import platform
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import trio

from benchfs_core.types import MAX_FILE_BYTES, InodeId
from benchfs_fuse.plane import write_back_program
from benchfs_fuse.plane.write_back_program import ANSWER, REQUEST

_SINCE = (6, 16)
"""The Linux since which sync_file_range(2) of a file on FUSE ends when its daemon has what was written back."""


class CannotWriteBack(Exception):
    """The kernel cannot be made to: for want of CAP_DAC_READ_SEARCH, or of a kernel that tells when it has."""


class WriteBack:
    """For the mount with this device number at this mount point."""

    def __init__(self, mount_point: Path, device: int) -> None:
        """``device``: ``st_dev`` of the mount."""
        self._command = [
            *(sys.executable, "-I", "-S", os.fspath(Path(write_back_program.__file__))),
            *(os.fspath(mount_point), str(device)),
        ]
        self._process: trio.Process | None = None
        self._turn = trio.Lock()

    async def __call__(self, inode: InodeId, start: int, end: int) -> None:
        """Return once all that the kernel held of the file between two offsets has arrived here as writes.

        Raises:
            CannotWriteBack: that cannot be had.
            OSError: of what arrived something could not be written.
        """
        if _kernel() < _SINCE:
            raise CannotWriteBack(f"it takes Linux {'.'.join(map(str, _SINCE))}")
        request = REQUEST.pack(inode, start, 0 if end >= MAX_FILE_BYTES else end - start)
        async with self._turn:
            number = await self._ask(request)
            if number is None:  # somebody ended the process, as the kernel does for want of memory
                number = await self._ask(request)
        if number is None:
            raise CannotWriteBack("the process for it ends before it answers")
        if number in (errno.EPERM, errno.EACCES, errno.ESTALE, errno.ENODEV, errno.EOPNOTSUPP):
            raise CannotWriteBack(os.strerror(number))
        if number:
            raise OSError(number, os.strerror(number))

    async def aclose(self) -> None:
        """End the process. Cannot be cancelled."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    await trio.aclose_forcefully(stream)

    async def _ask(self, request: bytes) -> int | None:
        """The answer, an errno; None where the process has ended."""
        try:
            if self._process is None:
                self._process = await trio.lowlevel.open_process(
                    self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE
                )
        except OSError as error:
            raise CannotWriteBack(f"no process for it: {error}") from error
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        answer = b""
        with suppress(trio.BrokenResourceError):
            await self._process.stdin.send_all(request)
            answer = bytes(await self._process.stdout.receive_some(ANSWER.size))
        if len(answer) != ANSWER.size:
            await self.aclose()
            return None
        return int(ANSWER.unpack(answer)[0])


def _kernel() -> tuple[int, ...]:
    """The version of Linux, its first two numbers."""
    found = re.match(r"(\d+)\.(\d+)", platform.release())
    return tuple(map(int, found.groups())) if found else (0, 0)
