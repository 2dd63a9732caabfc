"""Shapes of requests and answers. Requests are strict: no unknown field, no number from text or bool."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import Header, Path
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from holdfast.api.paths import restored
from holdfast.settings import LEAST_RETENTION_SECONDS, MAX_RETENTION_SECONDS
from holdfast.statuses import Status

TEXT = r"^[^\x00-\x1f\x7f]{1,500}$"
ANY_ID = r"[^\x00]{1,2000}"
"""Applications give their workflows any ids: every character but NUL, which PostgreSQL does not store."""
KEY = r"^[^\x00-\x1f\x7f]*$"
NAME = r"^[A-Za-z0-9._-]{1,100}$"

Text = Annotated[str, Field(pattern=TEXT)]
ApplicationName = Annotated[str, Field(min_length=1, max_length=255, pattern=KEY)]
WorkflowId = Annotated[
    str,
    # Before the validator, so that the OpenAPI document has it.
    StringConstraints(pattern=f"^{ANY_ID}$"),
    BeforeValidator(restored),
    Path(
        description="id of a workflow, percent-encoded as a whole (`/` is `%2F`); an id of one or two dots, "
        "which clients remove from a path, has a `~` before it, and so has one that reads like that (`~..`)",
    ),
]
ExecutorId = Annotated[str, Path(pattern=TEXT, description="id of an executor")]
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


class ForkRequest(StrictRequest):
    """Where the copy of a workflow begins: the steps before keep their recorded results."""

    start_step: int = Field(default=1, ge=1, le=1_000_000)


class WaitOptions(BaseModel):
    """Query parameters of a request for one workflow."""

    model_config = ConfigDict(extra="forbid")

    wait: float = Field(
        default=0, ge=0, le=60, description="seconds to wait for its end; then the answer is as it stands"
    )


class WorkflowFilter(BaseModel):
    """Filters of the workflow listing; several values of one are alternatives."""

    model_config = ConfigDict(extra="forbid")

    application: list[ApplicationName] = Field(default=[], max_length=20)
    status: list[Status] = Field(default=[], max_length=7)
    name: list[Text] = Field(default=[], max_length=20)
    queue: list[Text] = Field(default=[], max_length=20)
    executor_id: list[Text] = Field(default=[], max_length=20)
    limit: int = Field(default=50, ge=1, le=200)
    offset: int = Field(default=0, ge=0, le=1_000_000)
    prefix: str | None = Field(default=None, pattern=f"^{ANY_ID}$", description="how the id begins")
    before: str | None = Field(
        default=None,
        pattern=rf"^-?\d{{1,19}}~{ANY_ID}$",
        description="next_before of the page before: cheaper than an offset, and steady while work is added",
    )


class ExecutorFilter(BaseModel):
    """Filter of the executor listing; several values are alternatives."""

    model_config = ConfigDict(extra="forbid")

    application: list[ApplicationName] = Field(default=[], max_length=20)


class Page(BaseModel):
    """A part of a list."""

    model_config = ConfigDict(extra="forbid")

    limit: int = Field(default=200, ge=1, le=1000)
    offset: int = Field(default=0, ge=0, le=1_000_000)


class Accepted(BaseModel):
    """Work that was accepted; `Location` is the address of its status."""

    workflow_id: str
    status: Status


class Finished(BaseModel):
    """A workflow that was waited for and has ended."""

    workflow_id: str
    status: Status
    report: Any = Field(default=None, description="the workflow's result, when status is SUCCESS")
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
    """A stored workflow without its payloads. Times are ISO 8601 in UTC.

    Any application may have stored it: a status that DBOS does not know is answered as it is, a missing name
    or status is empty, and a time that is no date is null.
    """

    workflow_id: str
    name: str
    status: Status | str
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
    """A stored workflow with its payloads, each cut to 4 kB of JSON text; integers over 2^53 as text.

    Where the application stores no JSON (a pickle), a sentence stands in place of each value.
    """

    input: Any = None
    input_shortened: bool = False
    output: Any = None
    output_shortened: bool = False
    error: str | None = None
    error_shortened: bool = Field(default=False, description="only the first 1,000 characters are here")


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
    error_shortened: bool = Field(default=False, description="only the first 1,000 characters are here")


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
    """The state that was requested of an executor."""

    executor_id: str
    desired_state: str


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


class Stopping(BaseModel):
    """This process drains and ends."""

    status: Literal["draining"] = "draining"
    executor_id: str
