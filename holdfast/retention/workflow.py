"""Retention: workflows that delete finished workflows and old rows, by schedule or at an operator's request.

A purge is a workflow of short steps, so after a kill it continues from its last step in another process. If
its process drains, it ends early with its partial result, and a later purge deletes the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from typing_extensions import TypedDict

from holdfast.durable.declarations import Queue, Schedule
from holdfast.durable.registry import register, workflow
from holdfast.durable.resources import resources
from holdfast.durable.steps import step
from holdfast.retention import tally
from holdfast.retention.purger import TIDY, Cutoffs, Done, Purger


class Report(TypedDict):
    """The rows that a purge deleted, or would delete in a dry run.

    ``workflows`` counts the workflows by name and status; their dependent rows are deleted too. ``complete``
    means that the purge reached its end and deleted all that it found. Rows that ended before ``cutoff``
    (ISO 8601, UTC) are deleted.
    """

    cutoff: str
    dry_run: bool
    complete: bool
    deleted: int
    workflows: tally.Tally
    pulses: int
    idempotency_keys: int
    handovers: int
    executors: int
    operations: int


_COUNTS = {
    "purge_pulses": "pulses",
    "purge_keys": "idempotency_keys",
    "purge_handovers": "handovers",
    "purge_executors": "executors",
    "purge_operations": "operations",
}


def _purger(*, dry_run: bool, patient: bool) -> Purger:
    mine = resources()

    def stopping() -> bool:
        # A purge also stops for a trial, which waits until nothing else runs here.
        return mine.waker.stopping(PURGE_QUEUE.name) or mine.waker.is_paused(PURGE_QUEUE.name)

    return Purger(
        mine.settings,
        mine.ops,
        purpose=f"holdfast/{mine.executor_id}/purge",
        stopping=stopping,
        patient=patient,
        dry_run=dry_run,
    )


@step("retention.begin")
def begin(age_seconds: float | None, dry_run: bool) -> Cutoffs | None:
    """Returns the cutoffs by the requested age, or by the settings. None means that all rows are kept."""
    settings = resources().settings
    age = settings.retention_seconds if age_seconds is None else age_seconds
    if not age:
        return None
    parked = settings.retention_parked_seconds
    row = resources().ops.run_patiently(
        "purge_begin",
        age_seconds=age,
        parked_age_seconds=max(age, parked) if parked else None,
        dry_run=dry_run,
    )[0]
    return Cutoffs(cutoff_ms=row["cutoff_ms"], parked_cutoff_ms=row["parked_cutoff_ms"])


@step("retention.workflows")
def delete_workflows(cutoffs: Cutoffs, after: list[Any] | None, dry_run: bool, patient: bool) -> Done:
    """Deletes one slice of the workflows."""
    return _purger(dry_run=dry_run, patient=patient).workflows(cutoffs, after)


@step("retention.tidy")
def tidy(statement: str, cutoffs: Cutoffs, after: str | None, dry_run: bool, patient: bool) -> Done:
    """Deletes one slice of the rows of our own tables."""
    return _purger(dry_run=dry_run, patient=patient).tidy(statement, cutoffs, after)


@step("retention.end")
def end() -> None:
    """Records that a purge reached its end."""
    resources().ops.run_patiently("purge_end")


@workflow("retention.purge", label="purge")
def purge(age_seconds: float, dry_run: bool) -> Report:
    """An operator's purge of rows older than ``age_seconds``. It waits for the purge lock."""
    report = _run(age_seconds, dry_run=dry_run, patient=True)
    assert report is not None
    return report


@workflow("retention.tick", label="purge")
def tick(scheduled_at: datetime) -> Report | None:  # noqa: ARG001  every scheduled workflow takes it
    """The hourly purge by the settings. It ends immediately if another process holds the purge lock."""
    return _run(None, dry_run=False, patient=False)


def _run(age_seconds: float | None, *, dry_run: bool, patient: bool) -> Report | None:
    cutoffs = begin(age_seconds, dry_run)
    if cutoffs is None:
        return None
    report = Report(
        cutoff=datetime.fromtimestamp(cutoffs["cutoff_ms"] / 1000, UTC).isoformat(timespec="milliseconds"),
        dry_run=dry_run,
        complete=False,
        deleted=0,
        workflows={},
        pulses=0,
        idempotency_keys=0,
        handovers=0,
        executors=0,
        operations=0,
    )

    refused = False

    def all_of(one_slice: Callable[[Any], Done]) -> bool:
        """Runs slice after slice. Returns whether the last one reached the end."""
        nonlocal refused
        after = None
        while True:
            done = one_slice(after)
            tally.add(report["workflows"], done["workflows"])
            report["deleted"] = tally.total(report["workflows"])
            refused |= done.get("refused", False)
            if done["stopped"] or not done["more"]:
                return not done["stopped"]
            after = done["after"]

    if not all_of(lambda after: delete_workflows(cutoffs, after, dry_run, patient)):
        return report
    for statement in TIDY:

        def tidy_up(after: Any, statement: str = statement) -> Done:
            done = tidy(statement, cutoffs, after, dry_run, patient)
            report[_COUNTS[statement]] += done["rows"]  # type: ignore[literal-required]
            return done

        if not all_of(tidy_up):
            return report
    report["complete"] = not refused
    if not dry_run:
        end()
    return report


PURGE_QUEUE = Queue("purges", [purge, tick], at_once=1)
PURGE_SCHEDULE = Schedule(
    "purge",
    tick,
    # Once per hour, but not on the hour, when many other jobs start. Missed ticks are not caught up: the next
    # purge deletes all rows that are old by then.
    "0 17 * * * *",
    enabled=lambda settings: bool(settings.retention_seconds),
)
register(PURGE_QUEUE, schedules=[PURGE_SCHEDULE])
