"""A process that peers declared dead, although it lives, writes nothing more and ends, or logs it."""

from __future__ import annotations

import itertools
import json
import signal
from typing import Any

from tests.support.attached import AppProcess, AppRunner, get
from tests.support.database import wait_until
from tests.support.stack import free_ports

_SENTENCE = "peers declared this process dead and go on with its work"


def _fence(apps: AppRunner, **environment: str) -> tuple[AppProcess, AppProcess]:
    """Pauses a process in a step until its peer has done its work. Returns both, the first one resumed."""
    first, second = apps.app(**environment), apps.app()
    first.start("steps", "w", 2, 1.0)
    wait_until(apps.notes, "its first step runs", seconds=20)
    first.popen.send_signal(signal.SIGSTOP)
    apps.wait_status("w", seconds=60)
    assert apps.executor(first.pid)["reason"] == "heartbeat late"
    first.popen.send_signal(signal.SIGCONT)
    return first, second


def _records(apps: AppRunner) -> list[Any]:
    """Returns all that is stored about the workflow."""
    steps = apps.database.rows("SELECT * FROM dbos.operation_outputs ORDER BY function_id")
    return [apps.status("w"), steps, apps.database.rows("SELECT * FROM ops.handovers")]


def test_it_ends_with_75(apps: AppRunner) -> None:
    first, second = _fence(apps)
    assert first.popen.wait(40) == 75
    assert f"{_SENTENCE}: it ends with code 75" in first.output()
    assert apps.executor(first.pid)["fenced_at"] is not None
    assert apps.status("w")["executor_id"] == apps.executor(second.pid)["executor_id"]


def test_it_only_logs_if_asked_to_and_writes_nothing(apps: AppRunner) -> None:
    port = free_ports(1)
    first, second = _fence(apps, HOLDFAST_ON_FENCED="log", HOLDFAST_PORT=str(port))
    before = _records(apps)
    wait_until(lambda: _SENTENCE in first.output(), "it notices", seconds=20)
    status, body = get(port, "/readyz")
    assert (status, json.loads(body)["checks"]["state"]) == (503, "declared dead")
    # Its own execution ends too: its next step is refused, so "w" has only the two of the peer.
    assert get(port, "/livez")[0] == 200
    wait_until(lambda: "holdfast_workflows_running 0.0" in get(port, "/metrics")[1], "its execution ends")
    assert _records(apps) == before
    assert [note[1] for note in apps.notes()].count(first.pid) == 1

    # A claim that was under way when its sessions ended is repeated once, about a second later.
    numbers = itertools.count()

    def claims() -> bool:
        names = apps.threads(first, "threads", str(next(numbers)))
        return any(name.startswith("queue-worker-") for name in names)

    wait_until(lambda: not claims(), "its queues end", seconds=20)

    # It takes no work, and what it starts itself goes on at the peer.
    first.start("packing:steps", "queued", 1, 0)
    apps.wait_status("queued")
    first.start("message", "direct", "payment")
    apps.wait_waiting("direct")
    owner = apps.executor(second.pid)["executor_id"]
    wait_until(lambda: apps.status("direct")["executor_id"] == owner, "the peer has it", seconds=20)
    assert apps.status("queued")["executor_id"] == owner
    assert first.stop() == -signal.SIGTERM
    assert apps.executor(first.pid)["state"] == "dead"
