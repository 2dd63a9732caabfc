"""Enqueueing any number of children, and waiting for them.

A thousand are one statement, where DBOS needs five trips each.

Who accepts a parent may store its first children with it, in one transaction; the parent's own step then
stores those that are missing.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any

from dbos import DBOS

from holdfast.dbos_adapter.waiting.wait import wait_here
from holdfast.durable.resources import resources
from holdfast.settings import Role, Settings

AT_ONCE = 1000
"""Rows of one statement: the more, the nearer to the statement timeout."""

_LOOK_SECONDS = 30.0
"""The net under notices that were missed."""

_OFTEN_SECONDS = 1.0

Calls = Mapping[str, Sequence[Any]]
"""Positional arguments by workflow id."""


def statement_params(
    settings: Settings,
    calls: Calls,
    *,
    name: str,
    queue_name: str,
    role: Role,
    parent_id: str,
    enqueued_by: str | None,
    attributes: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """What the statement ``enqueue_children`` takes; arguments are stored in portable JSON."""
    return {
        "workflow_ids": list(calls),
        "inputs": [_inputs(args) for args in calls.values()],
        "name": name,
        "queue_name": queue_name,
        "application": settings.application_name(role),
        "version": settings.version_name(role),
        "executor_id": enqueued_by,
        "parent_id": parent_id,
        "attributes": None if attributes is None else json.dumps(attributes),
    }


def _inputs(args: Sequence[Any]) -> str:
    return json.dumps({"namedArgs": {}, "positionalArgs": list(args)}, separators=(",", ":"))


async def enqueue_missing(
    name: str, calls: Calls, *, queue_name: str, role: Role, attributes: Mapping[str, Any] | None = None
) -> None:
    """Enqueues one workflow an id as children of the caller; those that exist are left alone.

    Call inside a step: nothing is recorded of it, and running again does no harm. Waits for PostgreSQL as
    long as it is away.
    """
    means = resources()
    parent_id = DBOS.workflow_id
    if parent_id is None:
        raise RuntimeError("children belong to a workflow")
    [found] = await asyncio.to_thread(means.ops.run_patiently, "missing_children", workflow_ids=list(calls))
    wanted = iter(found["missing"])
    while some := list(islice(wanted, AT_ONCE)):
        params = statement_params(
            means.settings,
            {each: calls[each] for each in some},
            name=name,
            queue_name=queue_name,
            role=role,
            parent_id=parent_id,
            enqueued_by=means.executor_id,
            attributes=attributes,
        )
        await asyncio.to_thread(means.ops.run_patiently, "enqueue_children", **params)


async def until_unfinished(
    parent_id: str, *, at_most: int = 0, before_waiting: Callable[[], object] | None = None
) -> None:
    """Waits until so few children of that workflow are unfinished: looks again when as many as are too many
    have ended, by their notices. ``before_waiting`` is called once a second meanwhile.

    Call in the body of a workflow, which only waits then.
    """
    means = resources()
    waiter = wait_here("workflow")
    with means.waker.endings.of(parent_id) as ends:
        try:
            while True:
                ends.restart()
                [state] = await asyncio.to_thread(
                    means.ops.run_patiently, "children_state", workflow_id=parent_id
                )
                too_many = state["unfinished"] - at_most
                if too_many <= 0:
                    return
                if before_waiting is not None:
                    before_waiting()
                often = before_waiting is not None or not means.waker.endings.heard
                waiter.event.clear()
                heard = asyncio.ensure_future(ends.wait(too_many, _OFTEN_SECONDS if often else _LOOK_SECONDS))
                heard.add_done_callback(lambda _: waiter.event.set())
                waiter.begin()
                try:
                    await waiter.block_async(_LOOK_SECONDS)
                finally:
                    heard.cancel()
        finally:
            await waiter.end_async()
