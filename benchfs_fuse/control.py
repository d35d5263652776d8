"""The daemon's control socket: a Unix socket for its owner, on which a client asks and is answered in JSON.

Imports trio and the standard library. The protocol: the client sends one line, ``{"version": 1, "command": NAME}``
with whatever else the command takes, the daemon answers with one line, ``{"version": 1, "answer": …}`` or
``{"version": 1, "error": TEXT}``, and closes.
Bounded: the length of a line, how long it may take, how many clients are served at once. Invariant: nothing that a
client does ends the mount or keeps it waiting.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import stat
import struct
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import trio

log = logging.getLogger(__name__)

VERSION = 1
MAX_REQUEST_BYTES = 4096
MAX_ANSWER_BYTES = 1 << 20
MAX_CLIENTS = 8
TIMEOUT_S = 10.0
"""How long one exchange may take."""

_BACKLOG = 128
"""Clients that may wait to be served; a further one is refused with EAGAIN (connect(2))."""

_PEER = struct.Struct("iII")
"""``struct ucred``: pid, uid, gid (unix(7), SO_PEERCRED)."""


class ControlError(Exception):
    """The daemon could not be asked, or had no answer."""


Commands = Mapping[str, Callable[[Mapping[str, Any]], object]]
"""What may be asked; each is given the request, and answers at once, with values that JSON has."""


async def serve_control(
    path: Path, commands: Commands, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Answer on a socket at ``path``, in a directory that only the owner can enter, until cancelled.

    A mount works without: where the socket cannot be made, a line in the log says so.
    """
    limiter = trio.CapacityLimiter(MAX_CLIENTS)

    async def talk(stream: trio.SocketStream) -> None:
        with trio.move_on_after(TIMEOUT_S):
            async with stream, limiter:
                await _answer(stream, commands)

    try:
        listener = _listen(path)
    except OSError as error:
        log.warning("%s: benchfs status will not work: %s", path, error)
        task_status.started()
        return
    try:
        task_status.started()  # who connects from here on waits in the queue of listen(2)
        await trio.serve_listeners(talk, [listener])
    finally:
        _remove(path)


def ask(
    path: Path, command: str, more: Mapping[str, object] | None = None, timeout_s: float = 2 * TIMEOUT_S
) -> dict[str, Any]:
    """Ask the daemon at ``path``; blocks, at most about ``timeout_s``. Who answers need not be trusted.

    ``more`` is what else the command takes.

    Raises:
        ControlError: nobody answers there, or the answer is an error or none that is understood.
    """
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise ControlError(f"{path}: not a socket")
        request = {"version": VERSION, "command": command, **(more or {})}
        reply = json.loads(_exchange(path, request, time.monotonic() + timeout_s))
    except (OSError, ValueError, RecursionError) as error:
        raise ControlError(f"{path}: {error}") from error
    if not isinstance(reply, dict) or reply.get("version") != VERSION:
        raise ControlError(f"{path}: the daemon is of another release")
    if "error" in reply:
        raise ControlError(f"{path}: {str(reply['error'])[:200]}")
    answer = reply.get("answer")
    if not isinstance(answer, dict):
        raise ControlError(f"{path}: an answer that is not understood")
    return answer


def _exchange(path: Path, request: object, deadline_s: float) -> bytes:
    """Send a line; everything that is said then. OSError, among them TimeoutError; ControlError: too much was said."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(max(0.1, deadline_s - time.monotonic()))
        client.connect(os.fspath(path))
        client.sendall(json.dumps(request).encode() + b"\n")
        said = b""
        while part := client.recv(1 << 16):
            said += part
            if len(said) > MAX_ANSWER_BYTES:
                raise ControlError(f"{path}: an answer of more than {MAX_ANSWER_BYTES} bytes")
            client.settimeout(max(0.001, deadline_s - time.monotonic()))
        return said


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)


def _listen(path: Path) -> trio.SocketListener:
    _remove(path)
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        server.bind(os.fspath(path))  # the directory keeps others out until the next line does, too
        path.chmod(stat.S_IRUSR | stat.S_IWUSR)
        server.listen(_BACKLOG)
        return trio.SocketListener(trio.socket.from_stdlib_socket(server))
    except BaseException:
        server.close()
        raise


async def _answer(stream: trio.SocketStream, commands: Commands) -> None:
    """One exchange; whatever goes wrong in it stays in it."""
    try:
        reply = {"version": VERSION, **await _reply(stream, commands)}
        await stream.send_all(json.dumps(reply).encode() + b"\n")
    except trio.BrokenResourceError:
        pass  # the client has gone
    except Exception:
        log.exception("control socket")


async def _reply(stream: trio.SocketStream, commands: Commands) -> dict[str, object]:
    _, uid, _ = _PEER.unpack(stream.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
    if uid not in (0, os.geteuid()):
        return {"error": "for the owner of the mount only"}
    line = b""
    while b"\n" not in line:
        part = await stream.receive_some(MAX_REQUEST_BYTES)
        line += part
        if not part or len(line) > MAX_REQUEST_BYTES:
            return {"error": "no request in one line"}
    try:
        request = json.loads(line)
        version, name = request["version"], request["command"]
    except (ValueError, TypeError, KeyError):
        return {"error": "a request that is not understood"}
    if version != VERSION:
        return {"error": f"version {version!r} of the protocol; this daemon speaks {VERSION}"}
    if not isinstance(name, str) or name not in commands:
        return {"error": f"unknown command {name!r}"}
    return {"answer": commands[name](request)}
