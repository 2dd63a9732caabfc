"""The control operation that deletes a workflow."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from holdfast.api.access import CONTROL
from holdfast.api.control import answer, answers, operate
from holdfast.api.models import WorkflowId
from holdfast.api.models_operations import Deleted
from holdfast.api.routes.workflows import existing
from holdfast.control.kinds import target_of
from holdfast.errors import UnknownWorkflow

router = APIRouter(tags=["workflows"])


@router.delete(
    "/workflows/{workflow_id}",
    dependencies=CONTROL,
    responses=answers(Deleted, 200),
)
async def delete(
    request: Request,
    workflow_id: WorkflowId,
    children: Annotated[bool, Query(description="delete all below it, too")] = False,
) -> Response:
    """Delete a workflow that has ended, with its input, result, steps, events, messages and streams.

    Unfinished work is refused, and so is a child whose parent may still need its result.
    """
    row = await existing(request, workflow_id)
    # `holdfast verify` reads the parent: it misses this child from now on.
    arguments = {
        "workflow_id": workflow_id,
        "children": children,
        "parent_workflow_id": row.parent_workflow_id,
    }
    done = await operate(request, "delete", target_of(workflow_id), arguments)
    if done["ended_at"] is not None and not done["completed"]:
        raise UnknownWorkflow
    return answer(done, Deleted(workflow_id=workflow_id, deleted=done["completed"]), 200)
