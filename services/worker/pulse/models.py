"""Shapes of the 5-second schedule."""

from __future__ import annotations

from pydantic import BaseModel, Field


class Pulse(BaseModel):
    """One tick of the 5-second schedule."""

    scheduled_at: str
    started_at: str | None
    lateness_seconds: float | None
    executor_id: str | None
    status: str = Field(description='"run", or "skipped" when it came too late')
    queue_depth: int | None
    live_executors: int | None


class Gap(BaseModel):
    """Ticks in a row that are missing between the first and the last one shown."""

    first: str
    last: str
    missed: int


class Schedule(BaseModel):
    """The last ticks, newest first, and the gaps between them."""

    pulses: list[Pulse]
    gaps: list[Gap]
    missed: int
