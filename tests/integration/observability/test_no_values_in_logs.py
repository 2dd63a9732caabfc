"""Faults that make DBOS, SQLAlchemy and PostgreSQL raise: nothing of what they held is written anywhere."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import suppress

import psycopg2
import pytest
from dbos import DBOS

from tests.support.api_server import serving
from tests.support.database import Database, wait_until
from tests.support.engines import launched
from tests.support.logged import logged

QUEUE = "values-q"
PLANTED = "planted-7f3a91"
REFUSED = "ALTER TABLE {} ADD CONSTRAINT refused CHECK (false) NOT VALID"


@DBOS.step(name="values.step")
def _step(given: str) -> str:
    return f"{given}-output"


@DBOS.workflow(name="values.workflow", max_recovery_attempts=None)
def _workflow(given: str) -> str:
    return _step(given)


@pytest.fixture(params=["INFO", "DEBUG"], autouse=True)
def _nothing_written(request: pytest.FixtureRequest, database: Database) -> Iterator[None]:
    with logged(request.param) as written:
        yield
    text = written.getvalue()
    assert PLANTED not in text
    assert PLANTED not in server_log(database)
    if "refuses" in request.node.name:
        assert "violates check constraint" in text, "the fault is not in the log: nothing was tested"


def test_a_request_that_the_database_refuses(database: Database) -> None:
    with serving(database.settings("api")) as api:
        headers = {"Idempotency-Key": PLANTED}
        database.rows(REFUSED.format("ops.requests"))
        first = api.http.post("/scope/class", json={"steps": 3}, headers=headers)
        database.rows(REFUSED.format("dbos.workflow_input"))
        started = api.http.post(f"/scope/instance/alpha?x={PLANTED}", json={"steps": 3})
        for answer in (first, started):
            assert answer.status_code == 500
            assert "refused" not in answer.text and PLANTED not in answer.text


def test_a_step_that_the_database_refuses(database: Database) -> None:
    with launched(database, queues=[QUEUE]) as app:
        app.queue(QUEUE)
        database.rows(REFUSED.format("dbos.operation_outputs"))
        app.enqueue("values.workflow", PLANTED, queue=QUEUE, workflow_id="w")
        app.waker.wake(QUEUE)
        app.wait("w", "ERROR")


def test_a_backend_that_is_killed(database: Database) -> None:
    """PostgreSQL says what it ran, in the line that tells of its death."""
    connection = database.connect()
    pid = connection.info.backend_pid
    with suppress(psycopg2.OperationalError), connection.cursor() as cursor:
        cursor.execute(f"SELECT '{PLANTED}'")
        os.kill(pid, signal.SIGKILL)
        cursor.execute("SELECT 1")

    def back() -> bool:
        with suppress(psycopg2.Error):
            database.server.admin().close()
            return f"(PID {pid}) was terminated by signal 9" in server_log(database)
        return False

    wait_until(back, "PostgreSQL is back", seconds=20)


def server_log(database: Database) -> str:
    return database.server.cluster.log.read_text("utf-8", "replace")
