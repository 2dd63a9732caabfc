"""DBOS's hot statements in fewer round trips: claims, what is recorded of a step, who owns a workflow.

DBOS 3.4.0 spends ten round trips on a claim (a ping, BEGIN, version, SELECT, UPDATE, COMMIT, then the rows
in a transaction of their own) and five on a step's record, whose statement it builds anew each time. Here
both are one statement. What only reads is DBOS's own code without BEGIN and COMMIT, and the ping before each
use of a session is a look at its socket. What is read and written stays the same, and so do the errors:
tests/integration/test_round_trips.py. Queues with a limit that executors share are left to DBOS.

Private to DBOS 3.4.0 and replaced here: ``PostgresSystemDatabase``'s ``start_queued_workflows``,
``record_operation_result`` and what ``READS`` names.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import psycopg
import sqlalchemy as sa
from dbos._context import current_owner_xid
from dbos._error import DBOSStepNondeterminismError, DBOSWorkflowConflictIDError
from dbos._sys_db import db_retry
from dbos._sys_db_postgres import PostgresSystemDatabase

from services.runtime.database import TCP_OPTIONS, sql, wait_readable


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

SESSION_OPTIONS: dict[str, Any] = {
    **TCP_OPTIONS,
    # Planning a claim takes as long as running it.
    "prepare_threshold": 1,
}
"""What each of their sessions connects with."""

_read = threading.local()
"""What this queue thread's last claim read: DBOS asks for it at once."""


READS = (
    "check_operation_execution",
    "get_workflow_owner",
    "get_queue",
    "list_queues",
)
"""Methods that only read, in statements that need no common transaction: DBOS's own, each without one."""


class _Autocommit:
    """A system database whose transactions are none: each statement stands for itself."""

    def __init__(self, db: Any) -> None:
        self._db = db
        self.engine = db.engine.execution_options(isolation_level="AUTOCOMMIT")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._db, name)


def _autocommit(db: Any) -> _Autocommit:
    """Made once a database: it is asked for at every step."""
    view: _Autocommit | None = vars(db).get("autocommit_view")
    if view is None:
        view = db.autocommit_view = _Autocommit(db)
    return view


def _without_transaction(name: str) -> Callable[..., Any]:
    def method(db: Any, *args: Any, **options: Any) -> Any:
        return db.many_trips[name](_autocommit(db), *args, **options)

    return method


def _in_one(db: Any, name: str, **params: Any) -> list[dict[str, Any]]:
    """The rows of one statement that is its own transaction."""
    with _autocommit(db).engine.connect() as connection:
        return [dict(row) for row in connection.exec_driver_sql(sql(name), params).mappings()]


def install() -> None:
    """Replaces them for every application of this process. Idempotent."""
    kind: Any = PostgresSystemDatabase
    if hasattr(kind, "many_trips"):
        return
    replacements = {name: _without_transaction(name) for name in READS} | {
        "start_queued_workflows": start_queued_workflows,
        "get_workflow_statuses": get_workflow_statuses,
        "record_operation_result": record_operation_result,
    }
    kind.many_trips = {name: getattr(kind, name) for name in replacements}
    for name, replacement in replacements.items():
        setattr(kind, name, replacement)


def _original(db: Any, name: str) -> Callable[..., Any]:
    method: Callable[..., Any] = db.many_trips[name].__get__(db)
    return method


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
    )
    if any(limit is not None for limit in shared) or options.get("is_latest_version") is not None:
        theirs: tuple[list[str], str | None] = _original(db, "start_queued_workflows")(
            queue, executor_id, app_version, queue_partition_key, local_running_count, *args, **options
        )
        return theirs
    places = None if queue._worker_concurrency is None else queue._worker_concurrency - local_running_count
    if places is not None and places <= 0:
        return [], "worker_concurrency"
    rows = _in_one(
        db,
        "claim_queued",
        queue_name=queue.name,
        version=app_version,
        application=db.app_name,
        executor_id=executor_id,
        owner_xid=options["owner_xid"],
        places=places,
        now_ms=int(time.time() * 1000),
    )
    _read.rows = {row["workflow_uuid"]: row for row in rows}
    return list(_read.rows), None


def get_workflow_statuses(db: Any, workflow_ids: list[str]) -> list[Any]:
    """The rows of the claim just made by this thread, or whatever else is asked for, read anew."""
    rows: dict[str, Any] = _read.__dict__.pop("rows", {})
    if workflow_ids and list(rows) == workflow_ids:
        return list(rows.values())
    found: list[Any] = db.many_trips["get_workflow_statuses"](_autocommit(db), workflow_ids)
    return found


def record_operation_result(
    db: Any, result: Any, *, completed_at_epoch_ms: int | None = None, **options: Any
) -> None:
    """Records a step's result. Raises `DBOSWorkflowConflictIDError` when another execution owns the
    workflow, `DBOSStepNondeterminismError` when the step has another result already.
    """
    workflow_id = result["workflow_uuid"]
    owner_xid = options.get("owner_xid") or current_owner_xid(workflow_id)
    if owner_xid is None or options.get("owner_key") is not None:
        _original(db, "record_operation_result")(
            result, completed_at_epoch_ms=completed_at_epoch_ms, **options
        )
        return
    assert result["error"] is None or result["output"] is None
    # Outside the retries: a retry carries the same time, which is how it is told from another execution.
    completed_at = int(time.time() * 1000) if completed_at_epoch_ms is None else completed_at_epoch_ms
    params = {name: value for name, value in result.items() if name != "child_shard_key"}

    @db_retry(sys_db=db)
    def record() -> list[dict[str, Any]]:
        return _in_one(
            db,
            "record_step",
            **params,
            owner_xid=owner_xid,
            completed_at=completed_at,
            application=db.app_name,
        )

    rows = record()
    if not rows:
        raise DBOSWorkflowConflictIDError(workflow_id)
    if rows[0]["completed_at_epoch_ms"] != completed_at:
        raise DBOSStepNondeterminismError(workflow_id, result["function_id"])
