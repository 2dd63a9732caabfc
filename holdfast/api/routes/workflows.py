"""Stored workflows: listing them, showing one, and the control operations on them but one (`stranded`)."""

from __future__ import annotations

from typing import Annotated

import sqlalchemy as sa
from dbos import DBOSClient, SetWorkflowID, WorkflowStatus
from fastapi import APIRouter, Body, Depends, Query, Request
from starlette.responses import JSONResponse, Response

from holdfast.api.access import CONTROL, REFUSALS
from holdfast.api.context import accepting, process_of
from holdfast.api.control import answer, answers, operate
from holdfast.api.models import (
    Accepted,
    ForkRequest,
    IdempotencyKey,
    Page,
    StepList,
    WaitOptions,
    WorkflowDetail,
    WorkflowFilter,
    WorkflowId,
    WorkflowList,
)
from holdfast.api.problems import documented
from holdfast.api.submit import claim, find, outcome, read_detail
from holdfast.api.targets import home_queues, version_of
from holdfast.api.views import JSON, SHOWN_BYTES, listed, step, workflow_detail
from holdfast.control.families import begin_going_on, require_results
from holdfast.control.kinds import target_of
from holdfast.errors import Conflict, UnknownWorkflow
from holdfast.path_segment import workflow_path
from holdfast.postgres.database import Connection, query, transaction

router = APIRouter(tags=["workflows"])


@router.get("/workflows", responses=documented(422, 500, 503))
async def list_workflows(request: Request, wanted: Annotated[WorkflowFilter, Query()]) -> WorkflowList:
    """Workflows of all applications, or of the given ones, newest first, without their payloads."""
    process = process_of(request)
    before_ms, _, before_id = (wanted.before or "").partition("~")
    rows = await process.gateway.ops(
        "list_workflows",
        application=wanted.application or None,
        status=list(wanted.status) or None,
        name=wanted.name or None,
        queue=wanted.queue or None,
        executor_id=wanted.executor_id or None,
        prefix=wanted.prefix,
        before_ms=max(-(2**63), min(int(before_ms), 2**63 - 1)) if before_ms else None,
        before_id=before_id or None,
        # One more than asked for shows whether there is a next page.
        limit=wanted.limit + 1,
        offset=wanted.offset,
    )
    shown, more = rows[: wanted.limit], len(rows) > wanted.limit
    return WorkflowList(
        workflows=[listed(row) for row in shown],
        next_offset=wanted.offset + wanted.limit if more else None,
        next_before=f"{shown[-1]['created_at']}~{shown[-1]['workflow_id']}" if more else None,
    )


@router.get("/workflows/{workflow_id}", responses=documented(404, 422, 500, 503))
async def show_workflow(
    request: Request, workflow_id: WorkflowId, query: Annotated[WaitOptions, Query()]
) -> WorkflowDetail:
    """One workflow with input, output and error, shortened; with `wait` as soon as it has ended."""
    row = None
    if query.wait:
        await existing(request, workflow_id)
        row = await outcome(request, workflow_id, query.wait, value_bytes=SHOWN_BYTES)
    row = row or await read_detail(process_of(request), workflow_id, SHOWN_BYTES)
    if row is None:
        raise UnknownWorkflow
    return workflow_detail(row)


@router.get("/workflows/{workflow_id}/steps", responses=documented(404, 422, 500, 503))
async def list_steps(request: Request, workflow_id: WorkflowId, page: Annotated[Page, Query()]) -> StepList:
    """Its recorded steps with their outputs, shortened."""
    rows = await process_of(request).gateway.ops(
        "workflow_steps",
        workflow_id=workflow_id,
        limit=page.limit + 1,
        offset=page.offset,
        value_bytes=SHOWN_BYTES,
        json=JSON,
    )
    if not rows:
        raise UnknownWorkflow
    steps = [row for row in rows if row["step_id"] is not None]
    return StepList(
        workflow_id=workflow_id,
        steps=[step(row) for row in steps[: page.limit]],
        next_offset=page.offset + page.limit if len(steps) > page.limit else None,
    )


@router.post(
    "/workflows/{workflow_id}/cancel",
    dependencies=CONTROL,
    responses=answers(Accepted, 200),
)
async def cancel(request: Request, workflow_id: WorkflowId) -> Response:
    """Cancel it and its children. A running Fibonacci step ends within 1.5 s; other steps finish first.

    Repeated, it cancels what is left below it. It replaces a resume that is under way.
    """
    await existing(request, workflow_id)
    row = await operate(request, "cancel", target_of(workflow_id), {"workflow_id": workflow_id})
    status = (await existing(request, workflow_id)).status
    if row["ended_at"] is not None and not row["completed"] and "replaced" not in row["arguments"]:
        raise Conflict(f"This workflow has ended with {status}; there is nothing to cancel.")
    return answer(row, Accepted.model_validate({"workflow_id": workflow_id, "status": status}), 200)


@router.post(
    "/workflows/{workflow_id}/resume",
    status_code=202,
    dependencies=CONTROL,
    responses=answers(Accepted, 202),
)
async def resume(request: Request, workflow_id: WorkflowId) -> Response:
    """Put a cancelled or parked workflow back into its queue; it goes on after its recorded steps.

    So do the workflows below it that were cancelled: it waits for what they return.
    """
    await existing(request, workflow_id)
    row = await operate(request, "resume", target_of(workflow_id), {"workflow_id": workflow_id})
    if row["ended_at"] is not None and not row["completed"]:
        raise Conflict("Nothing was resumed: this workflow changed meanwhile. Read it again, then decide.")
    return answer(row, Accepted(workflow_id=workflow_id, status="ENQUEUED"), 202)


@router.post(
    "/workflows/{workflow_id}/fork",
    status_code=202,
    dependencies=[*CONTROL, Depends(accepting)],
    responses={
        202: {"model": Accepted, "description": "the copy; Location is the address of its status"},
        **REFUSALS,
        **documented(400, 404, 408, 409, 413, 415, 422, 500, 503),
    },
)
async def fork(
    request: Request,
    workflow_id: WorkflowId,
    body: Annotated[ForkRequest, Body(default_factory=ForkRequest)],
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Run a copy of it from `start_step` on, under an id of its own."""
    process = process_of(request)
    row = await existing(request, workflow_id)
    queue = (await home_queues(process, [row]))[workflow_id]
    version = await version_of(process, row)
    forked_id = await claim(request, body, "fork", idempotency_key)

    def fork_stored(client: DBOSClient) -> str:
        found = find(client, forked_id)
        if found is not None:
            return found.status
        try:
            with (
                process.gateway.pool.connection() as connection,
                transaction(connection),
                SetWorkflowID(forked_id),
            ):
                _keep_for_fork(connection, workflow_id, body.start_step)
                _require_step(client, workflow_id, body.start_step)
                client.fork_workflow(
                    workflow_id,
                    body.start_step,
                    application_version=version,
                    queue_name=queue,
                )
        except sa.exc.IntegrityError:
            # The same request, sent again while its first try was under way, was quicker.
            found = find(client, forked_id)
            if found is None:
                raise
            return found.status
        return "ENQUEUED"

    status = await process.gateway.call(fork_stored, process.gateway.client)
    return JSONResponse(
        {"workflow_id": forked_id, "status": status}, 202, headers={"Location": workflow_path(forked_id)}
    )


async def existing(request: Request, workflow_id: str) -> WorkflowStatus:
    """Returns the stored workflow without its values. Raises `UnknownWorkflow`."""
    gateway = process_of(request).gateway
    return _require(await gateway.call(find, gateway.client, workflow_id))


def _require(row: WorkflowStatus | None) -> WorkflowStatus:
    if row is None:
        raise UnknownWorkflow
    return row


def _keep_for_fork(connection: Connection, workflow_id: str, start_step: int) -> None:
    """Keeps what the fork copies until the end of the transaction. Raises `HoldfastError` if it is gone."""
    begin_going_on(connection, workflow_id)
    kept = query(connection, "keep_for_fork", workflow_id=workflow_id, start_step=start_step)
    if workflow_id not in {row["workflow_id"] for row in kept}:
        raise UnknownWorkflow
    require_results(connection, [workflow_id], before_step=start_step)


def _require_step(client: DBOSClient, workflow_id: str, start_step: int) -> None:
    """Raises `Conflict` for a step after the first unrecorded one."""
    before = start_step - 1
    if before and not client.list_workflow_steps(workflow_id, load_output=False, limit=1, offset=before - 1):
        raise Conflict("The steps before start_step are not all recorded. GET …/steps lists those that are.")
