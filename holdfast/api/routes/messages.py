"""Messages to a workflow, and its events and streams."""

from __future__ import annotations

import hashlib
import json
import logging
import uuid
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

from holdfast.api.access import CONTROL, REFUSALS
from holdfast.api.context import RETRY_SECONDS, accepting, process_of
from holdfast.api.models import IdempotencyKey, WorkflowId
from holdfast.api.models_messages import (
    EventList,
    KeyPage,
    MessageRequest,
    SentMessage,
    Stream,
    StreamKey,
    StreamList,
)
from holdfast.api.problems import documented
from holdfast.api.sse import BoundedStream
from holdfast.api.streams import CLOSED, LAST_OFFSET, Position, Reader, position, values
from holdfast.api.submit import claim_key
from holdfast.api.views import SHOWN_BYTES, event
from holdfast.errors import Conflict, InvalidRequest, UnknownWorkflow
from holdfast.statuses import ENDED

router = APIRouter(tags=["workflows"])
log = logging.getLogger("holdfast.api")


@router.post(
    "/workflows/{workflow_id}/messages",
    status_code=202,
    dependencies=CONTROL,
    responses=REFUSALS | documented(400, 404, 408, 409, 413, 415, 422, 500, 503),
)
async def send_message(
    request: Request, workflow_id: WorkflowId, body: MessageRequest, idempotency_key: IdempotencyKey = None
) -> SentMessage:
    """Send it a message. `DBOS.recv` of that topic gets it within milliseconds, or when it comes there.

    With an Idempotency-Key the message is delivered once, however often it is sent. A workflow that has ended
    receives nothing more: DBOS would store the message for it unread, here it is refused with 409.
    """
    _require_json(body.message)
    gateway = process_of(request).gateway
    if idempotency_key is None:
        message_id = uuid.uuid4().hex
    else:
        message_id = f"message-{hashlib.sha256(idempotency_key.encode()).hexdigest()[:32]}"
    # As DBOS makes it of an idempotency key.
    found = await gateway.ops(
        "message_target", workflow_id=workflow_id, message_uuid=f"{message_id}::{workflow_id}"
    )
    if not found:
        raise UnknownWorkflow
    if idempotency_key is not None:
        # Kept as long as the workflow, which is when the message goes.
        await claim_key(request, body, idempotency_key, workflow_id)
    if not found[0]["sent"]:
        if found[0]["status"] in ENDED:
            raise Conflict(
                f"This workflow has ended with {found[0]['status']}: nothing receives the message any more."
            )
        await gateway.call(gateway.client.send, workflow_id, body.message, body.topic, message_id)
    log.info("message sent", extra={"action": "message.sent", "workflow_id": workflow_id})
    return SentMessage(workflow_id=workflow_id, message_id=message_id, topic=body.topic)


@router.get("/workflows/{workflow_id}/events", responses=documented(404, 422, 500, 503))
async def list_events(
    request: Request, workflow_id: WorkflowId, page: Annotated[KeyPage, Query()]
) -> EventList:
    """Its events by key, as `DBOS.set_event` set them last; each value shortened to 4 kB."""
    rows, more = await _page(request, "workflow_events", workflow_id, page, value_bytes=SHOWN_BYTES)
    return EventList(
        workflow_id=workflow_id,
        events=[event(row, SHOWN_BYTES) for row in rows],
        next_after=rows[-1]["key"] if more else None,
    )


@router.get("/workflows/{workflow_id}/streams", responses=documented(404, 422, 500, 503))
async def list_streams(
    request: Request, workflow_id: WorkflowId, page: Annotated[KeyPage, Query()]
) -> StreamList:
    """Its streams by key. `GET …/streams/{key}` follows one."""
    rows, more = await _page(request, "workflow_streams", workflow_id, page, closed=CLOSED)
    streams = [
        # The mark of the end is no value.
        Stream(key=row["key"], length=row["last"] + (not row["closed"]), closed=row["closed"])
        for row in rows
    ]
    return StreamList(workflow_id=workflow_id, streams=streams, next_after=rows[-1]["key"] if more else None)


@router.get(
    "/workflows/{workflow_id}/streams/{key}",
    dependencies=[Depends(accepting)],
    response_class=Response,
    responses={
        200: {"description": "server-sent events", "content": {"text/event-stream": {}}},
        204: {"description": "Last-Event-ID was the end's: nothing more comes"},
        **documented(404, 422, 500, 503),
    },
)
async def follow_stream(
    request: Request,
    workflow_id: WorkflowId,
    key: StreamKey,
    offset: Annotated[int, Query(ge=0, le=LAST_OFFSET, description="the first value to send")] = 0,
    last_event_id: Annotated[str | None, Header(max_length=100)] = None,
) -> Response:
    """Its values as server-sent events, from `offset` on, as they are written.

    `value` for each, whose id is its offset, and `end` when the stream is closed or its workflow has ended.
    Reconnecting with `Last-Event-ID` goes on after that one. A stream that nothing was written to yet is
    waited for. Values are cut to 64 kB.
    """
    permits = request.app.state.feeds.permits
    start: Position = position(last_event_id, offset)
    if start.ended:
        # 204 makes an EventSource stop reconnecting.
        return Response(status_code=204)
    if not permits.acquire():
        raise HTTPException(
            503,
            f"{permits.limit} event streams are open, and more are not served. Close one or try again.",
            {"Retry-After": str(RETRY_SECONDS)},
        )
    process = process_of(request)
    try:
        reader = Reader(process, workflow_id, key, start.offset)
        exists = await reader.read()
    except BaseException:
        permits.release()
        raise
    if not exists:
        permits.release()
        raise UnknownWorkflow
    return BoundedStream(process, values(process, reader), permits.release)


async def _page(
    request: Request, statement: str, workflow_id: str, page: KeyPage, **params: Any
) -> tuple[list[dict[str, Any]], bool]:
    """The rows of a page, and whether there are more. Raises `UnknownWorkflow`."""
    rows = await process_of(request).gateway.ops(
        statement, workflow_id=workflow_id, after=page.after, limit=page.limit + 1, **params
    )
    if not rows:
        raise UnknownWorkflow
    found = [row for row in rows if row["key"] is not None]
    return found[: page.limit], len(found) > page.limit


def _require_json(message: Any) -> None:
    """Raises `InvalidRequest` for what Python reads as JSON, and JSON does not know, or nobody can read."""
    try:
        json.dumps(message, allow_nan=False).encode()
    except (ValueError, RecursionError):
        raise InvalidRequest(
            "message: no JSON value (a number that is none, or too deep).", field="message"
        ) from None
