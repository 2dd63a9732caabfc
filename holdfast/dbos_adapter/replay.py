"""Reads ahead the records of a workflow's earlier execution: one statement serves many replayed steps.

DBOS 3.4.0 queries each recorded step separately. Here the first record that is found shows that the execution
replays. From then on one statement reads a page of the following records, bounded in rows and in bytes. Each
record is dropped once it is used. A record never changes, and only the execution that owns the workflow
writes new ones, so a page stays valid. A record that is not in the page (a gap, or a step that is requested
twice) is queried separately: a page never proves that a record is absent. A first execution finds no record
and costs the same as in DBOS.

Private to DBOS 3.4.0 and replaced here: ``PostgresSystemDatabase``'s methods that `install` names. No other
method reads a step's record.
"""

from __future__ import annotations

from typing import Any

from dbos import error as dbos_error
from dbos._context import get_local_dbos_context
from dbos._serialization import deserialize_value

from holdfast.dbos_adapter.histories import GET_RESULT, histories_of
from holdfast.dbos_adapter.retries import patiently
from holdfast.dbos_adapter.round_trips import original, replace, sessions_of
from holdfast.postgres.database import Row
from holdfast.postgres.sessions import Sessions

PAGE_ROWS = 1000
PAGE_BYTES = 1_000_000
"""Limits the stored results and errors of a page. A larger record is a page by itself."""


def install() -> None:
    """Replaces these methods for every application of this process. Idempotent; see `round_trips.install`."""
    replace(
        check_operation_execution,
        _check_operation_execution_txn,
        get_checkpoint_name,
        patch,
        deprecate_patch,
        check_workflow_result,
        record_get_result,
    )


def _owner(workflow_id: str) -> str | None:
    """Returns the token of the calling execution, or None if a child reads its parent's record."""
    context = get_local_dbos_context()
    return context.owner_xid if context is not None and context.workflow_id == workflow_id else None


def _status_checked(db: Any, workflow_id: str, rows: list[Row]) -> list[Row]:
    assert rows, f"Error: Workflow {workflow_id} does not exist"
    if rows[0]["status"] == "CANCELLED":
        histories_of(db).forget(workflow_id)
        raise dbos_error.DBOSWorkflowCancelledError(
            f"Workflow {workflow_id} is cancelled. Aborting function."
        )
    return rows


def _read_ahead(db: Any, sessions: Sessions, workflow_id: str, function_id: int) -> Row | None:
    """Returns the record from the page, or None. Reads the next page first if this one ends before the step.

    The record stays in the page.
    """
    known = histories_of(db).get(workflow_id, _owner(workflow_id))
    if known is None:
        return None
    if function_id > known.last and known.ahead:
        # One thread reads. The other threads of the workflow wait for its page.
        with known.reading:
            if function_id > known.last and known.ahead:
                rows = patiently(sessions.run)(
                    "read_steps_ahead",
                    workflow_id=workflow_id,
                    function_id=function_id,
                    page_rows=PAGE_ROWS,
                    page_bytes=PAGE_BYTES,
                )
                known.fill(_status_checked(db, workflow_id, rows), function_id)
    return known.rows.get(function_id) if known.is_fresh() else None


def _read_step(db: Any, sessions: Sessions, workflow_id: str, function_id: int) -> Row | None:
    """Queries the record of one step. Returns None if the step has none."""
    owner = _owner(workflow_id)
    rows = patiently(sessions.run)("read_step", workflow_id=workflow_id, function_id=function_id)
    (row,) = _status_checked(db, workflow_id, rows)
    if row["function_name"] is None:
        return None
    histories = histories_of(db)
    if (known := histories.get(workflow_id, owner)) and function_id <= known.last:
        known.note_not_cancelled()
    else:
        histories.begin(workflow_id, owner)
    return row


def _used(db: Any, workflow_id: str, function_id: int) -> None:
    if known := histories_of(db).get(workflow_id, _owner(workflow_id)):
        known.rows.pop(function_id, None)


def _named(workflow_id: str, function_id: int, function_name: str, row: Row) -> Row:
    if row["function_name"] != function_name:
        raise dbos_error.DBOSUnexpectedStepError(
            workflow_id=workflow_id,
            step_id=function_id,
            expected_name=function_name,
            recorded_name=row["function_name"],
        )
    names = ("output", "error", "serialization", "child_workflow_id", "child_shard_key")
    return {name: row[name] for name in names}


# --- replacements for DBOS's methods ------------------------------------------------------------------


def check_operation_execution(
    db: Any, workflow_id: str, function_id: int, function_name: str, *, owner_key: str | None = None
) -> Any:
    """Returns the record of a step, or None. Raises `DBOSWorkflowCancelledError`.

    Raises `DBOSUnexpectedStepError` when another step is recorded under its id.
    """
    sessions = sessions_of(db)
    if sessions is None or owner_key is not None:
        return original(db, "check_operation_execution")(
            workflow_id, function_id, function_name, owner_key=owner_key
        )
    row = _read_ahead(db, sessions, workflow_id, function_id)
    if row is None:
        row = _read_step(db, sessions, workflow_id, function_id)
    _used(db, workflow_id, function_id)
    return None if row is None else _named(workflow_id, function_id, function_name, row)


def _check_operation_execution_txn(
    db: Any, workflow_id: str, function_id: int, function_name: str, conn: Any
) -> Any:
    """As `check_operation_execution`, in a transaction. If the page has the record, it sends nothing."""
    sessions = sessions_of(db)
    row = None if sessions is None else _read_ahead(db, sessions, workflow_id, function_id)
    if row is not None:
        _used(db, workflow_id, function_id)
        return _named(workflow_id, function_id, function_name, row)
    found = original(db, "_check_operation_execution_txn")(workflow_id, function_id, function_name, conn)
    if sessions is not None and found is not None:
        histories_of(db).begin(workflow_id, _owner(workflow_id))
    return found


def get_checkpoint_name(db: Any, *, workflow_id: str, function_id: int) -> str | None:
    """Returns the name of the recorded step. The record stays in the page, since DBOS may read it next."""
    sessions = sessions_of(db)
    row = None if sessions is None else _read_ahead(db, sessions, workflow_id, function_id)
    name: str | None = (
        row["function_name"]
        if row is not None
        else original(db, "get_checkpoint_name")(workflow_id=workflow_id, function_id=function_id)
    )
    return name


def patch(db: Any, *, workflow_id: str, function_id: int, patch_name: str) -> bool:
    """Returns whether the workflow takes the patched path. The first execution that gets there records it."""
    return _patched("patch", db, workflow_id, function_id, patch_name)


def deprecate_patch(db: Any, *, workflow_id: str, function_id: int, patch_name: str) -> bool:
    """Returns whether the patch is recorded at this step."""
    return _patched("deprecate_patch", db, workflow_id, function_id, patch_name)


def _patched(method: str, db: Any, workflow_id: str, function_id: int, patch_name: str) -> bool:
    sessions = sessions_of(db)
    row = None if sessions is None else _read_ahead(db, sessions, workflow_id, function_id)
    if row is not None:
        return bool(row["function_name"] == patch_name)
    answer: bool = original(db, method)(
        workflow_id=workflow_id, function_id=function_id, patch_name=patch_name
    )
    return answer


def check_workflow_result(db: Any, workflow_id: str, *, fail_if_missing: bool = False) -> Any:
    """Returns the result that the waiting workflow recorded, else checks whether there is one yet."""
    if (row := _result(db, workflow_id)) is not None:
        return deserialize_value(row["output"], row["serialization"], db.serializer)
    return original(db, "check_workflow_result")(workflow_id, fail_if_missing=fail_if_missing)


def _result(db: Any, workflow_id: str) -> Row | None:
    context = get_local_dbos_context()
    if sessions_of(db) is None or context is None or not context.is_workflow():
        return None
    # The wait for a child that is called rather than started runs in the child's context.
    for waiting in (context.workflow_id, context.parent_workflow_id):
        known = histories_of(db).get(waiting, _owner(waiting))
        if known is not None and known.is_fresh() and (row := known.results.get(workflow_id)) is not None:
            return row
    return None


def record_get_result(  # noqa: PLR0917 - as DBOS calls it
    db: Any,
    result_workflow_id: str,
    output: str | None,
    error: str | None,
    serialization: str | None,
    ctx: Any = None,
    *,
    started_at_epoch_ms: int,
) -> None:
    """Records the result in the waiting workflow. An existing record stays and is not written again."""
    context = ctx or get_local_dbos_context()
    if sessions_of(db) is not None and context is not None and (ctx is not None or context.is_workflow()):
        function_id = context.function_id + (ctx is None)
        known = histories_of(db).get(context.workflow_id, context.owner_xid)
        row = known and known.rows.get(function_id)
        if row and (row["function_name"], row["child_workflow_id"]) == (GET_RESULT, result_workflow_id):
            _used(db, context.workflow_id, function_id)
            context.function_id = function_id
            return
    original(db, "record_get_result")(
        result_workflow_id, output, error, serialization, ctx, started_at_epoch_ms=started_at_epoch_ms
    )
