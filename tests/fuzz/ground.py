"""What the fuzzer aims at: the API over a real PostgreSQL, with stored work in every state.

Real are sockets, HTTP, middleware, routes, gateway, DBOS's client and the database. Stood in for are only
what would end the target or what waits for hours: an order to stop is noted and not followed, executors
are rows without a process (so a drain or crash is stored and nobody dies), and in the executors' place a
thread ends whatever is enqueued within moments, so that waits and event streams end. It also stores again
what was deleted.
"""

from __future__ import annotations

import json
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from itertools import cycle

from holdfast.statuses import TERMINAL
from services.api.users import workflows as users
from tests.support.api_server import Api, serving
from tests.support.database import Database
from tests.support.executors import insert
from tests.unit.api_fakes import FakeProcess

ODD_IDS = ["a/steps", "..", "%2F", "50% #1?", "line\nend", "😀/ü", "x" * 1000]
"""Their workflows end in each of the states."""
EXECUTORS = {"worker-live-1": "live", "worker-draining-1": "draining", "worker-dead-1": "dead"}
END_SECONDS = 0.05

# One in seven ends cancelled, one in eleven parked: both can be resumed.
_END = """
WITH ended AS (
    UPDATE dbos.workflow_status SET status = CASE
        WHEN abs(hashtext(workflow_uuid)) % 7 = 0 THEN 'CANCELLED'
        WHEN abs(hashtext(workflow_uuid)) % 11 = 0 THEN 'MAX_RECOVERY_ATTEMPTS_EXCEEDED'
        ELSE 'SUCCESS' END
    WHERE status = 'ENQUEUED' RETURNING workflow_uuid, status
)
INSERT INTO dbos.workflow_output (workflow_uuid, output)
SELECT workflow_uuid, '{"counted": 1}' FROM ended WHERE status = 'SUCCESS'
ON CONFLICT DO NOTHING
"""


class Target(FakeProcess):
    """An API process with a credential cache that notes orders to stop and goes on."""

    @asynccontextmanager
    async def life(self) -> AsyncIterator[None]:
        users.open_cache(self.settings)
        try:
            yield
        finally:
            users.close_cache()

    def request_stop(self, reason: str) -> None:
        self.stops.append(reason)


# A fuzzer that deletes leaves something for the next call.
_KEEP = "CREATE TABLE public.kept_{table} AS SELECT * FROM dbos.{table}"
_RESTORE = "INSERT INTO dbos.{table} SELECT * FROM public.kept_{table} ON CONFLICT DO NOTHING"
_TABLES = ("workflow_status", "workflow_input", "workflow_output", "operation_outputs")


@dataclass
class Ground:
    """The running target, and the ids that exist there."""

    api: Api
    database: Database
    workflows: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        host, port = self.api.address
        return f"http://{host}:{port}"


@contextmanager
def ground(database: Database) -> Iterator[Ground]:
    """Serve, fill, and end enqueued work until the block ends."""
    with serving(database.settings("api", chaos=True), Target()) as api:
        made = Ground(api, database)
        stop = threading.Event()
        connection = database.admin()

        def end_work() -> None:
            while not stop.wait(END_SECONDS):
                with connection.cursor() as cursor:
                    cursor.execute(_END)
                    for table in _TABLES:
                        cursor.execute(_RESTORE.format(table=table))

        _fill(made)
        for table in _TABLES:
            database.rows(_KEEP.format(table=table))
        thread = threading.Thread(target=end_work)
        thread.start()
        try:
            yield made
        finally:
            stop.set()
            thread.join()


def _fill(made: Ground) -> None:
    for executor_id, state in EXECUTORS.items():
        made.database.rows(
            """
            INSERT INTO ops.executors (executor_id, application, application_version, role, hostname, pid,
                port, state, slots, ended_at)
            VALUES (%(id)s, 'holdfast-worker', 'worker-1', 'worker', 'host', 7, 1, %(state)s, 2,
                CASE WHEN %(state)s = 'dead' THEN clock_timestamp() END)
            """,
            id=executor_id,
            state=state,
        )
    for second in (0, 5, 20):
        made.database.rows(
            "INSERT INTO ops.pulses VALUES (%(at)s, 'w', 'e', %(at)s, 0.5, 'run', 0, 1)",
            at=f"2026-01-01T00:00:{second:02}Z",
        )
    for state in TERMINAL:
        for path in ("/fibonacci/batches", "/scope/class"):
            started = made.api.http.post(path).json()["workflow_id"]
            made.workflows.append(started)
            made.database.rows(
                "UPDATE dbos.workflow_status SET status = %(state)s WHERE workflow_uuid = %(id)s",
                id=started,
                state=state,
            )
            if state == "SUCCESS":
                _record(made.database, started)
    for workflow_id, state in zip(ODD_IDS, cycle(TERMINAL), strict=False):
        insert(made.database, [workflow_id], status=state)
        made.workflows.append(workflow_id)
        _record(made.database, workflow_id)


def _record(database: Database, workflow_id: str) -> None:
    """Two steps and an output, as an executor leaves them."""
    for step in (1, 2):
        database.rows(
            """
            INSERT INTO dbos.operation_outputs (workflow_uuid, function_id, function_name, output,
                serialization)
            VALUES (%(id)s, %(step)s, 'count', '{"counted": 1}', 'portable_json')
            """,
            id=workflow_id,
            step=step,
        )
    database.rows(
        "INSERT INTO dbos.workflow_output (workflow_uuid, output) VALUES (%(id)s, %(output)s)",
        id=workflow_id,
        output=json.dumps({"counted": 2}),
    )
