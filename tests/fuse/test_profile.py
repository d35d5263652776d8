"""``benchfs profile`` on real mounts: it counts what was done, parts add up, traces open, failures are told."""

from __future__ import annotations

import collections
import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from benchfs_core.chunks.uring import io_uring_available
from benchfs_core.meter import PARTS
from benchfs_fuse import mounts
from tests.support.mounting import BENCHFS, TIMEOUT_S, MountedVolume, Volumes, run, wait_until

pytestmark = pytest.mark.fuse

USAGE, SYSTEM, INTERRUPTED = 1, 2, 8
CHUNK = 64 << 10

WAYS = [
    pytest.param(f"plane={plane},store={store},sync={sync}", id=f"{plane}-{store}-{sync}")
    for plane in ("ring", "pyfuse3")
    for store in ("io_uring", "file")
    for sync in ("write", "fsync")
]


@pytest.fixture(params=WAYS)
def volume(request: pytest.FixtureRequest, volumes: Volumes) -> MountedVolume:
    if (reason := io_uring_available()) is not None and ("ring" in request.param):
        pytest.skip(reason)
    return volumes.make(f"{request.param},chunk_size=64K,inline=0")


def profile(volume: MountedVolume, *more: str) -> dict[str, Any]:
    """The document of ``benchfs profile --json``."""
    found: dict[str, Any] = json.loads(run(BENCHFS, "profile", volume.directory, "--json", *more).stdout)
    return found


def work(top: Path) -> collections.Counter[str]:
    """Do this and that, straight through to the daemon; how many requests of some kinds that makes."""
    done: collections.Counter[str] = collections.Counter()
    for number in range(20):
        handle = os.open(top / f"file{number}", os.O_CREAT | os.O_RDWR | os.O_DIRECT)
        done["create"] += 1
        for _ in range(3):
            os.pwritev(handle, [page()], 4096)
            done["write"] += 1
        os.pwritev(handle, [page(2 * CHUNK)], 0)  # two chunks at once
        done["write"] += 1
        os.preadv(handle, [page()], 4096)
        os.preadv(handle, [page(2 * CHUNK)], 0)
        done["read"] += 2
        os.fsync(handle)
        done["fsync"] += 1
        os.close(handle)
        os.unlink(top / f"file{number}")
        done["unlink"] += 1
    (top / "directory").mkdir()
    done["mkdir"] += 1
    with pytest.raises(OSError):
        os.removexattr(top / "directory", "user.none")
    done["removexattr"] += 1
    return done


def page(size: int = 4096) -> memoryview:
    """Memory that direct I/O takes."""
    import mmap

    return memoryview(mmap.mmap(-1, size))


def check(document: dict[str, Any]) -> None:
    """What holds whatever was done."""
    for name, told in document["operations"].items():
        assert told["p50_ns"] <= told["p99_ns"] <= told["max_ns"] <= told["total_ns"], name
        assert told["parts_ns"] is not None, name
        assert sum(told["parts_ns"].values()) == told["total_ns"], name
        assert all(part >= 0 for part in told["parts_ns"].values()), name
    whole = document["operations"]["all"]
    rest = [told for name, told in document["operations"].items() if name != "all"]
    for key in ("count", "bytes", "errors", "total_ns", "split_requests"):
        assert whole[key] == sum(told[key] for told in rest), key


def test_what_is_counted_is_what_was_done_and_the_parts_add_up(volume: MountedVolume) -> None:
    done = work(volume.directory)
    document = profile(volume)
    check(document)
    assert document["plane"] == ("ring" if "plane=ring" in volume.options else "pyfuse3")
    operations = document["operations"]
    assert {name: operations[name]["count"] for name in done} == done
    assert operations["write"]["bytes"] == operations["read"]["bytes"] + 2 * 20 * 4096 == 20 * (3 * 4096 + 2 * CHUNK)
    assert operations["removexattr"]["errors"] == 1
    assert (operations["create"]["errors"], operations["read"]["errors"]) == (0, 0)
    spent = {name: {part for part in PARTS if operations[name]["parts_ns"][part]} for name in done}
    assert {"fuse", "core", "metadata"} <= spent["create"]
    assert {"fuse", "core", "disk"} <= spent["read"]
    assert {"fuse", "core", "disk"} <= spent["write"]
    assert {"fuse", "core", "metadata"} <= spent["fsync"]
    assert "disk" in spent["fsync"] or "sync=write" in volume.options  # there the writes are durable already
    assert not spent["unlink"] & {"ring", "disk"}
    status = json.loads(run(BENCHFS, "status", "--json", volume.directory).stdout)
    assert {name: status["requests"][name] for name in done} == done


def test_a_trace_has_every_request_and_the_window_no_others(volume: MountedVolume, tmp_path: Path) -> None:
    work(volume.directory)
    (volume.directory / "directory").rmdir()
    path = tmp_path / "trace.json"
    watching = subprocess.Popen(
        [BENCHFS, "profile", volume.directory, "--json", "--seconds", "3600", "--trace", path],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until(lambda: is_split(volume), "every request is split")
    done = work(volume.directory)
    watching.send_signal(signal.SIGINT)
    out, said = watching.communicate(timeout=TIMEOUT_S)
    assert watching.returncode == INTERRUPTED, said
    document = json.loads(out)
    check(document)
    operations = document["operations"]
    assert {name: operations[name]["count"] for name in done} == done
    for told in operations.values():
        assert told["split_requests"] == told["count"]
    events = json.loads(path.read_text())["traceEvents"]
    requests = collections.Counter(event["name"] for event in events if event.get("cat") == "request")
    assert {name: requests[name] for name in done} == done
    assert said.count("\n") == 1
    assert f"{path}: {requests.total():,} requests: open it in" in said
    check_slices(events)


def is_split(volume: MountedVolume) -> bool:
    """Whether of a few requests each is split."""

    def split() -> tuple[int, int]:
        told = profile(volume)["operations"].get("getxattr", {"count": 0, "split_requests": 0})
        return told["count"], told["split_requests"]

    before = split()
    for number in range(200):
        os.path.exists(volume.directory / f"none{number}")
        try:
            os.getxattr(volume.directory, f"user.none{number}")
        except OSError:
            pass  # there is none
    after = split()
    return after[0] - before[0] == after[1] - before[1] > 0


def check_slices(events: list[dict[str, Any]]) -> None:
    """Parts fill each request from its begin to its end, and on a row one request is at a time."""
    rows: dict[int, list[dict[str, Any]]] = collections.defaultdict(list)
    for event in events:
        if event["ph"] == "X":
            rows[event["tid"]].append(event)
    assert rows
    for slices in rows.values():
        free_ns = 0
        spent_ns = left_ns = 0
        for event in slices:
            began_ns, length_ns = round(event["ts"] * 1000), round(event["dur"] * 1000)
            if event["cat"] == "request":
                assert began_ns >= free_ns
                assert spent_ns == left_ns
                free_ns, left_ns, spent_ns = began_ns + length_ns, length_ns, 0
            else:
                assert event["name"] in PARTS
                assert began_ns + length_ns <= free_ns
                spent_ns += length_ns
        assert spent_ns == left_ns


def test_the_table_is_for_people(volumes: Volumes) -> None:
    volume = volumes.make("sync=fsync")
    (volume.directory / "file").write_bytes(b"x" * 100_000)
    title, head, *lines = run(BENCHFS, "profile", volume.directory).stdout.splitlines()
    assert f"{volume.source} on {volume.directory}, process {volume.pid}: since 20" in title
    assert head.split()[:2] == ["operation", "count"]
    assert head.split()[-5:] == list(PARTS)
    (create,) = [line for line in lines if line.startswith("create ")]
    assert create.split()[1] == "1"
    assert lines[-1].startswith("of the time: fuse ")
    done = run(BENCHFS, "profile", volume.directory, "--seconds", "0.05")
    assert done.stdout.splitlines()[1:] == ["no requests came"]


def test_a_daemon_whose_watcher_was_killed_goes_back_to_splitting_a_few(volumes: Volumes) -> None:
    volume = volumes.make()
    watching = subprocess.Popen([BENCHFS, "profile", volume.directory, "--seconds", "3600"], stdout=subprocess.DEVNULL)
    wait_until(lambda: is_split(volume), "every request is split")
    watching.kill()
    watching.wait(TIMEOUT_S)
    wait_until(lambda: not is_split(volume), "few requests are split")


def test_what_cannot_be_profiled_is_told_in_one_line(volumes: Volumes, tmp_path: Path) -> None:
    volume = volumes.make()

    def refused(code: int, *words: str | Path) -> str:
        done = run(BENCHFS, "profile", *words, check=False)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (code, "", 1), done.stderr
        return done.stderr

    assert "no BenchFS is mounted there" in refused(SYSTEM, tmp_path)
    for seconds in ("0", "-1", "nan", "many"):
        assert "no number of seconds" in refused(USAGE, volume.directory, "--seconds", seconds)
    assert "required" in refused(USAGE)
    missing = tmp_path / "none" / "trace.json"
    assert f"{missing}: No such file" in refused(SYSTEM, volume.directory, "--trace", missing)
    socket = socket_of(volume)
    socket.rename(socket.with_name("moved"))
    try:
        assert "does not answer" in refused(SYSTEM, volume.directory)
        socket.write_text("not a socket")
        assert "not a socket" in refused(SYSTEM, volume.directory)
    finally:
        socket.with_name("moved").rename(socket)
    volume.kill()
    assert "its daemon is gone" in refused(SYSTEM, volume.directory)
    volume.mount()


def test_a_daemon_that_ends_meanwhile_is_told_in_one_line_and_leaves_no_trace(volumes: Volumes, tmp_path: Path) -> None:
    volume = volumes.make()
    path = tmp_path / "trace.json"
    command: list[str | Path] = [BENCHFS, "profile", volume.directory, "--seconds", "3600", "--trace", path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as watching:
        wait_until(lambda: is_split(volume), "every request is split")
        volume.unmount()
        out, said = watching.communicate(timeout=TIMEOUT_S)
    assert (watching.returncode, out, said.count("\n")) == (SYSTEM, "", 1)
    assert "does not answer" in said
    assert [one.name for one in tmp_path.iterdir() if "trace" in one.name] == []


def socket_of(volume: MountedVolume) -> Path:
    entry = mounts.find_mount(volume.directory)
    assert entry is not None
    found = mounts.find_daemon(entry)
    assert found is not None
    return mounts.control_socket(found[0])
