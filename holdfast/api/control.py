"""Requests for control operations. One that takes longer than a request is answered with its address."""

from __future__ import annotations

import logging
from typing import Any

from fastapi import Request
from pydantic import BaseModel
from starlette.responses import JSONResponse, Response

from holdfast.api.access import REFUSALS
from holdfast.api.context import process_of
from holdfast.api.models_operations import Operation
from holdfast.api.problems import documented, request_id_of
from holdfast.control.operations import Requested
from holdfast.errors import Conflict
from holdfast.postgres.database import Row

log = logging.getLogger("holdfast.api")


async def operate(request: Request, kind: str, target: str, arguments: dict[str, Any]) -> Row:
    """Begins an operation, carries it out for about two seconds, and returns its row.

    Raises `Conflict` if it cannot begin, if another one acts on the target, or if it failed.
    """
    process = process_of(request)
    by = f"api, {request.client.host}" if request.client else "api"
    row = await process.gateway.call(process.operations.request, Requested(kind, target, arguments, by))
    log.info(
        "%s of %s: %s",
        kind,
        target,
        row["status"],
        extra={
            "action": "operation.requested",
            "operation_id": row["operation_id"],
            "request_id": request_id_of(request.scope),
        },
    )
    if row["status"] == "ERROR":
        raise Conflict(f"{row['note']} Before that it acted on {row['completed']} workflows.")
    return row


def answer(row: Row, finished: BaseModel, status: int) -> Response:
    """Answers with ``finished`` if the operation has ended, else 202 with the operation's address."""
    if row["ended_at"] is not None:
        return JSONResponse(finished.model_dump(mode="json"), status)
    body = Operation.model_validate(row)
    location = f"/operations/{row['operation_id']}"
    return JSONResponse(body.model_dump(mode="json"), 202, headers={"Location": location})


def answers(finished: type[BaseModel], status: int) -> dict[int | str, dict[str, Any]]:
    """Returns OpenAPI's ``responses`` of a route that ends with `answer`."""
    own: dict[int | str, dict[str, Any]]
    if status == 202:
        text = "an operation if it continues; see Location"
        own = {202: {"model": finished | Operation, "description": text}}
    else:
        text = "it continues; Location is the address of its progress"
        own = {status: {"model": finished}, 202: {"model": Operation, "description": text}}
    return own | REFUSALS | documented(400, 404, 408, 409, 413, 415, 422, 500, 503)
