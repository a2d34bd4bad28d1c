"""The pytest plugin: the fixture ``assert_robust``, and a test without a verdict as a failure of its own kind.

It is registered by entry point, so it must cost nothing where it is not used: it imports nothing heavy.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import pytest

from actsec.testing import Undecided

KIND = "no verdict"


@pytest.fixture(name="assert_robust")
def _assert_robust() -> Callable[..., Any]:
    """The function actsec.testing.assert_robust(model, data, attack, eps=..., at_least=...)."""
    from actsec.testing import assert_robust

    return assert_robust


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(call: pytest.CallInfo[None]) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Mark the report of a test that ended without a verdict. It stays failed: so does the session."""
    report = yield
    if report.failed and call.excinfo is not None and call.excinfo.errisinstance(Undecided):
        report.user_properties.append(("actsec", KIND))
    return report


def pytest_report_teststatus(report: Any) -> tuple[str, str, str] | None:
    """Its own letter and its own count."""
    return (KIND, "?", "NO VERDICT") if _undecided(report) else None


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """What each of them knew: pytest itself tells only of those it calls failed."""
    found = [report for report in terminalreporter.stats.get(KIND, ()) if _undecided(report)]
    if not found:
        return
    terminalreporter.write_sep("=", "NO VERDICT")
    for report in found:
        terminalreporter.write_line(f"{report.nodeid}")
        crash = getattr(report.longrepr, "reprcrash", None)
        message = crash.message if crash is not None else str(report.longrepr)
        for line in message.splitlines():
            terminalreporter.write_line(f"  {line}")


def _undecided(report: Any) -> bool:
    return bool(getattr(report, "failed", False)) and ("actsec", KIND) in getattr(report, "user_properties", ())
