"""When a recorded result is used in place of writing it again: only by the workflow, for its own record."""

from __future__ import annotations

from contextvars import copy_context
from typing import Any

import pytest
from dbos._context import DBOSContext, _set_local_dbos_context

from holdfast.dbos_adapter import replay
from holdfast.dbos_adapter.histories import GET_RESULT, histories_of

NEXT = 7
"""The next step of the workflow."""


class _SystemDatabase:
    def __init__(self) -> None:
        self.sessions = object()
        self.written: list[Any] = []
        self.round_trip_originals = {"record_get_result": type(self)._theirs}

    def _theirs(self, *given: Any, **_: Any) -> None:
        self.written.append(given)


@pytest.mark.parametrize("passed", [False, True], ids=["context of the caller", "context passed"])
@pytest.mark.parametrize(
    ("changed", "used"),
    [
        ({}, True),
        ({"function_name": "another"}, False),
        ({"child_workflow_id": "another"}, False),
        ({"function_id": NEXT + 1}, False),
        ({"owner": "another"}, False),
        ({"step": NEXT - 1}, False),
    ],
    ids=str,
)
def test_a_recorded_result_is_not_written_again(changed: dict[str, Any], used: bool, passed: bool) -> None:
    db = _SystemDatabase()
    context = DBOSContext()
    context.workflow_id, context.owner_xid = "w", "claim"
    # Where DBOS passes the context, it has counted the step.
    context.function_id = NEXT - (not passed)
    context.curr_step_function_id = changed.get("step", -1)
    row = {"function_id": NEXT, "function_name": GET_RESULT, "child_workflow_id": "child", "output": "1"}
    histories_of(db).begin("w", changed.get("owner", "claim"))
    known = histories_of(db).get("w", None)
    assert known is not None
    known.fill([row | {name: changed[name] for name in row.keys() & changed.keys()}], NEXT)
    before = context.function_id

    def record() -> None:
        _set_local_dbos_context(context)
        replay.record_get_result(
            db, "child", "1", None, None, context if passed else None, started_at_epoch_ms=1
        )

    copy_context().run(record)
    used = used or (passed and "step" in changed)
    assert len(db.written) == (not used)
    assert (NEXT in known.rows) == (not used and "function_id" not in changed)
    assert context.function_id == (NEXT if used else before)
