"""An attached application hands its work over at every kind of stop, and its own handlers still run."""

from __future__ import annotations

import json
import signal
import socket
import sys
import urllib.request
from typing import Any

import pytest

from tests.support.attached import APPS, AppProcess, AppRunner
from tests.support.database import wait_until


def _executor(apps: AppRunner, process: AppProcess) -> dict[str, Any]:
    (row,) = apps.database.rows("SELECT * FROM ops.executors WHERE pid = %(pid)s", pid=process.pid)
    return row


def _waiting(apps: AppRunner, process: AppProcess, workflow_id: str = "w") -> None:
    """Starts a workflow that waits for a message, and waits until it does."""
    process.start("message", workflow_id, "payment")
    _waits(apps, workflow_id)


def _waits(apps: AppRunner, workflow_id: str) -> None:
    wait_until(
        lambda: apps.database.rows("SELECT kind FROM ops.waits WHERE workflow_id = %(id)s", id=workflow_id),
        "it waits",
        seconds=20,
    )


def _handed_over(apps: AppRunner, process: AppProcess, workflow_id: str = "w") -> None:
    assert _executor(apps, process)["state"] == "drained", process.output()
    (handover,) = apps.database.rows(
        "SELECT kind FROM ops.handovers WHERE workflow_id = %(id)s", id=workflow_id
    )
    assert handover["kind"] == "handover"
    assert apps.status(workflow_id)["status"] == "ENQUEUED"


def test_sigterm_without_a_handler(apps: AppRunner) -> None:
    process = apps.app()
    _waiting(apps, process)
    assert process.stop() == -signal.SIGTERM
    _handed_over(apps, process)
    assert "drained" in process.output()


def test_sigint_raises_keyboard_interrupt_as_ever(apps: AppRunner) -> None:
    process = apps.app()
    _waiting(apps, process)
    assert process.stop(signal.SIGINT) in (1, 130, -signal.SIGINT)
    assert "KeyboardInterrupt" in process.output()
    _handed_over(apps, process)


@pytest.mark.parametrize("after", ["destroy", "return"])
def test_the_applications_own_handler_runs(apps: AppRunner, after: str) -> None:
    process = apps.app(PLAIN_HANDLES_SIGTERM=after)
    _waiting(apps, process)
    assert process.stop() == 0
    _handed_over(apps, process)
    assert [note[2] for note in apps.notes() if len(note) == 3] == ["handler", "over"]


def test_the_end_of_the_input_ends_the_main_thread(apps: AppRunner) -> None:
    """Nobody sends a signal, and nobody calls DBOS.destroy()."""
    process = apps.app()
    _waiting(apps, process)
    assert process.popen.stdin is not None
    process.popen.stdin.close()
    assert process.popen.wait(20) == 0
    _handed_over(apps, process)


def test_a_running_step_ends_before_the_process_does(apps: AppRunner) -> None:
    process = apps.app()
    process.start("steps", "w", 3, 1.0)
    wait_until(apps.notes, "its first step runs", seconds=20)
    assert process.stop() == -signal.SIGTERM
    assert apps.status("w")["status"] == "SUCCESS"


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_an_interrupted_main_thread_ends_no_workflow(apps: AppRunner, kind: str) -> None:
    """The workflow runs in the main thread, where a KeyboardInterrupt is no outcome of it."""
    process = apps.run(sys.executable, str(APPS / "plain.py"), PLAIN_CALLS=kind)
    wait_until(apps.notes, "its step runs", seconds=60)
    assert process.stop(signal.SIGINT, seconds=20) == -signal.SIGINT
    _handed_over(apps, process, "called")


def test_a_step_that_takes_too_long_is_handed_over(apps: AppRunner) -> None:
    process = apps.app(HOLDFAST_DRAIN_SECONDS="0.5", PLAIN_HANDLES_SIGTERM="return")
    process.start("steps", "w", 1, 60.0)
    wait_until(apps.notes, "its step runs", seconds=20)
    assert process.stop(seconds=10) == 0
    _handed_over(apps, process)


@pytest.mark.parametrize("end", ["signal", "input"])
def test_an_application_that_serves_in_a_thread_goes_on(apps: AppRunner, end: str) -> None:
    """Its main thread has returned."""
    process = apps.app(PLAIN_SERVES_IN_THREAD="1")
    process.start("steps", "after", 1, 0)
    apps.wait_status("after")
    _waiting(apps, process)
    assert _executor(apps, process)["state"] == "live"
    if end == "signal":
        assert process.stop() == -signal.SIGTERM
    else:
        assert process.popen.stdin is not None
        process.popen.stdin.close()
        assert process.popen.wait(20) == 0
    _handed_over(apps, process)


def test_the_exit_code_stays_where_a_step_is_left_behind(apps: AppRunner) -> None:
    process = apps.app(HOLDFAST_DRAIN_SECONDS="0.5", PLAIN_EXITS="3")
    process.start("steps", "w", 1, 60.0)
    wait_until(apps.notes, "its step runs", seconds=20)
    assert process.popen.stdin is not None
    process.popen.stdin.close()
    assert process.popen.wait(20) == 3, process.output()
    _handed_over(apps, process)


# --- web servers -------------------------------------------------------------------------------


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port


def _post(port: int, path: str, *arguments: Any) -> int:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}",
        json.dumps(arguments).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=20) as response:
        answer: int = json.loads(response.read())
        return answer


@pytest.mark.parametrize("how", ["module", "script", "lifespan"])
def test_a_web_server_hands_over_when_it_returns(apps: AppRunner, how: str) -> None:
    port = _free_port()
    command = [str(APPS / "web.py")] if how == "script" else ["-m", "uvicorn", "web:app", f"--port={port}"]
    environment = {"WEB_LIFESPAN": "1"} if how == "lifespan" else {}
    process = apps.run(sys.executable, *command, WEB_PORT=str(port), **environment)
    process.wait_ready("INFO:     Application startup complete")
    _post(port, "/workflows/message/w", "payment")
    _waits(apps, "w")
    assert process.stop() in (0, -signal.SIGTERM)
    _handed_over(apps, process)
    assert apps.notes()[-1][2] == "over"


def test_workers_of_a_web_server_are_protected(apps: AppRunner) -> None:
    port = _free_port()
    process = apps.run(sys.executable, "-m", "uvicorn", "web:app", f"--port={port}", "--workers=2")

    def pids() -> set[int]:
        return {row["pid"] for row in apps.database.rows("SELECT pid FROM ops.executors")}

    wait_until(lambda: len(pids()) == 2, "both workers have registered", seconds=60)
    assert process.pid not in pids()
    process.wait_ready("INFO:     Application startup complete")
    _post(port, "/workflows/message/w", "payment")
    _waits(apps, "w")
    assert process.stop() == 0
    states = {row["state"] for row in apps.database.rows("SELECT state FROM ops.executors")}
    assert states == {"drained"}
    assert apps.status("w")["status"] == "ENQUEUED"
