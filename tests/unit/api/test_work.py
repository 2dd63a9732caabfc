"""Starting work: names, keys, waiting, draining, and a database that is away."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
from dbos import error as dbos_error
from fastapi.testclient import TestClient

from holdfast.api import submit
from holdfast.errors import CpuChildDied
from services.api.users import workflows as users
from tests.support import names
from tests.support.app import create_app
from tests.unit.api_fakes import ADMIN, API, WORKER, FakeProcess, executor

STARTS: list[tuple[str, dict[str, Any]]] = [
    ("/scope/class", {}),
    ("/scope/instance/alpha", {}),
    ("/scope/function", {}),
    ("/users/pages", {}),
    ("/nested", {}),
    ("/fibonacci/batches", {}),
    ("/buckets/some-bucket/listing", {}),
]


@pytest.mark.parametrize(
    ("path", "body", "expected"),
    [
        ("/scope/class", {"steps": 2, "step_seconds": 1}, (names.CLASS_SCOPE, "scope", API, (2, 1.0))),
        ("/scope/instance/beta", {}, (names.INSTANCE_SCOPE, "scope", API, (30, 0.5))),
        ("/scope/function", {}, (names.FUNCTION_SCOPE, "scope", API, (30, 0.5))),
        ("/users/pages", {"pages": 2}, (names.USERS_PROCESS, "users", API, (2, 3))),
        ("/nested", {"queued": False}, (names.NESTED_ROOT, "nested-roots", API, (False,))),
        (
            "/buckets/some-bucket/listing",
            {},
            (names.BUCKET_LISTING, "bucket-listings", WORKER, ("some-bucket", "", "", 1000, 1000)),
        ),
        (
            "/buckets/some.bucket/listing",
            {"prefix": "a/é", "start_after": "a/é/1", "page_size": 10, "max_pages": 3},
            (names.BUCKET_LISTING, "bucket-listings", WORKER, ("some.bucket", "a/é", "a/é/1", 10, 3)),
        ),
        (
            "/fibonacci/batches",
            {"numbers": [3, 1], "sequential": True},
            (names.FIBONACCI_SEQUENCE, "fibonacci-sequences", WORKER, ([3, 1], "recursive")),
        ),
        (
            "/fibonacci/batches",
            {"count": 3, "method": "doubling"},
            (names.FIBONACCI_BATCH, "fibonacci-batches", WORKER, ([0, 1, 2], "doubling")),
        ),
    ],
)
def test_an_enqueue_names_everything(
    client: TestClient,
    process: FakeProcess,
    path: str,
    body: dict[str, Any],
    expected: tuple[Any, ...],
) -> None:
    workflow, queue, application, args = expected
    response = client.post(path, json=body)
    assert response.status_code == 202
    answer = response.json()
    [options] = process.gateway.client.enqueued
    assert options["workflow_name"] == workflow
    assert options["queue_name"] == queue
    assert options["application_name"] == application
    assert options["app_version"] == process.settings.version_name(names.ROLE_OF[workflow])
    assert options["args"] == args
    assert answer["workflow_id"] == options["workflow_id"]
    assert answer["status"] == "ENQUEUED"
    assert response.headers["location"].endswith(f"/{answer['workflow_id']}")
    assert client.get(response.headers["location"]).status_code == 200


def test_class_and_instance_are_named(client: TestClient, process: FakeProcess) -> None:
    client.post("/scope/class")
    client.post("/scope/instance/beta")
    client.post("/scope/function")
    given = [(o.get("class_name"), o.get("instance_name")) for o in process.gateway.client.enqueued]
    assert given == [("ClassScope", None), ("InstanceScope", "beta"), (None, None)]


def test_the_default_batch_is_fifty_numbers_that_stop_at_the_limit(
    client: TestClient, process: FakeProcess
) -> None:
    assert client.post("/fibonacci/batches").json()["total"] == 50
    numbers = process.gateway.client.enqueued[0]["args"][0]
    assert numbers == [*range(35), *[34] * 15]


def test_a_batch_is_stored_with_its_numbers(client: TestClient, process: FakeProcess) -> None:
    """All of them up to a thousand, which the batch goes on from; none where they are computed in turn."""
    batch_id = client.post("/fibonacci/batches", json={"numbers": [7, 8]}).json()["workflow_id"]
    client.post("/fibonacci/batches", json={"numbers": [7, 8], "sequential": True})
    client.post("/scope/class")
    two, in_turn, other = process.gateway.children
    assert two == {
        "workflow_ids": [f"{batch_id}-0", f"{batch_id}-1"],
        "inputs": [f'{{"namedArgs":{{}},"positionalArgs":[{n},"recursive"]}}' for n in (7, 8)],
        "name": names.FIBONACCI_NUMBER,
        "queue_name": names.FIBONACCI_QUEUE,
        "application": WORKER,
        "version": process.settings.version_name("worker"),
        "executor_id": None,
        "parent_id": batch_id,
        "attributes": None,
    }
    assert in_turn is other is None


def test_a_large_batch_is_stored_with_its_first_thousand() -> None:
    process = FakeProcess(fibonacci_max_count=3000)
    with TestClient(create_app(process), headers=ADMIN) as client:  # type: ignore[arg-type]
        assert (
            client.post("/fibonacci/batches", json={"count": 1500, "method": "doubling"}).status_code == 202
        )
    [stored] = process.gateway.children
    assert stored is not None
    assert len(stored["workflow_ids"]) == len(stored["inputs"]) == 1000


@pytest.mark.parametrize(("path", "body"), STARTS)
def test_a_key_starts_work_once(
    client: TestClient, process: FakeProcess, path: str, body: dict[str, Any]
) -> None:
    headers = {"Idempotency-Key": "k-1"}
    first = client.post(path, json=body, headers=headers).json()
    process.gateway.client.rows[first["workflow_id"]].status = "SUCCESS"
    again = client.post(path, json=body, headers=headers)
    assert again.status_code == 202
    assert again.json() == {**first, "status": "SUCCESS"}
    assert len(process.gateway.client.enqueued) == 1
    assert client.post(path, json=body).json()["workflow_id"] != first["workflow_id"]


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("/scope/class", b'{"steps": 3, "step_seconds": 0}'),
        ("/scope/class", b'{"steps": 2}'),
        ("/scope/class", b'{"steps": 2, "step_seconds": 0.1}'),
        ("/scope/function", b'{"steps": 2, "step_seconds": 0}'),
        ("/scope/instance/alpha", b'{"steps": 2, "step_seconds": 0}'),
        ("/users/pages", b"{}"),
    ],
)
def test_a_key_with_another_request_is_a_conflict(
    client: TestClient, process: FakeProcess, path: str, content: bytes
) -> None:
    headers = {"Idempotency-Key": "k-1", "content-type": "application/json"}
    first = b'{"steps": 2, "step_seconds": 0}'
    assert client.post("/scope/class", content=first, headers=headers).status_code == 202
    response = client.post(path, content=content, headers=headers)
    assert response.status_code == 409
    assert response.json()["type"].endswith("idempotency-conflict")
    assert len(process.gateway.client.rows) == 1


def test_spacing_and_order_of_the_body_do_not_matter_to_a_key(
    client: TestClient, process: FakeProcess
) -> None:
    headers = {"Idempotency-Key": "k-1", "content-type": "application/json"}
    for content in (b'{"steps":2,"step_seconds":0}', b'{ "step_seconds": 0.0, "steps": 2 }'):
        assert client.post("/scope/class", content=content, headers=headers).status_code == 202
    assert len(process.gateway.client.enqueued) == 1


def test_a_crash_between_claim_and_enqueue_heals(client: TestClient, process: FakeProcess) -> None:
    headers = {"Idempotency-Key": "k-1"}
    first = client.post("/scope/class", headers=headers).json()["workflow_id"]
    process.gateway.client.rows.clear()  # as if the process had died after the claim
    assert client.post("/scope/class", headers=headers).json()["workflow_id"] == first
    assert list(process.gateway.client.rows) == [first]


def test_fifty_posts_with_one_key_make_one_workflow(client: TestClient, process: FakeProcess) -> None:
    with ThreadPoolExecutor(10) as pool:
        posts = [pool.submit(client.post, "/nested", headers={"Idempotency-Key": "k"}) for _ in range(50)]
    assert {post.result().status_code for post in posts} == {202}
    assert len({post.result().json()["workflow_id"] for post in posts}) == 1
    assert len(process.gateway.client.rows) == 1


@pytest.mark.parametrize(("path", "body"), STARTS)
@pytest.mark.parametrize("how", ["draining", "stop requested", "starting"])
def test_new_work_is_refused_unless_live(
    client: TestClient, process: FakeProcess, path: str, body: dict[str, Any], how: str
) -> None:
    if how == "stop requested":
        process.request_stop("test")
    else:
        process.state = how
    response = client.post(path, json=body)
    assert response.status_code == 503
    assert response.headers["retry-after"] == "1"
    assert response.json()["type"].endswith("draining")
    assert process.gateway.client.rows == {}


def test_a_draining_process_still_answers_reads(client: TestClient, process: FakeProcess) -> None:
    process.gateway.client.add("w")
    process.state = "draining"
    assert client.get("/workflows").status_code == 200
    assert client.get("/workflows/w").status_code == 200
    assert client.get("/livez").status_code == 200
    assert client.get("/readyz").status_code == 503


@pytest.mark.parametrize(
    ("method", "path"),
    [
        *[("POST", path) for path, _ in STARTS],
        ("GET", "/workflows"),
        ("GET", "/workflows/w"),
        ("GET", "/workflows/w/steps"),
        ("POST", "/workflows/w/cancel"),
        ("POST", "/workflows/w/resume"),
        ("POST", "/workflows/w/fork"),
        ("GET", "/fibonacci/batches/w"),
        ("GET", "/fibonacci/batches/w/events"),
        ("GET", "/buckets/some-bucket/listing/w"),
        ("GET", "/executors"),
        ("POST", "/executors/e/drain"),
        ("GET", "/schedule"),
    ],
)
def test_with_the_database_away_everything_says_503(
    client: TestClient, process: FakeProcess, method: str, path: str
) -> None:
    process.gateway.down = True
    headers = {"Idempotency-Key": "k"} if method == "POST" else {}
    response = client.request(method, path, headers=headers)
    assert response.status_code == 503
    assert response.headers["retry-after"] == "1"
    assert response.json()["type"].endswith("database-unavailable")


@pytest.mark.parametrize("error", [RuntimeError("password=hunter2"), CpuChildDied("hunter2")])
def test_a_500_shows_nothing_and_logs_everything(
    client: TestClient, process: FakeProcess, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    process.gateway.broken = error
    with caplog.at_level(logging.ERROR, logger="holdfast.api"):
        response = client.get("/workflows", headers={"X-Request-ID": "find-me"})
    assert response.status_code == 500
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["request_id"] == response.headers["x-request-id"] == "find-me"
    assert "hunter2" not in response.text
    [record] = [record for record in caplog.records if record.name == "holdfast.api"]
    assert record.__dict__["request_id"] == "find-me"
    assert record.exc_info
    assert record.exc_info[1] is error


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (dbos_error.DBOSNonExistentWorkflowError("target", "w"), 404),
        (dbos_error.DBOSQueryTimeoutError(30), 503),
    ],
)
def test_dbos_own_errors_have_their_status(
    client: TestClient, process: FakeProcess, error: Exception, status: int
) -> None:
    process.gateway.broken = error
    assert client.get("/workflows/w").status_code == status


@pytest.mark.parametrize("given", ["a b", "x" * 65, "é".encode()])
def test_a_strange_request_id_is_replaced(client: TestClient, given: str | bytes) -> None:
    response = client.get("/livez", headers={"X-Request-ID": given})
    assert len(response.headers["x-request-id"]) == 32


def when_enqueued(process: FakeProcess, act: Callable[[str], None]) -> threading.Thread:
    """Runs `act` with the id of the first workflow, as soon as there is one."""

    def watch() -> None:
        deadline = time.monotonic() + 10
        while not process.gateway.client.rows and time.monotonic() < deadline:
            time.sleep(0.005)
        act(next(iter(process.gateway.client.rows)))

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


@pytest.mark.parametrize(
    "path", ["/scope/class", "/scope/instance/alpha", "/scope/function", "/users/pages", "/nested"]
)
def test_wait_answers_with_the_report(client: TestClient, process: FakeProcess, path: str) -> None:
    def finish(workflow_id: str) -> None:
        row = process.gateway.client.rows[workflow_id]
        row.output = {"counters": {"durable": 30}}
        row.status = "SUCCESS"

    thread = when_enqueued(process, finish)
    response = client.post(path, json={"wait": True})
    thread.join()
    assert response.status_code == 200
    assert response.json() == {
        "workflow_id": next(iter(process.gateway.client.rows)),
        "status": "SUCCESS",
        "report": {"counters": {"durable": 30}},
        "error": None,
    }


def test_wait_returns_a_failure(client: TestClient, process: FakeProcess) -> None:
    def fail(workflow_id: str) -> None:
        row = process.gateway.client.rows[workflow_id]
        row.error = ValueError("no luck")
        row.status = "ERROR"

    thread = when_enqueued(process, fail)
    response = client.post("/nested", json={"wait": True})
    thread.join()
    assert (response.status_code, response.json()["status"]) == (200, "ERROR")
    assert response.json()["error"] == "ValueError: no luck"


def test_wait_outlasts_an_outage(client: TestClient, process: FakeProcess) -> None:
    def fail_then_finish(workflow_id: str) -> None:
        process.gateway.down = True
        time.sleep(0.4)
        row = process.gateway.client.rows[workflow_id]
        row.output, row.status = "report", "SUCCESS"
        process.gateway.down = False

    thread = when_enqueued(process, fail_then_finish)
    response = client.post("/nested", json={"wait": True})
    thread.join()
    assert (response.status_code, response.json()["report"]) == (200, "report")


def test_each_outage_has_the_whole_limit(
    client: TestClient, process: FakeProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A short one late in a long wait does not end it."""
    now, asked, call = 0.0, threading.Event(), process.gateway.call

    async def counted(*args: Any, **options: Any) -> Any:
        asked.set()
        return await call(*args, **options)

    def later(seconds: float) -> None:
        nonlocal now
        now += seconds
        for _ in range(2):  # one may be under way
            asked.clear()
            assert asked.wait(10)

    def fail_late(workflow_id: str) -> None:
        later(submit.WAIT_OUTAGE_SECONDS + 1)
        process.gateway.down = True
        later(submit.WAIT_OUTAGE_SECONDS - 1)
        process.gateway.client.rows[workflow_id].status = "SUCCESS"
        process.gateway.down = False

    monkeypatch.setattr(submit, "time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(submit, "FALLBACK_POLL_SECONDS", 0.01)
    monkeypatch.setattr(process.gateway, "call", counted)
    thread = when_enqueued(process, fail_late)
    assert client.post("/nested", json={"wait": True}).status_code == 200
    thread.join()


@pytest.mark.parametrize("limit", ["WAIT_OUTAGE_SECONDS", "WAIT_SECONDS"])
def test_wait_gives_up_with_the_id(
    client: TestClient, process: FakeProcess, limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submit, limit, 0.3)

    def fail(_: str) -> None:
        process.gateway.down = limit == "WAIT_OUTAGE_SECONDS"

    thread = when_enqueued(process, fail)
    response = client.post("/nested", json={"wait": True})
    thread.join()
    assert response.status_code == 202
    assert response.json()["workflow_id"] == next(iter(process.gateway.client.rows))


def test_a_wait_that_fails_frees_its_place(client: TestClient, process: FakeProcess) -> None:
    def break_it(_: str) -> None:
        process.gateway.broken = RuntimeError("test")

    thread = when_enqueued(process, break_it)
    assert client.post("/nested", json={"wait": True}).status_code == 500
    thread.join()


def test_a_drain_ends_waiting_at_once(client: TestClient, process: FakeProcess) -> None:
    asked: list[float] = []

    def stop(_: str) -> None:
        client.portal.call(process.request_stop, "test")  # type: ignore[union-attr]
        asked.append(time.monotonic())

    thread = when_enqueued(process, stop)
    response = client.post("/scope/class", json={"wait": True})
    thread.join()
    assert time.monotonic() - asked[0] < 30
    assert response.status_code == 202
    assert response.headers["location"] == f"/workflows/{response.json()['workflow_id']}"


def test_waiters_are_bounded(client: TestClient) -> None:
    client.app.state.waiters.limit = 0  # type: ignore[attr-defined]
    assert client.post("/nested", json={"wait": True}).status_code == 202


def test_shutdown_answers_and_then_stops(client: TestClient, process: FakeProcess) -> None:
    response = client.post("/shutdown")
    assert response.status_code == 202
    assert response.json() == {"status": "draining", "executor_id": process.executor_id}
    assert process.stops == ["shutdown requested"]
    assert client.post("/shutdown").status_code == 202


def test_drain_reaches_the_registry(client: TestClient, process: FakeProcess) -> None:
    process.gateway.executors = [executor("a"), executor("b", "dead")]
    response = client.post("/executors/a/drain")
    assert (response.status_code, response.json()) == (202, {"executor_id": "a", "desired_state": "draining"})
    assert client.post("/executors/b/drain").status_code == 409
    assert client.post("/executors/c/drain").status_code == 404
    assert ("drain", "a") in process.gateway.orders


def test_crash_needs_chaos(client: TestClient, process: FakeProcess) -> None:
    process.gateway.executors = [executor("a")]
    response = client.post("/executors/a/crash")
    assert response.status_code == 403
    assert "HOLDFAST_CHAOS" in response.json()["detail"]
    assert process.gateway.orders == []


def test_crash_with_chaos_reaches_the_registry() -> None:
    process = FakeProcess(chaos=True)
    process.gateway.executors = [executor("a")]
    with TestClient(create_app(process), headers=ADMIN) as client:  # type: ignore[arg-type]
        assert client.post("/executors/a/crash").status_code == 202
    assert process.gateway.orders == [("crash", "a")]


def test_the_cache_shows_and_forgets_without_its_secret(client: TestClient, tmp_path: Any) -> None:
    assert client.get("/cache").status_code == 503
    secret = tmp_path / "secret"
    secret.write_text("hunter2")
    settings = FakeProcess(credential_file=secret, credential_fetch_seconds=0).settings
    cache = users.open_cache(settings)
    try:
        cache.get()
        cache.get()
        shown = client.get("/cache")
        assert (shown.json()["hits"], shown.json()["misses"]) == (1, 1)
        assert shown.json()["fingerprint"]
        forgotten = client.delete("/cache")
        assert forgotten.json()["fingerprint"] is None
        assert "hunter2" not in shown.text + forgotten.text
    finally:
        users.close_cache()


def test_requests_are_counted_by_template_not_by_id(client: TestClient, process: FakeProcess) -> None:
    process.gateway.client.add("some-id")
    client.get("/workflows/some-id")
    client.get("/nowhere/some-id")
    client.request("BREW", "/nowhere")
    text = client.get("/metrics").text
    lines = [line for line in text.splitlines() if line.startswith("holdfast_http_requests_total{")]
    assert any('route="/workflows/{workflow_id}"' in line and 'status="200"' in line for line in lines)
    assert any('method="OTHER",route="unmatched",status="404"' in line for line in lines)
    assert "some-id" not in text


def test_errors_of_every_route_are_counted_from_zero(client: TestClient) -> None:
    """An alert on the first 500 needs the 0 before it."""
    lines = client.get("/metrics").text.splitlines()
    counted = [line for line in lines if line.startswith("holdfast_http_requests_total{")]
    for path, methods in client.get("/openapi.json").json()["paths"].items():
        for method in methods:
            labels = f'method="{method.upper()}",route="{path}"'
            for status in ("500", "503"):
                assert any(f'{labels},status="{status}"' in line for line in counted), labels
            assert any(
                line.startswith("holdfast_http_request_duration_seconds_count{" + labels) for line in lines
            )


def test_the_page_and_the_schema_are_there(client: TestClient) -> None:
    assert "/docs" in client.get("/").text
    schema = client.get("/openapi.json").json()
    assert "HTTPValidationError" not in str(schema)
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            name = operation["summary"].lower().replace(" ", "_")
            assert not operation["operationId"].startswith(f"{name}_"), "a title, not a function's name"
            for status, response in operation["responses"].items():
                if status >= "400" and path != "/readyz":
                    assert list(response["content"]) == ["application/problem+json"], (path, method, status)


def test_an_unfinished_client_is_timed_out(process: FakeProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast.api.middleware.BODY_TIMEOUT_SECONDS", 0.05)
    monkeypatch.setattr("holdfast.api.middleware.DRAIN_SECONDS", 0.05)
    sent: list[dict[str, Any]] = []

    async def never() -> dict[str, Any]:
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/nested",
        "raw_path": b"/nested",
        "query_string": b"",
        "headers": [(b"host", b"test"), (b"content-length", b"9"), (b"content-type", b"application/json")],
    }
    asyncio.run(create_app(process)(scope, never, send))  # type: ignore[arg-type]
    assert sent[0]["status"] == 408


# --- purges -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (None, (604_800.0, False)),
        ({"dry_run": True}, (604_800.0, True)),
        ({"older_than_seconds": 10_800}, (10_800.0, False)),
    ],
)
def test_a_purge_starts_on_the_workers_queue(
    client: TestClient, process: FakeProcess, body: dict[str, Any] | None, expected: tuple[float, bool]
) -> None:
    answer = client.post("/purge", json=body)
    assert answer.status_code == 202
    (work,) = process.gateway.client.enqueued
    assert (work["workflow_name"], work["queue_name"]) == (names.PURGE, names.PURGE_QUEUE)
    assert (work["application_name"], work["args"]) == (WORKER, expected)
    assert answer.headers["Location"] == f"/workflows/{answer.json()['workflow_id']}"


@pytest.mark.parametrize("seconds", [0, 10_799.9, -1, 1e12, "7d", True])
def test_a_purge_refuses_an_age_that_is_too_young(
    client: TestClient, process: FakeProcess, seconds: Any
) -> None:
    answer = client.post("/purge", json={"older_than_seconds": seconds})
    assert answer.status_code == 422
    assert answer.json()["field"] == "older_than_seconds"
    assert not process.gateway.client.enqueued


def test_where_everything_is_kept_a_purge_needs_an_age() -> None:
    process = FakeProcess(retention_seconds=0)
    with TestClient(create_app(process), headers=ADMIN) as client:  # type: ignore[arg-type]
        assert client.post("/purge").status_code == 422
        assert client.post("/purge", json={"older_than_seconds": 86_400}).status_code == 202


def test_a_read_waits_for_the_end(
    client: TestClient, process: FakeProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the notice: its fallback poll does not come here."""
    monkeypatch.setattr(submit, "FALLBACK_POLL_SECONDS", 3600.0)
    started = client.post("/nested").json()["workflow_id"]

    def finish(workflow_id: str) -> None:
        time.sleep(0.1)
        row = process.gateway.client.rows[workflow_id]
        row.output, row.status = "report", "SUCCESS"
        process.waker.endings.ended(f"={workflow_id}")

    begun = time.monotonic()
    thread = when_enqueued(process, finish)
    shown = client.get(f"/workflows/{started}?wait=60").json()
    thread.join()
    assert (shown["status"], shown["output"]) == ("SUCCESS", "report")
    assert client.get(f"/workflows/{started}?wait=60").json()["status"] == "SUCCESS"
    assert time.monotonic() - begun < 30, "it has ended already"


def test_a_read_waits_no_longer_than_asked(client: TestClient) -> None:
    started = client.post("/nested").json()["workflow_id"]
    begun = time.monotonic()
    assert client.get(f"/workflows/{started}?wait=0.2").json()["status"] == "ENQUEUED"
    assert 0.2 <= time.monotonic() - begun < 30
    assert client.get("/workflows/unknown?wait=5").status_code == 404
    for wrong in ("-1", "61", "nan", "soon", ""):
        assert client.get(f"/workflows/{started}?wait={wrong}").status_code == 422, wrong
