"""Additional output of the acceptance and container tests: logs of failures, measurements."""

from __future__ import annotations

import json
import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from tests.support.stack import Stack

_figures: dict[str, float] = {}
_tables: dict[str, list[str]] = {}


def record(name: str, value: float) -> None:
    """Records a measurement. The largest value is kept."""
    _figures[name] = max(round(value, 3), _figures.get(name, 0.0))


def show(name: str, lines: list[str]) -> None:
    """Records a table that is printed at the end."""
    _tables[name] = lines


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    """Adds the end of all logs of the stack to a failure's report."""
    report = yield
    if report.failed and report.when == "call":
        for value in getattr(item, "funcargs", {}).values():
            if isinstance(value, Stack):
                report.sections.append(("end of the logs", value.log_tail()))
    return report


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Prints the largest value of each measurement, and writes JSON to HOLDFAST_TEST_FIGURES."""
    for name, lines in _tables.items():
        terminalreporter.section(name)
        for line in lines:
            terminalreporter.line(line)
    _tables.clear()
    if not _figures:
        return
    terminalreporter.section("measured")
    for name, value in sorted(_figures.items()):
        terminalreporter.line(f"{name}: {value:g}")
    if path := os.environ.get("HOLDFAST_TEST_FIGURES"):
        Path(path).write_text(json.dumps(_figures, indent=1, sort_keys=True) + "\n", "utf-8")
    _figures.clear()
