"""An application whose async workflows run on its server's own event loop, because it launches DBOS there."""

from __future__ import annotations

import signal
import socket
import sys

import pytest

from tests.support.attached import AppProcess, AppRunner, post
from tests.support.database import wait_until
from tests.support.stack import free_ports

_LIFESPANS = pytest.mark.parametrize("lifespan", ["launch and destroy", "launch"])


def _serve(apps: AppRunner, lifespan: str) -> tuple[AppProcess, int]:
    port = free_ports(1)
    process = apps.run(sys.executable, "-m", "uvicorn", "web:app", f"--port={port}", WEB_LIFESPAN=lifespan)
    return process.wait_ready("INFO:     Uvicorn running"), port


@_LIFESPANS
def test_waiting_work_is_handed_over_while_the_server_still_answers(apps: AppRunner, lifespan: str) -> None:
    process, port = _serve(apps, lifespan)
    post(port, "/async/message_async/w", "payment")
    apps.wait_waiting("w")
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(b"GET /held HTTP/1.1\r\nHost: localhost\r\n\r\n")
        wait_until(lambda: post(port, "/workflows/steps/beside", 0, 0), "the server has read both")
        process.popen.send_signal(signal.SIGTERM)
        # The server waits for its client, and its lifespan is not over.
        apps.wait_status("w", "ENQUEUED")
        assert [note for note in apps.notes() if note[2] == "over"] == []
    assert process.popen.wait(40) in (0, -signal.SIGTERM), process.output()
    apps.assert_handed_over(process.pid)


@_LIFESPANS
def test_a_step_that_runs_on_the_loop_is_handed_over(apps: AppRunner, lifespan: str) -> None:
    process, port = _serve(apps, lifespan)
    post(port, "/async/steps_async/w", 1, 600)
    wait_until(apps.notes, "its step runs", seconds=20)
    assert process.stop() in (0, -signal.SIGTERM), process.output()
    apps.assert_handed_over(process.pid)
