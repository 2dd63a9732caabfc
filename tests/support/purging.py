"""Creates old rows, and purges them slice by slice as the workflow does."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from dbos import DBOS

from holdfast.dbos_adapter.wake_ups import Listener
from holdfast.postgres.database import OpsPool
from holdfast.retention.purger import TIDY, Cutoffs, Done, Purger
from tests.support.database import Database
from tests.support.engines import Launched
from tests.support.executors import insert

DAY = 86_400.0
# Settings come from the environment, which threads share.
_ENVIRONMENT = threading.Lock()
WEEK = 7 * DAY


def finished(database: Database, workflow_ids: Iterable[str], days: float, **columns: Any) -> None:
    """Inserts workflows that ended ``days`` ago. ``status`` may override that they ended."""
    ended = int(database.one("SELECT extract(epoch FROM now())::float8 * 1000") - days * DAY * 1000)
    times = {"created_at": ended - 2000, "started_at_epoch_ms": ended - 1000, "completed_at": ended}
    if columns.get("status") in ("ENQUEUED", "PENDING", "DELAYED"):
        times["completed_at"] = None  # type: ignore[assignment]
    insert(database, workflow_ids, **{"status": "SUCCESS", "executor_id": "e", **times, **columns})


def ids(database: Database) -> set[str]:
    """Returns the ids of all stored workflows."""
    return {row["id"] for row in database.rows("SELECT workflow_uuid AS id FROM dbos.workflow_status")}


def everything(database: Database, workflow_id: str) -> None:
    """Rows of one workflow in every table that may hold some."""
    ago = "now() - interval '9 days'"
    database.rows(
        "INSERT INTO ops.executors (executor_id, application, application_version, role, hostname, pid, port,"
        " slots, state) VALUES ('e', 'holdfast-worker', 'worker-1', 'worker', 'h', 1, 1, 1, 'live')"
        " ON CONFLICT DO NOTHING"
    )
    for table, columns, values in (
        ("dbos.workflow_input", "workflow_uuid, inputs, retention_timestamp", "%(id)s, '{}', 0"),
        ("dbos.workflow_output", "workflow_uuid, output, retention_timestamp", "%(id)s, '1', 0"),
        ("dbos.operation_outputs", "workflow_uuid, function_id, function_name", "%(id)s, 1, 's'"),
        ("dbos.workflow_events", "workflow_uuid, key, value", "%(id)s, 'k', '1'"),
        ("dbos.workflow_events_history", "workflow_uuid, function_id, key, value", "%(id)s, 1, 'k', '1'"),
        ("dbos.streams", 'workflow_uuid, key, value, "offset"', "%(id)s, 'k', '1', 0"),
        ("dbos.notifications", "destination_uuid, topic, message", "%(id)s, 't', 'm'"),
        ("dbos.datasource_outputs", "workflow_id, step_id, output", "%(id)s, 1, '1'"),
        ("ops.effects", "workflow_id, effect_key, executor_id, n, sha256", "%(id)s, 'k', 'e', 1, 's'"),
        ("ops.crashes", "workflow_id, crashes, steps_recorded", "%(id)s, 1, 0"),
        ("ops.waits", "workflow_id, owner_xid, kind", "%(id)s, 'x', 'sleep'"),
        ("ops.revoked", "workflow_id, owner_xid, executor_id", "%(id)s, 'x', 'e'"),
        (
            "ops.requests",
            "key, fingerprint, workflow_id, created_at",
            f"'key of ' || %(id)s, 'f', %(id)s, {ago}",
        ),
        (
            "ops.handovers",
            "workflow_id, workflow_name, kind, reason, from_executor, released_by, lost_at, released_at",
            f"%(id)s, 'n', 'takeover', 'r', 'a', 'b', {ago}, {ago}",
        ),
        (
            "ops.pulses",
            "workflow_id, executor_id, lateness_seconds, status, queue_depth, live_executors, scheduled_at",
            f"%(id)s, 'e', 0, 'run', 0, 1, {ago} + (SELECT make_interval(secs => count(*)) FROM ops.pulses)",
        ),
    ):
        database.rows(f"INSERT INTO {table} ({columns}) VALUES ({values})", id=workflow_id)


def references(database: Database) -> dict[str, set[str]]:
    """Ids of workflows in every column of every table that means one."""
    columns = database.rows(
        "SELECT format('%I.%I', table_schema, table_name) AS place, column_name AS name"
        " FROM information_schema.columns JOIN information_schema.tables USING (table_schema, table_name)"
        " WHERE table_schema IN ('dbos', 'ops') AND table_type = 'BASE TABLE'"
        " AND column_name IN ('workflow_uuid', 'workflow_id', 'destination_uuid')"
    )
    return {
        row["place"]: {
            r["id"] for r in database.rows(f"SELECT DISTINCT {row['name']} AS id FROM {row['place']}")
        }
        for row in columns
    }


@dataclass
class Purged:
    """The report of a purge."""

    complete: bool = False
    deleted: int = 0
    workflows: dict[str, dict[str, int]] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=lambda: dict.fromkeys(TIDY, 0))

    refused: bool = False

    def add(self, done: Done) -> None:
        self.refused |= done.get("refused", False)
        for name, by_status in done["workflows"].items():
            known = self.workflows.setdefault(name, {})
            for status, number in by_status.items():
                known[status] = known.get(status, 0) + number
                self.deleted += number


def purge(
    database: Database,
    *,
    age_seconds: float = WEEK,
    parked_seconds: float | None = None,
    dry_run: bool = False,
    stop_after: int | None = None,
    stopping: Callable[[], bool] = lambda: False,
    **options: Any,
) -> Purged:
    """Runs a purge to its end, or until its stop check number ``stop_after``."""
    looks = 0

    def stop() -> bool:
        nonlocal looks
        looks += 1
        return stopping() or (stop_after is not None and looks > stop_after)

    with _ENVIRONMENT:
        settings = database.settings()
    ops = OpsPool(settings, purpose="holdfast/test/steps")
    it = Purger(settings, ops, purpose="holdfast/test/purge", stopping=stop, dry_run=dry_run, **options)
    try:
        ages = {"age_seconds": age_seconds, "parked_age_seconds": parked_seconds}
        cutoffs: Cutoffs = ops.run("purge_begin", dry_run=dry_run, **ages)[0]  # type: ignore[assignment]
        return _to_the_end(it, cutoffs)
    finally:
        ops.close()


def _to_the_end(it: Purger, cutoffs: Cutoffs) -> Purged:
    purged = Purged()
    done = it.workflows(cutoffs, None)
    purged.add(done)
    while done["more"] and not done["stopped"]:
        done = it.workflows(cutoffs, done["after"])
        purged.add(done)
    if done["stopped"]:
        return purged
    for statement in TIDY:
        after = None
        while True:
            done = it.tidy(statement, cutoffs, after)
            purged.rows[statement] += done["rows"]
            if done["stopped"]:
                return purged
            if not done["more"]:
                break
            after = done["after"]
    purged.complete = not purged.refused
    return purged


# --- many old rows ------------------------------------------------------------------------------------

# Per 51 workflows: a batch with 49 numbers, and a tick of the schedule. One in a thousand failed.
_FILL = """
SET session_replication_role = replica;
INSERT INTO dbos.workflow_status (workflow_uuid, status, name, queue_name, application_name,
    application_version, executor_id, recovery_attempts, parent_workflow_id, created_at, updated_at,
    started_at_epoch_ms, completed_at)
SELECT CASE i % 51 WHEN 0 THEN 'batch-' || i / 51 WHEN 1 THEN 'tick-' || i / 51
           ELSE 'batch-' || i / 51 || '-' || i % 51 - 2 END,
       CASE WHEN i % 1000 = 999 THEN 'ERROR' ELSE 'SUCCESS' END,
       CASE i % 51 WHEN 0 THEN 'fibonacci.batch' WHEN 1 THEN 'pulse.tick' ELSE 'fibonacci.number' END,
       CASE i % 51 WHEN 0 THEN 'fibonacci-batches' WHEN 1 THEN 'pulses' ELSE 'fibonacci' END,
       'holdfast-worker', 'worker-1', 'w-' || i % 100, 1, CASE WHEN i % 51 > 1 THEN 'batch-' || i / 51 END,
       t.at, t.at, t.at + 10, t.at + CASE i % 51 WHEN 0 THEN 900 ELSE 20 + i % 51 END
FROM generate_series(0, :rows - 1) AS i, LATERAL (SELECT :begun + i / 51 * 1000::bigint AS at) AS t;
INSERT INTO dbos.workflow_input (workflow_uuid, inputs, retention_timestamp)
SELECT workflow_uuid, '{"positionalArgs": [30, "recursive"], "namedArgs": {}}', 0 FROM dbos.workflow_status
WHERE workflow_uuid ~ '^(batch|tick)-';
INSERT INTO dbos.workflow_output (workflow_uuid, output, retention_timestamp)
SELECT workflow_uuid, '{"n": 30, "result": "832040", "digits": 6, "executor_id": "w", "attempts": 1}', 0
FROM dbos.workflow_status WHERE workflow_uuid ~ '^(batch|tick)-';
INSERT INTO dbos.operation_outputs (workflow_uuid, function_id, function_name, output, started_at_epoch_ms,
    completed_at_epoch_ms)
SELECT workflow_uuid, step, 'fibonacci.compute', '{"n": 30, "result": "832040", "digits": 6}', created_at,
    created_at
FROM dbos.workflow_status, generate_series(1, 2) AS step WHERE workflow_uuid ~ '^(batch|tick)-';
INSERT INTO ops.effects (workflow_id, effect_key, executor_id, n, sha256)
SELECT workflow_uuid, workflow_uuid || ':effect', 'w', 30, 'sha' FROM dbos.workflow_status
WHERE name = 'fibonacci.number' AND workflow_uuid LIKE 'batch-%';
INSERT INTO ops.requests (key, fingerprint, workflow_id, created_at)
SELECT 'key-' || workflow_uuid, 'f', workflow_uuid, to_timestamp(created_at / 1000.0)
FROM dbos.workflow_status WHERE name = 'fibonacci.batch';
INSERT INTO ops.pulses (scheduled_at, workflow_id, executor_id, lateness_seconds, status, queue_depth,
    live_executors)
SELECT to_timestamp(created_at / 1000.0), workflow_uuid, 'w', 0, 'run', 0, 1 FROM dbos.workflow_status
WHERE name = 'pulse.tick' AND workflow_uuid LIKE 'tick-%';
INSERT INTO ops.executors (executor_id, application, application_version, role, hostname, pid, port, slots,
    state, started_at, heartbeat_at, ended_at)
SELECT 'w-' || i, 'holdfast-worker', 'worker-1', 'worker', 'h', 1, 1, 1, 'drained', t.at, t.at, t.at
FROM generate_series(0, 99) AS i, LATERAL (SELECT now() - interval '300 days' AS at) AS t;
SET session_replication_role = DEFAULT
"""
BIG = (
    "workflow_status",
    "workflow_input",
    "workflow_output",
    "operation_outputs",
    "effects",
    "requests",
    "pulses",
)
"""The tables that `fill` makes large."""


def fill(database: Database, rows: int, *, youngest_days: float = 30.0) -> None:
    """Inserts ``rows`` finished workflows with all their rows, the newest ``youngest_days`` old."""
    connection = database.admin()
    # Building an index once costs a fraction of updating it for a million inserts.
    later = database.rows(
        "SELECT indexdef, indexrelid::regclass::text AS name FROM pg_index"
        " JOIN pg_indexes ON indexrelid = format('%I.%I', schemaname, indexname)::regclass"
        " WHERE indrelid = ANY (ARRAY(SELECT relid FROM pg_stat_user_tables WHERE relname = ANY (ARRAY["
        + ", ".join(f"'{table}'" for table in BIG)
        + "]))) AND NOT indisprimary"
    )
    database.rows("; ".join(f"DROP INDEX {row['name']}" for row in later))
    begun = int((time.time() - youngest_days * DAY) * 1000) - rows // 51 * 1000
    with connection.cursor() as cursor:
        for statement in _FILL.replace(":rows", str(rows)).replace(":begun", str(begun)).split(";\n"):
            cursor.execute(statement)
        for row in later:
            cursor.execute(row["indexdef"])
        cursor.execute("VACUUM ANALYZE")
    connection.close()


def sequential_scans(database: Database) -> dict[str, int]:
    """Returns the number of sequential scans of each large table, by the server's statistics."""
    database.rows("SELECT pg_stat_force_next_flush()")
    rows = database.rows(
        "SELECT relname, seq_scan FROM pg_stat_user_tables WHERE relname = ANY (%(t)s)", t=list(BIG)
    )
    return {row["relname"]: row["seq_scan"] for row in rows}


@DBOS.workflow(name="retention.probe", max_recovery_attempts=None)
def _probe() -> int:
    return 1


def probe(app: Launched, queue: str, label: str, count: int) -> list[float]:
    """Returns the database's seconds from enqueue to claim, for ``count`` workflows in sequence."""
    names = [f"{label}-{i}" for i in range(count)]
    for name in names:
        app.enqueue("retention.probe", queue=queue, workflow_id=name)
        app.wait(name)
    rows = app.database.rows(
        "SELECT started_at_epoch_ms - created_at AS ms FROM dbos.workflow_status"
        " WHERE workflow_uuid = ANY (%(names)s)",
        names=names,
    )
    return [row["ms"] / 1000 for row in rows]


@contextmanager
def woken(app: Launched) -> Iterator[None]:
    """Lets notices wake the queues, as in a whole process."""
    listener = Listener(app.peer.settings, app.waker, purpose=app.identity.purpose("listener"))
    listener.start()
    try:
        yield
    finally:
        listener.stop()
