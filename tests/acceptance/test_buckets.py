"""Listing a bucket while a worker is killed: each page recorded once, the sums as if nothing had happened."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from holdfast.statuses import TERMINAL
from tests.support.command import told
from tests.support.native_stack import NativeStack
from tests.support.object_server import Door, ObjectServer, door_to
from tests.support.reporting import record
from tests.support.stack import running_stack, wait_for

OBJECTS = {f"{number % 5}/{number:04}": number % 100 for number in range(480)}
PAGES = 48


@pytest.fixture(scope="module")
def door(object_server: ObjectServer) -> Iterator[Door]:
    object_server.fill("killed", OBJECTS.items())
    with door_to(object_server) as made:
        yield made


@pytest.fixture(scope="module")
def stack(
    tmp_path_factory: pytest.TempPathFactory, object_server: ObjectServer, door: Door
) -> Iterator[NativeStack]:
    started = NativeStack(
        tmp_path_factory.mktemp("buckets"),
        HOLDFAST_S3_ENDPOINT=door.url,
        HOLDFAST_S3_CREDENTIALS_FILE=str(object_server.credentials_file),
    )
    with running_stack(started):
        yield started


def ended(stack: NativeStack, path: str, seconds: float = 90) -> Any:
    return wait_for(lambda: (one := stack.get(path))["status"] in TERMINAL and one, seconds, f"end of {path}")


def test_a_worker_killed_in_between_changes_no_sum(stack: NativeStack, door: Door) -> None:
    """It has the listing itself and pages of it, each of which has asked the server and recorded nothing."""
    workers = {member.executor_id: member for member in stack.workers()}
    door.delay_seconds = 0.1
    accepted = stack.request("POST", "/buckets/killed/listing", json={"page_size": 10})
    assert accepted.status_code == 202
    listing_id, path = accepted.json()["workflow_id"], accepted.headers["location"]
    assert path == f"/buckets/killed/listing/{listing_id}"
    wait_for(lambda: stack.get(path)["completed"] >= 5, 30, "some pages are summed up")
    door.delay_seconds = 2.0
    running = (
        "SELECT w.executor_id, count(*) AS pages FROM dbos.workflow_status w JOIN dbos.workflow_status up"
        " ON up.workflow_uuid = w.parent_workflow_id AND up.executor_id = w.executor_id"
        f" WHERE up.workflow_uuid = '{listing_id}' AND up.status = 'PENDING' AND w.status = 'PENDING'"
        " GROUP BY 1"
    )
    [victim] = wait_for(lambda: stack.query(running), 30, "pages run beside their listing")
    stack.crash(workers[victim["executor_id"]])
    door.delay_seconds = 0.1
    during = stack.get(path)
    assert 5 <= during["completed"] < PAGES
    assert during["keys"] == 10 * during["completed"]
    assert during["report"] is None
    done = ended(stack, path)
    assert done["status"] == "SUCCESS", done["error"]
    report = done["report"]
    assert (report["keys"], report["bytes"]) == (len(OBJECTS), sum(OBJECTS.values()))
    assert (done["pages"], done["completed"], report["folders"]) == (PAGES, PAGES, 5)
    for folder in report["top"]:
        below = [size for key, size in OBJECTS.items() if key.startswith(folder["prefix"])]
        assert (folder["keys"], folder["bytes"]) == (len(below), sum(below))

    moved = stack.handovers([listing_id, *(f"{listing_id}-{number}" for number in range(PAGES))])
    assert len(moved) >= 1 + victim["pages"] >= 2, "the listing, and the pages that were under way"
    assert {(row["from_executor"], row["reason"]) for row in moved} == {(victim["executor_id"], "lock lost")}
    recorded = stack.query(
        "SELECT count(*) AS steps, count(DISTINCT o.workflow_uuid) AS pages FROM dbos.operation_outputs o"
        " JOIN dbos.workflow_status w USING (workflow_uuid)"
        f" WHERE w.parent_workflow_id = '{listing_id}' AND o.function_name = 'buckets.read'"
    )
    assert recorded == [{"steps": PAGES, "pages": PAGES}]
    assert len(door.requests) > 2 * PAGES, "cut once, read once, and once more for what died unrecorded"


def test_two_workers_share_the_limits_and_claim_in_time(stack: NativeStack, door: Door) -> None:
    """50 starts in 10 seconds, 10 at once; what waits for its time goes on when it has come.

    Both workers ask for the same rows with NOWAIT: who loses polls more seldom, and must leave none lying.
    """
    stack.workers()
    door.delay_seconds, door.most_at_once = 0.02, 0
    ids = [stack.post("/buckets/killed/listing", {"page_size": 15})["workflow_id"] for _ in range(2)]
    for listing_id in ids:
        assert ended(stack, f"/buckets/killed/listing/{listing_id}")["status"] == "SUCCESS"
    assert door.most_at_once <= 12, "ten pages, and two listings' own cutting"
    rows = stack.query(
        "SELECT started_at_epoch_ms / 1000.0 AS at, created_at / 1000.0 AS due, parent_workflow_id AS parent"
        " FROM dbos.workflow_status WHERE queue_name = 'bucket-pages' ORDER BY 1"
    )
    started = [float(row["at"]) for row in rows]
    for at, when in enumerate(started):
        assert sum(when <= other < when + 10 for other in started[at:]) <= 50
    late = [
        started[at] - max(started[at - 50] + 10, float(row["due"]))
        for at, row in enumerate(rows)
        if at >= 50 and row["parent"] in ids
    ]
    assert len(late) > 50
    record("buckets: two workers, a page claimed after its time had come, at most", max(late))
    assert max(late) < 20, "it was left lying"


def test_errors_reach_who_asked(stack: NativeStack) -> None:
    answer = stack.request("POST", "/buckets/no-such-bucket/listing", json={"wait": True})
    assert answer.status_code == 200
    assert answer.json()["status"] == "ERROR"
    assert "There is no bucket no-such-bucket on the S3 server" in answer.json()["error"]
    shown = stack.get(f"/buckets/no-such-bucket/listing/{answer.json()['workflow_id']}")
    assert shown["error"] == answer.json()["error"]
    elsewhere = stack.request("GET", f"/buckets/killed/listing/{answer.json()['workflow_id']}")
    assert elsewhere.status_code == 404
    assert elsewhere.headers["content-type"] == "application/problem+json"


def test_the_audit_holds(stack: NativeStack) -> None:
    assert told(stack, "verify", "--idle")["ok"]
