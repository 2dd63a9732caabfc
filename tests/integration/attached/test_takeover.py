"""A plain DBOS application under ``holdfast run``: its work goes on when its process ends, however it ends."""

from __future__ import annotations

import signal
import time
from collections import Counter
from statistics import median

import pytest

from tests.support.attached import AppProcess, AppRunner
from tests.support.database import wait_until


def _notes(apps: AppRunner, workflow_id: str) -> list[list[object]]:
    return [note for note in apps.notes() if note[3:4] == [workflow_id]]


def _running_in(apps: AppRunner, workflow_id: str, steps: int) -> AppProcess:
    """Waits until that many steps have begun, and returns the process that runs the workflow."""
    wait_until(lambda: len(_notes(apps, workflow_id)) >= steps, f"{steps} steps of {workflow_id}", seconds=20)
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
    for number in range(5):
        third = apps.app()
        first.start("steps", f"w{number}", 4, 0.5)
        _running_in(apps, f"w{number}", 2)
        killed_at = time.time()
        first.kill()
        wait_until(lambda: len(_notes(apps, f"w{number}")) >= 3, "the interrupted step again", seconds=10)
        gaps.append(float(str(_notes(apps, f"w{number}")[2][0])) - killed_at)
        first, second = second, third
    assert median(gaps) <= 0.4, gaps
