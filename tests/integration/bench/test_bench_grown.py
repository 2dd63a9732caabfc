"""The benchmark's filler: copies of a workflow that really ran, in every table that it has rows in."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing

import psycopg2
import pytest
from dbos import DBOS

from bench.compare import grown
from bench.compare.processes import NotMeasured
from holdfast.dbos_adapter.ledger import EffectLedger
from holdfast.postgres.sessions import Sessions
from tests.support.database import Database, wait_until
from tests.support.engines import Launched, client, launched
from tests.support.executors import workflow

QUEUE = "grown-q"
ROWS = 500

_ledger: list[EffectLedger] = []


@DBOS.step(name="grown.step")
def _step(n: int) -> dict[str, int]:
    return {"n": n}


@DBOS.workflow(name="grown.model", max_recovery_attempts=None)
def _model(n: int) -> dict[str, int]:
    result = _step(n)
    _ledger[0].record("effect", executor_id="worker-a", n=n, sha256="x")
    return result


@pytest.fixture
def app(database: Database) -> Iterator[Launched]:
    settings = database.settings()
    sessions = Sessions(settings, purpose="holdfast/worker-engine/trips", size=2)

    def prepare() -> None:
        effects = "holdfast/worker-engine/effects"
        _ledger[:] = [EffectLedger(settings, sessions, application="holdfast-worker", purpose=effects)]

    with launched(database, queues=[QUEUE], prepare=prepare) as made:
        made.queue(QUEUE, worker_concurrency=None)
        yield made
    _ledger[0].datasource.engine.dispose()
    sessions.close()


def fill(database: Database, model: str) -> None:
    secret = database.server.secrets / "postgres" / "superuser"
    with closing(
        psycopg2.connect(
            host="127.0.0.1",
            port=database.server.cluster.port,
            user="postgres",
            dbname=database.name,
            password=secret.read_text("ascii").strip(),
        )
    ) as connection:
        connection.autocommit = True
        grown.fill(connection, model, ROWS)


def test_copies_are_whole_and_spread_over_a_day(app: Launched, database: Database) -> None:
    app.enqueue("grown.model", 7, queue=QUEUE, workflow_id="model")
    app.waker.wake(QUEUE)
    wait_until(lambda: workflow(database, "model")["status"] == "SUCCESS", "the model ends")
    of_model = {
        table: database.one(f"SELECT count(*) FROM {table} WHERE {key} = 'model'")
        for table, key in grown.TABLES.items()
    }
    assert all(of_model.values()), of_model
    fill(database, "model")
    for table, key in grown.TABLES.items():
        distinct = "effect_key" if table == "ops.effects" else key
        copies = database.rows(
            f"SELECT count(*) AS n, count(DISTINCT {distinct}) AS ids FROM {table} WHERE {key} LIKE 'old-%%'"
        )
        assert copies == [{"n": ROWS * of_model[table], "ids": ROWS}], table
    now = time.time() * 1000
    (span,) = database.rows(
        "SELECT min(completed_at) AS first, max(completed_at) AS last, count(DISTINCT status) AS statuses"
        " FROM dbos.workflow_status WHERE workflow_uuid LIKE 'old-%'"
    )
    assert span["statuses"] == 1
    day = 1000 * grown.SPREAD_SECONDS
    assert now - day - 60_000 < span["first"] < now - 0.99 * day < span["last"] <= now
    # What DBOS itself reads of a copy is what it reads of the model.
    reading = client(database)
    try:
        for name in ("model", "old-1", f"old-{ROWS}"):
            assert reading.retrieve_workflow(name).get_result() == {"n": 7}
    finally:
        reading.destroy()


def test_without_a_model_nothing_is_called_filled(database: Database) -> None:
    with pytest.raises(NotMeasured, match="only 0 rows"):
        fill(database, "nobody")
