"""The durable names of the retention's workflows, queue and schedule."""

from typing import Final

from holdfast.durable.declarations import Queue, Schedule
from holdfast.durable.registry import register
from holdfast.durable.workflows import DbosWorkflow

PURGE: Final = DbosWorkflow("retention.purge", label="purge")
PURGE_TICK: Final = DbosWorkflow("retention.tick", label="purge")
PURGE_QUEUE: Final = Queue("purges", [PURGE, PURGE_TICK], at_once=1)
PURGE_SCHEDULE: Final = Schedule(
    "purge",
    PURGE_TICK,
    # Once per hour, but not on the hour, when many other jobs start. Missed ticks are not caught up: the next
    # purge deletes all rows that are old by then.
    "0 17 * * * *",
    enabled=lambda settings: bool(settings.retention_seconds),
)
register(
    PURGE_QUEUE,
    schedules=[PURGE_SCHEDULE],
    steps=["retention.begin", "retention.workflows", "retention.tidy", "retention.end"],
)
