"""Starts, shows and follows Fibonacci batches."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, FastAPI, Header, Request
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from holdfast.errors import InvalidRequest
from holdfast.runtime import AT_ONCE
from holdfast.settings import Settings
from holdfast.statuses import TERMINAL
from holdfast.web import (
    RETRY_SECONDS,
    BoundedStream,
    Children,
    Feature,
    IdempotencyKey,
    Process,
    Work,
    WorkflowId,
    accepting,
    documented,
    kind_of,
    process_of,
    submit,
)
from services.worker.fibonacci import workflows
from services.worker.fibonacci.batches import read_batch
from services.worker.fibonacci.events import Feeds, events, finished
from services.worker.fibonacci.models import AcceptedBatch, Batch, BatchRequest
from services.worker.fibonacci.rule import check
from services.worker.fibonacci.settings import FibonacciSettings

router = APIRouter(tags=["fibonacci"])

DEFAULT_COUNT = 50
STREAM_LIMIT = 100


@router.post(
    "/fibonacci/batches",
    status_code=202,
    dependencies=[Depends(accepting)],
    responses={
        202: {"model": AcceptedBatch, "description": "accepted; Location is the address of its status"},
        **documented(400, 408, 409, 413, 415, 422, 500, 503),
    },
)
async def start_batch(
    request: Request,
    body: Annotated[BatchRequest, Body(default_factory=BatchRequest)],
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Start numbers, all queued at once, or one after the other in one workflow: 50 by default.

    `count` gives 0, 1, 2, …; by recursion no n goes above HOLDFAST_FIBONACCI_MAX_N (34), so the default
    batch is 0 … 34 and then fifteen times 34. `numbers` above the limit of its method get 422.
    """
    numbers = chosen_numbers(body, FibonacciSettings.of(process_of(request).settings))
    if body.sequential:
        work = Work(workflows.sequence.name, (numbers, body.method), "batch")
    else:
        # The batch enqueues the remaining numbers.
        children = Children(workflows.number.name, [(n, body.method) for n in numbers[:AT_ONCE]])
        work = Work(workflows.batch.name, (numbers, body.method), "batch", children=children)
    accepted = await submit(request, work, body, idempotency_key)
    answer = AcceptedBatch(**accepted.model_dump(), total=len(numbers))
    location = f"/fibonacci/batches/{accepted.workflow_id}"
    return JSONResponse(answer.model_dump(mode="json"), 202, headers={"Location": location})


def chosen_numbers(body: BatchRequest, settings: FibonacciSettings) -> list[int]:
    """Returns the batch's numbers. Raises `InvalidRequest`, which names the field that exceeds a limit."""
    if body.count is not None and body.numbers is not None:
        raise InvalidRequest("Give count or numbers, not both.", field="numbers")
    largest = settings.fibonacci_max_count
    field, size = ("count", body.count) if body.numbers is None else ("numbers", len(body.numbers))
    if size is not None and size > largest:
        raise InvalidRequest(f"{field}: a batch has at most {largest} numbers here.", field=field)
    if body.numbers is None:
        count = min(DEFAULT_COUNT, largest) if body.count is None else body.count
        cap = settings.fibonacci_max_n if body.method == "recursive" else count
        return [min(index, cap) for index in range(count)]
    for index, n in enumerate(body.numbers):
        check(n, body.method, recursive_limit=settings.fibonacci_max_n, field=f"numbers.{index}")
    return body.numbers


@router.get("/fibonacci/batches/{workflow_id}", responses=documented(404, 422, 500, 503))
async def show_batch(request: Request, workflow_id: WorkflowId) -> Batch:
    """Progress and results in the order of the request, with who computed what.

    Each number has its own `status`; `result` is null until it is SUCCESS.
    """
    process = process_of(request)
    return await process.gateway.call(read_batch, process.gateway.client, workflow_id)


@router.get(
    "/fibonacci/batches/{workflow_id}/events",
    dependencies=[Depends(accepting)],
    response_class=Response,
    responses={
        200: {"description": "server-sent events", "content": {"text/event-stream": {}}},
        204: {"description": "Last-Event-ID was the end's: nothing more comes"},
        **documented(404, 422, 500, 503),
    },
)
async def follow_batch(
    request: Request,
    workflow_id: WorkflowId,
    last_event_id: Annotated[str | None, Header(max_length=4000)] = None,
) -> Response:
    """The same as server-sent events, until the batch is terminal or this process drains.

    `snapshot` is the batch as above; then `number` for each that changed and `progress` for the whole,
    and `end` at last. Reconnecting with `Last-Event-ID` goes on without what was already sent.
    """
    feeds: Feeds = request.app.state.feeds
    if not feeds.permits.acquire():
        raise HTTPException(
            503,
            f"{feeds.permits.limit} event streams are open, and more are not served. Close one or try again.",
            {"Retry-After": str(RETRY_SECONDS)},
        )
    try:
        feed = await feeds.join(workflow_id)
    except BaseException:
        feeds.permits.release()
        raise
    if finished(last_event_id) and feed.batch.status in TERMINAL:
        feeds.leave(feed)
        feeds.permits.release()
        # 204 makes an EventSource stop reconnecting.
        return Response(status_code=204)

    def leave() -> None:
        feeds.leave(feed)
        feeds.permits.release()

    return BoundedStream(feeds.process, events(feeds.process, feed, last_event_id), leave)


def prepare(app: FastAPI, process: Process) -> None:
    """Stores the feeds of open event streams in the application's state."""
    app.state.feeds = Feeds(process, STREAM_LIMIT)


def describe(schemas: dict[str, Any], settings: Settings) -> None:
    """Adds this installation's limits to the OpenAPI schemas, so that clients know them in advance."""
    batch, limits = schemas["BatchRequest"], FibonacciSettings.of(settings)
    count, numbers = (kind_of(batch, name) for name in ("count", "numbers"))
    count["maximum"] = numbers["maxItems"] = limits.fibonacci_max_count
    # This also matches a missing method: recursive is the default.
    batch["if"] = {"properties": {"method": {"const": "recursive"}}}
    batch["then"] = {"properties": {"numbers": {"items": {"maximum": limits.fibonacci_max_n}}}}


FEATURE = Feature(router, prepare, describe)
