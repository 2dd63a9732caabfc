"""The control operation that lets a failed workflow go on, for example after its child was mended."""

from __future__ import annotations

import logging
from typing import Any

from fastapi import APIRouter, Depends, Request

from holdfast.api.access import CONTROL, REFUSALS
from holdfast.api.context import accepting, process_of
from holdfast.api.models import Accepted, WorkflowId
from holdfast.api.problems import documented
from holdfast.api.routes.workflows import existing
from holdfast.api.targets import home_queues, version_of
from holdfast.control.families import begin_going_on, require_results
from holdfast.errors import Conflict, UnknownWorkflow
from holdfast.postgres.database import OpsPool, query, transaction

router = APIRouter(tags=["workflows"])
log = logging.getLogger("holdfast.api")


@router.post(
    "/workflows/{workflow_id}/reopen",
    status_code=202,
    dependencies=[*CONTROL, Depends(accepting)],
    responses=REFUSALS | documented(400, 404, 408, 409, 413, 415, 422, 500, 503),
)
async def reopen(request: Request, workflow_id: WorkflowId) -> Accepted:
    """Let a workflow that ended with ERROR go on at the step that failed, under its own id.

    A parent that failed with its child reads the child's result again; until the child has succeeded, that is
    refused. A step of its own is done again. The steps before keep their results.
    """
    process = process_of(request)
    row = await existing(request, workflow_id)
    queue = (await home_queues(process, [row]))[workflow_id]
    version = await version_of(process, row)
    plans = await process.gateway.ops("reopening", workflow_id=workflow_id)
    if not plans:
        raise UnknownWorkflow
    [plan] = plans
    if plan["status"] != "ERROR":
        raise Conflict(f"This workflow is {plan['status']}. Only one that ended with ERROR can be reopened.")
    if plan["unmended"]:
        raise Conflict(
            f"It would fail with its child again: {', '.join(plan['unmended'])}. "
            "Resume or reopen the child, and repeat this when it has succeeded."
        )
    if plan["acted_on"]:
        raise Conflict(
            f"It went on after the failure of {plan['acted_on']}: the steps since are recorded and would be "
            "done again. Fork it from that step if they may be."
        )
    changes = {
        "workflow_id": workflow_id,
        "ended_at": plan["completed_at"],
        "first_step": plan["first_step"],
        "queue": queue,
        "version": version,
    }
    await process.gateway.call(_reopen, process.gateway.pool, changes)
    log.info(
        "workflow reopened at step %d",
        plan["first_step"],
        extra={"action": "workflow.reopened", "workflow_id": workflow_id},
    )
    return Accepted(workflow_id=workflow_id, status="ENQUEUED")


def _reopen(pool: OpsPool, changes: dict[str, Any]) -> None:
    workflow_id = changes["workflow_id"]
    with pool.connection() as connection, transaction(connection):
        begin_going_on(connection, workflow_id)
        query(connection, "forget_crashes", workflow_ids=[workflow_id], queues=[changes["queue"]])
        [done] = query(connection, "reopen", **changes)
        if not done["is_reopened"]:
            raise Conflict("This workflow was reopened by another request, or has changed. GET it again.")
        # Now nothing deletes its children any more.
        require_results(connection, [workflow_id])
