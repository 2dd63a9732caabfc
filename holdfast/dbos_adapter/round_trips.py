"""DBOS's hot statements in fewer round trips and with less Python around them.

DBOS 3.4.0 spends ten round trips on a claim (a ping, BEGIN, version, SELECT, UPDATE, COMMIT, then the rows
in a transaction of their own), five on a step's record, and builds each statement anew with SQLAlchemy. Here
each is one statement, sent as it stands (`Sessions`). What is read and written
stays the same, and so do the errors
(tests/integration/dbos_adapter/test_round_trips.py). Queues with a limit that executors
share are left to DBOS. How a step's record is read: `replay`.

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
    # Between two uses the server has nothing to say but that the session ended.
    if connection.closed or wait_readable(connection, 0):
        raise sa.exc.InvalidatePoolError("the session ended while it was idle")


POOL_OPTIONS: dict[str, Any] = {
    "pool_pre_ping": False,
    # The session used last, whose statements are prepared and whose caches are warm.
    "pool_use_lifo": True,
    "pool_events": [(_refuse_dead, "checkout")],
    # Bound parameters are workflows' data: they belong into no message.
    "hide_parameters": True,
}
"""For each SQLAlchemy engine over psycopg 3: a session that ended while it was idle is replaced first."""

_QUEUES_SECONDS = 2.0
"""How long a list of queues serves their threads. DBOS reads it once a second."""

_read = threading.local()
"""What this queue thread's last claim read: DBOS asks for it at once."""


_step = threading.local()
"""Which step of this thread has written its own record."""


def install() -> None:
    """Replaces them for every application of this process. Idempotent.

    A system database without an attribute ``sessions`` goes on as before.
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
    """Puts each in the place of the method of its name, which `original` still finds. Idempotent."""
    kind: Any = PostgresSystemDatabase
    if not hasattr(kind, "many_trips"):
        kind.many_trips = {}
    for method in methods:
        name = method.__name__
        if name not in kind.many_trips:
            kind.many_trips[name] = getattr(kind, name)
            setattr(kind, name, method)


def original(db: Any, name: str) -> Callable[..., Any]:
    """DBOS's own method of that name."""
    method: Callable[..., Any] = db.many_trips[name].__get__(db)
    return method


def sessions_of(db: Any) -> Sessions | None:
    """The sessions of a launched application; None for another one, which goes on as before."""
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
    """Claims as many as the worker's own limit leaves room for: ids in the queue's order."""
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
    places = None if queue._worker_concurrency is None else queue._worker_concurrency - local_running_count
    if places is not None and places <= 0:
        return [], "worker_concurrency"
    rows = sessions.run(
        "claim_queued",
        queue_name=queue.name,
        version=app_version,
        application=db.app_name,
        executor_id=executor_id,
        owner_xid=options["owner_xid"],
        places=places,
        now_ms=int(time.time() * 1000),
    )
    for row in rows:
        histories_of(db).forget(row["workflow_uuid"])
    _read.rows = {row["workflow_uuid"]: row for row in rows}
    return list(_read.rows), None


def get_workflow_statuses(db: Any, workflow_ids: list[str]) -> list[Any]:
    """The rows of the claim just made by this thread, or whatever else is asked for, read anew."""
    rows: dict[str, Any] = _read.__dict__.pop("rows", {})
    if workflow_ids and list(rows) == workflow_ids:
        return list(rows.values())
    found: list[Any] = original(db, "get_workflow_statuses")(workflow_ids)
    return found


def list_queues(db: Any, **options: Any) -> list[Any]:
    """DBOS's own, and kept for `get_queue` where it is of the application's queues."""
    queues: list[Any] = original(db, "list_queues")(**options)
    if options == {"application_name": db.app_name}:
        db.queues_read = (time.monotonic(), {queue.name: queue for queue in queues})
    return queues


def get_queue(db: Any, name: str, **options: Any) -> Any:
    """A queue's thread asks before each wait: it gets what the list told last. Everyone else reads."""
    at, queues = vars(db).get("queues_read", (float("-inf"), {}))
    mine = threading.current_thread().name == f"queue-worker-{name}" and not options
    if mine and name in queues and time.monotonic() - at < _QUEUES_SECONDS:
        return queues[name]
    return original(db, "get_queue")(name, **options)


# --- steps and outcomes ---------------------------------------------------------------------------


def record_operation_result(
    db: Any, result: Any, *, completed_at_epoch_ms: int | None = None, **options: Any
) -> None:
    """Records a step's result. Raises `DBOSWorkflowConflictIDError` when another execution owns the
    workflow, `DBOSStepNondeterminismError` when the step has another result already.
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
    # Outside the retries: a retry carries the same time, which is how it is told from another execution.
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
    """The calling thread's step has written its own record: what DBOS would record next is there."""
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
    """Ends a workflow that runs and is still owned, and says whether it was."""
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
