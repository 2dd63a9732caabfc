"""Sagas that refund at any error, while PostgreSQL only reads or its standby is promoted: none refunds."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from dbos import DBOS, SetWorkflowID

from holdfast.process.process import Process
from tests.support import names
from tests.support.api_server import Api, serving
from tests.support.database import Database, Server, wait_until
from tests.support.engines import worker_process
from tests.support.executors import Peer, insert
from tests.support.failover import Pair, read_only
from tests.support.reporting import record
from tests.support.requests import every_request

CHARGES = 12
SAGAS = 10
_done: Counter[str] = Counter()
_lock = threading.Lock()


def _mark(what: str) -> None:
    with _lock:
        _done[f"{what} {DBOS.workflow_id}"] += 1


@DBOS.step(name="failover.charge")
def _charge() -> str:
    _mark("charge")
    time.sleep(0.2)
    return "charged"


@DBOS.step(name="failover.charge_async")
async def _charge_async() -> str:
    _mark("charge")
    await asyncio.sleep(0.2)
    return "charged"


@DBOS.step(name="failover.refund")
def _refund(why: str) -> str:
    _mark("refund")
    return f"refunded: {why}"


@DBOS.workflow(name="failover.saga", max_recovery_attempts=None)
def _saga() -> str:
    for number in range(CHARGES):
        try:
            _charge()
            DBOS.set_event("charged", number)
        except Exception as error:
            return _refund(repr(error))
    return "charged"


@DBOS.workflow(name="failover.saga_async", max_recovery_attempts=None)
async def _saga_async() -> str:
    for number in range(CHARGES):
        try:
            await _charge_async()
            await DBOS.set_event_async("charged", number)
        except Exception as error:
            return await asyncio.to_thread(_refund, repr(error))
    return "charged"


@contextmanager
def _sagas(database: Database) -> Iterator[Process]:
    """Ten sync, ten async and a few queued ones run inside; in the end each has charged, each charge once."""
    _done.clear()
    # What a worker's role may do with events shows elsewhere (test_roles.py).
    database.rows("GRANT ALL ON ALL TABLES IN SCHEMA dbos TO holdfast_worker")
    with worker_process(database) as process:
        handles: list[Any] = []
        for number in range(SAGAS):
            with SetWorkflowID(f"sync-{number}"):
                handles.append(DBOS.start_workflow(_saga))
            with SetWorkflowID(f"async-{number}"):
                handles.append(DBOS.start_workflow(_saga_async))
        for number in range(2):
            with SetWorkflowID(f"queued-{number}"):
                handles.append(DBOS.enqueue_workflow(names.FIBONACCI_BATCH_QUEUE, _saga))
        wait_until(lambda: len(_done) == len(handles), "all of them charge", seconds=20)
        yield process
        back = time.monotonic()
        outcomes = Counter(handle.get_result(polling_interval_sec=0.1) for handle in handles)
        record("PostgreSQL back to the last saga's end, seconds", time.monotonic() - back)
        assert outcomes == {"charged": len(handles)}
        wanted = {f"charge {handle.get_workflow_id()}": CHARGES for handle in handles}
        assert dict(_done) == wanted, "every charge once, no refund"
        rows = database.rows(
            "SELECT workflow_uuid, count(*) AS n FROM dbos.operation_outputs"
            " WHERE function_name LIKE 'failover.charge%%' GROUP BY 1",
            unused=1,
        )
        assert {f"charge {row['workflow_uuid']}": row["n"] for row in rows} == wanted, "nothing is lost"


@pytest.mark.parametrize("seconds", [1.0, 6.0])
def test_a_server_that_only_reads_refunds_nobody(database: Database, seconds: float) -> None:
    with _sagas(database), read_only(database.server.run):
        time.sleep(seconds)


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    made = Pair()
    try:
        yield made
    finally:
        made.close()


def test_a_promoted_standby_refunds_nobody_and_loses_nothing(pair: Pair) -> None:
    with Database.lent(pair) as database:
        wait_until(lambda: _replicated(pair), "the standby has the database")
        with _sagas(database):
            pair.kill_primary()
            time.sleep(1.0)
            pair.promote()


NEEDS_NO_DATABASE = {
    "/livez": 200,
    "/readyz": 200,  # of the fake process
    "/metrics": 200,
    "/console/snapshot": 200,  # what it saw last
    "/executors/x/crash": 403,
}


def _ask_all(api: Api, turn: str) -> dict[tuple[str, str], int]:
    """The status of one request for each operation; each is answered in time, and says when to come again."""
    operation = "cancel-" + "0" * 32
    values = {"workflow_id": "w", "name": "alpha", "bucket": "bucket", "operation_id": operation}
    answered = {}
    for method, path, body in every_request(api.http.get("/openapi.json").json(), values):
        begun = time.monotonic()
        headers = {"Idempotency-Key": f"{turn}-{method}-{path}"}
        with api.http.stream(method, path, json=body, headers=headers) as answer:
            answered[method, path] = answer.status_code
            assert answer.status_code != 503 or answer.headers.get("retry-after"), path
        assert time.monotonic() - begun < 10, path
    del answered["POST", "/shutdown"]  # of the fake process
    return answered


@pytest.mark.parametrize("warm", [False, True])
def test_every_request_is_refused_as_unavailable(database: Database, warm: bool) -> None:
    """Also before the next heartbeat tells that PostgreSQL only reads, which takes up to a second."""
    Peer.start(database, "worker-a")
    insert(database, ["w"], status="SUCCESS")
    with serving(database.settings("api")) as api:
        if warm:
            _ask_all(api, "warm")
        with read_only(database.server.run):
            answered = _ask_all(api, "read-only")
    if warm:
        # Sessions that were opened before still read.
        assert 500 not in answered.values(), answered
        written = {key for key, status in answered.items() if key[0] != "GET" and status < 300}
        assert written == set()
        assert answered["POST", "/scope/class"] == 503
    else:
        others = {path: status for (_, path), status in answered.items() if status != 503}
        others.pop("/console/events", None)  # it may have a snapshot already
        assert others == NEEDS_NO_DATABASE


def _replicated(pair: Server) -> bool:
    connection = pair.admin()
    try:
        cursor = connection.cursor()
        cursor.execute(
            "SELECT count(*) AS n FROM pg_stat_replication WHERE replay_lsn = pg_current_wal_lsn()"
        )
        return bool(cursor.fetchone()["n"])
    finally:
        connection.close()
