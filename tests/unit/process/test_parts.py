"""The parts of a process: their order, as the docs quote it, and stops that happen together."""

from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import Any

import pytest

from holdfast.process import parts
from holdfast.process.parts import PARTS, Part

_DOCUMENT = Path(__file__).parents[3] / "docs" / "design" / "architecture.md"


def test_the_document_quotes_the_order() -> None:
    text = _DOCUMENT.read_text("utf-8").split("### Parts of a process")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (?!part )([^|-][^|]*) \| [^|]+ \| *(\d*) *\|$", text, re.MULTILINE)
    assert rows == [(part.name, str(part.stop_stage or "")) for part in PARTS]


def test_children_end_first_and_sessions_last() -> None:
    """Nothing that their end breaks is recorded: the work was handed over before."""
    stages = [{part.name for part in stage} for stage in parts.stop_stages()]
    assert stages[0] == {"child processes"}
    together = {"accounting", "control operations", "sweep", "lease", "listener", "DBOS"}
    assert stages[1] == together, "they stop together"
    assert stages[2] == {"watchdog"}, "it ends what is left of this process's children"
    assert stages[-2:] == [{"HTTP sessions"}, {"ops sessions"}]


def test_parts_start_in_order_and_those_of_a_stage_stop_together(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    together = threading.Barrier(2, timeout=30)

    def made(name: str, stage: int | None, wait: bool = False) -> Part:
        def stop(_: Any) -> None:
            if wait:
                together.wait()
            told.append(f"-{name}")

        return Part(name, lambda _: told.append(name), stop, stage)

    monkeypatch.setattr(
        parts, "PARTS", (made("a", 3), made("b", 1, wait=True), made("c", None), made("d", 1, wait=True))
    )
    parts.start_all(None)  # type: ignore[arg-type]
    assert told == ["a", "b", "c", "d"]
    parts.stop_all(None)  # type: ignore[arg-type]
    assert sorted(told[4:6]) == ["-b", "-d"]
    assert told[6:] == ["-a"]


def test_a_failed_start_starts_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Any) -> None:
        raise OSError("no more processes")

    monkeypatch.setattr(parts, "PARTS", (Part("a", fail), Part("b", lambda _: pytest.fail("started"))))
    with pytest.raises(OSError, match="no more processes"):
        parts.start_all(None)  # type: ignore[arg-type]
