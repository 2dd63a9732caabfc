"""An outage of PostgreSQL under the running stack: the answers of all requests, and the recovery."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx

from holdfast.statuses import TERMINAL
from tests.support.faults import check_effects
from tests.support.reporting import record
from tests.support.scenes import check_batch
from tests.support.stack import Stack, wait_for

SLOWEST_SECONDS = 10.0
"""Beside other work; tests/integration/api/test_http.py runs alone and holds the API to two seconds."""


@dataclass(frozen=True)
class Call:
    """A request and its expected answer without a database."""

    method: str
    path: str
    status: int = 503
    body: dict[str, Any] | None = None


def calls(workflow_id: str, batch_id: str) -> list[Call]:
    """Returns calls of all endpoints, with little work: a call refused by a frozen server may run later."""
    scope = {"steps": 1, "step_seconds": 0}
    return [
        Call("GET", "/livez", 200),
        Call("GET", "/metrics", 200),
        Call("GET", "/cache", 200),
        Call("GET", "/", 200),
        Call("GET", "/workflows"),
        Call("GET", f"/workflows/{workflow_id}"),
        Call("GET", f"/workflows/{workflow_id}/steps"),
        Call("GET", f"/fibonacci/batches/{batch_id}"),
        Call("GET", f"/fibonacci/batches/{batch_id}/events"),
        Call("GET", "/executors"),
        Call("GET", "/schedule"),
        Call("GET", "/schedules"),
        Call("POST", "/scope/class", body=scope),
        Call("POST", "/scope/class", body={**scope, "wait": True}),
        Call("POST", "/scope/instance/alpha", body=scope),
        Call("POST", "/scope/function", body=scope),
        Call("POST", "/users/pages", body={"pages": 1}),
        Call("POST", "/nested", body={}),
        Call("POST", "/fibonacci/batches", body={"numbers": [1]}),
        Call("POST", f"/workflows/{workflow_id}/cancel"),
        Call("POST", f"/workflows/{workflow_id}/resume"),
        Call("POST", f"/workflows/{workflow_id}/fork"),
        Call("POST", "/executors/nobody/drain"),
    ]


def check_every_call(stack: Stack, wanted: list[Call], when: str) -> None:
    """Sends all calls concurrently. Each answers in time: 503 with Retry-After, or 200 without a database."""

    def ask(call: Call) -> tuple[Call, httpx.Response, float]:
        begun = time.monotonic()
        answer = stack.request(
            call.method, call.path, json=call.body, headers={"Idempotency-Key": f"{when[:2]}-{id(call)}"}
        )
        return call, answer, time.monotonic() - begun

    with ThreadPoolExecutor(len(wanted)) as threads:
        answers = list(threads.map(ask, wanted))
    wrong = []
    for call, answer, seconds in answers:
        asked = f"{when}: {call.method} {call.path}"
        said = f"{asked}: {answer.status_code} after {seconds:.2f} s: {answer.text[:300]}"
        fine = answer.status_code == call.status and seconds <= SLOWEST_SECONDS
        if fine and call.status == 503:
            told = (answer.headers.get("retry-after"), answer.headers["content-type"])
            fine = told == ("1", "application/problem+json")
        if not fine:
            wrong.append(said)
    assert not wrong, "\n".join(wrong)
    record(f"PostgreSQL away, {when}: slowest answer, seconds", max(seconds for *_, seconds in answers))


def check_outage(stack: Stack, numbers: list[int]) -> None:
    """Stops PostgreSQL under load: refusals are fast meanwhile, and all work continues by itself."""
    members = [stack.api(), *stack.workers()]
    ended = stack.post("/scope/class", {"steps": 1, "step_seconds": 0, "wait": True})["workflow_id"]
    scope = stack.post("/scope/class", {"steps": 60, "step_seconds": 0.1})["workflow_id"]
    batch_id = stack.start_batch(numbers=numbers)
    wait_for(lambda: stack.running(batch_id), 15, "the batch runs")
    wanted = calls(ended, batch_id)
    count = (
        "SELECT count(*) AS n FROM dbos.workflow_status WHERE name NOT IN ('pulse.tick', 'fibonacci.number')"
    )
    stored = stack.query(count)
    with stack.postgres_down():
        check_every_call(stack, wanted, "at once")
        wait_for(lambda: stack.request("GET", "/readyz").status_code == 503, 5, "unready")
        unready = stack.request("GET", "/readyz")
        assert unready.json()["checks"]["database"] != "ok"
        check_every_call(stack, wanted, "later")
    back = time.monotonic()
    wait_for(lambda: stack.request("GET", "/workflows").status_code == 200, 10, "requests are served again")
    record("PostgreSQL back to requests served, seconds", time.monotonic() - back)
    assert stack.query(count) == stored, "refused work was stored"
    wait_for(lambda: stack.request("GET", "/readyz").status_code == 200, 10, "ready again")
    with stack.postgres_frozen():
        check_every_call(stack, wanted, "frozen")
        check_every_call(stack, wanted, "frozen for a while")
    thawed = time.monotonic()
    wait_for(lambda: stack.request("GET", "/readyz").status_code == 200, 15, "ready after the freeze")
    record("PostgreSQL thawed to ready, seconds", time.monotonic() - thawed)
    batch = stack.finished_batch(batch_id, 90)
    check_batch(batch, numbers)
    check_effects(stack, batch)
    report = stack.finished(scope, 60)["output"]
    assert report["counters"]["durable"] == 60
    # No executor was declared dead: the same incarnations continue.
    after = {member.executor_id for member in [stack.api(), *stack.workers()]}
    assert after == {member.executor_id for member in members}
    unfinished = (
        "SELECT workflow_uuid, name, status, executor_id FROM dbos.workflow_status"
        f" WHERE status NOT IN ({', '.join(repr(s) for s in sorted(TERMINAL))}) AND name <> 'pulse.tick'"
    )
    wait_for(lambda: not stack.query(unfinished), 20, "everything stored is finished")
