"""The control socket, whatever a client sends; and what a volume says of itself there."""

from __future__ import annotations

import errno
import json
import logging
import os
import socket
import stat
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from benchfs_core.errors import FlushFailed, MetadataFailed, VolumeError, VolumeReadOnly
from benchfs_core.status import MAX_LISTED, status_of
from benchfs_core.types import ROOT_INODE, SyncMode
from benchfs_fuse.control import MAX_CLIENTS, MAX_REQUEST_BYTES, VERSION, ControlError, ask, serve_control
from benchfs_fuse.status import describe, is_fine
from tests.support.faults import FaultPlan, FaultyIO, Rule
from tests.support.volumes import OWNER, open_test_volume, write_file


def _broken(_: Mapping[str, Any]) -> object:
    raise RuntimeError("a bug")


COMMANDS = {"status": lambda asked: {"fine": True, **asked.get("more", {})}, "broken": _broken}


@asynccontextmanager
async def served(path: Path) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_control, path, COMMANDS)
        yield
        nursery.cancel_scope.cancel()


async def say(path: Path, request: bytes) -> bytes:
    """Everything that is answered to ``request``, after which nothing more is sent."""
    stream = await trio.open_unix_socket(path)
    async with stream:
        await stream.send_all(request)
        await stream.send_eof()
        said = b""
        async for part in stream:
            said += part
    return said


async def asked(path: Path, command: str) -> Any:
    return await trio.to_thread.run_sync(ask, path, command)


async def test_a_question_is_answered_and_the_socket_is_the_owners(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_text("left behind")
    async with served(path):
        assert await asked(path, "status") == {"fine": True}
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not path.exists()
    with pytest.raises(ControlError, match="No such file"):
        await asked(path, "status")


REQUESTS = {
    "nothing": b"",
    "no line": b'{"version": 1}',
    "no JSON": b"hello\n",
    "bytes": b"\xff\xfe\x00\n",
    "a list": b"[]\n",
    "a number": b"1\n",
    "no command": b'{"version": 1}\n',
    "a command that is none": b'{"version": 1, "command": ["status"]}\n',
    "an unknown command": b'{"version": 1, "command": "format"}\n',
    "another version": b'{"version": 2, "command": "status"}\n',
    "too long": b"x" * (MAX_REQUEST_BYTES + 1) + b"\n",
    "deep": b"[" * MAX_REQUEST_BYTES + b"\n",
}


@pytest.mark.parametrize("request_", REQUESTS.values(), ids=REQUESTS)
async def test_what_is_not_understood_gets_an_error_and_the_next_client_an_answer(
    tmp_path: Path, request_: bytes
) -> None:
    async with served(tmp_path / "s"):
        reply = json.loads(await say(tmp_path / "s", request_))
        assert reply["version"] == VERSION
        assert isinstance(reply["error"], str)
        assert await asked(tmp_path / "s", "status") == {"fine": True}


async def test_a_command_that_fails_is_logged_and_costs_one_client_its_answer(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with served(tmp_path / "s"):
        with pytest.raises(ControlError):
            await asked(tmp_path / "s", "broken")
        assert await asked(tmp_path / "s", "status") == {"fine": True}
    assert "a bug" in caplog.text


async def test_clients_that_say_nothing_or_leave_keep_nobody_waiting_for_long(tmp_path: Path) -> None:
    path = tmp_path / "s"
    async with served(path):
        silent = [await trio.open_unix_socket(path) for _ in range(MAX_CLIENTS - 1)]
        gone = await trio.open_unix_socket(path)
        await gone.send_all(b'{"version": 1, "command": "status"}\n')
        await gone.aclose()
        assert await asked(path, "status") == {"fine": True}
        for stream in silent:
            await stream.aclose()


async def test_a_daemon_of_another_release_is_recognised(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(os.fspath(tmp_path / "s"))
        server.listen(1)

        def answer() -> None:
            client, _ = server.accept()
            with client:
                client.recv(100)
                client.sendall(b'{"version": 99, "answer": {}}\n')

        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, answer)
            with pytest.raises(ControlError, match="another release"):
                await asked(tmp_path / "s", "status")


async def test_a_place_where_no_socket_can_be_is_said_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        await serve_control(tmp_path / ("x" * 200), COMMANDS)
    assert "benchfs status will not work" in caplog.text


def told(status: dict[str, Any]) -> str:
    more = {"source": "/s", "mount_point": "/m", "log": "/l", "pid": 1, "since": "now"}
    return describe({**more, **status}, as_json=False)


async def test_a_volume_says_since_when_and_why_it_cannot_be_changed_and_reads_go_on(tmp_path: Path) -> None:
    plan = FaultPlan()
    with pytest.raises(VolumeError):  # noqa: PT012 - the whole block is what ends so
        async with open_test_volume(tmp_path / "v", wrap_io=lambda io: FaultyIO(io, plan)) as volume:
            fs = volume.filesystem
            await write_file(fs, b"f", b"content")
            assert is_fine(status_of(volume))
            assert "state     writable" in told(status_of(volume))
            plan.rules.append(Rule("fdatasync", error=errno.EIO))
            directory = await fs.opendir(ROOT_INODE)
            await fs.mkdir(ROOT_INODE, b"d", 0o755, OWNER)
            with pytest.raises(MetadataFailed):
                await fs.fsync_directory(directory)
            with pytest.raises(VolumeReadOnly):
                await fs.mkdir(ROOT_INODE, b"e", 0o755, OWNER)
            handle = await fs.open((await fs.lookup(ROOT_INODE, b"f")).inode)
            assert bytes(await fs.read(handle, 0, 100)) == b"content"
            status: dict[str, Any] = status_of(volume)
            assert not is_fine(status)
            assert "flush of the WAL failed" in status["failure"]
            assert f"read-only since {status['failure']}" in told(status)
            json.dumps(status)


async def test_files_with_lost_data_are_counted_and_some_named(tmp_path: Path) -> None:
    plan = FaultPlan()
    with pytest.raises(VolumeError):  # noqa: PT012 - the whole block is what ends so
        async with open_test_volume(tmp_path / "v", SyncMode.FSYNC, wrap_io=lambda io: FaultyIO(io, plan)) as volume:
            fs = volume.filesystem
            handles = []
            for number in range(MAX_LISTED + 5):
                handle, _ = await fs.create(ROOT_INODE, b"%d" % number, 0o644, OWNER)
                await fs.write(handle, 0, b"x")
                handles.append(handle)
            for handle in handles:
                plan.rules = [Rule("fdatasync", nth=plan.calls["fdatasync"] + 1, error=errno.EIO)]
                with pytest.raises(FlushFailed):
                    await fs.fsync(handle)
            status: dict[str, Any] = status_of(volume)
            assert (status["files_with_lost_data"], len(status["lost_data"])) == (MAX_LISTED + 5, MAX_LISTED)
            assert status["open_handles"] == MAX_LISTED + 5
            assert "LOST DATA in 25 files" in told(status)
            assert not is_fine(status)
