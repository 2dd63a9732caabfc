"""The scenes as a user sees them over HTTP: the same checks for the native stack and the containers."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import httpx

from services.worker.fibonacci.rule import summary
from tests.support.reporting import record
from tests.support.stack import Stack, wait_for


def check_function_scope(stack: Stack) -> None:
    """Function scope has a module-level counter: only the module's and the durable count exist."""
    report = stack.post("/scope/function", {"steps": 5, "step_seconds": 0.01, "wait": True})["report"]
    assert report["counters"]["durable"] == report["steps"] == 5
    assert report["counters"]["instance"] == report["counters"]["class"] == 0
    assert report["counters"]["module"] >= 5
    assert report["replayed_steps"] == []
    assert report["executors"] == {stack.api().executor_id: [0, 1, 2, 3, 4]}


def check_instances(stack: Stack) -> None:
    """Configured instances share memory by name, and only by name."""
    before = {name: _instance(stack, name, 1)["counters"]["instance"] for name in ("alpha", "beta")}
    again = _instance(stack, "alpha", 3)
    assert again["counters"]["instance"] == before["alpha"] + 3
    assert again["counters"]["durable"] == 3
    assert again["name"] == "alpha"
    assert _instance(stack, "beta", 1)["counters"]["instance"] == before["beta"] + 1
    unknown = stack.request("POST", "/scope/instance/gamma", json={"steps": 1})
    assert unknown.status_code == 404
    assert unknown.headers["content-type"] == "application/problem+json"


def _instance(stack: Stack, name: str, steps: int) -> Any:
    body = {"steps": steps, "step_seconds": 0.01, "wait": True}
    return stack.post(f"/scope/instance/{name}", body)["report"]


def check_class_scope(stack: Stack) -> None:
    """Class scope without a restart: all counters agree, nothing is replayed."""
    accepted = stack.request("POST", "/scope/class", json={"steps": 4, "step_seconds": 0.02})
    assert accepted.status_code == 202
    assert accepted.headers["location"] == f"/workflows/{accepted.json()['workflow_id']}"
    report = stack.finished(accepted.json()["workflow_id"], 20)["output"]
    assert report["counters"]["durable"] == report["counters"]["instance"] == 4
    assert report["replayed_steps"] == []
    assert report["steps_run_here"] == [0, 1, 2, 3]


def check_nested(stack: Stack, *, queued: bool) -> None:
    """Root, child, grandchild: the parents are in the answer, in the stored rows and in the logs."""
    done = stack.post("/nested", {"queued": queued, "wait": True})
    root = done["report"]
    child = root["below"]
    grandchild = child["below"]
    assert [level["level"] for level in (root, child, grandchild)] == ["root", "child", "grandchild"]
    assert root["parents"] == []
    assert child["parents"] == [root["workflow_id"]]
    assert grandchild["parents"] == [root["workflow_id"], child["workflow_id"]]
    assert grandchild["below"] is None
    stored = stack.get(f"/workflows/{grandchild['workflow_id']}")
    assert stored["parent_workflow_id"] == child["workflow_id"]
    logged = wait_for(
        lambda: [
            line
            for _, line in stack.log_objects("api")
            if line.get("action") == "nesting.entered"
            and line.get("workflow_id") == grandchild["workflow_id"]
        ],
        5,
        "a log line with the grandchild's parents",
    )
    assert logged[0]["parents"] == grandchild["parents"]


def check_users(stack: Stack) -> Any:
    """Processes user pages with one credential and returns the report."""
    report = stack.post("/users/pages", {"wait": True})["report"]
    assert [(user["page"], user["user"]) for user in report["users"]] == [
        (page, page * 3 + i) for page in range(5) for i in range(3)
    ]
    assert len(report["fingerprints"]) == 1
    assert {user["credential"] for user in report["users"]} == set(report["fingerprints"])
    pages = stack.get("/workflows?name=users.page&limit=200")["workflows"]
    mine = [page for page in pages if page["parent_workflow_id"] == report["workflow_id"]]
    assert len(mine) == 5
    assert {page["queue_name"] for page in mine} == {"user-pages"}
    return report


def check_no_secret(stack: Stack) -> None:
    """Neither the credential nor a password is anywhere in database, logs or answers."""
    secret = stack.read_credential()
    forms = {secret, secret.encode().hex(), secret[::-1]}
    places = {
        "database": stack.dump(),
        "logs": "\n".join(line for lines in stack.logs().values() for line in lines),
        "answers": "\n".join(stack.bodies),
        "metrics": stack.request("GET", "/metrics").text,
    }
    assert "users.process_one" in places["database"], "the dump does not hold the scenes' steps"
    for place, text in places.items():
        for form in forms:
            assert form not in text, f"the credential is in the {place}"


def check_batch(batch: Any, numbers: list[int], method: str = "recursive") -> None:
    """Each result is exact, in the order of the request, and names its executor."""
    assert batch["total"] == batch["completed"] == len(numbers)
    for index, (row, n) in enumerate(zip(batch["results"], numbers, strict=True)):
        wanted = summary(n, "doubling")
        assert (row["index"], row["n"], row["status"]) == (index, n, "SUCCESS")
        for field in ("result", "digits", "sha256", "short"):
            assert row[field] == wanted[field], f"F({n}) by {method}: {field}"
        assert row["executor_id"] and row["started_at"] and row["attempts"] >= 1


def check_default_batch(stack: Stack, *, seconds: float) -> None:
    """The default batch of 50 uses both workers."""
    begun = time.monotonic()
    accepted = stack.post("/fibonacci/batches")
    assert accepted["total"] == 50
    batch = stack.finished_batch(accepted["workflow_id"], seconds)
    record("default batch, seconds", time.monotonic() - begun)
    check_batch(batch, [min(i, 34) for i in range(50)])
    shares = Counter(row["executor_id"] for row in batch["results"])
    record("default batch, smaller worker's share of 50", min(shares.values()))
    assert set(shares) == {member.executor_id for member in stack.workers()}
    assert min(shares.values()) >= 12, f"uneven: {shares}"


def check_sequential(stack: Stack) -> None:
    """Each number is computed after the previous result, and none is a separate workflow."""
    numbers = [5, 12, 3, 20, 0, 1]
    batch = stack.finished_batch(stack.start_batch(numbers=numbers, sequential=True), 30)
    check_batch(batch, numbers)
    rows = stack.query(
        "SELECT function_name AS name, started_at_epoch_ms AS begun, completed_at_epoch_ms AS ended"
        f" FROM dbos.operation_outputs WHERE workflow_uuid = '{batch['workflow_id']}' ORDER BY function_id"
    )
    assert [row["name"] for row in rows] == ["fibonacci.compute", "effects.record"] * len(numbers)
    for before, after in pairwise(rows):
        assert before["ended"] <= after["begun"], f"{after} did not wait for {before}"
    effects = stack.query(
        f"SELECT effect_key FROM ops.effects WHERE workflow_id = '{batch['workflow_id']}' ORDER BY effect_id"
    )
    assert [row["effect_key"] for row in effects] == [
        f"{batch['workflow_id']}:{i}" for i in range(len(numbers))
    ]


def check_doubling(stack: Stack) -> None:
    """Huge n: the result has digits and hash instead of the number."""
    numbers = [1000, 100_000, 0, 1_000_000, 93]
    batch = stack.finished_batch(stack.start_batch(numbers=numbers, method="doubling"), 60)
    check_batch(batch, numbers, "doubling")
    assert batch["results"][3]["result"] is None
    assert batch["results"][3]["digits"] == 208_988
    too_large = stack.request("POST", "/fibonacci/batches", json={"numbers": [41], "method": "recursive"})
    assert too_large.status_code == 422
    assert "numbers.0" in too_large.text


def check_events(stack: Stack) -> None:
    """A batch streams server-sent events from snapshot to end."""
    batch_id = stack.start_batch(numbers=[20, 21, 22, 23])
    with stack.http.stream("GET", f"{stack.url}/fibonacci/batches/{batch_id}/events", timeout=30) as stream:
        assert stream.status_code == 200
        names = [line[7:] for line in stream.iter_lines() if line.startswith("event: ")]
    assert names[0] == "snapshot"
    assert names[-1] == "end"


def check_cancel(stack: Stack, n: int, *, limit_seconds: float = 10.0) -> None:
    """Cancelling a batch ends its running CPU children in time. ``n`` takes longer to compute."""
    workers = stack.workers()
    batch_id = stack.start_batch(numbers=[n] * 8)
    busy = wait_for(
        lambda: (
            len(found := {(w.executor_id, pid) for w in workers for pid in stack.busy_children(w)}) >= 2
            and found
        ),
        20,
        "children at work",
    )
    stack.post(f"/workflows/{batch_id}/cancel")
    cancelled = seen = time.monotonic()

    def ended() -> bool:
        nonlocal seen
        begun = time.monotonic()
        left = {(w.executor_id, child.pid) for w in workers for child in stack.children(w)}
        if left & busy:
            seen = begun  # a check in containers takes time: its result is valid for its begin
        return not left & busy

    wait_for(ended, 10, "end of the children", pause_seconds=0.01)
    record("cancel to a child last seen, seconds", seen - cancelled)
    assert seen - cancelled <= limit_seconds

    def all_cancelled() -> bool:
        batch = stack.batch(batch_id)
        return {batch["status"], *(number["status"] for number in batch["results"])} == {"CANCELLED"}

    wait_for(all_cancelled, 10, "batch and all its numbers cancelled")
    # The slots are free again. After a resume, the cancelled batch and its numbers continue.
    other = stack.start_batch(numbers=[33] * 6)
    stack.post(f"/workflows/{other}/cancel")
    stack.post(f"/workflows/{other}/resume")
    check_batch(stack.finished_batch(other, 30), [33] * 6)


def check_pulses(stack: Stack, ticks: int) -> None:
    """Each of the last ``ticks`` ticks of the 5-second grid has exactly one row and one workflow."""
    wait_for(
        lambda: stack.query("SELECT count(*) AS n FROM ops.pulses")[0]["n"] >= ticks, 5 * ticks + 10, "pulses"
    )
    rows = stack.query(
        "SELECT extract(epoch FROM scheduled_at)::float8 AS at, lateness_seconds AS late, status"
        f" FROM ops.pulses ORDER BY scheduled_at DESC LIMIT {ticks}"
    )
    times = sorted(row["at"] for row in rows)
    assert [at % 5 for at in times] == [0] * ticks
    assert times == [times[0] + 5 * i for i in range(ticks)], f"gap or double: {times}"
    assert {row["status"] for row in rows} == {"run"}
    record("pulse lateness, seconds", max(row["late"] for row in rows))
    workflows = stack.query(
        "SELECT count(*) AS n, count(DISTINCT p.scheduled_at) AS ticks FROM ops.pulses p"
        " JOIN dbos.workflow_status w ON w.workflow_uuid = p.workflow_id"
    )[0]
    assert workflows["n"] == workflows["ticks"] >= ticks
    stored = stack.query(
        "SELECT count(*) AS n FROM dbos.workflow_status WHERE name = 'pulse.tick' AND status = 'SUCCESS'"
    )[0]["n"]
    assert stored - workflows["n"] in (0, 1)  # one may have been recorded in between
    shown = stack.get(f"/schedule?limit={ticks}")
    assert len(shown["pulses"]) == ticks


def check_logs(stack: Stack) -> None:
    """Each log line is a JSON object with time, level, logger, message and action, and occurs once."""
    path = f"/workflows/once-{time.time_ns()}"
    assert stack.request("GET", path).status_code == 404
    wait_for(lambda: any(path in line for lines in stack.logs().values() for line in lines), 5, "access log")
    assert sum(path in line for lines in stack.logs().values() for line in lines) == 1
    loggers = set()
    for _, line in stack.log_objects("api", "worker", "spawned"):
        assert {"time", "level", "logger", "message", "action", "role"} <= line.keys(), line
        loggers.add(line["logger"].partition(".")[0])
    assert {"dbos", "uvicorn", "holdfast"} <= loggers, loggers
    for name, lines in stack.logs().items():
        if name.startswith(("api", "worker")):
            doubles = [a for a, b in pairwise(lines) if a == b]
            assert not doubles, f"{name} logged twice: {doubles[0]}"


@contextmanager
def in_background(work: Callable[[], None]) -> Iterator[None]:
    """Runs ``work`` in a thread during the context, and waits for its end."""
    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        thread.join(60)


def attempt(stack: Stack, path: str, body: dict[str, Any], headers: dict[str, str]) -> Any:
    """Returns the answer of a POST, or its transport error."""
    try:
        return stack.request("POST", path, json=body, headers=headers)
    except httpx.TransportError as error:
        return error


def check_scope_across_a_crash(
    stack: Stack, path: str, *, steps: int = 12, step_seconds: float = 0.15
) -> None:
    """After SIGKILL of the API during a scope workflow, exactly the durable state of an object survives."""
    before = stack.api()
    accepted = stack.post(path, {"steps": steps, "step_seconds": step_seconds})["workflow_id"]
    recorded = f"/workflows/{accepted}/steps"
    wait_for(lambda: len(stack.get(recorded)["steps"]) >= steps // 3, 30, "some recorded steps")
    begun = time.monotonic()
    stack.crash(before)
    after = stack.api()
    record("API killed to ready again, seconds", time.monotonic() - begun)
    assert after.executor_id != before.executor_id
    done = stack.finished(accepted, 30 + steps * step_seconds)
    report = done["output"]
    ran = report["executors"]
    assert list(ran) == [before.executor_id, after.executor_id]
    assert ran[before.executor_id] + ran[after.executor_id] == list(range(steps))
    assert steps // 3 <= len(ran[before.executor_id]) < steps
    assert report["counters"]["durable"] == report["steps"] == steps
    assert report["replayed_steps"] == ran[before.executor_id]
    assert report["steps_run_here"] == ran[after.executor_id]
    assert report["finished_by"] == done["executor_id"] == after.executor_id
    # The new process's memory counts only steps that ran since its start.
    since = len(ran[after.executor_id])
    has_object = path != "/scope/function"
    assert report["counters"]["instance"] == report["counters"]["class"] == (since if has_object else 0)
    assert report["counters"]["module"] == since
    moved = stack.handovers([accepted])
    assert [(m["kind"], m["from_executor"], m["to_executor"]) for m in moved] == [
        ("takeover", before.executor_id, after.executor_id)
    ]


def check_cache_across_restarts(stack: Stack) -> None:
    """The cache is cold after a restart, warm after use, and has a new fingerprint after a rotation."""
    first = check_users(stack)
    before = stack.api()
    stack.crash(before)
    after = stack.api()
    cold = stack.get("/cache")
    assert cold["executor_id"] == after.executor_id != before.executor_id
    assert (cold["hits"], cold["misses"], cold["fetches"], cold["fingerprint"]) == (0, 0, 0, None)
    second = check_users(stack)
    assert second["fingerprints"] == first["fingerprints"]
    assert second["cache"]["fetches"] == 1, "one flight for all that missed together"
    assert second["cache"]["hits"] + second["cache"]["misses"] == 15
    old_secret = stack.read_credential()
    stack.write_credential("rotated-" + old_secret[::2])
    assert check_users(stack)["fingerprints"] == first["fingerprints"], "cached until it expires"
    cleared = stack.request("DELETE", "/cache")
    assert cleared.status_code == 200
    assert cleared.json()["fingerprint"] is None
    third = check_users(stack)
    assert third["fingerprints"] != first["fingerprints"]
    for text in stack.bodies:
        assert old_secret not in text
