"""A pytest plugin for both sides: it writes each test's outcome at once, and limits each test's time."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

#: The variable that names the file of outcomes: one JSON object a line. The last line of a test counts.
OUTCOMES = "SUITES_OUTCOMES"
#: The longest time of a test, in seconds. A mark of the test does not change it.
TIMEOUT = "SUITES_TIMEOUT"

_failed: set[str] = set()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(pytest.mark.timeout(float(os.environ[TIMEOUT])), append=False)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if report.failed:
        _write(report.nodeid, "failed", report.longreprtext)


def pytest_runtest_logstart(nodeid: str) -> None:
    # This line counts if the process ends in the middle of the test.
    _write(nodeid, "failed", "did not end")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.nodeid in _failed:
        return
    if report.failed:  # of a subtest, too
        _failed.add(report.nodeid)
        _write(report.nodeid, "failed", report.longreprtext)
    elif report.when == "call" or report.skipped:
        _write(report.nodeid, report.outcome)


def _write(test: str, outcome: str, reason: str = "") -> None:
    with Path(os.environ[OUTCOMES]).open("a") as file:
        file.write(json.dumps({"test": test, "outcome": outcome, "reason": reason}) + "\n")
