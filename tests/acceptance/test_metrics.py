"""After drains, kills and cancels: /metrics of every process that lived says what the tables say."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import httpx
import psycopg2
import psycopg2.extras
import pytest

from holdfast.audit.audit import Audit
from holdfast.audit.evidence import counters_agree, samples
from holdfast.statuses import PARKED
from services.holdfast_commands import SUBJECTS
from tests.support.native_stack import NativeStack
from tests.support.stack import Member, Stack, running_stack, wait_for
from tests.unit.api_fakes import FakeSettings

WORKER = "holdfast-worker"
# About half a second of an idle core.
N = 33


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Three workers, so that one lives throughout."""
    modules = {"HOLDFAST_MODULES": "tests.support.families"}
    with running_stack(NativeStack(tmp_path_factory.mktemp("metrics"), workers=3, **modules)) as started:
        yield started


@pytest.fixture(scope="module")
def survivors(stack: Stack) -> list[Member]:
    """A batch goes through a drain and a kill; who is there afterwards, and nothing runs any more."""
    drained, killed, _ = stack.workers()
    batch_id = stack.start_batch(numbers=[N] * 30)
    wait_for(lambda: len(stack.busy_children(drained)) >= 1, 30, "the first worker computes")
    stack.post(f"/executors/{drained.executor_id}/drain")
    assert stack.exited(drained, 30).code == 0
    wait_for(lambda: len(stack.busy_children(killed)) >= 1, 30, "the second worker computes")
    stack.crash(killed)
    stack.finished_batch(batch_id, 120)
    # The drain handed nothing over if its steps ended in time: a waiting parent always moves.
    members = stack.workers()
    assert {drained.executor_id, killed.executor_id}.isdisjoint(m.executor_id for m in members)
    return members


def scraped(stack: Stack, executor_id: str) -> str:
    port = stack.query(f"SELECT port FROM ops.executors WHERE executor_id = '{executor_id}'")[0]["port"]
    answer = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=10, trust_env=False)
    assert answer.status_code == 200
    return answer.text


def counted(text: str, name: str) -> dict[tuple[str, ...], int]:
    """What is not zero."""
    return {labels: int(value) for labels, value in samples(text, name).items() if value}


def stored(stack: Stack, statement: str) -> dict[tuple[str, ...], int]:
    """By the columns before the last, which is ``n``."""
    return {tuple(str(v) for k, v in row.items() if k != "n"): row["n"] for row in stack.query(statement)}


def agree(stack: Stack, executor_id: str, wanted: dict[str, str]) -> None:
    """Each metric equals its statement's rows. A tick may end between the two, so they get a few polls."""
    different: dict[str, Any] = {}

    def same() -> bool:
        text = scraped(stack, executor_id)
        different.clear()
        for name, statement in wanted.items():
            told, known = counted(text, name), stored(stack, statement)
            if told != known:
                different[name] = {"counted": told, "stored": known}
        return not different

    try:
        wait_for(same, 20, "counters equal the database", pause_seconds=0.3)
    except AssertionError:
        pytest.fail(f"{executor_id}: {different}")


def test_workers_counted_what_the_tables_hold(stack: Stack, survivors: list[Member]) -> None:
    for member in survivors:
        me = f"'{member.executor_id}'"
        done = f"FROM dbos.workflow_status WHERE executor_id = {me} AND status = 'SUCCESS'"
        dead = f"FROM ops.executors WHERE taken_over_by = {me}"
        steps = (
            "FROM dbos.operation_outputs o JOIN dbos.workflow_status w USING (workflow_uuid)"
            f" WHERE w.executor_id = {me} AND o.error IS NULL"
            " AND o.function_name IN ('fibonacci.enqueue', 'fibonacci.compute', 'fibonacci.collect',"
            " 'pulse.record')"
            # What came from another executor may have brought recorded steps along. Begins are cut to a
            # millisecond: one just after the claim would look as if it came before.
            " AND o.started_at_epoch_ms >= greatest(w.created_at, w.started_at_epoch_ms) - 50"
        )
        wanted = {
            "takeovers_total": f"SELECT reason, count(*) AS n {dead} GROUP BY 1",
            "takeover_delay_seconds_count": f"SELECT count(*) AS n {dead} HAVING count(*) > 0",
            "takeover_workflows_total": "SELECT reason, count(*) AS n FROM ops.handovers"
            f" WHERE released_by = {me} AND kind = 'takeover' GROUP BY 1",
            "workflows_completed_total": f"SELECT status, name, count(*) AS n {done} GROUP BY 1, 2",
            "queue_wait_seconds_count": "SELECT queue_name, count(*) AS n"
            f" {done} AND recovery_attempts = 1 GROUP BY 1",
            "step_duration_seconds_count": "SELECT 'SUCCESS', o.function_name, count(*) AS n"
            f" {steps} GROUP BY 1, 2",
        }
        agree(stack, member.executor_id, {f"holdfast_{name}": text for name, text in wanted.items()})
        pulses = stored(stack, f"SELECT count(*) AS n FROM ops.pulses WHERE executor_id = {me}")[()]
        assert counted(scraped(stack, member.executor_id), "holdfast_step_duration_seconds_count").get(
            ("SUCCESS", "pulse.record"), 0
        ) in (pulses, pulses + 1)


def test_the_kill_is_counted_once_among_the_survivors(stack: Stack, survivors: list[Member]) -> None:
    told = [counted(scraped(stack, m.executor_id), "holdfast_takeovers_total") for m in survivors]
    assert [t for t in told if t] == [{("lock lost",): 1}]


def test_the_api_reports_what_ended_processes_no_longer_can(stack: Stack, survivors: list[Member]) -> None:
    agree(
        stack,
        stack.api().executor_id,
        {
            "holdfast_handed_over_total": "SELECT count(*) AS n FROM ops.handovers"
            " WHERE kind = 'handover' HAVING count(*) > 0",
            "holdfast_drain_seconds_count": "SELECT application, count(*) AS n FROM ops.executors"
            " WHERE state = 'drained' GROUP BY 1",
            "holdfast_executors": "SELECT application, state, count(*) AS n FROM ops.executors"
            " WHERE state = 'live' GROUP BY 1, 2",
            "holdfast_fenced_total": "SELECT application, 0 AS n FROM ops.executors WHERE false",
            "holdfast_schedule_missed_ticks_total": "SELECT 0 AS n WHERE false",
            "holdfast_orphaned_workflows": "SELECT 0 AS n WHERE false",
            "holdfast_queue_depth": "SELECT queue_name, count(*) AS n FROM dbos.workflow_status"
            " WHERE status = 'ENQUEUED' GROUP BY 1",
        },
    )
    text = scraped(stack, stack.api().executor_id)
    assert samples(text, "holdfast_drain_seconds_count")[WORKER,] == 1
    assert 0 < samples(text, "holdfast_drain_seconds_sum")[WORKER,] < 30
    assert samples(text, "holdfast_database_up") == {(): 1}


def test_every_process_says_what_it_is_and_that_it_is_well(stack: Stack, survivors: list[Member]) -> None:
    for member in [stack.api(), *survivors]:
        text = scraped(stack, member.executor_id)
        ((application, version, _, role),) = samples(text, "holdfast_build_info")
        assert (application, role) == (f"holdfast-{member.role}", member.role)
        assert version.startswith(f"{role}-")
        assert samples(text, "holdfast_executor_ready") == {(): 1}
        assert abs(samples(text, "holdfast_clock_difference_seconds")[()]) < 1
        assert samples(text, "holdfast_heartbeat_age_seconds")[()] < 5
        assert samples(text, "holdfast_draining_seconds") == {(): 0}
        assert samples(text, "process_resident_memory_bytes")[()] > 1e6
        slots = samples(text, "holdfast_worker_slots")
        assert set(slots) == (set() if role == "api" else {("busy",), ("free",)})
        assert not re.search(r"[{,]\w*id=", text)
        ids = stack.query(
            "SELECT workflow_uuid AS id FROM dbos.workflow_status UNION SELECT executor_id FROM ops.executors"
        )
        assert not [row["id"] for row in ids if row["id"] in text]


@pytest.fixture(scope="module")
def families(stack: Stack, survivors: list[Member]) -> list[Member]:
    """Every outcome, for parents and children: a process is killed, and a batch and a child are cancelled.

    Returns the workers that ran throughout. Nothing runs any more.
    """
    parents = {
        end: stack.post("/workflows", {"workflow": "family.parent", "args": [end]})["workflow_id"]
        for end in ("succeeds", "fails", "is cancelled", "is parked")
    }

    def child(end: str) -> dict[str, Any] | None:
        """The child, once it sleeps, or once its step is about to run."""
        rows = stack.query(
            "SELECT w.workflow_uuid AS id, w.executor_id, w.status, o.function_id IS NOT NULL AS sleeps"
            " FROM dbos.workflow_status w LEFT JOIN dbos.operation_outputs o USING (workflow_uuid)"
            f" WHERE w.parent_workflow_id = '{parents[end]}' AND w.status = 'PENDING'"
        )
        return rows[0] if rows and (rows[0]["sleeps"] or end == "is parked") else None

    sleeper = wait_for(lambda: child("is cancelled"), 30, "a child sleeps")
    stack.post(f"/workflows/{sleeper['id']}/cancel")
    batch_id = stack.start_batch(numbers=[N] * 30)
    wait_for(lambda: len(stack.running(batch_id)) >= 2, 30, "numbers of the batch run")
    stack.post(f"/workflows/{batch_id}/cancel")
    stays = wait_for(lambda: child("is parked"), 30, "a child runs")
    (killed,) = (member for member in survivors if member.executor_id == stays["executor_id"])
    stack.crash(killed)
    unfinished = (
        "SELECT FROM dbos.workflow_status WHERE status IN ('ENQUEUED', 'PENDING') AND name <> 'pulse.tick'"
    )
    wait_for(lambda: not stack.query(f"{unfinished} LIMIT 1"), 60, "nothing runs any more")
    lived = [member.executor_id for member in survivors if member is not killed]
    return [member for member in stack.workers() if member.executor_id in lived]


def test_each_outcome_is_counted_as_it_is_stored(stack: Stack, families: list[Member]) -> None:
    ended = "status IN ('SUCCESS', 'ERROR', 'CANCELLED', 'MAX_RECOVERY_ATTEMPTS_EXCEEDED')"
    by_name = f"SELECT status, name, count(*) AS n FROM dbos.workflow_status WHERE {ended}"
    assert {
        ("ERROR", "family.child"): 1,
        ("SUCCESS", "family.child"): 1,
        ("CANCELLED", "family.child"): 1,
        ("MAX_RECOVERY_ATTEMPTS_EXCEEDED", "family.child"): 1,
        ("ERROR", "family.parent"): 3,
        ("SUCCESS", "family.parent"): 1,
        ("CANCELLED", "fibonacci.batch"): 1,
    }.items() <= stored(stack, f"{by_name} GROUP BY 1, 2").items()
    agree(stack, stack.api().executor_id, {"holdfast_workflows_ended_total": f"{by_name} GROUP BY 1, 2"})
    for member in families:
        # What was cancelled before it ran has no execution, and a parked workflow has none that ended.
        mine = f"executor_id = '{member.executor_id}' AND recovery_attempts > 0 AND status <> '{PARKED}'"
        agree(
            stack,
            member.executor_id,
            {"holdfast_workflows_completed_total": f"{by_name} AND {mine} GROUP BY 1, 2"},
        )


def test_the_audit_finds_that_counters_equal_the_database(stack: Stack, families: list[Member]) -> None:
    assert isinstance(stack, NativeStack)
    connection = psycopg2.connect(
        host="127.0.0.1",
        port=stack.state["postgres"]["port"],
        dbname="holdfast",
        user="holdfast_migrator",
        passfile=stack.state["passfiles"]["migrate"],
        cursor_factory=psycopg2.extras.RealDictCursor,
    )
    connection.autocommit = True
    try:
        finding = counters_agree(Audit(connection, FakeSettings(), SUBJECTS))
    finally:
        connection.close()
    assert finding["ok"], finding["details"]
    assert finding["figures"]["executors_reached"] == 4
    assert finding["figures"]["compared"] > 20
