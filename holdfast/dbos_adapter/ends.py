"""Counts how executions of workflows end, for /metrics: by the status that is stored when they have ended.

A body cannot know its outcome. Its result may be one that cannot be stored, its workflow may have been
cancelled meanwhile, or continue in another process. So the count comes after DBOS has stored the outcome. An
execution that stored none counts as its workflow's row says: cancelled, or LEFT if it continues elsewhere.

Private to DBOS 3.4.0 and replaced here: ``dbos._core._get_wf_invoke_func``, whose result runs a body and
stores its outcome, and ``PostgresSystemDatabase.update_workflow_outcome``.
"""

from __future__ import annotations

import inspect
import threading
import time
from collections.abc import Callable
from typing import Any

import dbos._core
import sqlalchemy as sa
from dbos._context import get_local_dbos_context
from dbos._sys_db_postgres import PostgresSystemDatabase

from holdfast.dbos_adapter.retries import patiently
from holdfast.dbos_adapter.slots import current_execution
from holdfast.observability import metrics
from holdfast.postgres.statements import sql
from holdfast.statuses import RESUMABLE

LEFT = "LEFT"
"""The execution ended without an outcome: its workflow continues elsewhere."""

_last = threading.local()
"""Holds the last end that this thread asked the database to store: workflow id, status, whether it did."""


def install() -> None:
    """Counts every execution of every application of this process. Idempotent."""
    core: Any = dbos._core
    if hasattr(core._get_wf_invoke_func, "uncounted"):
        return
    database: Any = PostgresSystemDatabase
    update, original = database.update_workflow_outcome, core._get_wf_invoke_func

    def update_workflow_outcome(db: Any, workflow_id: str, status: str, **options: Any) -> Any:
        is_stored = update(db, workflow_id, status, **options)
        _last.end = (workflow_id, status, is_stored is not False)
        return is_stored

    def get_wf_invoke_func(instance: Any, status: Any, *args: Any, **options: Any) -> Any:
        return _counting(original(instance, status, *args, **options), instance, status)

    get_wf_invoke_func.uncounted = original  # type: ignore[attr-defined]
    database.update_workflow_outcome = update_workflow_outcome
    core._get_wf_invoke_func = get_wf_invoke_func


def count(workflow_name: str, status: str, begun: float) -> None:
    """Counts the calling execution once. It has ended, and began at this time (``time.perf_counter``)."""
    context: Any = get_local_dbos_context()  # one per execution
    if getattr(context, "is_counted", False):
        return
    if context is not None:
        context.is_counted = True
    metrics.WORKFLOWS_COMPLETED.labels(workflow_name=workflow_name, status=status).inc()
    seconds = time.perf_counter() - begun
    metrics.WORKFLOW_SECONDS.labels(workflow_name=workflow_name, status=status).observe(seconds)


def _counting(persist: Callable[..., Any], instance: Any, row: Any) -> Callable[..., Any]:
    """Wraps DBOS's function that runs a body and stores its outcome. DBOS may call it twice per execution."""
    begun = time.perf_counter()

    def run(function: Callable[[], Any]) -> Any:
        ran = False

        def body() -> Any:
            nonlocal ran
            ran = True  # DBOS runs no body if the workflow has ended already
            return function()

        async def body_async() -> Any:
            nonlocal ran
            ran = True
            return await function()

        _last.end = None
        status = None
        try:
            value = persist(body_async if inspect.iscoroutinefunction(function) else body)
            status = _stored_here(row) or _stored(instance, row)
        except Exception:
            status = _stored_here(row) or _stored(instance, row)
            raise
        finally:
            if ran:
                count(row["name"], status or LEFT, begun)
        return value

    return run


def _stored_here(row: Any) -> str | None:
    workflow_id, status, is_stored = _last.end or (None, None, False)
    return status if is_stored and workflow_id == row["workflow_uuid"] else None


def _stored(instance: Any, row: Any) -> str:
    """Returns what the workflow's row says of an execution that has not heard that its outcome is stored."""
    try:
        found = patiently(_read)(instance._sys_db, row["workflow_uuid"])
    except Exception:  # DBOS was destroyed: the workflow continues in another process
        return LEFT
    if found is None:
        return LEFT
    if found.status in RESUMABLE:
        return str(found.status)
    workflow_id, status, _ = _last.end or (None, None, False)
    execution = current_execution()
    # In an outage, the first answer of a statement that was repeated may have been lost.
    is_ours = (workflow_id, status) == (row["workflow_uuid"], found.status)
    is_ours = is_ours and found.executor_id == row["executor_id"]
    return str(found.status) if is_ours and not (execution is not None and execution.lost) else LEFT


def _read(db: Any, workflow_id: str) -> sa.Row[Any] | None:
    with db.engine.connect() as connection:
        return connection.exec_driver_sql(  # type: ignore[no-any-return]
            sql("stored_end"), {"workflow_id": workflow_id}
        ).one_or_none()
