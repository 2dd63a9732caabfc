"""The 5-second schedule: recent ticks, their lateness, and missing ticks."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request

from holdfast.web import Feature, documented, process_of
from holdfast.web import Pulse as PulseLane
from services.worker.pulse.models import Gap, Pulse, Schedule
from services.worker.pulse.settings import PULSE_SECONDS
from services.worker.pulse.workflows import tick

router = APIRouter(tags=["schedule"])

GAPS_SHOWN = 100


@router.get("/schedule", responses=documented(422, 500, 503))
async def show_schedule(
    request: Request, limit: Annotated[int, Query(ge=1, le=1000, description="how many ticks")] = 60
) -> Schedule:
    """The last ticks, newest first, and the ticks missing between them."""
    rows = await process_of(request).gateway.ops("recent_pulses", limit=limit)
    rows = sorted(rows, key=lambda row: row["scheduled_at"], reverse=True)
    gaps = find_gaps([row["scheduled_at"] for row in rows])
    return Schedule(
        pulses=[_pulse(row) for row in rows],
        gaps=gaps[-GAPS_SHOWN:],
        missed=sum(gap.missed for gap in gaps),
    )


def find_gaps(scheduled: list[datetime]) -> list[Gap]:
    """Returns runs of missing ticks on the 5-second grid between the first and the last, oldest first."""
    tick = timedelta(seconds=PULSE_SECONDS)
    ordered = sorted(set(scheduled))
    gaps = []
    for before, after in pairwise(ordered):
        missed = (after - before) // tick - 1
        if missed > 0:
            gaps.append(Gap(first=_text(before + tick), last=_text(before + missed * tick), missed=missed))
    return gaps


def _pulse(row: dict[str, Any]) -> Pulse:
    started = row["started_at"]
    return Pulse.model_validate(
        {
            **row,
            "scheduled_at": _text(row["scheduled_at"]),
            "started_at": None if started is None else _text(started),
        }
    )


def _text(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat()


FEATURE = Feature(router, pulse=PulseLane(tick.name, PULSE_SECONDS))
