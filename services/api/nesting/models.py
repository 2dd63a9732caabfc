"""Shapes of the nested workflows' requests."""

from __future__ import annotations

from pydantic import Field

from holdfast.web import StrictRequest


class NestedRequest(StrictRequest):
    """Root, child and grandchild: enqueued one by the other, or called directly."""

    queued: bool = Field(default=True, description="children wait in queues; false: their parent calls them")
    wait: bool = Field(default=False, description="answer with the report when the workflow has ended")
