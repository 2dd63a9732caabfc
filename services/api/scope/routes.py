"""Class, instance and function scope: which state of an object survives a restart."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Body, Depends, Request
from starlette.responses import Response

from holdfast.web import STARTED, Feature, IdempotencyKey, Work, accepting, answer, documented, submit
from services.api.scope.declaration import CLASS_SCOPE, FUNCTION_SCOPE, INSTANCE_NAMES, INSTANCE_SCOPE
from services.api.scope.errors import UnknownInstance
from services.api.scope.models import InstanceName, ScopeRequest

router = APIRouter(
    tags=["scope"],
    dependencies=[Depends(accepting)],
    responses=STARTED,
)

ScopeBody = Annotated[ScopeRequest, Body(default_factory=ScopeRequest)]


async def _start(request: Request, work: Work, body: ScopeRequest, key: str | None) -> Response:
    return await answer(request, await submit(request, work, body, key), wait=body.wait)


@router.post("/scope/class", status_code=202)
async def class_scope(request: Request, body: ScopeBody, idempotency_key: IdempotencyKey = None) -> Response:
    """Start the class-scope workflow: steps that count on an instance, a class, a module and durably."""
    work = Work(CLASS_SCOPE.name, (body.steps, body.step_seconds), "class-scope", class_name="ClassScope")
    return await _start(request, work, body, idempotency_key)


@router.post("/scope/instance/{name}", status_code=202, responses=documented(404))
async def instance_scope(
    request: Request,
    name: InstanceName,
    body: ScopeBody,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Start the same on a configured instance, `alpha` or `beta`."""
    # A workflow with an unknown instance name would be stored and stay PENDING for ever.
    if name not in INSTANCE_NAMES:
        raise UnknownInstance
    arguments = (body.steps, body.step_seconds)
    work = Work(INSTANCE_SCOPE.name, arguments, f"instance-scope-{name}", "InstanceScope", name)
    return await _start(request, work, body, idempotency_key)


@router.post("/scope/function", status_code=202)
async def function_scope(
    request: Request, body: ScopeBody, idempotency_key: IdempotencyKey = None
) -> Response:
    """Start the same on a module-level counter."""
    work = Work(FUNCTION_SCOPE.name, (body.steps, body.step_seconds), "function-scope")
    return await _start(request, work, body, idempotency_key)


FEATURE = Feature(router)
