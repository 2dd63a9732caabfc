"""An attached application hands its work over at every kind of stop, and its own handlers still run."""

from __future__ import annotations

import json
import signal
import sys

import pytest

from tests.support.attached import APPS, AppProcess, AppRunner, get, post
from tests.support.database import wait_until
from tests.support.stack import free_ports


def _waiting(apps: AppRunner, process: AppProcess, workflow_id: str = "w") -> None:
    """Starts a workflow that waits for a message, and waits until it does."""
    process.start("message", workflow_id, "payment")
    apps.wait_waiting(workflow_id)


def test_sigterm_without_a_handler(apps: AppRunner) -> None:
    process = apps.app()
    _waiting(apps, process)
    assert process.stop() == -signal.SIGTERM
    apps.assert_handed_over(process.pid)
    assert "drained" in process.output()


def test_sigterm_that_the_main_thread_does_not_notice(apps: AppRunner) -> None:
    """It waits in a call of C, and Python calls handlers in the main thread only, after that call."""
    process = apps.app(PLAIN_MAIN_IS_DEAF="1")
    _waiting(apps, process)
    assert process.stop(seconds=15) in (-signal.SIGTERM, 128 + signal.SIGTERM)
    apps.assert_handed_over(process.pid)


def test_sigterm_during_the_launch(apps: AppRunner) -> None:
    """The drain waits for the launch, which would start threads that take work. Nothing is live after it."""
    port = free_ports(1)
    process = apps.app(PLAIN_TERMINATED_IN_LAUNCH="1", HOLDFAST_PORT=str(port), HOLDFAST_DRAIN_SECONDS="1")
    assert [note[2] for note in apps.notes()] == ["handler"]
    wait_until(
        lambda: apps.executor(process.pid)["state"] == "drained", "it drains: nothing runs", seconds=60
    )

    def answer() -> tuple[int, str]:
        status, body = get(port, "/readyz")
        return status, json.loads(body)["checks"]["state"]

    wait_until(lambda: answer() == (503, "stopped"), "it says so", seconds=20)
    process.start("packing:steps", "w", 1, 0)
    wait_until(lambda: apps.status("w"), "it is in its queue", seconds=20)
    peer = apps.app()
    assert apps.wait_status("w")["executor_id"] == apps.executor(peer.pid)["executor_id"]
    assert process.stop(signal.SIGINT) != 0


def test_sigint_raises_keyboard_interrupt_as_ever(apps: AppRunner) -> None:
    process = apps.app()
    _waiting(apps, process)
    assert process.stop(signal.SIGINT) in (1, 130, -signal.SIGINT)
    assert "KeyboardInterrupt" in process.output()
    apps.assert_handed_over(process.pid)


@pytest.mark.parametrize("after", ["destroy", "return"])
def test_the_applications_own_handler_runs(apps: AppRunner, after: str) -> None:
    process = apps.app(PLAIN_HANDLES_SIGTERM=after)
    _waiting(apps, process)
    assert process.stop() == 0
    apps.assert_handed_over(process.pid)
    assert [note[2] for note in apps.notes() if len(note) == 3] == ["handler", "over"]


def test_the_end_of_the_input_ends_the_main_thread(apps: AppRunner) -> None:
    """Nobody sends a signal, and nobody calls DBOS.destroy()."""
    process = apps.app()
    _waiting(apps, process)
    assert process.popen.stdin is not None
    process.popen.stdin.close()
    assert process.popen.wait(20) == 0
    apps.assert_handed_over(process.pid)


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
    apps.assert_handed_over(process.pid, "called")


def test_a_step_that_takes_too_long_is_handed_over(apps: AppRunner) -> None:
    process = apps.app(HOLDFAST_DRAIN_SECONDS="0.5", PLAIN_HANDLES_SIGTERM="return")
    process.start("steps", "w", 1, 60.0)
    wait_until(apps.notes, "its step runs", seconds=20)
    assert process.stop(seconds=10) == 0
    apps.assert_handed_over(process.pid)


@pytest.mark.parametrize("end", ["signal", "input"])
def test_an_application_that_serves_in_a_thread_goes_on(apps: AppRunner, end: str) -> None:
    """Its main thread has returned."""
    process = apps.app(PLAIN_SERVES_IN_THREAD="1")
    process.start("steps", "after", 1, 0)
    apps.wait_status("after")
    _waiting(apps, process)
    assert apps.executor(process.pid)["state"] == "live"
    if end == "signal":
        assert process.stop() == -signal.SIGTERM
    else:
        assert process.popen.stdin is not None
        process.popen.stdin.close()
        assert process.popen.wait(20) == 0
    apps.assert_handed_over(process.pid)


def test_the_exit_code_stays_where_a_step_is_left_behind(apps: AppRunner) -> None:
    process = apps.app(HOLDFAST_DRAIN_SECONDS="0.5", PLAIN_EXITS="3")
    process.start("steps", "w", 1, 60.0)
    wait_until(apps.notes, "its step runs", seconds=20)
    assert process.popen.stdin is not None
    process.popen.stdin.close()
    assert process.popen.wait(20) == 3, process.output()
    apps.assert_handed_over(process.pid)


def test_a_drain_that_an_operator_asks_for_lets_a_step_end(apps: AppRunner) -> None:
    process = apps.app()
    process.start("steps", "w", 1, 3.0)
    wait_until(apps.notes, "its step runs", seconds=20)
    apps.database.rows("UPDATE ops.executors SET desired_state = 'draining'")
    assert process.popen.wait(20) == -signal.SIGTERM
    assert apps.status("w")["status"] == "SUCCESS"
    assert len(apps.notes()) == 1


def test_a_second_signal_hands_a_step_over(apps: AppRunner) -> None:
    process = apps.app(HOLDFAST_DRAIN_SECONDS="300", HOLDFAST_STOP_GRACE_SECONDS="310")
    process.start("steps", "w", 1, 600.0)
    wait_until(apps.notes, "its step runs", seconds=20)
    process.popen.send_signal(signal.SIGTERM)
    wait_until(lambda: "stopping: SIGTERM received" in process.output(), "it drains")
    assert process.stop(seconds=20) == -signal.SIGTERM
    apps.assert_handed_over(process.pid)


@pytest.mark.parametrize("end", ["main thread", "destroy", "signal"])
def test_a_drain_that_cannot_hand_over_leaves_the_work_to_peers(apps: AppRunner, end: str) -> None:
    """A parent that waits for its children here must not end because the wait does."""
    environment = {"PLAIN_HANDLES_SIGTERM": "destroy"} if end == "destroy" else {}
    process = apps.app(HOLDFAST_DRAIN_SECONDS="0.5", **environment)
    process.start("parent", "w", 1, 600.0)
    wait_until(lambda: len(apps.notes()) == 2, "its children run", seconds=20)
    blocking = apps.database.admin()
    with blocking.cursor() as cursor:
        cursor.execute("BEGIN; LOCK ops.handovers IN EXCLUSIVE MODE")
        if end == "main thread":
            assert process.popen.stdin is not None
            process.popen.stdin.close()
            process.popen.wait(30)
        else:
            process.stop(seconds=30)
        assert apps.status("w")["status"] == "PENDING", process.output()
        cursor.execute("ROLLBACK")
    assert "peers take the work over" in process.output()
    peer = apps.app()
    mine = apps.executor(peer.pid)["executor_id"]
    wait_until(lambda: apps.status("w")["executor_id"] == mine, "a peer goes on", seconds=30)
    assert apps.status("w")["status"] == "PENDING"


# --- web servers -------------------------------------------------------------------------------


def _web(apps: AppRunner, how: str) -> tuple[AppProcess, int]:
    port = free_ports(1)
    command = [str(APPS / "web.py")] if how == "script" else ["-m", "uvicorn", "web:app", f"--port={port}"]
    environment = {"WEB_LIFESPAN": "1"} if how == "lifespan" else {}
    process = apps.run(sys.executable, *command, WEB_PORT=str(port), **environment)
    return process.wait_ready("INFO:     Uvicorn running"), port


@pytest.mark.parametrize("how", ["module", "script", "lifespan"])
def test_a_web_server_hands_over_when_it_returns(apps: AppRunner, how: str) -> None:
    process, port = _web(apps, how)
    post(port, "/workflows/message/w", "payment")
    apps.wait_waiting("w")
    assert process.stop() in (0, -signal.SIGTERM)
    apps.assert_handed_over(process.pid)
    assert apps.notes()[-1][2] == "over"


@pytest.mark.parametrize("how", ["module", "script", "lifespan"])
def test_a_web_server_that_ends_lets_a_step_end(apps: AppRunner, how: str) -> None:
    """uvicorn raises the signal once more when it is over."""
    process, port = _web(apps, how)
    post(port, "/workflows/steps/w", 1, 3.0)
    wait_until(apps.notes, "its step runs", seconds=20)
    assert process.stop() in (0, -signal.SIGTERM)
    assert apps.status("w")["status"] == "SUCCESS", process.output()
    assert len([note for note in apps.notes() if note[2] == "work"]) == 1


def test_workers_of_a_web_server_are_protected(apps: AppRunner) -> None:
    port = free_ports(1)
    process = apps.run(sys.executable, "-m", "uvicorn", "web:app", f"--port={port}", "--workers=2")

    def pids() -> set[int]:
        return {row["pid"] for row in apps.database.rows("SELECT pid FROM ops.executors")}

    wait_until(lambda: len(pids()) == 2, "both workers have registered", seconds=60)
    assert process.pid not in pids()
    process.wait_ready("INFO:     Application startup complete")
    post(port, "/workflows/message/w", "payment")
    apps.wait_waiting("w")
    assert process.stop() == 0
    states = {row["state"] for row in apps.database.rows("SELECT state FROM ops.executors")}
    assert states == {"drained"}
    assert apps.status("w")["status"] == "ENQUEUED"
