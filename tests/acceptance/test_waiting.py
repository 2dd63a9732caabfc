"""Workflows that only wait, in real processes: kills, stops, and what waiting costs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.native_stack import NativeStack
from tests.support.reporting import record
from tests.support.stack import running_stack, wait_for

PARENTS = 64
DRAIN_SECONDS = 2.0
LIMIT = 3
FLUSHED_SECONDS = 11.0
"""A session that is idle now tells PostgreSQL of its commits ten seconds later."""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NativeStack]:
    """One worker, so that whatever stands still shows."""
    started = NativeStack(
        tmp_path_factory.mktemp("waiting"),
        workers=1,
        HOLDFAST_MODULES="tests.support.waiting",
        HOLDFAST_CRASH_LIMIT=str(LIMIT),
        HOLDFAST_DRAIN_SECONDS=str(DRAIN_SECONDS),  # as long a trial waits to be alone
    )
    with running_stack(started):
        yield started


def start(stack: NativeStack, workflow: str, **arguments: object) -> str:
    body = {"workflow": f"waiting.{workflow}", "arguments": arguments}
    return str(stack.post("/workflows", body)["workflow_id"])


def waits(stack: NativeStack, *workflow_ids: str) -> bool:
    """Whether all of them are told to wait, by who runs them now."""
    ids = ", ".join(f"'{each}'" for each in workflow_ids)
    rows = stack.query(
        "SELECT count(*) AS n FROM ops.waits x JOIN dbos.workflow_status w ON w.workflow_uuid = x.workflow_id"
        f" AND w.owner_xid = x.owner_xid AND w.status = 'PENDING' WHERE x.workflow_id IN ({ids})"
    )
    return bool(rows[0]["n"] == len(workflow_ids))


def cancel(stack: NativeStack, workflow_id: str) -> None:
    stack.post(f"/workflows/{workflow_id}/cancel", {})


def test_a_sleeper_is_never_blamed(stack: NativeStack) -> None:
    """As many deaths of its process as park: no suspect, nothing on trial, the worker goes on claiming."""
    nap = start(stack, "nap", seconds=1800)
    short = start(stack, "nap", seconds=25)
    crashed_at = 0.0
    for _ in range(LIMIT):
        wait_for(lambda: waits(stack, nap), 30, "it sleeps")
        crashed_at = stack.crash(stack.workers()[0])
    wait_for(lambda: waits(stack, nap), 30, "it sleeps")
    rows = stack.query(
        f"SELECT w.queue_name FROM dbos.workflow_status w WHERE workflow_uuid = '{nap}'"
        f" UNION ALL SELECT 'counted' FROM ops.crashes WHERE workflow_id = '{nap}'"
    )
    assert [row["queue_name"] for row in rows] == ["waiting-naps"]
    assert stack.finished(start(stack, "nap", seconds=0.1), 10)["output"] == "awake"
    assert stack.finished(short, 60)["output"] == "awake"
    (ended,) = stack.query(
        f"SELECT completed_at / 1000.0 AS at FROM dbos.workflow_status WHERE workflow_uuid = '{short}'"
    )
    assert float(ended["at"]) - crashed_at < 25, "a sleep goes on where it was, it does not begin again"
    cancel(stack, nap)
    wait_for(lambda: not stack.get("/executors")["executors"][0].get("in_flight"), 10, "its place is free")


def test_a_stop_beside_what_waits_or_is_cancelled_is_over_at_once(stack: NativeStack, tmp_path: Path) -> None:
    nap, held = start(stack, "nap", seconds=3600), start(stack, "held", until=str(tmp_path / "gate"))
    wait_for(lambda: waits(stack, nap), 20, "it sleeps")
    wait_for(
        lambda: stack.query(
            f"SELECT 1 AS n FROM dbos.workflow_status WHERE workflow_uuid = '{held}' AND status = 'PENDING'"
        ),
        20,
        "it runs",
    )
    cancel(stack, held)
    worker = stack.workers()[0]
    stack.stop(worker)
    ended = stack.exited(worker, 30)
    assert ended.code == 0
    seconds = stack.query(
        f"SELECT drain_seconds::float8 AS s FROM ops.executors WHERE executor_id = '{worker.executor_id}'"
    )[0]["s"]
    record("drain beside an hour's sleep and cancelled work, seconds", seconds)
    assert seconds < DRAIN_SECONDS, "it waited for what only waits"
    wait_for(lambda: waits(stack, nap), 30, "it sleeps on elsewhere")
    cancel(stack, nap)


def test_poison_beside_a_sleep_is_parked(stack: NativeStack) -> None:
    """The step that kills is work, although another branch of its workflow only waits."""
    start(stack, "start_branches", workflow_id="poison-in-a-branch")
    wait_for(
        lambda: stack.query(
            "SELECT 1 AS n FROM dbos.workflow_status WHERE workflow_uuid = 'poison-in-a-branch'"
            " AND status = 'MAX_RECOVERY_ATTEMPTS_EXCEEDED'"
        ),
        240,
        "it is parked",
        pause_seconds=0.5,
    )


def transactions(stack: NativeStack, seconds: float) -> float:
    """Commits a second of everybody, without the session that asks."""
    ask = "SELECT xact_commit AS n FROM pg_stat_database WHERE datname = current_database()"
    before, began = stack.query(ask)[0]["n"], time.monotonic()
    time.sleep(seconds)
    return float(stack.query(ask)[0]["n"] - before) / (time.monotonic() - began)


def test_parents_that_wait_cost_next_to_nothing(stack: NativeStack, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    stack.workers()
    time.sleep(FLUSHED_SECONDS)
    idle = transactions(stack, 10)
    parents = [start(stack, "family", until=str(gate)) for _ in range(PARENTS)]
    wait_for(lambda: waits(stack, *parents), 60, "all parents wait")
    time.sleep(FLUSHED_SECONDS)
    waiting = transactions(stack, 10)
    record("commits a second while idle", idle)
    record(f"commits a second with {PARENTS} waiting parents", waiting)
    assert waiting < 1.2 * idle
    gate.write_text("")
    for parent in parents:
        assert stack.finished(parent, 30)["output"] == "held"
