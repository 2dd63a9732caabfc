"""Shapes of the scope requests."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path
from pydantic import Field

from holdfast.web import NAME, StrictRequest

InstanceName = Annotated[str, Path(pattern=NAME, description='"alpha" or "beta"')]


class ScopeRequest(StrictRequest):
    """A scope workflow: `steps` steps of `step_seconds` each."""

    steps: int = Field(default=30, ge=1, le=1000)
    step_seconds: float = Field(default=0.5, ge=0, le=60, allow_inf_nan=False)
    wait: bool = Field(default=False, description="answer with the report when the workflow has ended")
