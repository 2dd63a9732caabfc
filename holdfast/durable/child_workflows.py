"""Enqueues any number of child workflows and waits for them.

One statement enqueues a thousand children, where DBOS needs five round trips for each.

The API may store a parent's first children in the transaction that stores the parent. A step of the parent
then stores the missing ones.
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
"""Maximum number of rows in one statement. More rows come closer to the statement timeout."""

_POLL_SECONDS = 30.0
"""Interval of the fallback poll for missed completion notices."""

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
    """Returns the parameters of the statement ``enqueue_children``. Arguments are stored as portable JSON."""
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
    """Enqueues one child of the calling workflow per id, and skips children that already exist.

    Call inside a step: the call itself is not recorded, and can be repeated without harm. Waits while
    PostgreSQL is away.
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
    """Waits until at most `at_most` children of that workflow are unfinished.

    Checks again once enough completion notices have arrived. Meanwhile calls ``before_waiting`` once per
    second. Call in the body of a workflow, which counts as waiting during the call.
    """
    means = resources()
    waiter = wait_here("workflow")
    with means.waker.endings.count_ends(parent_id) as ends:
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
                often = before_waiting is not None or not means.waker.endings.notices_arrive
                waiter.event.clear()
                heard = asyncio.ensure_future(ends.wait(too_many, _OFTEN_SECONDS if often else _POLL_SECONDS))
                heard.add_done_callback(lambda _: waiter.event.set())
                waiter.begin()
                try:
                    await waiter.block_async(_POLL_SECONDS)
                finally:
                    heard.cancel()
        finally:
            await waiter.end_async()
