"""Turns a request for a workflow by its name into `Work`: any that a live executor has registered."""

from __future__ import annotations

import asyncio
import re
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, NoReturn

from dbos import EnqueueOptions

from holdfast.api.models import NAME
from holdfast.api.models_start import StartRequest
from holdfast.api.submit import Work
from holdfast.control.kinds import INTERNAL_QUEUE
from holdfast.dbos_adapter.registrations import PICKLE, why_unfit
from holdfast.durable import registry
from holdfast.durable.names import QUEUE_OF
from holdfast.durable.workflows import Workflow
from holdfast.errors import InvalidRequest

if TYPE_CHECKING:
    from holdfast.process.process import Process

_LISTED = 50
_CLOSEST = 3
_SIMILARITY = 0.5
"""The share of a name that must agree; `batch` is that close to `fibonacci.batch`."""
_COMPARED_NAMES, _COMPARED = 200, 60
"""How many names are compared, and how much of each: the time grows with the square of the length."""

_QUEUE_FIELDS = ("priority", "deduplication_id", "partition_key")


async def requested_work(process: Process, body: StartRequest) -> Work:
    """Returns the work that the request asks for.

    Raises `InvalidRequest` with the wrong field.
    """
    workers = process.settings.application_name("worker")
    typed = registry.startable().get(body.workflow)
    if typed is not None and body.application in (None, workers):
        return _typed_work(typed, body)
    found = await process.gateway.ops(
        "find_registered",
        name=body.workflow,
        application=body.application,
        lease_seconds=process.settings.lease_seconds,
    )
    if not found:
        await _refuse_unknown(process, body)
    if len(found) > 1:
        names = ", ".join(row["application"] for row in found)
        _refuse("application", f"several applications have registered {body.workflow}: {names}. Name one.")
    if body.arguments:
        _refuse("arguments", f"{body.workflow} is a plain DBOS workflow. Give it args and kwargs.")
    return await _registered_work(process, body, found[0])


def _typed_work(workflow: Workflow[..., Any], body: StartRequest) -> Work:
    for field in ("positional", "named", "instance", *_QUEUE_FIELDS, "delay_seconds", "timeout_seconds"):
        if getattr(body, field):
            name = {"positional": "args", "named": "kwargs"}.get(field, field)
            _refuse(
                name, f"{workflow.name} takes arguments by name, and starts on its own queue immediately."
            )
    assert workflow.queue is not None
    if body.queue not in (None, workflow.queue.name):
        _refuse("queue", f"{workflow.name} starts on its queue, {workflow.queue.name}.")
    return Work(workflow.name, workflow.signature.parse(body.arguments, "arguments"), workflow.name)


async def _registered_work(process: Process, body: StartRequest, found: dict[str, Any]) -> Work:
    shape = found["workflow"]
    instances = shape.get("instances")
    if instances is not None and body.instance not in instances:
        _refuse("instance", f"{body.workflow} runs on a configured instance: {', '.join(instances)}.")
    if instances is None and body.instance is not None:
        _refuse("instance", f"{body.workflow} does not run on an instance.")
    if reason := why_unfit(shape.get("takes"), body.positional, body.named):
        _refuse("args", f"{body.workflow} does not take these arguments: {reason}.")
    queue = body.queue or (QUEUE_OF.get(body.workflow) if _is_own(process, found) else None)
    if body.queue is not None:
        await _check_queue(process, body, body.queue, found["application"])
    if queue is None and (given := [name for name in _QUEUE_FIELDS if getattr(body, name) is not None]):
        _refuse(given[0], "it belongs to a queue. Give queue too.")
    options: EnqueueOptions = {
        "workflow_name": body.workflow,
        "queue_name": queue or INTERNAL_QUEUE,
        "application_name": found["application"],
        "app_version": found["version"],
    }
    if "class" in shape:
        options["class_name"] = shape["class"]
    if body.instance is not None:
        options["instance_name"] = body.instance
    for field, option in (
        ("priority", "priority"),
        ("deduplication_id", "deduplication_id"),
        ("partition_key", "queue_partition_key"),
        ("delay_seconds", "delay_seconds"),
        ("timeout_seconds", "workflow_timeout"),
    ):
        if (value := getattr(body, field)) is not None:
            options[option] = value  # type: ignore[literal-required]
    return Work(
        body.workflow,
        tuple(body.positional),
        body.workflow if re.fullmatch(NAME, body.workflow) else "start",
        kwargs=body.named,
        options=options,
        as_pickle=found["serializer"] == PICKLE and not (body.portable or shape.get("portable")),
    )


async def _check_queue(process: Process, body: StartRequest, queue: str, application: str) -> None:
    """Raises `InvalidRequest` where DBOS would refuse the queue's fields, or store what it never runs."""
    rows = await process.gateway.ops("queues_of", application=application)
    is_partitioned = {row["name"]: row["is_partitioned"] for row in rows}
    if queue not in is_partitioned:
        known = f"It has: {', '.join(is_partitioned)}." if is_partitioned else "It has none."
        _refuse("queue", f"{application} has registered no queue of this name. {known}")
    if is_partitioned[queue] and body.partition_key is None:
        _refuse("partition_key", f"queue {queue} is partitioned and runs nothing without one.")
    if body.partition_key is not None and body.deduplication_id is not None:
        _refuse("partition_key", "it does not go together with deduplication_id. Leave one out.")


def _is_own(process: Process, found: dict[str, Any]) -> bool:
    return found["application"] in process.settings.application_names


async def _refuse_unknown(process: Process, body: StartRequest) -> NoReturn:
    rows = await process.gateway.ops("registered_names", application=body.application)
    names = sorted(
        {*(row["name"] for row in rows), *(registry.startable() if body.application is None else ())}
    )
    whose = "live executor" if body.application is None else f"live executor of {body.application}"
    # The event loop does not wait for the comparisons.
    known = await asyncio.to_thread(_known, body.workflow, names)
    _refuse("workflow", f"no {whose} has registered a workflow of this name.{known}")


def _known(name: str, names: list[str]) -> str:
    """Returns what can be started instead: the names closest to `name`, and the first of all."""
    if not names:
        return ""
    by_lower_case = {each.lower()[:_COMPARED]: each for each in names[:_COMPARED_NAMES]}
    close = get_close_matches(name.lower()[:_COMPARED], by_lower_case, n=_CLOSEST, cutoff=_SIMILARITY)
    meant = f" Did you mean {' or '.join(by_lower_case[each] for each in close)}?" if close else ""
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"{meant} Registered: {', '.join(names[:_LISTED])}{more}."


def _refuse(field: str, reason: str) -> NoReturn:
    raise InvalidRequest(f"{field}: {reason}", field=field)
