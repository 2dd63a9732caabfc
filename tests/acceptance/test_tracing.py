"""One trace from the HTTP request to the queued step, also when its worker is killed; and none while off."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from holdfast.installations.ports import free_port
from tests.support import faults
from tests.support.native_stack import NativeStack
from tests.support.otlp import SERVER, Collector, Span, collector
from tests.support.stack import running_stack, wait_for

SENT_WITHIN_SECONDS = 10.0
TRACE = "0af7651916cd43dd8448eb211c80319c"
CALLER = "b7ad6b7169203331"


@pytest.fixture(scope="module")
def collected() -> Iterator[Collector]:
    """What all processes of the stack send to."""
    with collector() as made:
        yield made


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, collected: Collector) -> Iterator[NativeStack]:
    """One stack for the module, with two workers."""
    started = NativeStack(
        tmp_path_factory.mktemp("tracing"),
        HOLDFAST_OTLP_ENDPOINT=collected.endpoint,
        HOLDFAST_CPU_SLOTS="1",
        HOLDFAST_CHAOS="true",
    )
    with running_stack(started):
        yield started


def spans_of(collected: Collector, workflow_id: str, name: str, count: int = 1) -> list[Span]:
    """So many spans of a name that a workflow must have sent."""
    return wait_for(
        lambda: len(found := collected.of(workflow_id, name=name)) >= count and found,
        SENT_WITHIN_SECONDS,
        f"{count} spans {name} of {workflow_id}",
    )


def children(batch_id: str, count: int) -> list[str]:
    return [f"{batch_id}-{index}" for index in range(count)]


def log_lines(path: Path, action: str) -> list[dict[str, Any]]:
    lines = path.read_text("utf-8", "replace").splitlines() if path.exists() else []
    parsed = [json.loads(line) for line in lines if line.startswith("{")]
    return [line for line in parsed if line["action"] == action]


def test_one_trace_from_the_request_to_the_step(stack: NativeStack, collected: Collector) -> None:
    batch_id = stack.start_batch(numbers=[3, 20, 21, 22])
    stack.finished_batch(batch_id, 30)
    [batch] = spans_of(collected, batch_id, "fibonacci.batch")
    [request] = wait_for(
        lambda: [s for s in collected.trace(batch.trace) if s.kind == SERVER], 5, "the request's span"
    )
    assert (request.name, request.parent) == ("POST /fibonacci/batches", "")
    assert request.resource["service.name"] == "holdfast-api"
    assert request.attributes["http.response.status_code"] == 202
    assert batch.parent == request.id
    assert batch.resource["service.name"] == "holdfast-worker"
    assert batch.attributes["holdfast.attempt"] == 1
    workers = {member.executor_id for member in stack.workers()}
    for child in children(batch_id, 4):
        [number] = spans_of(collected, child, "fibonacci.number")
        [compute] = spans_of(collected, child, "fibonacci.compute")
        assert (number.trace, number.parent) == (batch.trace, request.id)
        assert (compute.trace, compute.parent) == (batch.trace, number.id)
        assert number.attributes["holdfast.attempt"] == 1
        assert number.attributes["dbos.queue.name"]
        assert {number.executor_id, number.attributes["dbos.executor.id"]} <= workers
    [effect] = spans_of(collected, f"{batch_id}-0", "effects.record")
    assert effect.trace == batch.trace
    assert not any(span.failed for span in collected.trace(batch.trace))
    # Nothing of it is in what the workflows were given: only in DBOS's own column.
    [row] = stack.query(f"SELECT attributes FROM dbos.workflow_status WHERE workflow_uuid = '{batch_id}'")
    assert list(row["attributes"]) == ["dbos.otelContext"]
    assert row["attributes"]["dbos.otelContext"]["traceparent"].startswith(f"00-{batch.trace}-{request.id}-")


def test_the_callers_trace_goes_on_through_nested_workflows_and_logs(
    stack: NativeStack, collected: Collector
) -> None:
    for queued in (True, False):
        done = stack.post("/nested", {"queued": queued}, headers={"traceparent": f"00-{TRACE}-{CALLER}-01"})
        root_id = done["workflow_id"]
        stack.finished(root_id, 20)
        [root] = spans_of(collected, root_id, "nesting.root")
        [child] = spans_of(collected, f"{root_id}-child", "nesting.child")
        [grandchild] = spans_of(collected, f"{root_id}-child-grandchild", "nesting.grandchild")
        [touch] = spans_of(collected, f"{root_id}-child-grandchild", "nesting.touch")
        assert {span.trace for span in (root, child, grandchild, touch)} == {TRACE}
        assert (child.parent, grandchild.parent, touch.parent) == (root.id, child.id, grandchild.id)
        [request] = [s for s in collected.trace(TRACE) if s.id == root.parent]
        assert (request.kind, request.parent) == (SERVER, CALLER)
        lines = [
            line
            for _, line in stack.log_objects("api")
            if line["action"] in ("nesting.entered", "workflow.submitted")
            and str(line.get("workflow_id", "")).startswith(root_id)
        ]
        assert len(lines) == 4
        assert {line["trace_id"] for line in lines} == {TRACE}
        assert {line["span_id"] for line in lines} == {s.id for s in (request, root, child, grandchild)}


def test_a_fork_and_a_repeated_key_stay_in_the_first_trace(stack: NativeStack, collected: Collector) -> None:
    body, key = {"numbers": [5]}, {"Idempotency-Key": "traced-once"}
    batch_id = stack.post("/fibonacci/batches", body, headers=key)["workflow_id"]
    stack.finished_batch(batch_id, 20)
    [batch] = spans_of(collected, batch_id, "fibonacci.batch")
    assert stack.post("/fibonacci/batches", body, headers=key)["workflow_id"] == batch_id
    [row] = stack.query(f"SELECT attributes FROM dbos.workflow_status WHERE workflow_uuid = '{batch_id}'")
    assert batch.trace in row["attributes"]["dbos.otelContext"]["traceparent"]
    forked = stack.post(f"/workflows/{batch_id}-0/fork", {"start_step": 1})["workflow_id"]
    stack.finished(forked, 20)
    [number] = spans_of(collected, forked, "fibonacci.number")
    assert (number.trace, number.parent) == (batch.trace, batch.parent)


@pytest.mark.parametrize("how", ["kill", "drain"])
def test_who_carries_it_on_stays_in_the_trace(stack: NativeStack, collected: Collector, how: str) -> None:
    """A takeover after SIGKILL, and a hand over at a drain whose limit a second SIGTERM ends."""
    # Long enough that the second signal comes in the middle of one.
    numbers = [34] * 8
    batch_id, victim, peer = faults.start_and_find(stack, numbers)
    if how == "kill":
        stack.crash(victim)
    else:
        stack.stop(victim)
        time.sleep(0.2)
        stack.stop(victim)
    ids = [batch_id, *children(batch_id, len(numbers))]
    stack.finished_batch(batch_id, 90)
    moved = [move for move in stack.handovers(ids) if move["from_executor"] == victim.executor_id]
    assert any(move["workflow_id"] != batch_id for move in moved), "nobody took a number over"
    [first] = spans_of(collected, batch_id, "fibonacci.batch")[-1:]
    for move in moved:
        name = "fibonacci.batch" if move["workflow_id"] == batch_id else "fibonacci.number"
        after = wait_for(
            lambda move=move, name=name: [
                span
                for span in collected.of(move["workflow_id"], name=name)
                if span.attributes["holdfast.attempt"] >= 2
            ],
            SENT_WITHIN_SECONDS,
            f"the span of {move['workflow_id']}'s second run",
        )
        assert {span.trace for span in after} == {first.trace}
        assert {span.executor_id for span in after} <= {move["to_executor"], peer.executor_id}
    for child in children(batch_id, len(numbers)):
        runs = spans_of(collected, child, "fibonacci.compute")
        assert {span.trace for span in runs} == {first.trace}
    [request] = [s for s in collected.trace(first.trace) if s.kind == SERVER]
    assert request.name == "POST /fibonacci/batches"
    stack.workers()


@pytest.mark.parametrize("trouble", ["away", "hanging"])
def test_a_failing_collector_holds_nothing_up(stack: NativeStack, trouble: str) -> None:
    with collector() as other:
        other.hanging.set()
        endpoint = other.endpoint if trouble == "hanging" else f"http://127.0.0.1:{free_port()}"
        process, log = stack.spawn("services.worker", HOLDFAST_OTLP_ENDPOINT=endpoint)
        [started] = wait_for(lambda: log_lines(log, "executor.started"), 60, "a third worker")
        batch_id = stack.start_batch(numbers=[24] * 60)
        done = stack.finished_batch(batch_id, 60)
        assert started["executor_id"] in {n["executor_id"] for n in done["results"]}
        if trouble == "hanging":
            wait_for(lambda: other.requests, 10, "spans are on their way")
        process.terminate()
        assert process.wait(60) == 0
        assert log_lines(log, "executor.drained")
        # Told about, and not at every try.
        assert len(log_lines(log, "tracing.failed")) == 1 or trouble == "hanging"
        assert len(log_lines(log, "tracing.failed")) <= 1


def imported(log: Path) -> set[str]:
    """Top modules of tracing that a process imported, as Python's own profile of its imports says."""
    text = log.read_text("utf-8", "replace")
    assert "import time:" in text
    names = r"opentelemetry\.sdk|opentelemetry\.exporter|google\.protobuf|requests"
    return set(re.findall(rf"\| +({names})(?:\"|$)", text, re.M))


def test_off_means_that_nothing_of_it_is_imported_and_stored_traces_do_no_harm(
    stack: NativeStack, collected: Collector
) -> None:
    found = {}
    for endpoint in ("", collected.endpoint):
        process, log = stack.spawn(
            "services.worker", HOLDFAST_OTLP_ENDPOINT=endpoint, PYTHONPROFILEIMPORTTIME="1"
        )
        [started] = wait_for(lambda log=log: log_lines(log, "executor.started"), 60, "a third worker")
        executor_id = started["executor_id"]

        def computes(executor_id: str = executor_id) -> bool:
            done = stack.finished_batch(stack.start_batch(numbers=[24] * 60), 60)
            return any(n["executor_id"] == executor_id for n in done["results"])

        wait_for(computes, 60, "it computes something")
        process.terminate()
        assert process.wait(15) == 0
        sent = [span for span in collected.spans if span.executor_id == executor_id]
        traced = [line for line in log_lines(log, "executor.started") if "trace_id" in line]
        found[bool(endpoint)] = (bool(sent), imported(log))
        assert not traced
    everything = {"opentelemetry.sdk", "opentelemetry.exporter", "google.protobuf", "requests"}
    assert found[False] == (False, set())
    assert found[True][0]
    assert found[True][1] == everything, "the search for imports finds nothing any more"
