"""Poison in an attached application is parked, on queues that its user never sees, and nothing else is."""

from __future__ import annotations

import sys

from tests.support.attached import APPS, AppProcess, AppRunner
from tests.support.database import wait_until

_PARKED = "MAX_RECOVERY_ATTEMPTS_EXCEEDED"


def _until_parked(apps: AppRunner, workflow_id: str) -> None:
    """Starts a process, and another one for each that dies, until the workflow is parked."""

    def start_another() -> None:
        # It may take the poison over, and die of it, before it says that it is ready.
        apps.run(sys.executable, str(APPS / "plain.py"))

    def parked_or_replaced() -> bool:
        for process in list(apps.processes):
            if process.popen.poll() is not None and process not in replaced:
                replaced.append(process)
                start_another()
        return apps.status(workflow_id).get("status") == _PARKED

    replaced: list[AppProcess] = []
    start_another()
    wait_until(parked_or_replaced, f"{workflow_id} is parked", seconds=150)


def _deaths(apps: AppRunner) -> int:
    return sum(process.popen.poll() is not None for process in apps.processes)


def test_poison_is_parked_and_healthy_work_is_not(apps: AppRunner) -> None:
    first = apps.app()
    first.start("steps", "healthy", 40, 0.5)
    wait_until(lambda: apps.status("healthy"), "it has started")
    first.start("packing:poison", "poison")
    _until_parked(apps, "poison")
    assert _deaths(apps) == 5
    assert apps.wait_status("healthy", seconds=60)
    (crashes,) = apps.database.rows("SELECT queue_name FROM ops.crashes WHERE workflow_id = 'poison'")
    assert crashes["queue_name"] == "packing"
    names = {row["name"] for row in apps.database.rows("SELECT name FROM dbos.queues")}
    assert names == {"packing", "shipping"}


def test_poison_is_parked_where_processes_listen_to_some_queues_only(apps: AppRunner) -> None:
    """They have no hidden queues: what ran beside the poison waits, and the poison dies alone."""
    apps.environment |= {"PLAIN_LISTENS": "packing", "HOLDFAST_CRASH_LIMIT": "3"}
    first = apps.app()
    first.start("packing:steps", "healthy", 1, 6.0)
    wait_until(apps.notes, "its only step runs, which does not end before the poison is parked")
    first.start("packing:poison", "poison")
    _until_parked(apps, "poison")
    assert _deaths(apps) == 3
    assert apps.wait_status("healthy", seconds=60)["queue_name"] == "packing"
    handovers = apps.database.rows("SELECT workflow_id, kind FROM ops.handovers WHERE kind <> 'takeover'")
    assert [row for row in handovers if row["workflow_id"] == "healthy"] == [], handovers
    crashes = {row["workflow_id"]: row for row in apps.database.rows("SELECT * FROM ops.crashes")}
    assert (crashes["poison"]["crashes"], crashes["healthy"]["crashes"]) == (3, 2)


def test_a_process_with_a_blocked_interpreter_is_killed_and_its_work_goes_on(apps: AppRunner) -> None:
    """No thread of it runs any more, so that its watchdog has to notice."""
    apps.environment |= {"HOLDFAST_LEASE_SECONDS": "3", "HOLDFAST_HEARTBEAT_SECONDS": "0.5"}
    first, second = apps.app(), apps.app()
    first.start("blocks", "w")
    assert first.popen.wait(60) == -9
    assert '"action": "interpreter.killed"' in first.output()
    assert apps.executor(first.pid)["reason"] == "hung"
    assert apps.wait_status("w", seconds=60)["executor_id"] == apps.executor(second.pid)["executor_id"]
    (crash,) = apps.database.rows("SELECT crashes FROM ops.crashes WHERE workflow_id = 'w'")
    assert crash["crashes"] == 1, "a hang counts as a crash"
