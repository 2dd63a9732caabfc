"""Runs DBOS's hot statements in fewer round trips and with less Python around them.

DBOS 3.4.0 spends ten round trips on a claim (a ping, BEGIN, version, SELECT, UPDATE, COMMIT, then the rows in
a separate transaction), five on a step's record, and builds each statement anew with SQLAlchemy. Here each is
one statement, sent unchanged (`Sessions`). It reads and writes the same data and raises the same errors
(tests/integration/dbos_adapter/test_round_trips.py). DBOS still claims from queues with a limit that
executors share. `replay` reads a step's record.

Private to DBOS 3.4.0 and replaced here: ``PostgresSystemDatabase``'s methods that `install` names.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import psycopg
import sqlalchemy as sa
from dbos import error as dbos_error
from dbos._context import current_owner_xid
from dbos._sys_db_postgres import PostgresSystemDatabase

from holdfast.dbos_adapter.claims import paused_homes
from holdfast.dbos_adapter.histories import histories_of
from holdfast.dbos_adapter.retries import patiently
from holdfast.postgres.database import wait_readable
from holdfast.postgres.sessions import Sessions


def _refuse_dead(connection: psycopg.Connection, _record: object, _proxy: object) -> None:
    # Between two uses the server sends data only when the session ends.
    if connection.closed or wait_readable(connection, 0):
        raise sa.exc.InvalidatePoolError("the session ended while it was idle")


POOL_OPTIONS: dict[str, Any] = {
    "pool_pre_ping": False,
    # The session used last has prepared statements and warm caches.
    "pool_use_lifo": True,
    "pool_events": [(_refuse_dead, "checkout")],
    # Bound parameters are workflows' data: no message may contain them.
    "hide_parameters": True,
}
"""Options for each SQLAlchemy engine over psycopg 3. They replace a session that ended while idle."""

_QUEUES_SECONDS = 2.0
"""How long a list of queues serves the queues' threads. DBOS reads it once a second."""

_read = threading.local()
"""Holds the rows of this queue thread's last claim: DBOS asks for them immediately afterwards."""

_step = threading.local()
"""Holds the step of this thread whose record is stored already (`recorded_with_its_effect`)."""


def install() -> None:
    """Refree_slots these methods for every application of this process. Idempotent.

    A system database without an attribute ``sessions`` works as before.
    """
    replace(
        start_queued_workflows,
        get_workflow_statuses,
        record_operation_result,
        update_workflow_outcome,
        list_queues,
        get_queue,
    )


def replace(*methods: Callable[..., Any]) -> None:
    """Refree_slots the methods of these names. `original` still finds DBOS's own methods. Idempotent."""
    kind: Any = PostgresSystemDatabase
    if not hasattr(kind, "round_trip_originals"):
        kind.round_trip_originals = {}
    for method in methods:
        name = method.__name__
        if name not in kind.round_trip_originals:
            kind.round_trip_originals[name] = getattr(kind, name)
            setattr(kind, name, method)


def original(db: Any, name: str) -> Callable[..., Any]:
    """Returns DBOS's own method of that name."""
    method: Callable[..., Any] = db.round_trip_originals[name].__get__(db)
    return method


def sessions_of(db: Any) -> Sessions | None:
    """Returns the sessions of a launched application, or None for another one, which works as before."""
    sessions: Sessions | None = vars(db).get("sessions")
    return sessions


# --- claims ---------------------------------------------------------------------------------------


def start_queued_workflows(  # noqa: PLR0917 - as DBOS calls it
    db: Any,
    queue: Any,
    executor_id: str,
    app_version: str,
    queue_partition_key: str | None,
    local_running_count: int = 0,
    *args: Any,
    **options: Any,
) -> tuple[list[str], str | None]:
    """Claims as many workflows as the worker's own limit allows. Returns their ids in the queue's order."""
    shared = (
        queue_partition_key,
        queue._concurrency,
        queue._limiter,
        queue._partition_concurrency,
        queue._partition_worker_concurrency,
        queue._partition_limiter,
        options.get("is_latest_version"),
    )
    sessions = sessions_of(db)
    if sessions is None or any(limit is not None for limit in shared) or paused_homes(db, queue.name):
        theirs: tuple[list[str], str | None] = original(db, "start_queued_workflows")(
            queue, executor_id, app_version, queue_partition_key, local_running_count, *args, **options
        )
        return theirs
    free_slots = (
        None if queue._worker_concurrency is None else queue._worker_concurrency - local_running_count
    )
    if free_slots is not None and free_slots <= 0:
        return [], "worker_concurrency"
    rows = sessions.run(
        "claim_queued",
        queue_name=queue.name,
        version=app_version,
        application=db.app_name,
        executor_id=executor_id,
        owner_xid=options["owner_xid"],
        free_slots=free_slots,
        now_ms=int(time.time() * 1000),
        **db.claimable.parameters(),
    )
    for row in rows:
        histories_of(db).forget(row["workflow_uuid"])
    _read.rows = {row["workflow_uuid"]: row for row in rows}
    return list(_read.rows), None


def get_workflow_statuses(db: Any, workflow_ids: list[str]) -> list[Any]:
    """Returns the rows of the claim that this thread just made. Reads any other rows from the database."""
    rows: dict[str, Any] = _read.__dict__.pop("rows", {})
    if workflow_ids and list(rows) == workflow_ids:
        return list(rows.values())
    found: list[Any] = original(db, "get_workflow_statuses")(workflow_ids)
    return found


def list_queues(db: Any, **options: Any) -> list[Any]:
    """As DBOS's method. Keeps the list of the application's queues for `get_queue`."""
    queues: list[Any] = original(db, "list_queues")(**options)
    if options == {"application_name": db.app_name}:
        db.queues_read = (time.monotonic(), {queue.name: queue for queue in queues})
    return queues


def get_queue(db: Any, name: str, **options: Any) -> Any:
    """Serves a queue thread's reload from the last `list_queues` result. Other callers query the database."""
    at, queues = vars(db).get("queues_read", (float("-inf"), {}))
    mine = threading.current_thread().name == f"queue-worker-{name}" and not options
    if mine and name in queues and time.monotonic() - at < _QUEUES_SECONDS:
        return queues[name]
    return original(db, "get_queue")(name, **options)


# --- steps and outcomes ---------------------------------------------------------------------------


def record_operation_result(
    db: Any, result: Any, *, completed_at_epoch_ms: int | None = None, **options: Any
) -> None:
    """Records a step's result. Raises `DBOSWorkflowConflictIDError` if another execution owns the workflow.

    Raises `DBOSStepNondeterminismError` if the step has another result already.
    """
    workflow_id = result["workflow_uuid"]
    owner_xid = options.get("owner_xid") or current_owner_xid(workflow_id)
    if _step.__dict__.pop("recorded", None) == (workflow_id, result["function_id"]):
        return
    sessions = sessions_of(db)
    if sessions is None or owner_xid is None or options.get("owner_key") is not None:
        original(db, "record_operation_result")(
            result, completed_at_epoch_ms=completed_at_epoch_ms, **options
        )
        return
    assert result["error"] is None or result["output"] is None
    # This is set outside the retries: the same time distinguishes a retry from another execution.
    completed_at = int(time.time() * 1000) if completed_at_epoch_ms is None else completed_at_epoch_ms
    params = {name: value for name, value in result.items() if name != "child_shard_key"}
    rows = patiently(sessions.run)(
        "record_step", **params, owner_xid=owner_xid, completed_at=completed_at, application=db.app_name
    )
    if not rows:
        raise dbos_error.DBOSWorkflowConflictIDError(workflow_id)
    if rows[0]["completed_at_epoch_ms"] != completed_at:
        raise dbos_error.DBOSStepNondeterminismError(workflow_id, result["function_id"])


def recorded_with_its_effect(workflow_id: str, function_id: int) -> None:
    """Marks that the calling thread's step has written the record that DBOS would write next."""
    _step.recorded = (workflow_id, function_id)


def update_workflow_outcome(
    db: Any,
    workflow_id: str,
    status: str,
    *,
    output: str | None = None,
    error: str | None = None,
    owner_xid: str | None = None,
) -> bool:
    """Ends a running workflow that the execution still owns. Returns whether it did."""
    owner_xid = owner_xid or current_owner_xid(workflow_id)
    histories_of(db).forget(workflow_id)
    sessions = sessions_of(db)
    if sessions is None or owner_xid is None:
        theirs: bool = original(db, "update_workflow_outcome")(
            workflow_id, status, output=output, error=error, owner_xid=owner_xid
        )
        return theirs
    rows = patiently(sessions.run)(
        "end_workflow",
        workflow_id=workflow_id,
        status=status,
        output=output,
        error=error,
        owner_xid=owner_xid,
    )
    return bool(rows)
