"""One process launches its application several times, as test suites and long-lived workers do."""

from __future__ import annotations

import re

from tests.support.attached import AppRunner
from tests.support.database import wait_until


def test_each_launch_is_protected_and_leaves_no_thread(apps: AppRunner) -> None:
    process = apps.app()
    process.start("message", "w", "payment")
    apps.wait_waiting("w")
    live = [apps.threads(process, "relaunch", str(number)) for number in range(2)]
    # Holdfast names its threads. Those that Python numbers are DBOS's, as those of queues, which start later.
    named = [[name for name in names if not re.search(r"-\d|^queue-worker-", name)] for names in live]
    assert named[0] == named[1], "a part of the first launch still runs beside the second"
    assert {"lease", "sweep", "listener", "watchdog"} <= set(named[1])
    assert process.output().count("protected: executor") == 3
    apps.wait_waiting("w")
    left = apps.threads(process, "destroy", "end")
    # DBOS keeps its pool of threads for workflows; signals are noticed until the process ends.
    stay = ("MainThread", "ThreadPoolExecutor", "holdfast-signals")
    assert [name for name in left if not name.startswith(stay)] == []
    states = apps.database.rows("SELECT state FROM ops.executors")
    assert [row["state"] for row in states] == ["drained"] * 3
    sessions = "SELECT application_name FROM pg_stat_activity WHERE application_name LIKE 'holdfast/%'"
    own = f"{sessions} AND datname = current_database()"
    wait_until(lambda: not apps.database.rows(own), "PostgreSQL has ended its sessions")
    assert apps.status("w")["status"] == "ENQUEUED"


def test_a_long_wait_outlives_more_handovers_than_its_recovery_limit(apps: AppRunner) -> None:
    process = apps.app()
    process.start("limited_message", "w", "payment")
    for number in range(6):
        apps.wait_waiting("w")
        apps.threads(process, "relaunch", str(number))
    apps.wait_waiting("w")
    assert apps.status("w")["recovery_attempts"] == 2, "it was claimed again"
    assert apps.database.one("SELECT count(*) FROM ops.handovers WHERE workflow_id = 'w'") == 6
