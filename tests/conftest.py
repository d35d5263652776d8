"""What all tests share: who may mount, and no silent skips in CI.

Imports nothing of BenchFS, so that the checks of the repository itself run whatever state the code is in.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a mount where mounting is impossible."""
    if os.geteuid() == 0 and Path("/dev/fuse").exists():
        return
    for item in items:
        if item.get_closest_marker("fuse"):
            item.add_marker(pytest.mark.skip(reason="needs /dev/fuse and root"))


def _skipped(config: pytest.Config) -> list[pytest.TestReport | pytest.CollectReport]:
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    return list(reporter.stats.get("skipped", ())) if reporter else []


def _skips_are_failures() -> bool:
    return os.environ.get("CI", "").lower() not in ("", "0", "false")


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """In CI a test that did not run is a test that failed."""
    if _skips_are_failures() and _skipped(session.config) and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Name every skipped test and its reason, where skipping is a failure."""
    skipped = _skipped(config) if _skips_are_failures() else []
    if not skipped:
        return
    terminalreporter.section("skipped, which is a failure in CI")
    for report in skipped:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        terminalreporter.line(f"{report.nodeid}: {reason}")
