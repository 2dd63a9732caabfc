"""Where a workflow continues after a control operation: its queue, and the version of its application.

The workflows that this release declares get queue and version from its declarations and settings. Those of
any other application keep their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dbos import WorkflowStatus

from holdfast.control.kinds import INTERNAL_QUEUE
from holdfast.durable.names import ROLE_OF, home_queue, is_declared
from holdfast.settings import Role

if TYPE_CHECKING:
    from holdfast.process.process import Process


async def home_queues(process: Process, rows: Sequence[WorkflowStatus]) -> dict[str, str]:
    """Returns the queue of each workflow by its id. Raises `Conflict` if one is unknown to this release."""
    stored = {
        found["workflow_id"]: found["queue_name"]
        for found in await process.gateway.ops("home_queues", workflow_ids=[row.workflow_id for row in rows])
    }
    own = process.settings.application_names
    return {
        row.workflow_id: home_queue(own, row.application_name, row.name, stored.get(row.workflow_id))
        or INTERNAL_QUEUE
        for row in rows
    }


async def version_of(process: Process, row: WorkflowStatus) -> str | None:
    """Returns the version on which a copy of the workflow runs.

    For another application that is its own version, or the newest live one if no executor runs it any more.
    """
    settings = process.settings
    if is_declared(settings.application_names, row.application_name, row.name):
        return settings.version_name(ROLE_OF[row.name])
    roles: dict[str | None, Role] = {settings.application_name(role): role for role in ("api", "worker")}
    if row.application_name in roles:
        return settings.version_name(roles[row.application_name])
    if row.application_name is None:
        return row.app_version
    live = await live_version(process, row.application_name, prefer=row.app_version)
    return live or row.app_version


async def live_version(process: Process, application: str, *, prefer: str | None = None) -> str | None:
    """Returns the newest version that a live executor of the application runs; `prefer` if it is live."""
    rows = await process.gateway.ops(
        "live_version",
        application=application,
        prefer=prefer,
        lease_seconds=process.settings.lease_seconds,
    )
    return rows[0]["version"] if rows else None
