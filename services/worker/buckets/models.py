"""Shapes of bucket listings."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Path
from pydantic import BaseModel, ConfigDict, Field

from holdfast.statuses import Status
from holdfast.web import KEY, StrictRequest

BUCKET = r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$"
BucketName = Annotated[str, Path(pattern=BUCKET, description="name of a bucket")]


class ListingRequest(StrictRequest):
    """A bucket's listing: keys that begin with `prefix` and come after `start_after`, page by page."""

    prefix: str = Field(default="", max_length=1024, pattern=KEY)
    start_after: str = Field(
        default="", max_length=1024, pattern=KEY, description="next_start_after of a report to go on from"
    )
    page_size: int = Field(default=1000, ge=1, le=1000, description="keys in a page")
    max_pages: int | None = Field(
        default=None, ge=1, le=10_000, description="pages at most; HOLDFAST_S3_MAX_PAGES by default"
    )
    wait: bool = Field(default=False, description="answer with the report when the workflow has ended")


class Folder(BaseModel):
    """What lies below one folder."""

    prefix: str = Field(description="how its keys begin")
    keys: int
    bytes: int


class ListingReport(BaseModel):
    """What a listing found."""

    model_config = ConfigDict(extra="ignore")

    pages: int
    keys: int
    bytes: int
    largest: dict[str, Any] | None = Field(description="key and bytes of the largest object")
    folders: int = Field(description="different folders right below the prefix")
    top: list[Folder] = Field(description="the largest of them by bytes, at most 20")
    loose: Folder = Field(description="what lies in no folder below the prefix")
    executors: dict[str, int] = Field(description="pages that each executor read")
    complete: bool = Field(description="false: max_pages ended it before the bucket's end")
    next_start_after: str | None = Field(description="start_after of the listing that goes on from here")


class Listing(BaseModel):
    """A bucket's listing as it stands."""

    workflow_id: str
    bucket: str
    status: Status
    pages: int = Field(description="pages that were cut so far")
    completed: int = Field(description="pages with sums")
    keys: int = Field(description="keys in the pages with sums")
    bytes: int = Field(description="bytes of their objects")
    report: ListingReport | None = Field(default=None, description="all of it, when status is SUCCESS")
    error: str | None = Field(default=None, description="why there is no report")
