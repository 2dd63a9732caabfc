"""All schedules."""

from __future__ import annotations

from fastapi import APIRouter, Request

from holdfast.api.context import process_of
from holdfast.api.models import Schedules
from holdfast.api.problems import documented

router = APIRouter(tags=["schedule"])


@router.get("/schedules", responses=documented(500, 503))
async def show_schedules(request: Request) -> Schedules:
    """Every schedule: its rules, its last and next tick, how many were missed or skipped."""
    rows = await process_of(request).gateway.ops("schedules")
    return Schedules.model_validate({"schedules": rows})
