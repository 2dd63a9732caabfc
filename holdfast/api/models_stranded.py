"""The data of stranded work and of its adoption."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from holdfast.api.models import NAME, ApplicationName, StrictRequest
from holdfast.statuses import Status


class Stranded(BaseModel):
    """Unfinished work that no live executor can run."""

    application: str | None
    application_version: str | None
    status: Status
    reason: Literal["version", "queue", "workflow", "arguments"] = Field(
        description="what no live executor runs, listens to, has registered or takes"
    )
    queue_name: str | None = Field(description="null where the reason is the version")
    workflow_name: str | None = Field(description="null where the reason is the version")
    workflows: int
    way_out: str


class StrandedList(BaseModel):
    """Everything that is stranded."""

    stranded: list[Stranded]


class AdoptRequest(StrictRequest):
    """Which stranded work the present version is to continue."""

    application: ApplicationName
    from_version: str = Field(pattern=NAME)


class Adopted(BaseModel):
    """How much work moved, and the version that continues it."""

    adopted: int
    to_version: str
