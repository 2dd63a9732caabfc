"""Listings, batches, steps, the operator's orders on workflows, and the schedule."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fastapi.testclient import TestClient

from services.worker.pulse.routes import find_gaps
from tests.support import names
from tests.unit.api_fakes import API, FakeClient, FakeProcess, computed, executor


@pytest.fixture
def dbos(process: FakeProcess) -> FakeClient:
    return process.gateway.client


def add_batch(dbos: FakeClient, numbers: list[int], **columns: Any) -> str:
    given = {"args": (numbers, "recursive"), "kwargs": {}}
    dbos.add("b", **{"name": names.FIBONACCI_BATCH, "status": "PENDING", "input": given, **columns})
    return "b"


def add_number(dbos: FakeClient, index: int, **columns: Any) -> None:
    dbos.add(f"b-{index}", **{"name": names.FIBONACCI_NUMBER, "parent_workflow_id": "b", **columns})


def test_a_batch_in_turn_shows_what_its_steps_recorded(client: TestClient, dbos: FakeClient) -> None:
    add_batch(dbos, [9, 3, 7], name=names.FIBONACCI_SEQUENCE, executor_id="worker-b")
    step = {"function_name": "fibonacci.compute", "error": None}
    dbos.steps["b"] = [
        {**step, "output": computed(9, "34")},
        {**step, "function_name": "effects.record", "output": "b:0"},
    ]
    batch = client.get("/fibonacci/batches/b").json()
    assert (batch["total"], batch["completed"]) == (3, 1)
    shown = [(row["n"], row["status"], row["result"], row["executor_id"]) for row in batch["results"]]
    assert shown[0][:3] == (9, "SUCCESS", "34")
    assert shown[1:] == [(3, "PENDING", None, "worker-b"), (7, None, None, None)]
    dbos.rows["b"].status = "ENQUEUED"
    assert client.get("/fibonacci/batches/b").json()["results"][1]["executor_id"] is None
    dbos.rows["b"].status = "SUCCESS"
    dbos.rows["b"].output = {"total": 3, "results": [computed(n, str(n)) for n in (9, 3, 7)]}
    assert client.get("/fibonacci/batches/b").json()["completed"] == 3


def test_a_batch_shows_every_number_in_the_order_of_the_request(client: TestClient, dbos: FakeClient) -> None:
    add_batch(dbos, [9, 3, 7, 5, 1])
    add_number(dbos, 3, status="CANCELLED")
    add_number(dbos, 1, status="SUCCESS", output=computed(3, "2"))
    add_number(
        dbos, 2, status="PENDING", executor_id="worker-b", recovery_attempts=2, dequeued_at=1_700_000_000_000
    )
    add_number(dbos, 0, status="ENQUEUED", executor_id="worker-gone")
    batch = client.get("/fibonacci/batches/b").json()
    assert (batch["workflow_id"], batch["status"], batch["total"], batch["completed"]) == (
        "b",
        "PENDING",
        5,
        1,
    )
    assert [row["index"] for row in batch["results"]] == [0, 1, 2, 3, 4]
    assert [row["n"] for row in batch["results"]] == [9, 3, 7, 5, 1]
    statuses = [row["status"] for row in batch["results"]]
    assert statuses == ["ENQUEUED", "SUCCESS", "PENDING", "CANCELLED", None]
    assert batch["results"][0]["executor_id"] is None
    done = batch["results"][1]
    assert (done["result"], done["executor_id"], done["attempts"], done["seconds"]) == (
        "2",
        "worker-a",
        1,
        0.25,
    )
    running = batch["results"][2]
    assert (running["result"], running["executor_id"], running["attempts"]) == (None, "worker-b", 2)
    assert running["started_at"].startswith("2023-11-14T22:13:20")


def test_a_finished_batch_is_read_from_its_own_output(client: TestClient, dbos: FakeClient) -> None:
    results = [computed(2, "1"), computed(90, "2880067194370816120")]
    add_batch(dbos, [2, 90], status="SUCCESS", output={"total": 2, "results": results})
    batch = client.get("/fibonacci/batches/b").json()
    assert batch["completed"] == 2
    assert [row["result"] for row in batch["results"]] == ["1", "2880067194370816120"]


def test_what_can_not_be_read_is_shown_as_such(client: TestClient, dbos: FakeClient) -> None:
    # DBOS gives the stored text where it can't be deserialized.
    add_batch(dbos, [1, 2])
    add_number(dbos, 0, status="SUCCESS", output="gibberish")
    add_number(dbos, 1, status="SUCCESS", output={**computed(2, "1"), "attempts": "many"})
    results = client.get("/fibonacci/batches/b").json()["results"]
    assert results[1]["error"]
    dbos.rows["b"].input = "gibberish"  # type: ignore[assignment]
    assert client.get("/fibonacci/batches/b").json()["total"] == 0


def test_another_workflow_is_no_batch(client: TestClient, dbos: FakeClient) -> None:
    dbos.add("w", name=names.CLASS_SCOPE)
    response = client.get("/fibonacci/batches/w")
    assert response.status_code == 404
    assert "Fibonacci batch" in response.json()["detail"]


def test_the_listing_is_newest_first_and_pages(client: TestClient, dbos: FakeClient) -> None:
    for number in range(5):
        dbos.add(f"w{number}", created_at=1000 + number)
    first = client.get("/workflows?limit=2").json()
    assert [row["workflow_id"] for row in first["workflows"]] == ["w4", "w3"]
    assert first["next_offset"] == 2
    last = client.get("/workflows?limit=2&offset=4").json()
    assert [row["workflow_id"] for row in last["workflows"]] == ["w0"]
    assert last["next_offset"] is None
    assert dbos.loads == [], "a listing loads no payload"


def test_a_cursor_skips_and_repeats_nothing(client: TestClient, dbos: FakeClient) -> None:
    for number in range(7):
        dbos.add(f"w{number}", created_at=1000 + number // 3)
    seen, before = [], ""
    for _ in range(4):
        page = client.get(f"/workflows?limit=2{before}").json()
        seen += [row["workflow_id"] for row in page["workflows"]]
        # What comes in between is newer, and no page's business.
        dbos.add(f"new{len(seen)}", created_at=5000)
        before = f"&before={page['next_before']}"
    assert seen == ["w6", "w5", "w4", "w3", "w2", "w1", "w0"]
    assert page["next_before"] is None
    found = client.get("/workflows?prefix=w1").json()["workflows"]
    assert [row["workflow_id"] for row in found] == ["w1"]
    for wrong in ("before=1", "before=~w", "prefix=%00", "before=x~w"):
        assert client.get(f"/workflows?{wrong}").status_code == 422


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("status=SUCCESS", ["c", "a"]),
        ("status=SUCCESS&status=ERROR", ["c", "b", "a"]),
        ("name=scope.function", ["b"]),
        ("queue=fibonacci", ["a"]),
        ("executor_id=worker-a&status=SUCCESS", ["c"]),
    ],
)
def test_filters(client: TestClient, dbos: FakeClient, query: str, found: list[str]) -> None:
    dbos.add("a", created_at=1, status="SUCCESS", queue_name="fibonacci")
    dbos.add("b", created_at=2, status="ERROR", name="scope.function", application_name=API)
    dbos.add("c", created_at=3, status="SUCCESS", executor_id="worker-a")
    dbos.add("d", created_at=4)
    answer = client.get(f"/workflows?{query}").json()
    assert [row["workflow_id"] for row in answer["workflows"]] == found


@pytest.mark.parametrize(
    ("value", "shown", "cut"),
    [
        ({"a": 1}, {"a": 1}, False),
        ("x" * 4094, "x" * 4094, False),
        ("x" * 4095, '"' + "x" * 4095, True),
        ({"a": float("nan")}, {"a": "NaN"}, False),
        ([b"\xff", (1, {2})], ["_w==", [1, [2]]], False),
        ({(1, 2): 10**30}, {"1,2": "1" + 30 * "0"}, False),
        (10**30, "1" + 30 * "0", False),
    ],
)
def test_payloads_are_shortened(
    client: TestClient, dbos: FakeClient, value: Any, shown: Any, cut: bool
) -> None:
    dbos.add("w", output=value, status="SUCCESS")
    dbos.steps["w"] = [step(1, output=value)]
    detail = client.get("/workflows/w").json()
    assert (detail["output"], detail["output_shortened"]) == (shown, cut)
    [row] = client.get("/workflows/w/steps").json()["steps"]
    assert (row["output"], row["output_shortened"]) == (shown, cut)


def step(number: int, **columns: Any) -> dict[str, Any]:
    return {
        "function_id": number,
        "function_name": "scope.class.step",
        "output": None,
        "error": None,
        "child_workflow_id": None,
        "child_shard_key": None,
        "started_at_epoch_ms": 1_000,
        "completed_at_epoch_ms": 1_500,
        **columns,
    }


def test_steps_page(client: TestClient, dbos: FakeClient) -> None:
    dbos.add("w")
    dbos.steps["w"] = [step(number) for number in (1, 2, 3)]
    first = client.get("/workflows/w/steps?limit=2").json()
    assert [row["step_id"] for row in first["steps"]] == [1, 2]
    assert first["steps"][0]["seconds"] == 0.5
    assert first["next_offset"] == 2
    assert client.get("/workflows/w/steps?offset=2").json()["next_offset"] is None


def test_a_delete_answers_with_how_much_went_or_its_progress(
    client: TestClient, process: FakeProcess, dbos: FakeClient
) -> None:
    dbos.add("w", status="SUCCESS")
    process.operations.outcome = {"completed": 3}
    answer = client.delete("/workflows/w?children=true")
    assert (answer.status_code, answer.json()) == (200, {"workflow_id": "w", "deleted": 3})
    [requested] = process.operations.requested
    assert (requested.kind, requested.target) == ("delete", "workflow w")
    assert requested.arguments == {"workflow_id": "w", "children": True, "parent_workflow_id": None}
    process.operations.outcome = {"status": "RUNNING", "ended_at": None}
    answer = client.delete("/workflows/w")
    assert (answer.status_code, answer.json()["status"]) == (202, "RUNNING")
    process.operations.outcome = {"completed": 0}
    assert [client.delete(f"/workflows/{each}").status_code for each in ("w", "never")] == [404, 404]


@pytest.mark.parametrize(("kind", "answers"), [("cancel", (200, "CANCELLED")), ("resume", (202, "ENQUEUED"))])
def test_an_operation_on_a_workflow_answers_with_its_status_or_its_progress(
    client: TestClient, process: FakeProcess, dbos: FakeClient, kind: str, answers: tuple[int, str]
) -> None:
    code, status = answers
    dbos.add("w", status="PENDING")
    answer = client.post(f"/workflows/w/{kind}")
    assert (answer.status_code, answer.json()) == (code, {"workflow_id": "w", "status": status})
    [requested] = process.operations.requested
    assert (requested.kind, requested.target, requested.arguments) == (
        kind,
        "workflow w",
        {"workflow_id": "w"},
    )
    process.operations.outcome = {"status": "RUNNING", "ended_at": None, "total": 7, "note": "why"}
    answer = client.post(f"/workflows/w/{kind}")
    assert (answer.status_code, answer.json()["completed"], answer.json()["total"]) == (202, 1, 7)
    assert client.get(answer.headers["location"]).json() == answer.json()
    assert client.get("/operations").json() == {"operations": [answer.json()]}
    process.operations.outcome = {"status": "ERROR", "note": "no right"}
    assert "no right" in client.post(f"/workflows/w/{kind}").json()["detail"]


def test_an_operation_that_finds_nothing_to_do_is_a_conflict(
    client: TestClient, process: FakeProcess, dbos: FakeClient
) -> None:
    dbos.add("w", status="CANCELLED", app_version="1")
    process.operations.outcome = {"completed": 0}
    assert "nothing to cancel" in client.post("/workflows/w/cancel").json()["detail"]
    assert "not stranded" in client.post("/workflows/w/adopt").json()["detail"]
    assert "Nothing was resumed" in client.post("/workflows/w/resume").json()["detail"]
    assert client.get("/operations/cancel-" + "1" * 32).status_code == 404
    assert client.get("/operations/nothing").status_code == 422


def test_a_workflow_that_this_release_does_not_know_is_not_forked(
    client: TestClient, dbos: FakeClient
) -> None:
    dbos.add("w", status="CANCELLED", name="gone.workflow")
    assert client.post("/workflows/w/fork").status_code == 409
    assert list(dbos.rows) == ["w"]


def test_fork_runs_a_copy_from_a_recorded_step(client: TestClient, dbos: FakeClient) -> None:
    dbos.add("w", status="SUCCESS", name=names.CLASS_SCOPE, application_name=API)
    dbos.steps["w"] = [step(1), step(2)]
    response = client.post("/workflows/w/fork", json={"start_step": 3})
    assert response.status_code == 202
    [fork] = dbos.forked
    assert (fork["step"], fork["queue"], fork["version"]) == (3, names.SCOPE_QUEUE, "api-2")
    assert response.json()["workflow_id"] == fork["id"]
    late = client.post("/workflows/w/fork", json={"start_step": 4})
    assert late.status_code == 409 and "start_step" in late.json()["detail"]


def test_a_key_forks_once(client: TestClient, dbos: FakeClient) -> None:
    dbos.add("w", status="SUCCESS", name=names.CLASS_SCOPE)
    answers = [client.post("/workflows/w/fork", headers={"Idempotency-Key": "k"}).json() for _ in range(2)]
    assert answers[0] == answers[1]
    assert len(dbos.forked) == 1
    body = {"start_step": 2}
    assert client.post("/workflows/w/fork", json=body, headers={"Idempotency-Key": "k"}).status_code == 409


def test_executors_have_exactly_the_promised_fields(client: TestClient, process: FakeProcess) -> None:
    process.gateway.executors = [executor("a"), executor("b", "dead")]
    answer = client.get("/executors").json()
    promised = (
        "executor_id application role state hostname pid heartbeat_age_seconds slots in_flight"
        " taken_over_by reason"
    )
    assert set(answer["executors"][0]) == set(promised.split())
    assert [row["state"] for row in answer["executors"]] == ["live", "dead"]


START = datetime(2026, 1, 1, tzinfo=UTC)


def at(*ticks: int) -> list[datetime]:
    return [START + timedelta(seconds=5 * tick) for tick in ticks]


@pytest.mark.parametrize(
    ("ticks", "missed"),
    [([], []), ([3], []), ([1, 2, 3], []), ([1, 3], [1]), ([7, 1, 2, 5], [2, 1]), ([1, 1, 4], [2])],
)
def test_gaps(ticks: list[int], missed: list[int]) -> None:
    assert [gap.missed for gap in find_gaps(at(*ticks))] == missed


def test_a_gap_names_its_first_and_last_tick() -> None:
    [gap] = find_gaps(at(0, 4))
    assert (gap.first, gap.last) == ("2026-01-01T00:00:05+00:00", "2026-01-01T00:00:15+00:00")


def test_the_schedule_shows_ticks_and_gaps(client: TestClient, process: FakeProcess) -> None:
    process.gateway.pulses = [
        {
            "scheduled_at": tick,
            "started_at": tick + timedelta(seconds=0.1),
            "lateness_seconds": 0.1,
            "executor_id": "worker-a",
            "status": "run",
            "queue_depth": 4,
            "live_executors": 3,
        }
        for tick in at(3, 1, 0)
    ]
    answer = client.get("/schedule").json()
    assert [pulse["scheduled_at"][17:19] for pulse in answer["pulses"]] == ["15", "05", "00"]
    assert answer["missed"] == 1
    assert answer["gaps"][0]["first"] == "2026-01-01T00:00:10+00:00"
    assert len(client.get("/schedule?limit=1").json()["pulses"]) == 1
