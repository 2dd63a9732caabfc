"""Shapes of user processing and the credential cache."""

from __future__ import annotations

from pydantic import BaseModel, Field

from holdfast.web import StrictRequest


class UsersRequest(StrictRequest):
    """User processing: `pages` pages of `page_size` users each."""

    pages: int = Field(default=5, ge=1, le=100)
    page_size: int = Field(default=3, ge=1, le=100)
    wait: bool = Field(default=False, description="answer with the report when the workflow has ended")


class Cache(BaseModel):
    """This process's credential cache, without the secret."""

    executor_id: str
    pid: int
    hits: int
    misses: int
    fetches: int
    errors: int
    age_seconds: float | None
    expires_in_seconds: float | None
    fingerprint: str | None
