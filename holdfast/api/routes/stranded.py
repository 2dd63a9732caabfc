"""Stranded workflows, and the control operation with which the present version adopts them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import APIRouter, Request
from starlette.responses import Response

from holdfast.api.access import CONTROL
from holdfast.api.context import process_of
from holdfast.api.control import answer, answers, operate
from holdfast.api.models import WorkflowId
from holdfast.api.models_stranded import Adopted, AdoptRequest, Stranded, StrandedList
from holdfast.api.problems import documented
from holdfast.api.routes.workflows import existing
from holdfast.api.targets import live_version
from holdfast.control.kinds import target_of
from holdfast.errors import Conflict, NotFound
from holdfast.recovery.stranded import WAY_OUT
from holdfast.settings import Role

if TYPE_CHECKING:
    from holdfast.process.process import Process

router = APIRouter(tags=["workflows"])


@router.post(
    "/workflows/{workflow_id}/adopt",
    status_code=202,
    dependencies=CONTROL,
    responses=answers(Adopted, 202),
)
async def adopt_one(request: Request, workflow_id: WorkflowId) -> Response:
    """Let the present version continue a stranded workflow, under its own id."""
    row = await existing(request, workflow_id)
    if row.application_name is None or row.app_version is None:
        raise Conflict("This workflow has no version: it is not stranded.")
    return await _adopt(request, row.application_name, row.app_version, only=workflow_id)


@router.get("/stranded", responses=documented(500, 503))
async def list_stranded(request: Request) -> StrandedList:
    """Unfinished work that no live executor can run, with the reason and the way out."""
    process = process_of(request)
    rows = await process.gateway.ops("stranded", lease_seconds=process.settings.lease_seconds)
    return StrandedList(
        stranded=[Stranded.model_validate(row | {"way_out": WAY_OUT[row["reason"]]}) for row in rows]
    )


@router.post(
    "/stranded/adopt",
    status_code=202,
    dependencies=CONTROL,
    responses=answers(Adopted, 202),
)
async def adopt_stranded(request: Request, body: AdoptRequest) -> Response:
    """Let the present version continue all stranded work of one older version, under its own ids.

    You say with this that its code can: the same steps in the same order.
    """
    return await _adopt(request, body.application, body.from_version)


async def _adopt(
    request: Request, application: str, from_version: str, *, only: str | None = None
) -> Response:
    to_version = await _present_version(process_of(request), application)
    if from_version == to_version:
        raise Conflict(
            f"{to_version} is the present version of {application}, so no other one can adopt its work."
            " If none runs, start a worker of it."
        )
    given = {"application": application, "from_version": from_version, "to_version": to_version, "only": only}
    target = target_of(only) if only else f"version {from_version} of {application}"
    row = await operate(request, "adopt", target, given)
    if row["ended_at"] is not None and not row["completed"]:
        raise Conflict("Nothing was moved: it is not stranded. GET /stranded lists what is.")
    return answer(row, Adopted(adopted=row["completed"], to_version=to_version), 202)


async def _present_version(process: Process, application: str) -> str:
    """Returns the version that continues work: this release's, or the newest live one of another application.

    Raises `NotFound` for an unknown application, and `Conflict` if no executor of it is live.
    """
    settings = process.settings
    roles: dict[str, Role] = {settings.application_name(role): role for role in ("api", "worker")}
    if application in roles:
        return settings.version_name(roles[application])
    known = {row["application"] for row in await process.gateway.ops("known_applications")}
    if application not in known:
        raise NotFound(
            f"There is no application of this name. Use {' or '.join(sorted(known | set(roles)))}."
        )
    version = await live_version(process, application)
    if version is None:
        raise Conflict(
            f"No executor of {application} is live, so no version can continue the work. Start one."
        )
    return version
