"""Starts nested workflows: root, child and grandchild."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Body, Depends, Request
from starlette.responses import Response

from holdfast.web import STARTED, Feature, IdempotencyKey, Work, accepting, answer, submit
from services.api.nesting.declaration import ROOT
from services.api.nesting.models import NestedRequest

router = APIRouter(tags=["nested"])


@router.post(
    "/nested",
    status_code=202,
    dependencies=[Depends(accepting)],
    responses=STARTED,
)
async def nested(
    request: Request,
    body: Annotated[NestedRequest, Body(default_factory=NestedRequest)],
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Start root, child and grandchild, called directly or queued."""
    work = Work(ROOT.name, (body.queued,), "nested")
    return await answer(request, await submit(request, work, body, idempotency_key), wait=body.wait)


FEATURE = Feature(router)
