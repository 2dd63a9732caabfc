"""Control operations over HTTP."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, Field


class Operation(BaseModel):
    """A control operation: what it acts on, how far it is, and how it ended."""

    operation_id: str
    kind: str = Field(description='"cancel", "resume", "adopt" or "delete"')
    target: str = Field(description="what it acts on: one unfinished operation at a time")
    arguments: dict[str, Any]
    requested_by: str
    requested_at: datetime
    status: Literal["RUNNING", "SUCCESS", "ERROR"]
    completed: int = Field(description="workflows that it acted on")
    total: int | None = Field(description="workflows that are known so far; more may be found")
    advanced_at: datetime = Field(description="when it last acted")
    note: str | None = Field(description="what it waits for, or why it failed")
    ended_at: datetime | None


class OperationList(BaseModel):
    """Control operations: the unfinished ones, then the newest."""

    operations: list[Operation]


class Deleted(BaseModel):
    """A workflow was deleted."""

    workflow_id: str
    deleted: int = Field(description="workflows that were deleted: it and, if requested, those below it")
