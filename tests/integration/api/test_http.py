"""The HTTP layer over real sockets and a real PostgreSQL; nothing executes, so what is stored stays put."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from services.settings import ShowcaseSettings
from tests.support import names
from tests.support.api_server import Api, serving
from tests.support.database import Database, wait_until

ANSWER_SECONDS = 2.0


@pytest.fixture
def api(database: Database) -> Iterator[Api]:
    with serving(database.settings("api")) as made:
        yield made


def stored(database: Database) -> int:
    """Workflows that were asked for; a batch's numbers are stored with it."""
    return int(database.one("SELECT count(*) FROM dbos.workflow_status WHERE parent_workflow_id IS NULL"))


@pytest.mark.parametrize(
    ("path", "application", "queue", "class_name", "instance"),
    [
        ("/scope/class", "holdfast-api", "scope", "ClassScope", None),
        ("/scope/instance/alpha", "holdfast-api", "scope", "InstanceScope", "alpha"),
        ("/scope/function", "holdfast-api", "scope", None, None),
        ("/users/pages", "holdfast-api", "users", None, None),
        ("/nested", "holdfast-api", "nested-roots", None, None),
        ("/fibonacci/batches", "holdfast-worker", "fibonacci-batches", None, None),
    ],
)
def test_started_work_waits_where_its_application_finds_it(  # noqa: PLR0917
    api: Api, database: Database, path: str, application: str, queue: str, class_name: str, instance: str
) -> None:
    answer = api.http.post(path)
    assert answer.status_code == 202
    [row] = database.rows("SELECT * FROM dbos.workflow_status WHERE parent_workflow_id IS NULL")
    assert row["workflow_uuid"] == answer.json()["workflow_id"]
    assert row["status"] == answer.json()["status"] == "ENQUEUED"
    assert (row["application_name"], row["queue_name"]) == (application, queue)
    assert row["application_version"] == f"{application.removeprefix('holdfast-')}-1"
    assert (row["class_name"], row["config_name"]) == (class_name, instance)
    assert row["serialization"] == "portable_json"
    shown = api.http.get(answer.headers["location"]).json()
    assert shown["workflow_id"] == row["workflow_uuid"]


def test_fifty_posts_with_one_key(api: Api, database: Database) -> None:
    def post(body: dict[str, Any]) -> httpx.Response:
        return api.http.post("/fibonacci/batches", json=body, headers={"Idempotency-Key": "key"})

    with ThreadPoolExecutor(50) as threads:
        answers = list(threads.map(post, [{"count": 5}] * 50))
    # Fifty at once may be more than the gateway's threads get through in its time: refused is allowed.
    accepted = [answer for answer in answers if answer.status_code == 202]
    assert {answer.status_code for answer in answers} <= {202, 503}
    assert accepted
    assert len({answer.json()["workflow_id"] for answer in accepted}) == 1
    assert post({"count": 5}).json()["workflow_id"] == accepted[0].json()["workflow_id"]
    assert post({"count": 6}).status_code == 409
    assert stored(database) == 1


def test_a_batch_is_stored_with_its_numbers_or_not_at_all(
    api: Api, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("holdfast.dbos_adapter.gateway.sql", lambda _: "SELECT 1/0")
    assert api.http.post("/fibonacci/batches", json={"count": 3}).status_code == 500
    assert stored(database) == 0


@pytest.mark.parametrize("seed", range(10))
def test_two_bodies_race_for_one_key(api: Api, database: Database, seed: int) -> None:
    def post(count: int) -> httpx.Response:
        return api.http.post(
            "/fibonacci/batches", json={"count": count}, headers={"Idempotency-Key": f"k{seed}"}
        )

    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(post, [1, 2] * 4))
    by_count: dict[int, set[int]] = {1: set(), 2: set()}
    for index, answer in enumerate(answers):
        by_count[1 + index % 2].add(answer.status_code)
    assert sorted(by_count.values(), key=min) == [{202}, {409}]
    assert stored(database) == 1


def test_cancel_resume_and_fork_store_what_they_say(api: Api, database: Database) -> None:
    started = api.http.post("/fibonacci/batches", json={"count": 3}).json()["workflow_id"]
    row = f"SELECT status, queue_name FROM dbos.workflow_status WHERE workflow_uuid = '{started}'"
    assert api.http.post(f"/workflows/{started}/resume").status_code == 409
    assert api.http.post(f"/workflows/{started}/cancel").json()["status"] == "CANCELLED"
    assert database.rows(row) == [{"status": "CANCELLED", "queue_name": None}]
    assert api.http.post(f"/workflows/{started}/cancel").status_code == 409
    assert api.http.post(f"/workflows/{started}/resume").status_code == 202
    assert database.rows(row) == [{"status": "ENQUEUED", "queue_name": names.FIBONACCI_BATCH_QUEUE}]
    children = f"SELECT status, queue_name FROM dbos.workflow_status WHERE parent_workflow_id = '{started}'"
    assert database.rows(children) == [{"status": "ENQUEUED", "queue_name": names.FIBONACCI_QUEUE}] * 3
    assert api.http.post(f"/workflows/{started}/fork", json={"start_step": 2}).status_code == 409
    key = {"Idempotency-Key": "fork"}
    forked = [
        api.http.post(f"/workflows/{started}/fork", headers=key).json()["workflow_id"] for _ in range(2)
    ]
    assert forked[0] == forked[1] != started
    [copy] = database.rows(f"SELECT * FROM dbos.workflow_status WHERE workflow_uuid = '{forked[0]}'")
    assert copy["queue_name"] == names.FIBONACCI_BATCH_QUEUE
    assert copy["application_name"] == "holdfast-worker"
    assert copy["application_version"] == "worker-1"
    assert copy["forked_from"] == started


def test_the_listing_spans_both_applications(api: Api) -> None:
    starts = (("/nested", {}), ("/fibonacci/batches", {"sequential": True}))
    ids = [api.http.post(path, json=body).json()["workflow_id"] for path, body in starts]
    listed = api.http.get("/workflows").json()["workflows"]
    assert [row["workflow_id"] for row in listed] == ids[::-1]
    for query, found in (
        ("name=nesting.root", ids[:1]),
        ("queue=fibonacci-sequences", ids[1:]),
        ("status=SUCCESS", []),
        ("limit=1", ids[1:]),
        ("limit=1&offset=1", ids[:1]),
    ):
        rows = api.http.get(f"/workflows?{query}").json()["workflows"]
        assert [row["workflow_id"] for row in rows] == found, query


def test_a_planted_pickle_is_not_loaded(api: Api, database: Database) -> None:
    """Whoever can write a row must not get code to run in the API."""
    started = api.http.post("/nested").json()["workflow_id"]
    database.rows(
        "UPDATE dbos.workflow_status SET serialization = 'py_pickle', status = 'SUCCESS'"
        " WHERE workflow_uuid = %(id)s",
        id=started,
    )
    database.rows(
        "INSERT INTO dbos.workflow_output (workflow_uuid, output) VALUES (%(id)s, %(pickle)s)",
        id=started,
        # base64 of a pickle that calls os.getcwd
        pickle="gASVFgAAAAAAAACMBXBvc2l4lIwGZ2V0Y3dklJOUKVKULg==",
    )
    shown = api.http.get(f"/workflows/{started}")
    assert shown.status_code == 200
    assert shown.json()["output"] == "stored as pickle, readable only by the application (48 bytes)"


def test_empty_registries_answer(api: Api) -> None:
    assert api.http.get("/executors").json() == {"executors": []}
    assert api.http.get("/schedule").json() == {"pulses": [], "gaps": [], "missed": 0}
    assert api.http.get("/schedules").json() == {"schedules": []}
    assert api.http.post("/executors/nobody/drain").status_code == 404


def test_pulses_are_shown(api: Api, database: Database) -> None:
    for second in ("00", "05", "20"):
        database.rows(
            "INSERT INTO ops.pulses VALUES"
            f" ('2026-01-01T00:00:{second}Z', 'w', 'e', '2026-01-01T00:00:{second}.5Z', 0.5, 'run', 0, 1)"
        )
    schedule = api.http.get("/schedule").json()
    assert [pulse["lateness_seconds"] for pulse in schedule["pulses"]] == [0.5] * 3
    assert schedule["gaps"] == [
        {"first": "2026-01-01T00:00:10+00:00", "last": "2026-01-01T00:00:15+00:00", "missed": 2}
    ]


def test_every_schedule_is_shown_with_its_counts(api: Api, database: Database) -> None:
    database.rows(
        "INSERT INTO dbos.workflow_schedules"
        " (schedule_id, schedule_name, workflow_name, schedule, context, status)"
        " VALUES ('1', 'nightly', 'w', '0 30 2 * * *', 'null', 'PAUSED')"
    )
    database.rows("UPDATE ops.schedules SET missed = 3, skipped = 2, last_tick_at = '2026-01-01T00:00:00Z'")
    assert api.http.get("/schedules").json()["schedules"] == [
        {
            "name": "nightly",
            "workflow": "w",
            "cron": "0 30 2 * * *",
            "time_zone": "UTC",
            "overlap": "allow",
            "catch_up": "none",
            "catch_up_seconds": None,
            "paused": True,
            "last_tick_at": "2026-01-01T00:00:00Z",
            "next_tick_at": None,
            "missed": 3,
            "skipped": 2,
            "unfinished": 0,
        }
    ]


def complete(database: Database, batch_id: str, index: int, result: str) -> None:
    """What an executor leaves of a number that was stored with its batch, by hand."""
    output = {"n": index, "result": result, "executor_id": "worker-x", "attempts": 1, "seconds": 0.1}
    database.rows(
        "UPDATE dbos.workflow_status SET status = 'SUCCESS', executor_id = 'worker-x', recovery_attempts = 1"
        " WHERE workflow_uuid = %(id)s",
        id=f"{batch_id}-{index}",
    )
    database.rows(
        "INSERT INTO dbos.workflow_output (workflow_uuid, output) VALUES (%(id)s, %(output)s)",
        id=f"{batch_id}-{index}",
        output=json.dumps(output),
    )


def test_a_batch_and_its_events(api: Api, database: Database) -> None:
    body = {"numbers": [0, 1, 2]}
    batch_id = api.http.post("/fibonacci/batches", json=body).json()["workflow_id"]
    complete(database, batch_id, 1, "1")
    batch = api.http.get(f"/fibonacci/batches/{batch_id}").json()
    assert (batch["total"], batch["completed"]) == (3, 1)
    assert [row["result"] for row in batch["results"]] == [None, "1", None]
    seen = []
    with api.http.stream("GET", f"/fibonacci/batches/{batch_id}/events") as stream:
        for line in stream.iter_lines():
            if not line.startswith("data: "):
                continue
            data = json.loads(line[6:])
            seen.append(data)
            if len(seen) == 1:
                complete(database, batch_id, 2, "1")
            elif data.get("index") == 2:
                api.http.post(f"/workflows/{batch_id}/cancel")
    assert seen[0]["completed"] == 1
    assert seen[1]["result"] == "1"
    assert seen[-1] == {
        "workflow_id": batch_id,
        "status": "CANCELLED",
        "total": 3,
        "completed": 2,
        "error": None,
    }


def test_what_waits_for_a_lock_or_takes_too_long_says_so(api: Api, database: Database) -> None:
    """A batch whose table is locked, and a statement that ends at its limit: PostgreSQL does answer."""
    holder = database.admin()
    with holder.cursor() as cursor:
        cursor.execute("BEGIN; LOCK TABLE dbos.workflow_status IN ACCESS EXCLUSIVE MODE")
        locked = api.http.get("/workflows")
        cursor.execute("ROLLBACK")
    assert (locked.status_code, locked.headers["retry-after"]) == (503, "1")
    assert locked.json()["type"].endswith("lock-timeout") and "other work held" in locked.json()["detail"]
    database.rows(
        "CREATE FUNCTION ops.sleep() RETURNS boolean LANGUAGE sql AS 'SELECT pg_sleep(60) IS NOT NULL';"
        "ALTER VIEW ops.protected RENAME TO was_protected;"
        "CREATE VIEW ops.protected AS SELECT name FROM ops.was_protected WHERE ops.sleep();"
        "GRANT SELECT ON ops.protected TO holdfast_api"
    )
    api.http.post("/nested")
    slow = api.http.get("/stranded")
    assert slow.status_code == 503 and slow.json()["type"].endswith("statement-timeout")
    assert "answers, but this took longer" in slow.json()["detail"]


def test_a_drain_ends_an_open_stream_and_a_wait(api: Api) -> None:
    batch_id = api.http.post("/fibonacci/batches", json={"sequential": True}).json()["workflow_id"]
    ended: list[float] = []
    waited: list[httpx.Response] = []

    def follow() -> None:
        with api.http.stream("GET", f"/fibonacci/batches/{batch_id}/events") as stream:
            for _ in stream.iter_lines():
                pass
        ended.append(time.monotonic())

    def wait() -> None:
        waited.append(api.http.post("/nested", json={"wait": True}))
        ended.append(time.monotonic())

    threads = [threading.Thread(target=follow), threading.Thread(target=wait)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(api.http.get("/workflows").json()["workflows"]) == 2, "both are open")
    begun = time.monotonic()
    assert api.http.post("/shutdown").status_code == 202
    for thread in threads:
        thread.join(10)
    assert len(ended) == 2
    assert max(ended) - begun < 8, "the next heartbeat of a stream comes after ten seconds"
    assert waited[0].status_code == 202
    assert waited[0].json()["workflow_id"]


@pytest.mark.parametrize("declared", [True, False], ids=["content-length", "chunked"])
def test_a_ten_megabyte_body_gets_an_answer_not_a_reset(api: Api, database: Database, declared: bool) -> None:
    content = b'{"queued": true}'.ljust(10_000_000)
    body: Any = (
        content if declared else iter([content[i : i + 65_536] for i in range(0, len(content), 65_536)])
    )
    answer = api.http.post("/nested", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 413
    assert answer.headers["content-type"] == "application/problem+json"
    assert stored(database) == 0


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"POST /nested HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"POST /nested HTTP/1.1\r\nHost: localhost\r\nContent-Length: many\r\n\r\n",
        b"POST /nested HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /\x00 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"nonsense\r\n\r\n",
    ],
)
def test_broken_http_is_refused_and_the_server_lives(api: Api, request_bytes: bytes) -> None:
    with socket.create_connection(api.address, timeout=10) as connection:
        connection.sendall(request_bytes)
        answer = connection.recv(4096)
    assert answer == b"" or answer.split(b" ")[1].startswith(b"4")
    assert api.http.get("/livez").status_code == 200


EVERYTHING = [
    ("GET", "/workflows"),
    ("GET", "/workflows/w"),
    ("GET", "/workflows/w/steps"),
    ("GET", "/fibonacci/batches/w"),
    ("GET", "/fibonacci/batches/w/events"),
    ("GET", "/executors"),
    ("GET", "/schedule"),
    ("GET", "/schedules"),
    ("POST", "/nested"),
    ("POST", "/scope/class"),
    ("POST", "/users/pages"),
    ("POST", "/fibonacci/batches"),
    ("POST", "/workflows/w/cancel"),
    ("POST", "/workflows/w/resume"),
    ("POST", "/workflows/w/fork"),
    ("POST", "/executors/e/drain"),
]


def refused_in_time(api: Api) -> None:
    """Everything at once, as a page and a few clients would: 503 within two seconds, and still alive."""

    def ask(call: tuple[str, str]) -> tuple[str, int, str | None, float]:
        begun = time.monotonic()
        # The key makes starting work two statements: both must fit into the time.
        headers = {"Idempotency-Key": call[1]} if call[0] == "POST" else {}
        answer = api.http.request(*call, headers=headers)
        return call[1], answer.status_code, answer.headers.get("retry-after"), time.monotonic() - begun

    # The first request of a server imports and builds what the others share. That is no wait for PostgreSQL.
    assert api.http.get("/livez").status_code == 200
    with ThreadPoolExecutor(len(EVERYTHING)) as threads:
        for path, status, retry, seconds in threads.map(ask, EVERYTHING):
            assert (status, retry) == (503, "1"), path
            assert seconds < ANSWER_SECONDS, path
    assert api.http.get("/livez").status_code == 200


@pytest.fixture
def elsewhere(database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A port in place of the database's; it listens once the test says so."""
    for name, value in database.server.environment(database.name, "api").items():
        monkeypatch.setenv(name, value)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HOLDFAST_DATABASE_PORT", str(listener.getsockname()[1]))
        yield listener


@pytest.mark.timing
def test_a_database_that_refuses(database: Database, elsewhere: socket.socket) -> None:
    # No heartbeat goes through either.
    with serving(ShowcaseSettings(), heartbeat_age_seconds=lambda: 60.0) as api:
        refused_in_time(api)


@pytest.mark.timing
def test_a_database_that_never_answers(database: Database, elsewhere: socket.socket) -> None:
    elsewhere.listen(1000)
    # No heartbeat goes through either.
    with serving(ShowcaseSettings(), heartbeat_age_seconds=lambda: 60.0) as api:
        refused_in_time(api)
        # Threads still hang in their connects: who comes next must not queue up behind them.
        refused_in_time(api)


@pytest.mark.timing
def test_a_database_that_stops_answering(database: Database) -> None:
    last_heartbeat = [float("inf")]
    with serving(
        database.settings("api"), heartbeat_age_seconds=lambda: time.monotonic() - last_heartbeat[0]
    ) as api:
        assert api.http.post("/nested").status_code == 202
        with database.server.paused():
            last_heartbeat[0] = time.monotonic()
            refused_in_time(api)
        last_heartbeat[0] = float("inf")
        wait_until(lambda: api.http.get("/workflows").status_code == 200, "it goes on by itself")
