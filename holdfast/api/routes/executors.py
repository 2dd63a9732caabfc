"""Executors: who is alive, and the control operations that drain or crash one, or stop this process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.background import BackgroundTask
from starlette.responses import JSONResponse, Response

from holdfast.api.access import CONTROL, REFUSALS
from holdfast.api.context import process_of
from holdfast.api.models import Executor, ExecutorFilter, ExecutorId, ExecutorList, ExecutorOrder, Stopping
from holdfast.api.problems import documented
from holdfast.errors import ChaosDisabled, Conflict, UnknownExecutor

router = APIRouter(tags=["executors"])


@router.get("/executors", responses=documented(500, 503))
async def list_executors(request: Request, wanted: Annotated[ExecutorFilter, Query()]) -> ExecutorList:
    """Every executor of all applications, or of the given ones, also the dead and the drained ones."""
    rows = await process_of(request).gateway.ops("list_executors", application=wanted.application or None)
    return ExecutorList(executors=[Executor.model_validate(row) for row in rows])


@router.post(
    "/executors/{executor_id}/drain",
    status_code=202,
    dependencies=CONTROL,
    responses=REFUSALS | documented(400, 404, 408, 409, 413, 415, 422, 500, 503),
)
async def drain(request: Request, executor_id: ExecutorId) -> ExecutorOrder:
    """Request that an executor finishes its running steps, hands over the rest, and ends."""
    return await _request(request, "request_drain", executor_id, "draining")


@router.post(
    "/executors/{executor_id}/crash",
    status_code=202,
    dependencies=CONTROL,
    responses=REFUSALS | documented(400, 404, 408, 409, 413, 415, 422, 500, 503),
)
async def crash(request: Request, executor_id: ExecutorId) -> ExecutorOrder:
    """Request that an executor kills itself, only where HOLDFAST_CHAOS is true."""
    if not process_of(request).settings.chaos:
        raise ChaosDisabled
    return await _request(request, "request_crash", executor_id, "crashed")


async def _request(request: Request, statement: str, executor_id: str, desired: str) -> ExecutorOrder:
    gateway = process_of(request).gateway
    if not await gateway.ops(statement, executor_id=executor_id):
        known = {row["executor_id"]: row for row in await gateway.ops("list_executors", application=None)}
        if executor_id not in known:
            raise UnknownExecutor
        state = known[executor_id]["state"]
        raise Conflict(
            f"This executor accepts no such request: it is {state}. GET /executors lists live ones."
        )
    return ExecutorOrder(executor_id=executor_id, desired_state=desired)


@router.post(
    "/shutdown",
    status_code=202,
    dependencies=CONTROL,
    responses={
        202: {"model": Stopping, "description": "draining"},
        **REFUSALS,
        **documented(400, 408, 413, 415, 422, 500, 503),
    },
)
async def shutdown(request: Request) -> Response:
    """Drain this process and exit 0; what is unfinished goes on elsewhere, or after the next start."""
    process = process_of(request)
    answer = Stopping(executor_id=process.executor_id)
    # After the answer, so that it still reaches the client.
    stop = BackgroundTask(_stop, process.request_stop)
    return JSONResponse(answer.model_dump(mode="json"), 202, background=stop)


async def _stop(request_stop: Callable[[str], None]) -> None:
    request_stop("shutdown requested")
