"""Words for stranded work: unfinished work that no live executor can run, and what ends that."""

from __future__ import annotations

from holdfast.postgres.database import Row

WAY_OUT = {
    "version": "start an executor of that version, or adopt the work for one that runs (`holdfast adopt`)",
    "queue": "start an executor whose code registers this queue and listens to it, or cancel the work",
    "workflow": "start an executor whose code has this workflow, its class and its instance"
    " (HOLDFAST_MODULES names its module), or cancel the work",
    "arguments": "start an executor with the code that stored them, or give a new parameter a default,"
    " or cancel the work and start it again",
}
"""By reason: what an operator can do."""


def describe(row: Row) -> str:
    """Returns where the work is stranded and why."""
    version = row["application_version"]
    of_version = f"version {version} of {row['application']}" if version else str(row["application"])
    name, queue = row["workflow_name"], row["queue_name"]
    return {
        "version": f"{of_version}, which no live executor runs",
        "queue": f"{of_version}: no live executor listens to queue {queue} of {name}",
        "workflow": f"{of_version}: no live executor of queue {queue} has {name}",
        "arguments": f"{of_version}: no live executor takes the stored arguments of {name}",
    }[row["reason"]]
