"""gunicorn under ``holdfast run``: its workers are protected, unless it launched DBOS before the fork."""

from __future__ import annotations

import sys

import pytest

from holdfast.attached.forks import FORKED
from tests.support.attached import AppProcess, AppRunner, post
from tests.support.database import wait_until
from tests.support.stack import free_ports

_WORKERS = {
    "sync": ("wsgi:app",),
    "threads": ("wsgi:app", "--worker-class=gthread", "--threads=2"),
    "uvicorn": ("web:app", "--worker-class=uvicorn.workers.UvicornWorker"),
}


def _serve(apps: AppRunner, *arguments: str, **environment: str) -> tuple[AppProcess, int]:
    port = free_ports(1)
    command = [sys.executable, "-m", "gunicorn", f"--bind=127.0.0.1:{port}", "--no-control-socket"]
    return apps.run(*command, *arguments, **environment), port


def _executors(apps: AppRunner, count: int) -> set[int]:
    """Waits until so many processes have launched, and returns their ids."""
    server = apps.processes[-1]
    wait_until(
        lambda: server.output().count("protected: executor") == count,
        f"{count} executors: {server.output()}",
        seconds=30,
    )
    return {row["pid"] for row in apps.database.rows("SELECT pid FROM ops.executors")}


@pytest.mark.parametrize("kind", _WORKERS)
def test_workers_are_protected_and_drain_at_sigterm(apps: AppRunner, kind: str) -> None:
    process, port = _serve(apps, *_WORKERS[kind], "--workers=2")
    assert process.pid not in _executors(apps, 2)
    pid = post(port, "/workflows/message/w", "payment")
    apps.wait_waiting("w")
    assert process.stop() == 0, process.output()
    apps.assert_handed_over(pid)
    assert {row["state"] for row in apps.database.rows("SELECT state FROM ops.executors")} == {"drained"}


def test_with_preload_each_worker_says_that_it_must_not_run_workflows(apps: AppRunner) -> None:
    process, _ = _serve(apps, *_WORKERS["sync"], "--workers=2", "--preload")
    # Only gunicorn's own process launched DBOS.
    assert _executors(apps, 1) == {process.pid}
    wait_until(lambda: process.output().count(FORKED) == 2, "both workers say it")
    assert process.stop() == 0, process.output()
    assert apps.executor(process.pid)["state"] == "drained"


def test_with_preload_and_a_launch_in_the_lifespan_workers_are_protected(apps: AppRunner) -> None:
    process, port = _serve(apps, *_WORKERS["uvicorn"], "--workers=2", "--preload", WEB_LIFESPAN="1")
    assert process.pid not in _executors(apps, 2)
    pid = post(port, "/workflows/message/w", "payment")
    apps.wait_waiting("w")
    assert process.stop() == 0, process.output()
    apps.assert_handed_over(pid)
    assert FORKED not in process.output()


def test_a_killed_worker_is_taken_over_by_its_sibling(apps: AppRunner) -> None:
    _, port = _serve(apps, *_WORKERS["sync"], "--workers=2")
    _executors(apps, 2)
    pid = post(port, "/workflows/steps/w", 3, 0.5)
    wait_until(lambda: len(apps.notes()) >= 2, "its second step runs", seconds=20)
    apps.kill(pid)
    apps.wait_status("w")
    assert apps.executor(pid)["state"] == "dead"
