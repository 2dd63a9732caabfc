"""Shapes of messages, events and streams."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Path
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from holdfast.api.models import KEY, StrictRequest
from holdfast.api.paths import restored

StreamKey = Annotated[
    str,
    StringConstraints(min_length=1, max_length=2000, pattern=KEY),
    BeforeValidator(restored),
    Path(description="key of a stream"),
]


class MessageRequest(StrictRequest):
    """A message to a workflow, which gets it from `DBOS.recv(topic)`."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"topic": "approval", "message": {"approved": True, "by": "ada"}}]}
    )

    message: Any = Field(description="any JSON value; null reads as a timeout to who receives it")
    topic: str | None = Field(
        default=None,
        min_length=1,
        max_length=255,
        pattern=KEY,
        description="what it is about; left out, only a `DBOS.recv()` without a topic receives it",
    )


class KeyPage(BaseModel):
    """A part of a list that is ordered by key."""

    model_config = ConfigDict(extra="forbid")

    limit: int = Field(default=100, ge=1, le=1000)
    after: str | None = Field(
        default=None, min_length=1, max_length=2000, pattern=KEY, description="next_after of the page before"
    )


class SentMessage(BaseModel):
    """A message that is stored; its workflow receives it once."""

    workflow_id: str
    message_id: str = Field(description="the same for the same Idempotency-Key")
    topic: str | None = None


class StoredValue(BaseModel):
    """A value as it is stored."""

    value: Any = Field(
        default=None, description="the value; as text where it is shortened; a sentence where it is no JSON"
    )
    bytes: int = Field(description="of the whole value, as it is stored")
    shortened: bool = Field(description="only its beginning is here")
    format: str = Field(
        description="portable_json, or what the row says: only the application can read it then"
    )


class Event(StoredValue):
    """An event of a workflow: the last value that `DBOS.set_event` gave this key."""

    key: str


class EventList(BaseModel):
    """A workflow's events, by key."""

    workflow_id: str
    events: list[Event]
    next_after: str | None = Field(description="after of the next page; null at the end")


class Stream(BaseModel):
    """A stream of a workflow."""

    key: str
    length: int = Field(description="how many values were written")
    closed: bool = Field(description="nothing more is written")


class StreamList(BaseModel):
    """A workflow's streams, by key."""

    workflow_id: str
    streams: list[Stream]
    next_after: str | None = Field(description="after of the next page; null at the end")
