"""An attached process answers probes on a port of its own, also where others have the same one."""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from http.client import IncompleteRead
from urllib.error import URLError

from tests.support.attached import AppRunner, get
from tests.support.database import wait_until
from tests.support.stack import free_ports

_IN_USE = "no probes and no metrics of this process: cannot listen on"


def test_liveness_readiness_and_metrics(apps: AppRunner) -> None:
    port = free_ports(1)
    process = apps.app(HOLDFAST_PORT=str(port))
    executor = apps.executor(process.pid)
    assert executor["port"] == port
    for path in ("/livez", "/readyz"):
        status, body = get(port, path)
        assert (status, json.loads(body)["executor_id"]) == (200, executor["executor_id"])
    status, body = get(port, "/metrics")
    assert status == 200 and "holdfast_executor_ready 1.0" in body
    assert get(port, "/workflows")[0] == 404

    # The drain waits for a step, and the process says so meanwhile.
    process.start("steps", "w", 1, 2.0)
    wait_until(apps.notes, "its step runs", seconds=20)
    process.popen.terminate()
    states: set[str] = set()

    def draining() -> bool:
        with suppress(URLError, ConnectionError, IncompleteRead):  # it may end in the middle of an answer
            status, body = get(port, "/readyz")
            states.add(f"{status} {json.loads(body)['checks']['state']}")
        return process.popen.poll() is not None

    wait_until(draining, "it ends", seconds=20)
    assert "503 draining" in states
    assert apps.status("w")["status"] == "SUCCESS"


def test_the_second_process_with_a_port_runs_without_probes(apps: AppRunner) -> None:
    port = free_ports(1)
    first, second = (apps.app(HOLDFAST_PORT=str(port)) for _ in range(2))
    assert _IN_USE not in first.output()
    assert f"{_IN_USE} 127.0.0.1:{port}: Address already in use" in second.output()
    second.start("steps", "w", 1, 0)
    apps.wait_status("w")
    first.stop()
    third = apps.app(HOLDFAST_PORT=str(port))
    assert json.loads(get(port, "/livez")[1])["executor_id"] == apps.executor(third.pid)["executor_id"]


def test_workers_of_one_server_share_the_port(apps: AppRunner) -> None:
    port = free_ports(2)
    process = apps.run(
        sys.executable, "-m", "uvicorn", "web:app", f"--port={port}", "--workers=2",
        HOLDFAST_PORT=str(port + 1),
    )  # fmt: skip
    wait_until(
        lambda: process.output().count("protected: executor") == 2, f"both: {process.output()}", seconds=60
    )
    assert process.output().count(_IN_USE) == 1
    assert get(port + 1, "/readyz")[0] == 200
    assert process.stop() == 0
    states = {row["state"] for row in apps.database.rows("SELECT state FROM ops.executors")}
    assert states == {"drained"}
