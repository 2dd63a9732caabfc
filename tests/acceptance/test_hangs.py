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
LOST_SECONDS = 30.0
"""Of healthy work, by what two workers do alone: half of a minute."""
SLOW_SECONDS = 0.2


# Only beside a healthy worker a limit on what is lost is asserted: it is measured alone.
@pytest.fixture(scope="module", params=[pytest.param(2, marks=pytest.mark.timing), 1])
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


def counted(stack: NativeStack, seconds: float) -> float:
    """Healthy workflows a second over that time."""
    before, begun = finished(stack), time.monotonic()
    time.sleep(seconds)
    return (finished(stack) - before) / (time.monotonic() - begun)


def test_a_hog_beside_healthy_work(stack: NativeStack) -> None:
    earlier = parked(stack)
    with stream(stack):
        wait_for(lambda: finished(stack) > 20, 30, "healthy work runs")
        alone = counted(stack, 10)
        before = finished(stack)
        begun = time.monotonic()
        hog = start(stack, "hogs.hog", length=40)
        wait_for(lambda: hog in parked(stack), 150, "the hog is parked", pause_seconds=0.2)
        took = time.monotonic() - begun
        record(f"hog parked with {stack.worker_count} workers, seconds", took)
        lost_seconds = took - (finished(stack) - before) / alone
    record(f"healthy work lost to a hog with {stack.worker_count} workers, seconds", lost_seconds)
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
        assert lost_seconds <= LOST_SECONDS, (took, alone)
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
