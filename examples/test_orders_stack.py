"""The module in a whole stack of real processes: a worker is killed in the middle of an order.

Copy this too: `NativeStack` needs no container, and ends what it started.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.native_stack import NativeStack
from tests.support.stack import ROOT, clean_environment, running_stack, wait_for

LINES = [{"article": article, "count": 1, "cents": 250} for article in ("pen", "ink", "pad", "cap")]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NativeStack]:
    """One stack for the module, whose processes know `examples.orders`."""
    with running_stack(
        NativeStack(tmp_path_factory.mktemp("orders"), HOLDFAST_MODULES="examples.orders")
    ) as started:
        yield started


def start(stack: NativeStack, key: str, **arguments: Any) -> str:
    body = {"workflow": "orders.fulfil", "arguments": arguments}
    return str(stack.post("/workflows", body, headers={"Idempotency-Key": key})["workflow_id"])


def test_an_order_outlives_its_worker(stack: NativeStack) -> None:
    workers = {member.executor_id: member for member in stack.workers()}
    order = {"order_id": "o-1", "lines": LINES, "packing_seconds": 0.5}
    workflow_id = start(stack, "order-1", **order)
    steps = f"/workflows/{workflow_id}/steps"
    before = wait_for(lambda: stack.get(steps)["steps"], 20, "the first line is shipped")

    killed = workers[stack.get(f"/workflows/{workflow_id}")["executor_id"]]
    stack.crash(killed)
    done = stack.finished(workflow_id, 30)

    assert done["executor_id"] != killed.executor_id
    assert done["output"]["total_cents"] == 1000
    assert [parcel["article"] for parcel in done["output"]["parcels"]] == ["pen", "ink", "pad", "cap"]
    # What was recorded before the crash stays; the carrier heard the same key at every attempt.
    assert stack.get(steps)["steps"][: len(before)] == before
    assert len({parcel["tracking"] for parcel in done["output"]["parcels"]}) == 4
    (move,) = stack.handovers([workflow_id])
    assert (move["kind"], move["from_executor"]) == ("takeover", killed.executor_id)
    assert start(stack, "order-1", **order) == workflow_id, "the same key is the same order"


def test_wrong_arguments_are_refused_by_name(stack: NativeStack) -> None:
    def refused(workflow: str, **arguments: Any) -> Any:
        answer = stack.request("POST", "/workflows", json={"workflow": workflow, "arguments": arguments})
        assert answer.status_code == 422
        return answer.json()["field"]

    assert refused("orders.fulfil", order_id="o", lines=[{**LINES[0], "count": "1"}]) == (
        "arguments.lines.0.count"
    )
    assert refused("orders.fulfil", order_id="o", lines=[], colour="red") == "arguments.colour"
    assert refused("orders.fulfil", lines=[]) == "arguments.order_id"
    assert refused("orders.fulfill") == "workflow"


def test_operators_orders(stack: NativeStack) -> None:
    workflow_id = start(stack, "order-2", order_id="o-2", lines=LINES, packing_seconds=1)
    wait_for(lambda: stack.get(f"/workflows/{workflow_id}/steps")["steps"], 20, "it runs")
    assert stack.post(f"/workflows/{workflow_id}/cancel")["status"] == "CANCELLED"
    stack.post(f"/workflows/{workflow_id}/resume")
    first = stack.finished(workflow_id, 30)["output"]
    copy = stack.post(f"/workflows/{workflow_id}/fork", {"start_step": 4})["workflow_id"]
    forked = stack.finished(copy, 30)
    assert forked["queue_name"] == "orders"
    assert forked["output"]["parcels"][:3] == first["parcels"][:3]


def test_the_schedule_ticks_once(stack: NativeStack) -> None:
    ticks = wait_for(
        lambda: (
            (t := stack.get("/workflows?name=orders.take_stock&status=SUCCESS")["workflows"])
            and len(t) >= 2
            and t
        ),
        40,
        "two ticks",
    )
    assert len({tick["workflow_id"] for tick in ticks}) == len(ticks)
    assert all(tick["workflow_id"].startswith("sched-orders-stock-") for tick in ticks)


def test_figures_and_audit(stack: NativeStack) -> None:
    ports = [entry["port"] for entry in stack.state["workers"]]
    shown = [stack.http.get(f"http://127.0.0.1:{port}/metrics").text for port in ports]
    for wanted in (
        'holdfast_workflows_completed_total{status="SUCCESS",workflow_name="orders.fulfil"}',
        'holdfast_step_duration_seconds_count{status="SUCCESS",step_name="orders.ship"}',
        'holdfast_queue_wait_seconds_count{queue_name="orders"}',
    ):
        assert all(wanted in text for text in shown)

    def command(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "holdfast.cli.main", *arguments],
            cwd=ROOT,
            env=clean_environment(HOLDFAST_HOME=str(stack.home), HOLDFAST_URL=stack.url),
            capture_output=True,
            check=False,
            text=True,
        )

    said = (ROOT / "docs" / "start" / "your-own-workflow.md").read_text("utf-8")
    _, *told = shlex.split(re.search(r"^holdfast start .*", said, re.MULTILINE)[0])  # type: ignore[index]
    done = command(*told, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["output"]["total_cents"] == 300
    body = json.loads(re.search(r"-d '(.*)'", said)[1])  # type: ignore[index]
    stack.finished(stack.post("/workflows", body)["workflow_id"], 20)
    audit = command("verify")
    assert audit.returncode == 0, audit.stdout
