"""Poison in an attached application is parked, on queues that its user never sees, and nothing else is."""

from __future__ import annotations

import sys

from tests.support.attached import APPS, AppRunner
from tests.support.database import wait_until


def test_poison_is_parked_and_healthy_work_is_not(apps: AppRunner) -> None:
    first = apps.app()
    first.start("steps", "healthy", 40, 0.5)
    wait_until(lambda: apps.status("healthy"), "it has started")
    first.start("packing:poison", "poison")
    parked = "MAX_RECOVERY_ATTEMPTS_EXCEEDED"

    def parked_or_replaced() -> bool:
        for process in list(apps.processes):
            if process.popen.poll() is not None and process not in replaced:
                replaced.append(process)
                start_another()
        return apps.status("poison").get("status") == parked

    def start_another() -> None:
        # It may take the poison over, and die of it, before it says that it is ready.
        apps.run(sys.executable, str(APPS / "plain.py"))

    replaced: list[object] = []
    start_another()
    wait_until(parked_or_replaced, "poison is parked", seconds=150)
    assert sum(process.popen.poll() is not None for process in apps.processes) == 5
    assert apps.wait_status("healthy", seconds=60)
    (crashes,) = apps.database.rows("SELECT queue_name FROM ops.crashes WHERE workflow_id = 'poison'")
    assert crashes["queue_name"] == "packing"
    names = {row["name"] for row in apps.database.rows("SELECT name FROM dbos.queues")}
    assert names == {"packing", "shipping"}
