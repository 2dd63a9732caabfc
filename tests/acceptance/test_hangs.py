"""A step that blocks the interpreter: its process is ended and replaced, it is parked, others go on."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.support.native_stack import NativeStack
from tests.support.reporting import record
from tests.support.stack import running_stack, wait_for

LIMIT = 4
"""The least at which a hog is requeued, a suspect, on trial, and parked."""
SLOW_SECONDS = 0.2


@pytest.fixture(scope="module", params=[2, 1])
def stack(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NativeStack]:
    started = NativeStack(
        tmp_path_factory.mktemp(f"hangs-{request.param}"),
        workers=request.param,
        HOLDFAST_MODULES="tests.support.hogs",
        HOLDFAST_CRASH_LIMIT=str(LIMIT),
    )
    with running_stack(started):
        yield started


def parked(stack: NativeStack) -> set[str]:
    rows = stack.query(
        "SELECT workflow_uuid AS id FROM dbos.workflow_status WHERE status = 'MAX_RECOVERY_ATTEMPTS_EXCEEDED'"
    )
    return {row["id"] for row in rows}


def start(stack: NativeStack, name: str, **arguments: float) -> str:
    answer = stack.post("/workflows", {"workflow": name, "arguments": arguments})
    return str(answer["workflow_id"])


def finished(stack: NativeStack) -> int:
    (row,) = stack.query(
        "SELECT count(*) AS n FROM dbos.workflow_status WHERE name = 'hogs.slow' AND status = 'SUCCESS'"
    )
    return int(row["n"])


@contextmanager
def stream(stack: NativeStack) -> Iterator[None]:
    """Healthy work, as much of it as the workers can do, inside."""
    stop = threading.Event()

    def feed() -> None:
        while not stop.is_set():
            (row,) = stack.query(
                "SELECT count(*) AS n FROM dbos.workflow_status"
                " WHERE name = 'hogs.slow' AND status = 'ENQUEUED'"
            )
            for _ in range(40 - row["n"]):
                start(stack, "hogs.slow", seconds=SLOW_SECONDS)
            stop.wait(0.3)

    thread = threading.Thread(target=feed)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def beside(stack: NativeStack, hog: str) -> list[int]:
    """How much healthy work others finished in the last 3 s of each process that the hog blocked."""
    rows = stack.query(
        "SELECT (SELECT count(*) FROM dbos.workflow_status s WHERE s.name = 'hogs.slow'"
        "        AND s.executor_id <> h.from_executor AND s.status = 'SUCCESS'"
        "        AND to_timestamp(s.completed_at / 1000.0)"
        "            BETWEEN h.lost_at - interval '3 s' AND h.lost_at) AS n"
        f" FROM ops.handovers h WHERE h.workflow_id = '{hog}' ORDER BY h.lost_at"
    )
    return [int(row["n"]) for row in rows]


def test_a_hog_beside_healthy_work(stack: NativeStack) -> None:
    earlier = parked(stack)
    with stream(stack):
        wait_for(lambda: finished(stack) > 20, 30, "healthy work runs")
        begun = time.monotonic()
        hog = start(stack, "hogs.hog", seconds=600)
        wait_for(lambda: hog in parked(stack), 150, "the hog is parked", pause_seconds=0.2)
        record(f"hog parked with {stack.worker_count} workers, seconds", time.monotonic() - begun)
    (row,) = stack.query(f"SELECT crashes FROM ops.crashes WHERE workflow_id = '{hog}'")
    assert row["crashes"] == LIMIT
    assert parked(stack) - earlier == {hog}, "something healthy is parked"
    lost = stack.query(
        f"SELECT DISTINCT from_executor AS id, reason FROM ops.handovers WHERE workflow_id = '{hog}'"
    )
    assert len(lost) == LIMIT, lost
    assert {row["reason"] for row in lost} <= {"hung", "lock lost"}
    # Every hung process ended, and others took their places.
    assert len(stack.workers()) == stack.worker_count
    stack.api()
    assert not {member.executor_id for member in stack.workers()} & {row["id"] for row in lost}
    assert {line["executor_id"] for line in killed_lines(stack)} & {row["id"] for row in lost}
    if stack.worker_count > 1:
        # Four at once of 0.2 s: 60 in 3 s, where nothing else runs. Later, the other may just have started.
        first, *later = beside(stack, hog)
        record("healthy work beside the first hang of a hog", first)
        record("healthy work beside its later hangs", sum(later))
        assert first >= 6 and sum(later) >= 6 * (LIMIT - 1), (first, later)
    wait_for(
        lambda: (
            not stack.query(
                "SELECT 1 AS n FROM dbos.workflow_status"
                " WHERE name = 'hogs.slow' AND status IN ('PENDING', 'ENQUEUED')"
            )
        ),
        60,
        "healthy work ends",
    )


@pytest.mark.parametrize("stack", [1], indirect=True)
def test_a_paused_worker_is_fenced_and_not_killed_by_its_watchdog(stack: NativeStack) -> None:
    worker = stack.workers()[0]
    since = len(list(killed_lines(stack)))
    stack.pause(worker)
    time.sleep(2 * 5.0)
    stack.unpause(worker)
    assert stack.exited(worker, 10).code == 75
    assert len(list(killed_lines(stack))) == since
    stack.workers()


def killed_lines(stack: NativeStack) -> Iterator[dict[str, Any]]:
    return (line for _, line in stack.log_objects() if line.get("action") == "interpreter.killed")
