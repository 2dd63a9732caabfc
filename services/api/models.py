"""Shapes of requests and answers. Requests are strict: no unknown field, no number from text or bool."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import Header, Path
from pydantic import BaseModel, ConfigDict, Field

from services.domain.fibonacci import DOUBLING_LIMIT
from services.settings import LEAST_RETENTION_SECONDS, MAX_RETENTION_SECONDS

WORKFLOW_ID = r"^[A-Za-z0-9._:+-]{1,200}$"
"""Ids of ours, of children and of ticks (`sched-pulse-2026-11-22T12:38:00+00:00`)."""
NAME = r"^[A-Za-z0-9._-]{1,100}$"

BUCKET = r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$"
KEY = r"^[^\x00-\x1f\x7f]*$"

Status = Literal[
    "DELAYED", "ENQUEUED", "PENDING", "SUCCESS", "ERROR", "CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED"
]
TERMINAL = frozenset({"SUCCESS", "ERROR", "CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED"})

WorkflowId = Annotated[str, Path(pattern=WORKFLOW_ID, description="id of a workflow")]
ExecutorId = Annotated[str, Path(pattern=NAME, description="id of an executor")]
BucketName = Annotated[str, Path(pattern=BUCKET, description="name of a bucket")]
InstanceName = Annotated[str, Path(pattern=NAME, description='"alpha" or "beta"')]
IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=255,
        pattern=r"^[\x21-\x7e]+$",
        description="the same key and body give the same workflow, the same key with another body 409",
    ),
]


class StrictRequest(BaseModel):
    """What every request's body is: no unknown field, no conversion."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class ScopeRequest(StrictRequest):
    """A scope workflow: `steps` steps of `step_seconds` each."""

    steps: int = Field(default=30, ge=1, le=1000)
    step_seconds: float = Field(default=0.5, ge=0, le=60, allow_inf_nan=False)
    wait: bool = Field(default=False, description="answer with the report when the workflow has ended")


class StartRequest(StrictRequest):
    """A workflow of your own, by its durable name, with its arguments by theirs."""

    workflow: str = Field(
        min_length=1, max_length=100, description="durable name, as its module registers it"
    )
    arguments: dict[str, Any] = Field(default_factory=dict, description="by the names of its parameters")
    wait: bool = Field(default=False, description="answer with the report when the workflow has ended")


class UsersRequest(StrictRequest):
    """User processing: `pages` pages of `page_size` users each."""

    pages: int = Field(default=5, ge=1, le=100)
    page_size: int = Field(default=3, ge=1, le=100)
    wait: bool = Field(default=False, description="answer with the report when the workflow has ended")


class NestedRequest(StrictRequest):
    """Root, child and grandchild: enqueued one by the other, or called directly."""

    queued: bool = Field(default=True, description="children wait in queues; false: their parent calls them")
    wait: bool = Field(default=False, description="answer with the report when the workflow has ended")


class BatchRequest(StrictRequest):
    """A Fibonacci batch: `numbers`, or the first `count` numbers, never both.

    With `count`, number i is i; by recursion it stops growing at HOLDFAST_FIBONACCI_MAX_N.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "not": {
                "required": ["count", "numbers"],
                "properties": {"count": {"type": "integer"}, "numbers": {"type": "array"}},
            }
        }
    )

    count: int | None = Field(default=None, ge=1, le=10_000, description="how many; 50 by default")
    numbers: list[Annotated[int, Field(ge=0, le=DOUBLING_LIMIT)]] | None = Field(
        default=None, min_length=1, max_length=10_000, description="the numbers themselves, in this order"
    )
    method: Literal["recursive", "doubling"] = "recursive"
    sequential: bool = Field(default=False, description="compute each after the former's result")


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


class ForkRequest(StrictRequest):
    """Where the copy of a workflow begins: the steps before keep their recorded results."""

    start_step: int = Field(default=1, ge=1, le=1_000_000)


class Look(BaseModel):
    """How to look at a workflow."""

    model_config = ConfigDict(extra="forbid")

    wait: float = Field(
        default=0, ge=0, le=60, description="seconds to wait for its end; then the answer is as it stands"
    )


class WorkflowFilter(BaseModel):
    """Filters of the workflow listing; several values of one are alternatives."""

    model_config = ConfigDict(extra="forbid")

    status: list[Status] = Field(default=[], max_length=7)
    name: list[Annotated[str, Field(pattern=NAME)]] = Field(default=[], max_length=20)
    queue: list[Annotated[str, Field(pattern=NAME)]] = Field(default=[], max_length=20)
    executor_id: list[Annotated[str, Field(pattern=NAME)]] = Field(default=[], max_length=20)
    limit: int = Field(default=50, ge=1, le=200)
    offset: int = Field(default=0, ge=0, le=1_000_000)
    prefix: str | None = Field(
        default=None, pattern=r"^[A-Za-z0-9._:+-]{1,200}$", description="how the id begins"
    )
    before: str | None = Field(
        default=None,
        pattern=r"^\d{1,15}~[A-Za-z0-9._:+-]{1,200}$",
        description="next_before of the page before: cheaper than an offset, and steady while work is added",
    )


class Page(BaseModel):
    """A part of a list."""

    model_config = ConfigDict(extra="forbid")

    limit: int = Field(default=200, ge=1, le=1000)
    offset: int = Field(default=0, ge=0, le=1_000_000)


class Accepted(BaseModel):
    """Work that was accepted; `Location` says where to look at it."""

    workflow_id: str
    status: Status


class AcceptedBatch(Accepted):
    """A batch that was accepted."""

    total: int = Field(description="numbers in the batch")


class Finished(BaseModel):
    """A workflow that was waited for and has ended."""

    workflow_id: str
    status: Status
    report: Any = Field(default=None, description="the workflow's result, when status is SUCCESS")
    error: str | None = Field(default=None, description="why there is no report")


class NumberResult(BaseModel):
    """One number of a batch, finished or not."""

    index: int = Field(description="its place in the request, from 0")
    n: int
    status: Status | None = Field(default=None, description="null until it is enqueued, or its turn comes")
    result: str | None = Field(
        default=None, description="F(n) in decimal; null while unfinished, or when too long"
    )
    digits: int | None = None
    sha256: str | None = Field(default=None, description="of the decimal digits")
    short: str | None = Field(default=None, description="first and last digits of a long result")
    executor_id: str | None = Field(default=None, description="the executor that computes or computed it")
    attempts: int | None = None
    started_at: str | None = None
    seconds: float | None = None
    error: str | None = None


class Batch(BaseModel):
    """A Fibonacci batch and its numbers, in the order of the request."""

    workflow_id: str
    status: Status
    total: int
    completed: int = Field(description="numbers with a result")
    results: list[NumberResult]
    error: str | None = None


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


class Waiting(BaseModel):
    """What a workflow waits for."""

    kind: Literal["sleep", "message", "event", "workflow", "stream", "queue", "delay"]
    subject: str | None = Field(
        default=None,
        description="a message's topic, `workflow id/key` of an event or stream, a workflow, a queue",
    )
    since: str | None = None
    until: str | None = Field(default=None, description="when the wait ends by itself; null without a limit")


class Workflow(BaseModel):
    """A stored workflow without its payloads. Times are ISO 8601 in UTC."""

    workflow_id: str
    name: str
    status: Status
    class_name: str | None
    instance_name: str | None
    application: str | None
    application_version: str | None
    queue_name: str | None
    executor_id: str | None
    attempts: int | None
    parent_workflow_id: str | None
    forked_from: str | None
    created_at: str | None
    started_at: str | None
    completed_at: str | None
    waiting: Waiting | None = Field(
        default=None, description="what it waits for; null while it works, and when it has ended"
    )


class WorkflowDetail(Workflow):
    """A stored workflow with its payloads, each cut to 4 kB of JSON text; integers over 2^53 as text."""

    input: Any = None
    input_shortened: bool = False
    output: Any = None
    output_shortened: bool = False
    error: str | None = None


class WorkflowList(BaseModel):
    """Workflows, newest first."""

    workflows: list[Workflow]
    next_offset: int | None = Field(description="offset of the next page; null at the end")
    next_before: str | None = Field(default=None, description="cursor of the next page; null at the end")


class Step(BaseModel):
    """A recorded step of a workflow."""

    step_id: int
    name: str
    child_workflow_id: str | None
    started_at: str | None
    completed_at: str | None
    seconds: float | None
    output: Any = None
    output_shortened: bool = False
    error: str | None = None


class StepList(BaseModel):
    """Recorded steps in their order."""

    workflow_id: str
    steps: list[Step]
    next_offset: int | None = Field(description="offset of the next page; null at the end")


class Executor(BaseModel):
    """A process that runs, or ran, workflows."""

    executor_id: str
    application: str
    role: str
    state: str
    hostname: str
    pid: int
    heartbeat_age_seconds: float | None
    slots: int
    in_flight: int
    taken_over_by: str | None
    reason: str | None


class ExecutorList(BaseModel):
    """Every executor that lives, or ended within the hour."""

    executors: list[Executor]


class ExecutorOrder(BaseModel):
    """What an executor was told."""

    executor_id: str
    desired_state: str


class Stranded(BaseModel):
    """Unfinished work of a version that no live executor runs."""

    application: str | None
    application_version: str
    status: Status
    workflows: int


class StrandedList(BaseModel):
    """Everything that is stranded."""

    stranded: list[Stranded]


class AdoptRequest(StrictRequest):
    """Which stranded work the present version is to continue."""

    application: str = Field(pattern=NAME)
    from_version: str = Field(pattern=NAME)


class Adopted(BaseModel):
    """How much work moved, and the version that continues it."""

    adopted: int
    to_version: str


class PurgeRequest(StrictRequest):
    """What is to be deleted: what ended, or is old, for longer than `older_than_seconds`."""

    older_than_seconds: float | None = Field(
        default=None,
        ge=LEAST_RETENTION_SECONDS,
        le=MAX_RETENTION_SECONDS,
        allow_inf_nan=False,
        description="at least 3 h; HOLDFAST_RETENTION_SECONDS by default",
    )
    dry_run: bool = Field(default=False, description="count what would go, and delete nothing")


class Pulse(BaseModel):
    """One tick of the 5-second schedule."""

    scheduled_at: str
    started_at: str | None
    lateness_seconds: float | None
    executor_id: str | None
    status: str = Field(description='"run", or "skipped" when it came too late')
    queue_depth: int | None
    live_executors: int | None


class Gap(BaseModel):
    """Ticks in a row that are missing between the first and the last one shown."""

    first: str
    last: str
    missed: int


class Schedule(BaseModel):
    """The last ticks, newest first, and the gaps between them."""

    pulses: list[Pulse]
    gaps: list[Gap]
    missed: int


class ScheduleState(BaseModel):
    """A schedule, its rules, and what became of its ticks."""

    name: str
    workflow: str
    cron: str
    time_zone: str
    overlap: str = Field(description='"allow", "skip" or "buffer_one"')
    catch_up: str = Field(description='"none", "once" (the latest), or "all" of the last catch_up_seconds')
    catch_up_seconds: float | None
    paused: bool
    last_tick_at: datetime | None
    next_tick_at: datetime | None = Field(description="the first that is not accounted for")
    missed: int = Field(description="ticks that did not run and are not caught up")
    skipped: int = Field(description="ticks that were not started beside an unfinished run")
    unfinished: int = Field(description="runs that wait or run")


class Schedules(BaseModel):
    """Every schedule, by name."""

    schedules: list[ScheduleState]


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


class Stopping(BaseModel):
    """This process drains and ends."""

    status: Literal["draining"] = "draining"
    executor_id: str
