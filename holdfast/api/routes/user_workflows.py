"""Starting workflows of your own: those that modules in HOLDFAST_MODULES register."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from holdfast.api.context import accepting
from holdfast.api.models import IdempotencyKey, StartRequest
from holdfast.api.submit import STARTED, Work, answer, submit
from holdfast.durable import registry
from holdfast.errors import InvalidRequest

router = APIRouter(tags=["workflows"])


@router.post(
    "/workflows",
    status_code=202,
    dependencies=[Depends(accepting)],
    responses=STARTED,
)
async def start(request: Request, body: StartRequest, idempotency_key: IdempotencyKey = None) -> Response:
    """Start a workflow of your own (docs/start/your-own-workflow.md) on its queue, in a worker."""
    known = registry.startable()
    workflow = known.get(body.workflow)
    if workflow is None:
        registered = ", ".join(sorted(known))
        raise InvalidRequest(
            f"workflow: no module registers this name. Registered: {registered}.", field="workflow"
        )
    work = Work(workflow.name, workflow.signature.parse(body.arguments, "arguments"), workflow.name)
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
    schemas["StartRequest"]["oneOf"] = shapes
