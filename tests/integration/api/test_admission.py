"""The limit of unfinished work over a real PostgreSQL: what it lets through, and what counting costs."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from holdfast.postgres.statements import sql
from tests.support.api_server import serving
from tests.support.database import Database
from tests.support.reporting import record

LIMIT = 100_000
FINISHED = 300_000

_FILL = """
INSERT INTO dbos.workflow_status (workflow_uuid, status, name, queue_name, application_name,
    application_version, created_at, updated_at)
SELECT %(prefix)s || i, %(status)s, 'fibonacci.number', 'fibonacci', 'holdfast-worker', 'worker-1', i, i
FROM generate_series(1, %(rows)s) AS i
"""


def unfinished(database: Database) -> int:
    return int(database.one("SELECT count(*) FROM dbos.workflow_status WHERE status = 'ENQUEUED'"))


def test_work_up_to_the_limit_and_stored_work_beyond_it(database: Database) -> None:
    key = {"Idempotency-Key": "k"}
    with serving(database.settings("api", queue_limit=10)) as api:
        first = api.http.post("/nested", headers=key)
        # A batch counts with the numbers that are stored with it.
        batches = [api.http.post("/fibonacci/batches", json={"count": 3}) for _ in range(2)]
        answers = batches + [api.http.post("/nested") for _ in range(4)]
        assert [answer.status_code for answer in answers] == [202] * 3 + [503] * 3
        assert answers[-1].headers["retry-after"] == "5"
        again = api.http.post("/nested", headers=key)
        assert (again.status_code, again.json()) == (202, first.json())
        assert api.http.post("/nested", headers={"Idempotency-Key": "new"}).status_code == 503
        assert database.one("SELECT count(*) FROM ops.requests") == 1
        assert unfinished(database) == 10
        # Reading and orders go on.
        assert api.http.get("/workflows").status_code == 200
        assert api.http.post(f"/workflows/{first.json()['workflow_id']}/cancel").status_code == 200


def test_two_processes_at_once_go_beyond_it_by_what_one_lets_in(database: Database) -> None:
    settings = database.settings("api", queue_limit=50)
    with serving(settings) as one, serving(settings) as other, ThreadPoolExecutor(8) as threads:

        def post(number: int) -> httpx.Response:
            return (one, other)[number % 2].http.post("/nested")

        statuses = [answer.status_code for answer in threads.map(post, range(200))]
    assert set(statuses) == {202, 503}
    assert 50 <= statuses.count(202) == unfinished(database) <= 100


def explained(database: Database) -> Any:
    with database.connect(role="api").cursor() as cursor:
        cursor.execute("EXPLAIN (ANALYZE, FORMAT JSON) " + sql("backlog"), {"limit": LIMIT})
        (plan,) = next(iter(cursor.fetchone().values()))  # type: ignore[union-attr]
        return plan


@pytest.mark.timing
@pytest.mark.timeout(300)
def test_counting_a_backlog_beside_much_finished_work_is_cheap(database: Database) -> None:
    database.rows(_FILL, prefix="done-", status="SUCCESS", rows=FINISHED)
    for rows, bound_milliseconds in ((1000, 20), (LIMIT, 500)):
        database.rows(_FILL, prefix=f"todo-{rows}-", status="ENQUEUED", rows=rows)
        database.rows("VACUUM ANALYZE dbos.workflow_status")
        plan = explained(database)
        assert "Seq Scan" not in str(plan) and "in_flight" in str(plan), plan
        record(f"backlog_count_milliseconds_at_{rows}", plan["Execution Time"])
        assert plan["Execution Time"] < bound_milliseconds
    with serving(database.settings("api")) as api:
        took = []
        for _ in range(20):
            began = time.monotonic()
            assert api.http.post("/nested").status_code == 503
            took.append(time.monotonic() - began)
        record("refusal_median_milliseconds", sorted(took)[10] * 1000)
        assert sorted(took)[10] < 0.1, "counted for each"
        database.rows("UPDATE dbos.workflow_status SET status = 'SUCCESS' WHERE workflow_uuid LIKE 'todo-%%'")
        deadline = time.monotonic() + 30
        while api.http.post("/nested").status_code == 503:
            assert time.monotonic() < deadline, "it stays closed"
            time.sleep(0.1)
