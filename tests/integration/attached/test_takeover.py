"""A plain DBOS application under ``holdfast run``: its work goes on when its process dies."""

from __future__ import annotations

import signal
import time
from collections import Counter
from pathlib import Path
from statistics import median

import pytest

from holdfast.dbos_adapter.preparing import prepare_database
from tests.support.attached import AppProcess, AppRunner, app_runner
from tests.support.database import Database, Server, wait_until


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


def test_a_schema_of_another_name_and_a_role_with_an_applications_rights(
    server: Server, tmp_path: Path
) -> None:
    name, role = "test_attached_shop", "attached_shopper"
    server.run(f"CREATE DATABASE {name}")
    server.run(f"CREATE ROLE {role} LOGIN PASSWORD 'x'")
    database = Database(server, name)
    try:
        with app_runner(database, tmp_path, PLAIN_SCHEMA="shop") as apps:
            prepare_database(apps.url, schema="shop", role=role)
            apps.environment["PLAIN_DATABASE_URL"] = (
                f"postgresql://{role}:x@127.0.0.1:{server.cluster.port}/{name}"
            )
            first, second = apps.app(), apps.app()
            first.start("steps_async", "w", 3, 0.5)
            _running_in(apps, "w", 2).kill()

            def status() -> str:
                row = "SELECT status FROM shop.workflow_status WHERE workflow_uuid = 'w'"
                found: str = database.one(row)
                return found

            wait_until(lambda: status() == "SUCCESS", "a peer goes on", seconds=20)
            assert second.stop() == -signal.SIGTERM
            states = {row["state"] for row in database.rows("SELECT state FROM ops.executors")}
            assert states == {"dead", "drained"}
    finally:
        database.drop()
        server.run(f"DROP ROLE {role}")


def test_work_of_a_process_without_holdfast_stays_with_it(apps: AppRunner) -> None:
    """Such as an old pod while a new one with Holdfast starts."""
    apps.app()
    apps.under = ()
    plain = apps.app()
    plain.start("steps", "w", 4, 1.5)
    apps.wait_status("w", seconds=20)
    assert [note[1] for note in _notes(apps, "w")] == [plain.pid] * 4
    assert apps.database.rows("SELECT * FROM ops.handovers") == []


def test_a_start_that_waits_for_a_thread_is_not_released(apps: AppRunner) -> None:
    process = apps.app(PLAIN_THREADS="1")
    process.start("steps", "first", 3, 3.0)
    process.start("steps", "second", 2, 0)
    apps.wait_status("second")
    assert apps.database.rows("SELECT * FROM ops.handovers") == []
    assert len(_notes(apps, "second")) == 2
