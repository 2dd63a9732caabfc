"""Enqueueing any number of children: one statement for a thousand, where DBOS needs five trips each."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any

from dbos import DBOS

from services.runtime.resources import resources
from services.settings import Role

_AT_ONCE = 1000  # a statement's rows: the more, the nearer to the statement timeout


async def enqueue(
    name: str,
    calls: Mapping[str, Sequence[Any]],
    *,
    queue_name: str,
    role: Role,
    attributes: Mapping[str, Any] | None = None,
) -> None:
    """Enqueues one workflow an id, with positional arguments in portable JSON, as children of the caller.

    Call inside a step: nothing is recorded of it, and what exists already is left alone, so a step that
    runs again does no harm. Waits for PostgreSQL as long as it is away.
    """
    means = resources()
    parent_id = DBOS.workflow_id
    if parent_id is None:
        raise RuntimeError("children belong to a workflow")
    ids = list(calls)
    for start in range(0, len(ids), _AT_ONCE):
        some = ids[start : start + _AT_ONCE]
        await asyncio.to_thread(
            means.ops.run_patiently,
            "enqueue_children",
            workflow_ids=some,
            inputs=[_inputs(calls[each]) for each in some],
            name=name,
            queue_name=queue_name,
            application=means.settings.application_name(role),
            version=means.settings.version_name(role),
            executor_id=means.executor_id,
            parent_id=parent_id,
            attributes=None if attributes is None else json.dumps(attributes),
        )


def _inputs(args: Sequence[Any]) -> str:
    return json.dumps({"namedArgs": {}, "positionalArgs": list(args)}, separators=(",", ":"))
