"""Starting a workflow by its name: any that a live executor has registered."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from holdfast.api.context import accepting, process_of
from holdfast.api.models import IdempotencyKey
from holdfast.api.models_start import StartRequest
from holdfast.api.problems import documented
from holdfast.api.starting import requested_work
from holdfast.api.submit import STARTED, answer, submit
from holdfast.durable import registry

router = APIRouter(tags=["workflows"])


@router.post(
    "/workflows",
    status_code=202,
    dependencies=[Depends(accepting)],
    responses=STARTED | documented(404),
)
async def start(request: Request, body: StartRequest, idempotency_key: IdempotencyKey = None) -> Response:
    """Start any workflow that a live executor has registered, in its application.

    A workflow of a user-defined module (docs/start/your-own-workflow.md) starts on its queue, in a worker. A
    plain DBOS workflow, of any application, starts on `queue`, or immediately if there is none.
    """
    work = await requested_work(process_of(request), body)
    return await answer(request, await submit(request, work, body, idempotency_key), wait=body.wait)


def describe(schemas: dict[str, Any]) -> None:
    """Puts the workflows that this installation has into `StartRequest`'s schema, with their arguments."""
    shapes = []
    for name, workflow in sorted(registry.startable().items()):
        arguments = workflow.signature.json_schema(f"#/components/schemas/{name}.{{model}}")
        schemas |= {f"{name}.{model}": shape for model, shape in arguments.pop("$defs", {}).items()}
        shape: dict[str, Any] = {"properties": {"workflow": {"const": name}, "arguments": arguments}}
        if arguments.get("required"):
            shape["required"] = ["workflow", "arguments"]
        shapes.append(shape)
    if shapes:
        declared = [shape["properties"]["workflow"]["const"] for shape in shapes]
        other = {"properties": {"workflow": {"not": {"enum": declared}}}}
        schemas["StartRequest"]["oneOf"] = [*shapes, other]
