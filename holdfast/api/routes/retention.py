"""Retention at an operator's request: finished workflows and old rows are deleted."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Body, Depends, Request
from starlette.responses import Response

from holdfast.api.access import CONTROL, REFUSALS
from holdfast.api.context import accepting, process_of
from holdfast.api.models import Accepted, IdempotencyKey, PurgeRequest
from holdfast.api.problems import documented
from holdfast.api.submit import Work, answer, submit
from holdfast.errors import InvalidRequest
from holdfast.retention import workflow as retention

router = APIRouter(tags=["retention"])


@router.post(
    "/purge",
    status_code=202,
    dependencies=[*CONTROL, Depends(accepting)],
    responses={
        202: {"model": Accepted, "description": "accepted; Location says where its report will be"},
        **REFUSALS,
        **documented(400, 408, 409, 413, 415, 422, 500, 503),
    },
)
async def purge(
    request: Request,
    body: Annotated[PurgeRequest, Body(default_factory=PurgeRequest)],
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Delete what ended long ago, a little at a time, on a worker; its output is the report.

    Never anything unfinished, nor what something unfinished or parked belongs to.
    """
    seconds = body.older_than_seconds or process_of(request).settings.retention_seconds
    if not seconds:
        raise InvalidRequest(
            "Everything is kept here (HOLDFAST_RETENTION_SECONDS is 0): say how old what goes must be.",
            field="older_than_seconds",
        )
    work = Work(retention.purge.name, (seconds, body.dry_run), "purge")
    accepted = await submit(request, work, body, idempotency_key)
    return await answer(request, accepted, wait=False)
