"""A plain DBOS application under ``holdfast run``: its work goes on when its process dies."""

from __future__ import annotations

import time
from collections import Counter
from statistics import median

import pytest

from tests.support.attached import AppProcess, AppRunner
from tests.support.database import wait_until


def _notes(apps: AppRunner, workflow_id: str) -> list[list[object]]:
    return [note for note in apps.notes() if note[3:4] == [workflow_id]]


def _wait_notes(apps: AppRunner, workflow_id: str, count: int) -> None:
    wait_until(lambda: len(_notes(apps, workflow_id)) >= count, f"{count} steps of {workflow_id}", seconds=20)


def _running_in(apps: AppRunner, workflow_id: str, steps: int) -> AppProcess:
    """Waits until that many steps have begun, and returns the process that runs the workflow."""
    _wait_notes(apps, workflow_id, steps)
    (pid,) = {note[1] for note in _notes(apps, workflow_id)}
    return next(process for process in apps.processes if process.pid == pid)


@pytest.mark.parametrize("kind", ["steps", "steps_async", "packing:steps"])
def test_a_killed_process_loses_nothing(apps: AppRunner, kind: str) -> None:
    first, second = apps.app(), apps.app()
    first.start(kind, "w", 4, 0.5)
    killed = _running_in(apps, "w", 2)
    killed.kill()
    apps.wait_status("w")
    runs = Counter(str(note[4]) for note in _notes(apps, "w"))
    assert sum(runs.values()) <= 5 and set(runs) == {f"step{number}" for number in range(4)}
    assert {note[1] for note in _notes(apps, "w")} == {first.pid, second.pid}


@pytest.mark.timing
def test_work_goes_on_within_400_ms_of_a_kill(apps: AppRunner) -> None:
    first, second = apps.app(), apps.app()
    gaps = []
    for name in ("w0", "w1", "w2", "w3", "w4"):
        third = apps.app()
        first.start("steps", name, 4, 0.5)
        _running_in(apps, name, 2)
        killed_at = time.time()
        first.kill()
        _wait_notes(apps, name, 3)
        gaps.append(float(str(_notes(apps, name)[2][0])) - killed_at)
        first, second = second, third
    assert median(gaps) <= 0.4, gaps
