"""The console's figures over real sockets and a filled PostgreSQL: resuming, bounds, cost, outages, ends."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest

from holdfast.postgres.database import query
from holdfast.postgres.statements import sql
from tests.support import names
from tests.support.api_server import Api, serving
from tests.support.database import Database, wait_until
from tests.support.executors import Peer, claim, insert, workflow

FINISHED = 50_000


@pytest.fixture
def api(database: Database) -> Iterator[Api]:
    with serving(database.settings("api")) as made:
        yield made


class Page:
    """One open page: reads its stream in a thread."""

    def __init__(self, api: Api, last_event_id: str | None = None) -> None:
        self.events: list[tuple[str, str, Any]] = []
        self.ended = threading.Event()
        headers = {"Last-Event-ID": last_event_id} if last_event_id else {}
        self._client = httpx.Client(timeout=30, trust_env=False)
        self._request = self._client.build_request(
            "GET", f"{str(api.http.base_url).rstrip('/')}/console/events", headers=headers
        )
        self.response = self._client.send(self._request, stream=True)
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self) -> None:
        fields: dict[str, str] = {}
        try:
            for line in self.response.iter_lines():
                name, _, value = line.partition(": ")
                fields[name] = value
                if not line:
                    if "data" in fields:
                        self.events.append((fields["event"], fields["id"], json.loads(fields["data"])))
                    fields = {}
        except httpx.TransportError:
            pass
        self.ended.set()

    def __enter__(self) -> Page:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def wait(self, condition: Any, what: str, seconds: float = 10) -> Any:
        return wait_until(lambda: next((e for e in self.events if condition(e)), None), what, seconds=seconds)


def outcomes(page: Page, workflow_id: str) -> dict[str, Any]:
    """The newest state of each bar of a workflow, by executor."""
    found = {}
    for _, _, data in list(page.events):
        for bar in data.get("bars", []):
            if bar["workflow_id"] == workflow_id:
                found[bar["executor_id"]] = bar
    return found


def now_ms() -> int:
    return int(time.time() * 1000)


@pytest.mark.timing
def test_a_takeover_is_seen_within_a_second(
    api: Api, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    dying, heir = Peer.start(database, "worker-a"), Peer.start(database, "worker-b")
    dying.runs("w", started_at_epoch_ms=now_ms())
    database.rows(
        "INSERT INTO dbos.workflow_input (workflow_uuid, inputs)"
        ' VALUES (\'w\', \'{"positionalArgs": [34, "recursive"], "namedArgs": {}}\')'
    )
    with Page(api) as page:
        _, _, snapshot = page.wait(lambda e: e[0] == "snapshot", "a snapshot")
        assert {row["executor_id"] for row in snapshot["executors"]} == {"worker-a", "worker-b"}
        assert outcomes(page, "w")["worker-a"]["label"] == "fib(34)"
        dying.die()
        assert heir.poll_twice() == ["worker-a"]
        begun = time.monotonic()
        wait_until(lambda: outcomes(page, "w")["worker-a"]["outcome"] == "lost", "the bar breaks")
        assert time.monotonic() - begun < 1.5
        claim(database, "worker-b", "w")
        database.rows("UPDATE dbos.workflow_status SET started_at_epoch_ms = %(ms)s", ms=now_ms())
        wait_until(lambda: outcomes(page, "w").get("worker-b"), "its continuation")
        wait_until(lambda: outcomes(page, "w")["worker-a"]["next"], "the two are linked")
        assert outcomes(page, "w")["worker-a"]["next"] == outcomes(page, "w")["worker-b"]["key"]
        page.wait(
            lambda e: (e[2].get("last_takeover") or {}).get("by") == "worker-b", "the first line says so"
        )
    _assert_one_duration(api, database, caplog)
    # Who comes later reads the same from the database.
    with serving(database.settings("api")) as other:
        bars = other.http.get("/console/snapshot").json()["bars"]
    assert {(bar["executor_id"], bar["outcome"]) for bar in bars} == {
        ("worker-a", "lost"),
        ("worker-b", "running"),
    }
    tree = api.http.get("/console/workflows/w/tree").json()
    assert [bar["outcome"] for bar in tree["attempts"]] == ["lost", "running"]
    assert [node["label"] for node in tree["nodes"]] == ["fib(34)"]


def _assert_one_duration(api: Api, database: Database, caplog: pytest.LogCaptureFixture) -> None:
    """The log, the page's first line, its executor, its workflow and the command show the same duration."""
    logged = next(re.findall(r"after (\d+\.\d\d) s", line) for line in caplog.messages if "took over" in line)
    snapshot = api.http.get("/console/snapshot").json()
    dead = next(row for row in snapshot["executors"] if row["executor_id"] == "worker-a")
    (moved,) = api.http.get("/console/workflows/w/tree").json()["moves"]
    (handover,) = query(database.connect(), "recent_handovers", limit=10, from_executor="worker-a", after=0)
    seconds = [snapshot["last_takeover"]["seconds"]]
    seconds += [each["takeover_seconds"] for each in (dead, moved, handover)]
    assert [f"{each:.2f}" for each in seconds] == logged * 4
    waited = moved["claimed_at"] - moved["released_at"]
    assert snapshot["last_takeover"]["slot_wait_seconds"] == pytest.approx(waited, abs=0.002)
    assert handover["slot_wait_seconds"] == pytest.approx(waited, abs=0.002)


def test_a_reconnect_goes_on_where_it_was(api: Api, database: Database) -> None:
    peer = Peer.start(database, "worker-a")
    with Page(api) as page:
        page.wait(lambda e: e[0] == "snapshot", "a snapshot")
        peer.runs("before", started_at_epoch_ms=now_ms())
        _, last, _ = page.wait(
            lambda e: any(b["workflow_id"] == "before" for b in e[2].get("bars", [])), "seen"
        )
    peer.runs("away", started_at_epoch_ms=now_ms())
    with Page(api, last) as page:
        page.wait(
            lambda e: any(b["workflow_id"] == "away" for b in e[2].get("bars", [])), "what came meanwhile"
        )
        assert {kind for kind, _, _ in page.events} == {"change"}
        numbers = [int(number.rpartition("-")[2]) for _, number, _ in page.events]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        assert numbers[0] == int(last.rpartition("-")[2]) + 1
    for unknown in ("deadbeef-1", f"{last}9", "nonsense"):
        with Page(api, unknown) as page:
            page.wait(lambda e: e[0] == "snapshot", "a snapshot")


def test_fifty_pages_cost_the_database_no_more_than_one_and_none_costs_nothing(
    api: Api, database: Database
) -> None:
    peer = Peer.start(database, "worker-a")
    peer.runs("w", started_at_epoch_ms=now_ms())
    asked: list[str] = []
    gateway: Any = api.process.gateway
    run = gateway.pool.run
    gateway.pool.run = lambda name, **params: (asked.append(name), run(name, **params))[1]

    def questions(seconds: float) -> int:
        before = len(asked)
        threading.Event().wait(seconds)
        return len(asked) - before

    with ExitStack() as pages:
        pages.enter_context(Page(api)).wait(lambda e: e[0] == "snapshot", "a snapshot")
        one = questions(2)
        for _ in range(49):
            pages.enter_context(Page(api)).wait(lambda e: e[0] == "snapshot", "a snapshot")
        fifty = questions(2)
        assert 0 < fifty <= one * 1.3 + 3
        assert one < 60
    wait_until(lambda: api.process.gateway and questions(0.5) == 0, "nothing polls any more")


def test_more_pages_than_places_are_refused(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    permits = api.server.config.app.state.console_permits  # type: ignore[union-attr]
    monkeypatch.setattr(permits, "limit", 2)
    with Page(api), Page(api):
        refused = api.http.get("/console/events")
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert refused.headers["content-type"] == "application/problem+json"
    wait_until(lambda: permits.in_use == 0, "the places are free again")
    with Page(api) as page:
        page.wait(lambda e: e[0] == "snapshot", "a place again")


def test_a_stop_ends_every_stream_at_once(api: Api) -> None:
    with Page(api) as page, Page(api) as other:
        page.wait(lambda e: e[0] == "snapshot", "a snapshot")
        begun = time.monotonic()
        assert api.http.post("/shutdown").status_code == 202
        assert page.ended.wait(8)
        assert other.ended.wait(8)
        assert time.monotonic() - begun < 9, "the next heartbeat of a stream comes after ten seconds"
        assert api.http.get("/console/events").status_code == 503


def test_an_outage_is_a_figure_and_heals_by_itself(database: Database) -> None:
    with serving(database.settings("api")) as api:
        gateway: Any = api.process.gateway
        # As with a process behind it: heartbeats stop with the database.
        beat = {"at": time.monotonic()}
        gateway._heartbeat_age_seconds = lambda: time.monotonic() - beat["at"]
        Peer.start(database, "worker-a")
        stop = threading.Event()

        def beats() -> None:
            connection = database.connect()
            while not stop.wait(0.2):
                with connection.cursor() as cursor:
                    cursor.execute("SELECT 1")
                beat["at"] = time.monotonic()

        thread = threading.Thread(target=beats, daemon=True)
        thread.start()
        try:
            with Page(api) as page:
                page.wait(lambda e: e[0] == "snapshot", "a snapshot")
                with database.server.paused():
                    page.wait(lambda e: e[2].get("database", {}).get("up") is False, "it is told")
                    kept = api.http.get("/console/snapshot").json()
                    assert [row["executor_id"] for row in kept["executors"]] == ["worker-a"]
                    assert kept["database"]["up"] is False
                seen = len(page.events)
                wait_until(
                    lambda: any(e[2].get("database", {}).get("up") for e in page.events[seen:]), "it heals"
                )
        finally:
            stop.set()
            thread.join(5)


@pytest.fixture
def filled(database: Database) -> Database:
    """Many finished workflows, some of this quarter of an hour, and a few unfinished ones."""
    database.rows(
        "INSERT INTO dbos.workflow_status (workflow_uuid, status, name, queue_name, application_name,"
        " application_version, executor_id, recovery_attempts, created_at, updated_at, started_at_epoch_ms,"
        " completed_at) SELECT 'old-' || n, 'SUCCESS', %(name)s, 'fibonacci', 'holdfast-worker', 'worker-1',"
        " 'worker-a', 1, t, t, t, t + 100 FROM generate_series(1, %(count)s) n,"
        " LATERAL (SELECT %(now)s - n * 100 AS t) AS times",
        name=names.FIBONACCI_NUMBER,
        count=FINISHED,
        now=now_ms(),
    )
    insert(database, [f"waits-{n}" for n in range(50)])
    Peer.start(database, "worker-a").runs("runs-1", "runs-2", started_at_epoch_ms=now_ms())
    database.rows("ANALYZE")
    return database


def test_a_poll_of_many_finished_workflows_is_bounded(filled: Database) -> None:
    with serving(filled.settings("api")) as api:
        text = api.http.get("/console/snapshot").text
    snapshot = json.loads(text)
    assert len(text) < 2_000_000
    assert len(snapshot["bars"]) == 2000
    assert {"runs-1", "runs-2"} <= {bar["workflow_id"] for bar in snapshot["bars"]}
    more = sum(count for _, _, count in snapshot["more"]["worker-a"])
    # 9,000 began within the window; what is no bar is counted.
    assert 8500 < more + len(snapshot["bars"]) <= 9010
    assert snapshot["counts"] == {"running": 2, "queued": 50, "parked": 0, "stranded": 0, "orphaned": 0}
    assert [(queue["queue"], queue["depth"]) for queue in snapshot["queues"]] == [("fibonacci", 50)]


def test_no_poll_reads_the_whole_table(filled: Database) -> None:
    since = now_ms() - 3000
    asked: dict[str, dict[str, Any]] = {
        "console_attempts": {"since_ms": since, "limit": 2000, "tick": names.PULSE_TICK},
        "console_attempts_of": {"workflow_ids": ["old-1", "old-2"]},
        "console_more": {"after_ms": since - 60_000, "before_ms": since, "bucket_seconds": 15,
                         "tick": names.PULSE_TICK, "limit": 1000},
        "console_unfinished": {"lease_seconds": 5},
        "console_counts": {"lease_seconds": 5},
        "console_tree": {"workflow_id": "old-1", "limit": 10},
    }  # fmt: skip
    for name, params in asked.items():
        connection = filled.connect(role="api")
        with connection.cursor() as cursor:
            cursor.execute("EXPLAIN (FORMAT JSON) " + sql(name), params)
            plan = json.dumps(cursor.fetchone())
        scans = [part for part in plan.split('"Node Type": ') if part.startswith('"Seq Scan"')]
        assert not [part for part in scans if '"workflow_status"' in part[:200]], f"{name}: {plan}"


def test_the_page_and_its_headers(api: Api) -> None:
    for path in ("/", "/console/workflows/anything"):
        page = api.http.get(path)
        assert page.status_code == 200
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert "default-src 'none'" in page.headers["content-security-policy"]
        assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
        assert page.headers["x-content-type-options"] == "nosniff"
        assert page.headers["referrer-policy"] == "no-referrer"
        assert page.headers["cache-control"] == "no-cache"
        again = api.http.get(path, headers={"If-None-Match": page.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
    for path in ("/static/nothing.js", "/static/..%2freader.py", "/static/%2e%2e%2freader.py", "/static/"):
        assert api.http.get(path).status_code == 404


def test_stranded_work_is_listed_and_adopted(api: Api, database: Database) -> None:
    Peer.start(database, "worker-now")
    started = now_ms()
    insert(database, ["one", "two"], application_version="worker-0")
    insert(
        database,
        ["three"],
        application_version="worker-0",
        status="PENDING",
        executor_id="gone",
        started_at_epoch_ms=started,
    )
    listed = api.http.get("/stranded").json()["stranded"]
    assert sum(row["workflows"] for row in listed) == 3
    assert api.http.get("/console/workflows/one/tree").json()["actions"]["adopt"] is None
    answer = api.http.post("/workflows/one/adopt")
    assert (answer.status_code, answer.json()) == (202, {"adopted": 1, "to_version": "worker-1"})
    assert workflow(database, "one")["application_version"] == "worker-1"
    assert workflow(database, "two")["application_version"] == "worker-0"
    assert api.http.post("/workflows/one/adopt").status_code == 409
    body = {"application": "holdfast-worker", "from_version": "worker-0"}
    assert api.http.post("/stranded/adopt", json=body).json()["adopted"] == 2
    assert api.http.post("/stranded/adopt", json=body).status_code == 409
    assert api.http.post("/stranded/adopt", json={**body, "application": "other"}).status_code == 404
    assert api.http.get("/stranded").json() == {"stranded": []}
    kinds = database.rows("SELECT kind, released_by, reason FROM ops.handovers")
    assert kinds == [{"kind": "adoption", "released_by": "operator", "reason": "worker-0 to worker-1"}] * 3


def test_the_listing_pages_by_cursor_through_one_millisecond(api: Api, database: Database) -> None:
    insert(database, [f"w{n:02}" for n in range(25)], created_at=now_ms())
    seen: list[str] = []
    page: dict[str, Any] = {"next_before": ""}
    while page["next_before"] is not None:
        before = {"before": page["next_before"]} if page["next_before"] else {}
        page = api.http.get("/workflows", params={"limit": 7, **before}).json()
        seen += [row["workflow_id"] for row in page["workflows"]]
    assert seen == [f"w{n:02}" for n in reversed(range(25))]
    found = api.http.get("/workflows", params={"prefix": "w1"}).json()["workflows"]
    assert len(found) == 10
