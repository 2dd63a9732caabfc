"""What must hold in a family of workflows while part of it goes on (resume, reopen, fork) or is deleted.

Both kinds take one advisory lock before they check, so that neither misses the other that just begins.
"""

from __future__ import annotations

from holdfast.errors import Conflict
from holdfast.postgres.database import Connection, query


def begin_deletion(connection: Connection, workflow_id: str, operation_id: str) -> None:
    """Raises `Conflict` beside another delete or a resume in the family. Later ones find this one."""
    query(connection, "lock_families")
    _refuse_beside(connection, ["delete", "resume"], workflow_id, but=operation_id)


def begin_going_on(connection: Connection, workflow_id: str) -> None:
    """Raises `Conflict` beside a delete in the family. None begins until the end of the transaction."""
    query(connection, "share_families")
    _refuse_beside(connection, ["delete"], workflow_id)


def _refuse_beside(connection: Connection, kinds: list[str], workflow_id: str, *, but: str = "") -> None:
    for row in query(connection, "operation_near", kinds=kinds, workflow_id=workflow_id, but=but):
        raise Conflict(
            f"Operation {row['operation_id']} ({row['kind']}) is under way on {row['workflow_id']}. "
            f"GET /operations/{row['operation_id']} says how far it is."
        )


def require_results(
    connection: Connection, workflow_ids: list[str], *, before_step: int | None = None, below: bool = False
) -> None:
    """Raises `Conflict` if one of these would go on and wait for the result of a deleted child for ever.

    Only the steps before ``before_step`` count. ``below`` includes the cancelled workflows below them.
    """
    limits = {"before_step": before_step, "below": below}
    for row in query(connection, "lost_results", workflow_ids=workflow_ids, **limits):
        raise Conflict(
            f"{row['workflow_id']} started {row['child']} (step {row['step']}), which was deleted before its "
            "result was read: it would wait for that for ever. "
            f"Fork it from step {row['step']} or an earlier one."
        )
