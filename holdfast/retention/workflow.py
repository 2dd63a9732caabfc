"""Retention: finished workflows and old rows go, by a schedule and by an operator's order.

A purge is a workflow of short steps, so one that is killed goes on elsewhere where it was. One whose process
drains ends instead, with what it has done: a purge that comes later finds what is left.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypedDict

from dbos import DBOS

from holdfast.durable.measure import measured, timed_step
from holdfast.durable.resources import resources
from holdfast.retention import tally
from holdfast.retention.declaration import PURGE, PURGE_QUEUE, PURGE_TICK
from holdfast.retention.purger import TIDY, Cutoffs, Done, Purger


class Report(TypedDict):
    """What a purge deleted, or would delete.

    ``workflows``: how many by name and status, with everything that belongs to them; ``complete``: whether
    it came to its end. ``cutoff``: what ended before that time goes (ISO 8601, UTC).
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


_COUNTS = {
    "purge_pulses": "pulses",
    "purge_keys": "idempotency_keys",
    "purge_handovers": "handovers",
    "purge_executors": "executors",
}


def _purger(*, dry_run: bool, patient: bool) -> Purger:
    mine = resources()

    def stopping() -> bool:
        # A trial, too: it waits until nothing else runs here.
        return mine.waker.stopping(PURGE_QUEUE.name) or mine.waker.closed(PURGE_QUEUE.name)

    return Purger(
        mine.settings,
        mine.ops,
        purpose=f"holdfast/{mine.executor_id}/purge",
        stopping=stopping,
        patient=patient,
        dry_run=dry_run,
    )


@DBOS.step(name="retention.begin")
def begin(age_seconds: float | None, dry_run: bool) -> Cutoffs | None:
    """Until when rows go: by the age asked for, or by the settings. None: everything is kept."""
    with timed_step("retention.begin"):
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


@DBOS.step(name="retention.workflows")
def delete_workflows(cutoffs: Cutoffs, after: list[Any] | None, dry_run: bool, patient: bool) -> Done:
    """One slice of the workflows."""
    with timed_step("retention.workflows"):
        return _purger(dry_run=dry_run, patient=patient).workflows(cutoffs, after)


@DBOS.step(name="retention.tidy")
def tidy(statement: str, cutoffs: Cutoffs, after: str | None, dry_run: bool, patient: bool) -> Done:
    """One slice of our own tables' rows."""
    with timed_step("retention.tidy"):
        return _purger(dry_run=dry_run, patient=patient).tidy(statement, cutoffs, after)


@DBOS.step(name="retention.end")
def end() -> None:
    """Notes that a purge came to its end."""
    with timed_step("retention.end"):
        resources().ops.run_patiently("purge_end")


@DBOS.workflow(name=PURGE.name, max_recovery_attempts=None)
def purge(age_seconds: float, dry_run: bool) -> Report:
    """An operator's purge of what is older than ``age_seconds``; it waits for its turn."""
    with measured(PURGE.name):
        report = _run(age_seconds, dry_run=dry_run, patient=True)
        assert report is not None
        return report


@DBOS.workflow(name=PURGE_TICK.name, max_recovery_attempts=None)
def tick(scheduled_at: datetime, context: Any) -> Report | None:  # noqa: ARG001  the scheduler passes both
    """The hourly purge by the settings; it leaves at once to whoever purges already."""
    with measured(PURGE_TICK.name):
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
    )

    def all_of(one_slice: Callable[[Any], Done]) -> bool:
        """Slice after slice; whether it came to the end."""
        after = None
        while True:
            done = one_slice(after)
            tally.add(report["workflows"], done["workflows"])
            report["deleted"] = tally.total(report["workflows"])
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
    report["complete"] = True
    if not dry_run:
        end()
    return report
