"""The audit against a real database: clean, then with each thing broken that it is there to find."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from holdfast.audit import checks as audit
from holdfast.audit import evidence
from holdfast.audit.audit import Audit
from holdfast.audit.findings import Finding
from holdfast.audit.journal import Journal
from holdfast.postgres import statements
from holdfast.postgres.database import query
from holdfast.recovery.adoption import move, stranded_ids
from services.holdfast_commands import SUBJECTS
from services.worker.fibonacci.rule import summary
from tests.support import names
from tests.support.api_server import serving
from tests.support.database import Database
from tests.support.executors import insert, workflow
from tests.support.purging import DAY, purge

NOW = datetime.now(UTC).replace(microsecond=0)
GRID = NOW - timedelta(seconds=NOW.timestamp() % 5, minutes=10)


def check(database: Database, *, journal: Journal | None = None, idle: bool = False) -> dict[int, Finding]:
    """The findings by invariant."""
    it = Audit(database.connect(role="api"), database.settings("api"), SUBJECTS, journal, idle, 0.0)
    return {finding["invariant"]: finding for finding in audit.run(it)}


def broken(database: Database, **options: Any) -> dict[int, list[str]]:
    """What is wrong, by invariant."""
    return {number: f["details"] for number, f in check(database, **options).items() if not f["ok"]}


def running(database: Database, workflow_id: str, *, seconds: float, **columns: Any) -> None:
    """A workflow that began so long ago, of the executor that stands still."""
    begun = {"started_at_epoch_ms": int((time.time() - seconds) * 1000), "executor_id": "worker-still"}
    insert(database, [workflow_id], status="PENDING", **begun, **columns)


def executor(database: Database, executor_id: str, state: str = "live", **columns: Any) -> None:
    row = {
        "application": "holdfast-worker",
        "application_version": "worker-1",
        "role": "worker",
        "hostname": "h",
        "pid": 1,
        "port": 1,
        "slots": 2,
        "state": state,
        **columns,
    }
    database.rows(
        f"INSERT INTO ops.executors (executor_id, {', '.join(row)})"
        f" VALUES (%(executor_id)s, {', '.join(f'%({key})s' for key in row)})",
        executor_id=executor_id,
        **row,
    )


def stored(database: Database, workflow_id: str, args: Sequence[Any], output: Any) -> None:
    """Input and output of a finished workflow."""
    for table, column, value in (
        ("workflow_input", "inputs", {"namedArgs": {}, "positionalArgs": args}),
        ("workflow_output", "output", output),
    ):
        database.rows(
            f"INSERT INTO dbos.{table} (workflow_uuid, {column}, retention_timestamp)"
            " VALUES (%(id)s, %(text)s, 0)",
            id=workflow_id,
            text=json.dumps(value),
        )


def step(
    database: Database,
    workflow_id: str,
    function_id: int,
    name: str,
    output: Any,
    *,
    started_at_epoch_ms: int | None = None,
) -> None:
    """One recorded step."""
    database.rows(
        "INSERT INTO dbos.operation_outputs"
        " (workflow_uuid, function_id, function_name, output, started_at_epoch_ms)"
        " VALUES (%(id)s, %(function_id)s, %(name)s, %(text)s, %(started)s)",
        id=workflow_id,
        function_id=function_id,
        name=name,
        text=json.dumps(output),
        started=started_at_epoch_ms,
    )


def number(database: Database, workflow_id: str, n: int = 10, **columns: Any) -> None:
    """A finished number as a worker leaves it: input, output, recorded steps, effect."""
    insert(database, [workflow_id], status="SUCCESS", name=names.FIBONACCI_NUMBER, executor_id="w", **columns)
    result = summary(n, "doubling")
    stored(database, workflow_id, [n, "doubling"], result)
    step(database, workflow_id, 1, "fibonacci.compute", result)
    effect(database, workflow_id, n)


def sequence(database: Database, workflow_id: str, *numbers: int) -> None:
    """Finished numbers in turn, as a worker leaves them: two steps each, in one workflow."""
    insert(database, [workflow_id], status="SUCCESS", name=names.FIBONACCI_SEQUENCE, executor_id="w")
    results = [summary(n, "doubling") for n in numbers]
    stored(database, workflow_id, [numbers, "doubling"], {"total": len(numbers), "results": results})
    for index, result in enumerate(results):
        key = f"{workflow_id}:{index}"
        step(database, workflow_id, 2 * index + 1, "fibonacci.compute", result)
        step(database, workflow_id, 2 * index + 2, "effects.record", key)
        effect(database, workflow_id, result["n"], key=key)


def effect(
    database: Database, workflow_id: str, n: int = 10, sha256: str | None = None, key: str | None = None
) -> None:
    database.rows(
        "INSERT INTO ops.effects (workflow_id, effect_key, executor_id, n, sha256)"
        " VALUES (%(id)s, %(key)s, 'w', %(n)s, %(sha256)s)",
        id=workflow_id,
        key=key or f"{workflow_id}:effect",
        n=n,
        sha256=sha256 or summary(n, "doubling")["sha256"],
    )


def ticks(database: Database, *indexes: int) -> None:
    """Rows and workflows of those ticks after GRID."""
    for index in indexes:
        moment = GRID + timedelta(seconds=5 * index)
        workflow_id = f"sched-pulse-{index}"
        insert(database, [workflow_id], status="SUCCESS", name=names.PULSE_TICK, executor_id="w")
        database.rows(
            "INSERT INTO ops.pulses (scheduled_at, workflow_id, executor_id, lateness_seconds, status,"
            " queue_depth, live_executors) VALUES (%(at)s, %(id)s, 'w', 0, 'run', 0, 1)",
            at=moment,
            id=workflow_id,
        )


def accepted(*workflow_ids: str) -> Journal:
    lines = [{"kind": "request", "outcome": "ok", "workflow_id": w, "status": 202} for w in workflow_ids]
    return Journal.read(map(json.dumps, lines))


@pytest.fixture
def clean(database: Database) -> Database:
    """A database in which all is as it should be."""
    executor(database, "w", started_at=GRID - timedelta(minutes=1))
    executor(database, "old", "drained", started_at=GRID, ended_at=NOW)
    for index, n in enumerate((0, 1, 10, 30_000)):
        number(database, f"number-{index}", n)
    sequence(database, "sequence", 7, 1, 12)
    ticks(database, 0, 1, 2, 3)
    insert(database, ["poison"], status="MAX_RECOVERY_ATTEMPTS_EXCEEDED", name=names.POISON)
    database.rows("INSERT INTO ops.crashes (workflow_id, crashes, steps_recorded) VALUES ('poison', 5, 0)")
    return database


def test_a_clean_database_holds(clean: Database) -> None:
    findings = check(clean, journal=accepted("number-0", "poison"), idle=True)
    assert {number: finding["details"] for number, finding in findings.items()} == {
        n: [] for n in range(1, 8)
    }
    assert findings[2]["figures"]["effects"] == findings[2]["figures"]["numbers"] == 7
    assert findings[3]["figures"] == {"results": 7, "n": 6}
    assert findings[4]["figures"]["ticks"] == 4
    assert findings[1]["figures"]["accepted"] == 2


def test_an_empty_database_holds(database: Database) -> None:
    assert broken(database, idle=True) == {}


def sql(statement: str) -> Callable[[Database], Any]:
    return lambda database: database.rows(statement)


BREAKS: dict[str, tuple[Callable[[Database], Any], int, str]] = {
    "effect doubled": (lambda d: effect(d, "number-2"), 2, "1 numbers with more than one effect"),
    "effect missing": (
        sql("DELETE FROM ops.effects WHERE workflow_id = 'number-2'"),
        2,
        "1 numbers without their effect",
    ),
    "effect of nobody": (lambda d: effect(d, "nobody"), 2, "1 effects of unknown workflows"),
    "effect differs": (
        sql("UPDATE ops.effects SET sha256 = 'other' WHERE workflow_id = 'number-2'"),
        2,
        "1 effects that differ",
    ),
    "effect of a sequence doubled": (
        lambda d: effect(d, "sequence", 1, key="sequence:1"),
        2,
        "1 numbers with more than one effect",
    ),
    "effect of a sequence missing": (
        sql("DELETE FROM ops.effects WHERE effect_key = 'sequence:1'"),
        2,
        "1 numbers without their effect",
    ),
    "effects of a sequence exchanged": (
        sql(
            "UPDATE ops.effects SET effect_key = CASE effect_key WHEN 'sequence:1' THEN 'sequence:2'"
            " ELSE 'sequence:1' END WHERE effect_key IN ('sequence:1', 'sequence:2')"
        ),
        2,
        "2 effects that differ",
    ),
    "step of a sequence missing": (
        sql("DELETE FROM dbos.operation_outputs WHERE workflow_uuid = 'sequence' AND function_id = 3"),
        2,
        "1 numbers without exactly one recorded computation",
    ),
    "results of a sequence in another order": (
        sql(
            "UPDATE dbos.workflow_output SET output = jsonb_set(output::jsonb, '{results,0}',"
            " output::jsonb -> 'results' -> 1)::text WHERE workflow_uuid = 'sequence'"
        ),
        3,
        "1 wrong results: F(7) in sequence",
    ),
    "a sequence with a result too few": (
        sql(
            "UPDATE dbos.workflow_output SET output = (output::jsonb #- '{results,2}')::text"
            " WHERE workflow_uuid = 'sequence'"
        ),
        3,
        "1 wrong results: F(12) in sequence",
    ),
    "step missing": (
        sql("DELETE FROM dbos.operation_outputs WHERE workflow_uuid = 'number-1'"),
        2,
        "1 numbers without exactly one recorded computation",
    ),
    "wrong result": (
        sql("UPDATE dbos.workflow_output SET output = replace(output, '\"55\"', '\"56\"')"),
        3,
        "1 wrong results: F(10) in number-2",
    ),
    "wrong hash of a long one": (
        sql(
            "UPDATE dbos.workflow_output SET output = jsonb_set(output::jsonb, '{sha256}', '\"x\"')::text"
            " WHERE workflow_uuid = 'number-3'"
        ),
        3,
        "F(30000) in number-3",
    ),
    "pickled result": (
        sql("UPDATE dbos.workflow_output SET output = 'gASVFgAAAAA=' WHERE workflow_uuid = 'number-2'"),
        3,
        "1 wrong results: F(10) in number-2",
    ),
    "pickled input": (
        sql("UPDATE dbos.workflow_input SET inputs = 'gASVFgAAAAA=' WHERE workflow_uuid = 'number-2'"),
        3,
        "1 wrong results: F(None) in number-2",
    ),
    "pickled step": (
        sql("UPDATE dbos.operation_outputs SET output = 'gASVFgAAAAA=' WHERE workflow_uuid = 'number-2'"),
        2,
        "1 effects that differ",
    ),
    "gap in the ticks": (lambda d: ticks(d, 6), 4, "2 ticks missing though a worker was there"),
    "tick off the grid": (
        sql(
            "UPDATE ops.pulses SET scheduled_at = scheduled_at + interval '1 s'"
            " WHERE workflow_id = 'sched-pulse-3'"
        ),
        4,
        "1 ticks off the grid",
    ),
    "tick without its row": (
        sql("UPDATE ops.pulses SET workflow_id = 'other' WHERE workflow_id = 'sched-pulse-3'"),
        4,
        "1 ticks that ended without a row",
    ),
    "work of a dead one": (
        lambda d: insert(d, ["left"], status="PENDING", executor_id="gone"),
        5,
        "running workflows of executors that are not live: left of gone",
    ),
    "silent executor": (
        sql(
            "UPDATE ops.executors SET heartbeat_at = clock_timestamp() - interval '1 min'"
            " WHERE state = 'live'"
        ),
        5,
        "silent beyond their lease",
    ),
    "trial without end": (
        lambda d: (
            executor(d, "worker-still", trials_queue=names.WORKER_TRIALS_QUEUE),
            running(d, "tried", seconds=61, queue_name=names.WORKER_TRIALS_QUEUE),
            running(d, "just-begun", seconds=50, queue_name=names.WORKER_TRIALS_QUEUE),
            running(d, "on-its-own-queue", seconds=600),
        ),
        5,
        "from other work for 60 s: worker-still by tried",
    ),
    "stranded version": (
        lambda d: insert(d, ["left"], application_version="worker-0"),
        5,
        "1 ENQUEUED workflows are stranded in version worker-0",
    ),
    "healthy one parked": (
        lambda d: insert(d, ["fine"], status="MAX_RECOVERY_ATTEMPTS_EXCEEDED"),
        6,
        "1 healthy workflows are parked: fine",
    ),
    "parked too early": (
        sql("UPDATE ops.crashes SET crashes = 4"),
        6,
        "1 workflows parked after other than 5 crashes: poison after 4",
    ),
    "not parked at the limit": (
        sql("UPDATE dbos.workflow_status SET status = 'ENQUEUED' WHERE workflow_uuid = 'poison'"),
        6,
        "1 workflows not parked after 5 crashes",
    ),
    "drained with work": (
        lambda d: insert(d, ["left"], status="PENDING", executor_id="old"),
        7,
        "1 drained executors left running work",
    ),
}


@pytest.mark.parametrize("name", BREAKS)
def test_what_is_broken_is_found(clean: Database, name: str) -> None:
    harm, invariant, text = BREAKS[name]
    harm(clean)
    assert text in " ".join(broken(clean).get(invariant, []))


def test_a_lost_accepted_workflow_is_found(clean: Database) -> None:
    found = broken(clean, journal=accepted("number-0", "never-stored"))
    assert found == {1: ["1 accepted workflows do not exist: never-stored"]}


def test_an_accepted_workflow_that_does_not_end_is_found(clean: Database) -> None:
    insert(clean, ["slow"])
    found = broken(clean, journal=accepted("slow"), idle=True)
    assert found[1] == ["1 accepted workflows have not ended: slow ENQUEUED"]
    assert "1 fibonacci.number ENQUEUED" in found[5][0]


def test_unfinished_work_is_fine_while_work_goes_on(clean: Database) -> None:
    insert(clean, ["running"], status="PENDING", executor_id="w")
    assert broken(clean) == {}


def test_a_batch_without_all_its_numbers_is_found(clean: Database) -> None:
    insert(clean, ["batch"], status="SUCCESS", name=names.FIBONACCI_BATCH)
    clean.rows(
        "INSERT INTO dbos.workflow_input (workflow_uuid, inputs, retention_timestamp)"
        " VALUES ('batch', '{\"positionalArgs\": [[1, 2], \"doubling\", false]}', 0)"
    )
    number(clean, "batch-0", parent_workflow_id="batch")
    assert broken(clean) == {1: ["1 incomplete batches: batch (1 of 2)"]}
    number(clean, "batch-1", parent_workflow_id="batch")
    assert broken(clean) == {}
    clean.rows("UPDATE dbos.workflow_input SET inputs = 'gASVFg==' WHERE workflow_uuid = 'batch'")
    assert broken(clean) == {1: ["1 incomplete batches: batch (2 of None)"]}


def test_what_an_operator_deleted_is_not_lost(clean: Database) -> None:
    """A number of a batch, and a workflow that was accepted; the counts of its executor are not compared."""
    insert(clean, ["batch", "whole"], status="SUCCESS", name=names.FIBONACCI_BATCH)
    for batch in ("batch", "whole"):
        stored(clean, batch, [[1, 2], "doubling", False], {})
        for index in (1, 2):
            number(clean, f"{batch}-{index}", index, parent_workflow_id=batch)
    journal = accepted("number-0", "batch", "whole")
    assert broken(clean, journal=journal) == {}
    live = "SELECT purged FROM ({}) AS live"
    purged = live.format(statements.sql("audit_live"))
    executor(clean, "worker-now")
    assert not clean.one(f"{purged} WHERE executor_id = 'worker-now'")
    with serving(clean.settings("api")) as api:
        assert api.http.delete("/workflows/batch-1").json()["deleted"] == 1
        assert api.http.delete("/workflows/whole?children=true").json()["deleted"] == 3
    assert clean.one(f"{purged} WHERE executor_id = 'worker-now'")
    clean.rows("DELETE FROM ops.executors WHERE executor_id = 'worker-now'")
    assert broken(clean, journal=journal) == {}
    clean.rows("DELETE FROM ops.operations")
    assert broken(clean, journal=journal)[1] == [
        "1 incomplete batches: batch (1 of 2)",
        "1 accepted workflows do not exist: whole",
    ]


def test_a_gap_in_declared_downtime_is_excused(clean: Database) -> None:
    ticks(clean, 6)
    begun, ended = GRID + timedelta(seconds=18), GRID + timedelta(seconds=27)
    journal = Journal(downtimes=[(begun, ended)])
    finding = check(clean, journal=journal)[4]
    assert finding["ok"], finding["details"]
    assert finding["figures"]["missing"] == 2


def test_a_loss_that_nobody_was_there_to_see_ends_with_the_last_heartbeat(database: Database) -> None:
    """The only worker died; the next one's first poll, two minutes later, dates the loss far too late."""
    back = GRID + timedelta(seconds=120)
    executor(database, "a", "dead", started_at=GRID, heartbeat_at=GRID + timedelta(seconds=12), lost_at=back)
    executor(database, "b", started_at=back)
    ticks(database, 0, 1, 2, *range(14, 25))
    assert broken(database) == {}


def test_disorderly_stops_of_the_journal_are_found(clean: Database) -> None:
    stops = [{"who": "a", "code": 0, "seconds": 3.0}, {"who": "b", "code": 137, "seconds": 30.5}]
    assert broken(clean, journal=Journal(exits=stops)) == {
        7: ["1 stops were not orderly: b: 137 after 30.5 s"]
    }


def test_slow_healthy_work_beside_poison_is_found(clean: Database) -> None:
    measured = {"alone": 10.0, "crashes": 5, "seconds": 60.0}
    fine = check(clean, journal=Journal(throughputs=[{**measured, "beside": 8.5}]))[6]
    assert (fine["details"], fine["figures"]["throughput_beside_poison"]) == ([], 0.85)
    assert broken(clean, journal=Journal(throughputs=[{**measured, "beside": 4.0}])) == {
        6: ["1 times healthy throughput beside poison was below 80%: 40% (4.00 of 10.00 jobs per second)"]
    }


def test_children_that_outlive_their_parent_are_found(clean: Database) -> None:
    ends = [{"who": "a", "children": 2, "left": [], "seconds": 0.0}]
    fine = check(clean, journal=Journal(children=ends))[7]
    assert (fine["details"], fine["figures"]["ends_watched"]) == ([], 1)
    ends.append({"who": "b", "children": 2, "left": [4711], "seconds": 2.0})
    assert broken(clean, journal=Journal(children=ends)) == {
        7: ["1 ended processes left children behind: b: 1 alive 2.0 s after its end"]
    }


def test_adoption_keeps_the_ids_and_is_recorded(clean: Database) -> None:
    insert(clean, ["left"], status="PENDING", executor_id="gone", application_version="worker-0")
    insert(clean, ["waiting"], application_version="worker-0")
    insert(clean, ["other"], application_version="worker-9")
    connection = clean.connect(role="api")
    ids = stranded_ids(connection, "holdfast-worker", "worker-0")
    moved = move(connection, "holdfast-worker", "worker-0", "worker-1", ids)
    assert {row["workflow_id"] for row in moved} == {"left", "waiting"}
    for workflow_id in ("left", "waiting"):
        row = workflow(clean, workflow_id)
        assert (row["status"], row["application_version"], row["owner_xid"]) == ("ENQUEUED", "worker-1", None)
    assert workflow(clean, "other")["application_version"] == "worker-9"
    rows = query(connection, "recent_handovers", limit=10, from_executor=None, after=0)
    assert {(row["workflow_id"], row["kind"], row["from_executor"]) for row in rows} == {
        ("left", "adoption", "gone"),
        ("waiting", "adoption", ""),
    }
    assert move(connection, "holdfast-worker", "worker-0", "worker-1", ids) == []


def test_work_of_a_version_that_somebody_runs_is_not_adopted(clean: Database) -> None:
    insert(clean, ["waiting"])
    connection = clean.connect(role="api")
    assert stranded_ids(connection, "holdfast-worker", "worker-1") == []
    assert move(connection, "holdfast-worker", "worker-1", "worker-2", ["waiting"]) == []


def test_a_hundred_thousand_workflows_are_checked_in_seconds(clean: Database) -> None:
    clean.rows(
        "INSERT INTO dbos.workflow_status"
        " (workflow_uuid, status, name, application_name, application_version, executor_id)"
        " SELECT 'many-' || i, 'SUCCESS', 'fibonacci.number', 'holdfast-worker', 'worker-1', 'w'"
        " FROM generate_series(1, 100000) i"
    )
    for table, columns in (
        ("dbos.workflow_input (workflow_uuid, inputs, retention_timestamp)", "i.inputs, 0"),
        ("dbos.workflow_output (workflow_uuid, output, retention_timestamp)", "o.output, 0"),
        (
            "dbos.operation_outputs (workflow_uuid, function_id, function_name, output)",
            "1, 'fibonacci.compute', o.output",
        ),
    ):
        clean.rows(
            f"INSERT INTO {table} SELECT 'many-' || g, {columns} FROM generate_series(1, 100000) g,"
            " dbos.workflow_input i JOIN dbos.workflow_output o USING (workflow_uuid)"
            " WHERE workflow_uuid = 'number-2'"
        )
    clean.rows(
        "INSERT INTO ops.effects (workflow_id, effect_key, executor_id, n, sha256)"
        " SELECT 'many-' || g, 'many', 'w', n, sha256 FROM generate_series(1, 100000) g, ops.effects"
        " WHERE workflow_id = 'number-2'"
    )
    # The rows took their time, and no process keeps the executors of this test alive.
    clean.rows("UPDATE ops.executors SET heartbeat_at = clock_timestamp() WHERE state = 'live'")
    findings = check(clean, journal=accepted(*(f"many-{i}" for i in range(1, 100001))))
    assert all(finding["ok"] for finding in findings.values()), findings
    assert findings[3]["figures"]["results"] == 100_007


# --- after a purge ------------------------------------------------------------------------------------


def days_pass(database: Database, days: float) -> None:
    """Everything that is stored happened so much earlier; the pulses went on and folded the counters."""
    milliseconds = int(days * DAY * 1000)
    for statement in (
        "UPDATE dbos.workflow_status SET created_at = created_at - %(ms)s,"
        " completed_at = coalesce(completed_at, created_at) - %(ms)s"
        " WHERE status NOT IN ('ENQUEUED', 'PENDING')",
        "UPDATE ops.pulses SET scheduled_at = scheduled_at - make_interval(secs => %(ms)s / 1000)",
        "UPDATE ops.handovers SET released_at = released_at - make_interval(secs => %(ms)s / 1000)",
        "UPDATE ops.executors SET started_at = started_at - make_interval(secs => %(ms)s / 1000),"
        " ended_at = ended_at - make_interval(secs => %(ms)s / 1000)",
        "UPDATE ops.totals_until SET counted_until = '-infinity', first_tick = NULL",
        "DELETE FROM ops.totals; SELECT ops.fold_totals()",
    ):
        database.rows(statement, ms=milliseconds)


def test_after_a_purge_everything_still_holds(clean: Database) -> None:
    """Old and young rows of every kind that an invariant speaks of."""
    insert(clean, ["batch"], status="SUCCESS", name=names.FIBONACCI_BATCH, executor_id="old")
    clean.rows(
        "INSERT INTO dbos.workflow_input (workflow_uuid, inputs, retention_timestamp)"
        """ VALUES ('batch', '{"positionalArgs": [[1, 2], "doubling"]}', 0)"""
    )
    for index in (0, 1):
        number(clean, f"batch-{index}", index + 1, parent_workflow_id="batch")
    clean.rows(
        "INSERT INTO ops.handovers"
        " (workflow_id, workflow_name, kind, reason, from_executor, released_by, lost_at)"
        " VALUES ('batch', 'n', 'handover', 'drain', 'old', 'old', now())"
    )
    clean.rows(
        "UPDATE ops.executors SET state = 'drained', ended_at = %(at)s", at=GRID + timedelta(seconds=20)
    )
    days_pass(clean, 8)
    number(clean, "recent")
    ticks(clean, *range(10, 24))
    executor(clean, "v", started_at=GRID + timedelta(seconds=5 * 23))  # it caught up on a minute
    counted = (clean.run("totals"), clean.run("pulse_health", late_seconds=65.0)[0]["missed"])
    assert broken(clean, idle=True) == {}

    result = purge(clean)

    assert result.deleted == 4 + 1 + 3 + 4
    assert result.rows == {
        "purge_pulses": 4,
        "purge_keys": 0,
        "purge_handovers": 1,
        "purge_executors": 2,
        "purge_operations": 0,
    }
    findings = check(clean, journal=accepted("recent", "poison"), idle=True)
    assert {n: finding["details"] for n, finding in findings.items() if finding["details"]} == {}
    assert findings[2]["figures"]["effects"] == findings[2]["figures"]["numbers"] == 1
    purged = {"name": "purged", "application": "holdfast-worker", "le": math.inf, "value": 12.0}
    after = [row for row in clean.run("totals") if row != purged]
    assert sorted(after, key=str) == sorted(counted[0], key=str)
    assert clean.run("pulse_health", late_seconds=65.0)[0]["missed"] in range(counted[1], counted[1] + 2)


def test_a_tick_that_a_purge_left_makes_no_hole(clean: Database) -> None:
    """A parked one, say: its row stays with it, and those around it are gone."""
    executor(clean, "always", started_at=NOW - timedelta(days=30))
    clean.rows(
        "UPDATE dbos.workflow_status SET status = 'MAX_RECOVERY_ATTEMPTS_EXCEEDED', name = %(poison)s"
        " WHERE workflow_uuid = 'sched-pulse-1'",
        poison=names.POISON,
    )
    clean.rows(
        "INSERT INTO ops.crashes (workflow_id, crashes, steps_recorded) VALUES ('sched-pulse-1', 5, 0)"
    )
    days_pass(clean, 8)
    ticks(clean, *range(10, int((NOW - GRID).total_seconds() // 5) + 1))
    assert 4 in broken(clean), "eight days without a tick, beside a worker that was there"
    purge(clean)
    assert clean.one("SELECT count(*) FROM ops.pulses WHERE scheduled_at < now() - interval '7 days'") == 1
    assert broken(clean) == {}


def test_counters_of_an_executor_that_is_older_than_the_purge_are_not_compared(clean: Database) -> None:
    """It counted workflows whose rows are gone."""
    clean.rows("UPDATE ops.executors SET started_at = now() - interval '20 days' WHERE executor_id = 'w'")
    executor(clean, "younger", started_at=NOW - timedelta(days=6))
    rows = {row["executor_id"]: row["purged"] for row in clean.run("audit_live")}
    assert rows == {"w": False, "younger": False}
    purge(clean, dry_run=True)
    assert not any(row["purged"] for row in clean.run("audit_live"))
    purge(clean)
    rows = {row["executor_id"]: row["purged"] for row in clean.run("audit_live")}
    assert rows == {"w": True, "younger": False}


def test_steps_of_an_earlier_run_are_not_expected_in_the_counters_of_the_last(clean: Database) -> None:
    """Cancelled, resumed and ended by another worker: no hand over, but two counted its steps."""
    times = {"created_at": ago_ms(9000), "started_at_epoch_ms": ago_ms(3000)}
    insert(clean, ["resumed"], status="SUCCESS", name="orders.fulfil", executor_id="second", **times)
    for function_id, ms in enumerate((8000, 2000, 1000), 1):
        step(clean, "resumed", function_id, "orders.ship", None, started_at_epoch_ms=ago_ms(ms))
    assert steps_by(clean, "second") == {"orders.ship": 2}


def ago_ms(milliseconds: int) -> int:
    return int(NOW.timestamp() * 1000) - milliseconds


def steps_by(database: Database, executor_id: str) -> dict[str, int]:
    """As `holdfast verify` asks, with the clocks' usual tolerance."""
    rows = database.run("audit_steps_by", executor_id=executor_id, since_ms=0, tolerance_ms=2000)
    return {row["what"]: row["number"] for row in rows}


@pytest.mark.parametrize(
    "how", [{"recovery_attempts": 2}, {"forked_from": "original"}], ids=["moved", "forked"]
)
def test_steps_of_a_worker_whose_clock_is_ahead_are_not_taken_for_the_next_ones(
    clean: Database, how: dict[str, Any]
) -> None:
    """Two hosts: the first worker's clock is 1.9 s before PostgreSQL's, as it may be."""
    times = {"created_at": ago_ms(9000), "started_at_epoch_ms": ago_ms(6000)}
    if "forked_from" in how:
        times["created_at"] = ago_ms(6000)
    insert(clean, ["w"], status="SUCCESS", name="orders.fulfil", executor_id="second", **times, **how)
    for function_id, ms in enumerate((7000, 6000 - 1800, 3000, 1000), 1):
        step(clean, "w", function_id, "orders.ship", None, started_at_epoch_ms=ago_ms(ms))
    assert steps_by(clean, "second") == {"orders.ship": 2}


def test_a_step_that_was_not_counted_is_found(clean: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of a short workflow, which is over within the clocks' tolerance: nobody else had it."""
    executor(clean, "only")
    times = {"created_at": ago_ms(1000), "started_at_epoch_ms": ago_ms(900)}
    insert(clean, ["short"], status="SUCCESS", name="orders.fulfil", executor_id="only", **times)
    # A plain workflow of DBOS's has no counter.
    insert(clean, ["plain"], status="SUCCESS", name="orders.plain", executor_id="only", **times)
    for function_id in (1, 2):
        step(clean, "short", function_id, "orders.ship", None, started_at_epoch_ms=ago_ms(900))
    completed = 'holdfast_workflows_completed_total{status="SUCCESS",workflow_name="orders.fulfil"} 1'
    told = 'holdfast_step_duration_seconds_count{status="SUCCESS",step_name="orders.ship"}'
    monkeypatch.setattr(evidence, "_TRIES", 1)
    for counted in (2, 1):
        text = f"{completed}\n{told} {counted}\n"
        monkeypatch.setattr(
            evidence, "scrape", lambda row, t=text: t if row["executor_id"] == "only" else None
        )
        finding = evidence.counters_agree(Audit(clean.connect(role="api"), clean.settings("api"), SUBJECTS))
        assert finding["ok"] == (counted == 2)
    assert finding["details"] == [
        "1 counters differ from the database: only orders.ship: 1 counted, 2 stored"
    ]


# --- other applications -------------------------------------------------------------------------------


def test_without_registered_subjects_only_what_holds_for_any_application_is_checked(clean: Database) -> None:
    it = Audit(clean.connect(role="api"), clean.settings("api"), settle_seconds=0.0)
    findings = audit.run(it)
    assert [finding["invariant"] for finding in findings] == [1, 2, 5, 6, 7]
    assert all(finding["ok"] for finding in findings), findings
    assert "number" not in findings[1]["text"]


def test_work_of_another_application_is_judged_once_it_was_attached(clean: Database) -> None:
    """Of one that never was, nothing knows which of its processes live."""
    work = {
        "status": "PENDING",
        "application_name": "shop",
        "application_version": "s1",
        "executor_id": "shop-x",
    }
    insert(clean, ["shop-w"], name="shop.checkout", **work)

    def fifth() -> Finding:
        it = Audit(clean.connect(role="api"), clean.settings("api"), settle_seconds=0.0)
        return next(finding for finding in audit.run(it) if finding["invariant"] == 5)

    assert fifth()["ok"], fifth()
    clean.rows(
        "INSERT INTO ops.applications (name, kind, added_by, attached_at)"
        " VALUES ('shop', 'user', 'attach', now())"
    )
    broken = fifth()
    assert not broken["ok"] and "shop-w" in str(broken["details"]) and "s1 of shop" in str(broken["details"])


def test_parked_work_of_another_application_is_no_fault(clean: Database) -> None:
    """What it parks may be its own poison, or DBOS's own limit."""
    insert(
        clean,
        ["shop-w"],
        name="shop.checkout",
        application_name="shop",
        status="MAX_RECOVERY_ATTEMPTS_EXCEEDED",
    )
    it = Audit(clean.connect(role="api"), clean.settings("api"), SUBJECTS, settle_seconds=0.0)
    sixth = next(finding for finding in audit.run(it) if finding["invariant"] == 6)
    assert sixth["ok"], sixth
