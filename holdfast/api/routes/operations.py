"""Control operations: how far they are, and how they ended."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request

from holdfast.api.context import process_of
from holdfast.api.models_operations import Operation, OperationList
from holdfast.api.problems import documented
from holdfast.errors import UnknownOperation

router = APIRouter(tags=["operations"])

OperationId = Annotated[
    str, Path(pattern=r"^[a-z]{1,20}-[0-9a-f]{32}$", description="as its start returned it")
]


@router.get("/operations", responses=documented(422, 500, 503))
async def list_operations(
    request: Request, limit: Annotated[int, Query(ge=1, le=1000)] = 100
) -> OperationList:
    """Control operations: the unfinished ones, then the newest."""
    rows = await process_of(request).gateway.ops("operations", limit=limit)
    return OperationList(operations=[Operation.model_validate(row) for row in rows])


@router.get("/operations/{operation_id}", responses=documented(404, 422, 500, 503))
async def show_operation(request: Request, operation_id: OperationId) -> Operation:
    """How far a control operation is, and how it ended."""
    for row in await process_of(request).gateway.ops("operation", operation_id=operation_id):
        return Operation.model_validate(row)
    raise UnknownOperation
