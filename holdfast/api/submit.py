"""Starts work: once per idempotency key, on Holdfast's queue, for the application that owns the workflow."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dbos import DBOSClient, EnqueueOptions, WorkflowStatus
from dbos import error as dbos_error
from fastapi import Request
from pydantic import BaseModel
from starlette.responses import JSONResponse, Response

from holdfast.api.context import process_of
from holdfast.api.models import Accepted, Finished
from holdfast.api.paths import restored
from holdfast.api.problems import documented, request_id_of
from holdfast.api.views import JSON, SHOWN_BYTES, Unreadable, read_error, read_value, to_answer
from holdfast.durable import child_workflows
from holdfast.durable.names import QUEUE_OF, ROLE_OF
from holdfast.errors import Conflict, DatabaseUnavailable, IdempotencyConflict
from holdfast.observability import tracing
from holdfast.path_segment import workflow_path
from holdfast.postgres.database import Row
from holdfast.settings import Settings
from holdfast.statuses import TERMINAL

if TYPE_CHECKING:
    from holdfast.process.process import Process

logger = logging.getLogger("holdfast.api")

WAIT_SECONDS = 600.0
WAIT_OUTAGE_SECONDS = 30.0
REPORT_BYTES = 8 * 1024 * 1024
"""The longest result that an answer with `wait` holds."""
FALLBACK_POLL_SECONDS = 0.5
"""Fallback poll interval for a missed completion notice.

It is also the only way to wait for a child, because its completion is announced to its parent alone.
"""


STARTED: dict[int | str, dict[str, Any]] = {
    200: {"model": Finished, "description": "`wait` was true and the workflow has ended"},
    202: {"model": Accepted, "description": "accepted; Location is the address of its status"},
    **documented(400, 408, 409, 413, 415, 422, 500, 503),
}
"""The answers of a route that starts a workflow, for the OpenAPI document."""


@dataclass(frozen=True)
class Children:
    """Child workflows to store together with their parent: their durable name and the JSON arguments of each.

    They start without waiting for the parent. When the parent runs, it finds them stored.
    """

    workflow_name: str
    args: Sequence[tuple[Any, ...]]


@dataclass(frozen=True)
class Work:
    """A workflow to start: its durable name, its JSON arguments, and a readable prefix for its id."""

    workflow_name: str
    args: tuple[Any, ...]
    prefix: str
    class_name: str | None = None
    instance_name: str | None = None
    children: Children | None = None
    kwargs: dict[str, Any] | None = None
    options: EnqueueOptions | None = None
    """Where a workflow is enqueued that this release does not declare."""
    as_pickle: bool = False
    """Whether its application stores its values as pickles."""


def fingerprint(request: Request, body: BaseModel) -> str:
    """Hashes path and body, for which an Idempotency-Key stands, whatever the JSON's spacing and order."""
    sent = [request.method, restored(request.scope["path"]), body.model_dump(mode="json", exclude_unset=True)]
    return hashlib.sha256(json.dumps(sent, sort_keys=True).encode()).hexdigest()


async def claim(
    request: Request, body: BaseModel, prefix: str, key: str | None, *, workflows: int = 1
) -> str:
    """Returns the workflow id for this request: a new one, or the one that the key stands for.

    The id is derived from the key, so a repeated request repairs a crash between claim and enqueue. Raises
    `IdempotencyConflict` if the key was used with another body before, and `BacklogFull` if the work is new
    and too much work is unfinished.
    """
    await request.app.state.admission.admit(key, workflows)
    if key is None:
        return f"{prefix}-{uuid.uuid4().hex}"
    workflow_id = f"{prefix}-{hashlib.sha256(key.encode()).hexdigest()[:32]}"
    return await claim_key(request, body, key, workflow_id)


async def claim_key(request: Request, body: BaseModel, key: str, workflow_id: str) -> str:
    """Returns the workflow that the key stands for: this one, unless the key already stands for another.

    Raises `IdempotencyConflict` if the key was used with another path or body before.
    """
    request_hash = fingerprint(request, body)
    gateway = process_of(request).gateway
    rows = await gateway.ops("claim_request", key=key, fingerprint=request_hash, workflow_id=workflow_id)
    if rows[0]["fingerprint"] != request_hash:
        raise IdempotencyConflict
    return str(rows[0]["workflow_id"])


async def submit(request: Request, work: Work, body: BaseModel, key: str | None) -> Accepted:
    """Enqueues `work`, or finds the workflow that the key already started.

    Raises `DatabaseUnavailable`, and `Conflict` if another workflow holds its deduplication id.
    """
    process = process_of(request)
    workflows = 1 + (len(work.children.args) if work.children else 0)
    workflow_id = await claim(request, body, work.prefix, key, workflows=workflows)
    gateway = process.gateway
    try:
        await gateway.call(
            gateway.enqueue,
            enqueue_options(process.settings, work, workflow_id),
            work.args,
            children_params(process.settings, work.children, workflow_id),
            kwargs=work.kwargs,
            as_pickle=work.as_pickle,
        )
    except dbos_error.DBOSQueueDeduplicatedError as error:
        if key is not None:
            await gateway.ops("release_request", key=key, workflow_id=workflow_id)
        raise await _deduplicated(process, error) from None
    status = "ENQUEUED"
    if key is not None:
        # A repeated key may stand for a workflow that ran long ago. It is left unchanged.
        row = await gateway.call(find, gateway.client, workflow_id)
        status = "ENQUEUED" if row is None else row.status
    logger.info(
        "workflow submitted: %s",
        work.workflow_name,
        extra={
            "action": "workflow.submitted",
            "workflow_id": workflow_id,
            "workflow_name": work.workflow_name,
            "request_id": request_id_of(request.scope),
        },
    )
    return Accepted.model_validate({"workflow_id": workflow_id, "status": status})


async def _deduplicated(process: Process, error: dbos_error.DBOSQueueDeduplicatedError) -> Conflict:
    """Returns what to raise while another workflow holds the deduplication id."""
    rows = await process.gateway.ops(
        "deduplication_holder", queue_name=error.queue_name, deduplication_id=error.deduplication_id
    )
    holder = f"by workflow {rows[0]['workflow_id']}" if rows else "until just now"
    return Conflict(
        f"deduplication_id {error.deduplication_id} in queue {error.queue_name} was held {holder}. "
        "Send the same request again when it has ended."
    )


def enqueue_options(settings: Settings, work: Work, workflow_id: str) -> EnqueueOptions:
    """Returns the options that every enqueue must set. Without them a row may wait forever."""
    options: EnqueueOptions
    if work.options is not None:
        options = {**work.options, "workflow_id": workflow_id}
    else:
        role = ROLE_OF[work.workflow_name]
        options = {
            "workflow_name": work.workflow_name,
            "queue_name": QUEUE_OF[work.workflow_name],
            "application_name": settings.application_name(role),
            # A row without a version is claimed only by the latest version, so a rollback would strand it.
            "app_version": settings.version_name(role),
            "workflow_id": workflow_id,
        }
    # Read here, because the enqueue runs in another thread, which has no trace context.
    if (trace_context := tracing.context()) is not None:
        options["otel_context"] = trace_context
    if work.class_name is not None:
        options["class_name"] = work.class_name
    if work.instance_name is not None:
        options["instance_name"] = work.instance_name
    return options


def children_params(settings: Settings, children: Children | None, parent_id: str) -> dict[str, Any] | None:
    """Returns the parameters to store the children. Their ids are the parent's with a number from 0."""
    if children is None:
        return None
    return child_workflows.statement_params(
        settings,
        {f"{parent_id}-{index}": args for index, args in enumerate(children.args)},
        name=children.workflow_name,
        queue_name=QUEUE_OF[children.workflow_name],
        role=ROLE_OF[children.workflow_name],
        parent_id=parent_id,
        enqueued_by=None,
        attributes=tracing.attributes(),
    )


def find(client: DBOSClient, workflow_id: str, *, payload: bool = False) -> WorkflowStatus | None:
    """Reads a stored workflow of any application, with input and output only if `payload` is set. Blocks."""
    rows = client.list_workflows(
        workflow_ids=[workflow_id],
        load_input=payload,
        load_output=payload,
        limit=1,
    )
    return rows[0] if rows else None


async def read_detail(process: Process, workflow_id: str, value_bytes: int) -> Row | None:
    """Reads one stored workflow, with at most ``value_bytes`` characters of each of its values."""
    rows = await process.gateway.ops(
        "workflow_detail", workflow_id=workflow_id, value_bytes=value_bytes, json=JSON
    )
    return rows[0] if rows else None


async def answer(
    request: Request, accepted: Accepted, *, wait: bool, location: str | None = None
) -> Response:
    """Answers 200 with the report if `wait` is set and the work ends in time, else 202 with a Location."""
    ended = await outcome(request, accepted.workflow_id, value_bytes=REPORT_BYTES) if wait else None
    if ended is not None:
        return JSONResponse(_finished(ended).model_dump(mode="json"))
    location = location or workflow_path(accepted.workflow_id)
    return JSONResponse(accepted.model_dump(mode="json"), 202, headers={"Location": location})


def _finished(row: Row) -> Finished:
    """Converts a row of `workflow_detail` that has at most `REPORT_BYTES` characters of the result."""
    report, cut = read_value(row, "output", REPORT_BYTES)
    error = read_error(row, SHOWN_BYTES)[0]
    if isinstance(report, Unreadable):
        report, error = None, report
    elif cut:
        report = None
        error = f"The result has {row['output_bytes']:,} bytes; an answer holds {REPORT_BYTES:,} at most."
    return Finished(
        workflow_id=row["workflow_id"], status=row["status"], report=to_answer(report)[0], error=error
    )


async def outcome(
    request: Request, workflow_id: str, seconds: float | None = None, *, value_bytes: int
) -> Row | None:
    """Waits for the workflow and returns it once it has ended, as `read_detail` does.

    Returns None at the time limit, after a long outage, or at a drain.
    None does not affect the workflow: it is stored and continues here or in another process.
    """
    waiters = request.app.state.waiters
    if not waiters.acquire():
        return None
    process = process_of(request)
    stopping = asyncio.ensure_future(process.wait_stopping())
    try:
        limit = WAIT_SECONDS if seconds is None else seconds
        return await _ended(process, workflow_id, limit, stopping, value_bytes)
    finally:
        stopping.cancel()
        waiters.release()


async def _ended(
    process: Process, workflow_id: str, seconds: float, stopping: asyncio.Future[None], value_bytes: int
) -> Row | None:
    gateway = process.gateway
    began = answered = time.monotonic()
    with process.waker.endings.count_ends(f"={workflow_id}") as ends:
        while not process.stopping and (left := began + seconds - time.monotonic()) > 0:
            ends.restart()
            try:
                row = await gateway.call(find, gateway.client, workflow_id)
                if row is not None and row.status in TERMINAL:
                    return await read_detail(process, workflow_id, value_bytes)
                answered = time.monotonic()
            except DatabaseUnavailable:
                if time.monotonic() - answered > WAIT_OUTAGE_SECONDS:
                    return None
            notice = asyncio.ensure_future(ends.wait(1, min(FALLBACK_POLL_SECONDS, left)))
            await asyncio.wait({notice, stopping}, return_when=asyncio.FIRST_COMPLETED)
            notice.cancel()
    return None
