"""What a terminal shows of a JSON log, and which line is the cause of a failed start."""

from __future__ import annotations

import json

import pytest

from holdfast.installations.log_lines import failed_start, readable


def line(message: str, level: str = "INFO", action: str = "log", **more: str) -> str:
    return json.dumps({"level": level, "action": action, "message": message, **more})


@pytest.mark.parametrize(
    ("logged", "shown"),
    [
        (line("DBOS launched"), None),
        (line("ready with 2 slots", action="executor.started"), "ready with 2 slots"),
        (line("slow", "WARNING"), "WARNING: slow"),
        (
            line("failed", "ERROR", exc_info="Traceback\n  File\nValueError: x"),
            "ERROR: failed: ValueError: x",
        ),
        (
            line(
                "m cannot be imported: ValueError: x (m.py, line 1)",
                "ERROR",
                exc_info="Traceback\nValueError: x",
            ),
            "ERROR: m cannot be imported: ValueError: x (m.py, line 1)",
        ),
        ("Fatal Python error: Aborted", "Fatal Python error: Aborted"),
        ("{half of a line", "{half of a line"),
        ("", None),
    ],
)
def test_one_line_per_event(logged: str, shown: str | None) -> None:
    assert readable(logged) == shown


def test_the_cause_is_the_first_grave_line_not_the_last() -> None:
    log = "\n".join([line("waiting", "WARNING"), line("no disk", "ERROR"), line("Exiting.", "ERROR"), "x"])
    assert failed_start(log).cause == "no disk"
    assert not failed_start(log).is_final
    assert failed_start("").cause == "nothing logged"
    assert failed_start("plain\nlast\n").cause == "last"


def test_a_refusal_is_final() -> None:
    refused = line("does not start: no module 'x'", "CRITICAL", "executor.refused")
    failed = failed_start(line("earlier", "ERROR") + "\n" + refused + "\n" + line("later", "ERROR"))
    assert (failed.cause, failed.is_final) == ("no module 'x'", True)
