"""PostgreSQL with data checksums: load, transactions, kill -9 of the postmaster under load, recovery, checks.

Imports its neighbours and ``tests.support.mounting``. PostgreSQL refuses to run as root, so everything is done as the
user ``postgres``. The server listens on a socket in the scratch directory only.
"""

from __future__ import annotations

import os
import pwd
import re
import signal
import subprocess
import threading
from pathlib import Path

from tests.programs.program import Place, Program, ProgramFailed, ToolMissing, expect, need, started
from tests.support.mounting import run, wait_for_end, wait_until

USER = "postgres"
BEFORE_THE_KILL_S = 2


class Server:
    """One cluster in one directory."""

    def __init__(self, tools: Path, data: Path, socket: Path) -> None:
        self._tools, self._data, self._socket = tools, data, socket
        self.log = socket / "log"
        self._process: subprocess.Popen[bytes] | None = None

    def command(self, name: str, *words: str | Path) -> list[str]:
        return ["runuser", "-u", USER, "--", *(os.fspath(word) for word in (self._tools / name, *words))]

    def tool(self, name: str, *words: str | Path) -> str:
        done = run(*self.command(name, *words), cwd=self._data.parent)
        return done.stdout + done.stderr

    def start(self) -> None:
        """Start as a child, so that it leaves no zombie when it is killed; ready on return."""
        owner = pwd.getpwnam(USER)
        settings = (f"unix_socket_directories={self._socket}", "listen_addresses=", "shared_buffers=16MB")
        words = [os.fspath(self._tools / "postgres"), "-D", os.fspath(self._data)]
        words += [word for setting in settings for word in ("-c", setting)]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                words, user=owner.pw_uid, group=owner.pw_gid, extra_groups=[], cwd=self._data, stderr=log, stdout=log
            )
        wait_until(self._is_ready, f"PostgreSQL answers: {self.log}")

    def _is_ready(self) -> bool:
        if self._process is None or self._process.poll() is not None:
            raise ProgramFailed(f"PostgreSQL has ended: {self.log.read_text()[-300:]}")
        return run(*self.command("pg_isready", "-q", "-h", self._socket), check=False).returncode == 0

    def stop(self) -> None:
        """Shut down fast (SIGINT): clients are thrown out, everything is written."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            expect(self._process.wait(120) == 0, f"PostgreSQL did not end well: {self.log.read_text()[-300:]}")
            self._process = None

    def sql(self, statement: str) -> str:
        return self.tool("psql", "-h", self._socket, "-AtXc", statement, "postgres").strip()

    def kill(self) -> None:
        """kill -9 of the postmaster, and wait until its children are gone too: they see it and end."""
        assert self._process is not None
        pid = self._process.pid
        children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        self._process.kill()
        self._process.wait()
        self._process = None
        for child in children:
            wait_for_end(child)

    def transactions(self, *words: str) -> int:
        found = re.search(
            r"actually processed: (\d+)", self.tool("pgbench", "-n", "-h", self._socket, *words, "postgres")
        )
        if found is None:
            raise ProgramFailed("pgbench told no number of transactions")
        return int(found[1])

    def amcheck(self) -> str:
        """Tables and indexes, row by row; where the extension is not installed, that is said."""
        if self.sql("SELECT count(*) FROM pg_available_extensions WHERE name = 'amcheck'") == "0":
            return "no amcheck here"
        self.tool("pg_amcheck", "-h", self._socket, "--install-missing", "--heapallindexed", "postgres")
        return "pg_amcheck clean"

    def check_balances(self) -> None:
        """What TPC-B leaves equal: the sums of all balances and of the history."""
        query = "SELECT sum(%sbalance) FROM pgbench_%s"
        sums = {self.sql(query % (name[0], name)) for name in ("accounts", "tellers", "branches")}
        sums.add(self.sql("SELECT sum(delta) FROM pgbench_history"))
        expect(len(sums) == 1, f"balances differ: {sums}")


def find_tools() -> Path:
    """Where the newest PostgreSQL's programs are."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        raise ToolMissing("PostgreSQL is not installed")
    need("runuser")
    return found[-1].parent


def work(place: Place) -> str:
    data, socket = place.directory / "data", place.scratch / "socket"
    server = Server(find_tools(), data, socket)
    for directory in (data, socket):
        directory.mkdir()
        run("chown", USER, directory)
    server.tool("initdb", "-k", "-D", data)
    server.start()
    try:
        server.tool("pgbench", "-q", "-i", "-s", "1" if place.quick else "5", "-h", socket, "postgres")
        done = server.transactions("-c", "4", "-j", "2", "-t", "50" if place.quick else "1000")
        load = subprocess.Popen(
            server.command("pgbench", "-n", "-c", "4", "-T", "60", "-h", socket, "postgres"),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        with started(load):
            threading.Event().wait(BEFORE_THE_KILL_S)  # load for a while, not a wait for a state
            server.kill()
            load.wait(60)
        server.start()
        log = server.log.read_text()
        expect("not properly shut down" in log and "redo done" in log, "nothing was recovered")
        server.check_balances()
        expect(int(server.sql("SELECT count(*) FROM pgbench_history")) > done, "the load did nothing before the kill")
        amcheck = server.amcheck()
        server.sql("VACUUM FULL")
    finally:
        server.stop()
    server.tool("pg_checksums", "--check", "-D", data)
    place.remount()
    server.tool("pg_checksums", "--check", "-D", data)
    return f"{done} transactions, kill -9, recovery, balances equal, {amcheck}, checksums right, again after a remount"


PROGRAMS = (
    Program("postgresql", "initdb -k, pgbench -c 4, kill -9, recovery, pg_amcheck, pg_checksums --check", work),
)
