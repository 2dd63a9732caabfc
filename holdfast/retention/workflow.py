"""Retention: workflows that delete finished workflows and old rows, by schedule or at an operator's request.

A purge is a workflow of short steps, so after a kill it continues from its last step in another process. If
its process drains, it ends early with its partial result, and a later purge deletes the rest.
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
    """The rows that a purge deleted, or would delete in a dry run.

    ``workflows`` counts the workflows by name and status; their dependent rows are deleted too. ``complete``
    means that the purge reached its end. Rows that ended before ``cutoff`` (ISO 8601, UTC) are deleted.
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


@DBOS.step(name="retention.begin")
def begin(age_seconds: float | None, dry_run: bool) -> Cutoffs | None:
    """Returns the cutoffs by the requested age, or by the settings. None means that all rows are kept."""
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
    """Deletes one slice of the workflows."""
    with timed_step("retention.workflows"):
        return _purger(dry_run=dry_run, patient=patient).workflows(cutoffs, after)


@DBOS.step(name="retention.tidy")
def tidy(statement: str, cutoffs: Cutoffs, after: str | None, dry_run: bool, patient: bool) -> Done:
    """Deletes one slice of the rows of our own tables."""
    with timed_step("retention.tidy"):
        return _purger(dry_run=dry_run, patient=patient).tidy(statement, cutoffs, after)


@DBOS.step(name="retention.end")
def end() -> None:
    """Records that a purge reached its end."""
    with timed_step("retention.end"):
        resources().ops.run_patiently("purge_end")


@DBOS.workflow(name=PURGE.name, max_recovery_attempts=None)
def purge(age_seconds: float, dry_run: bool) -> Report:
    """An operator's purge of rows older than ``age_seconds``. It waits for the purge lock."""
    with measured(PURGE.name):
        report = _run(age_seconds, dry_run=dry_run, patient=True)
        assert report is not None
        return report


@DBOS.workflow(name=PURGE_TICK.name, max_recovery_attempts=None)
def tick(scheduled_at: datetime, context: Any) -> Report | None:  # noqa: ARG001  the scheduler passes both
    """The hourly purge by the settings. It ends immediately if another process holds the purge lock."""
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
        """Runs slice after slice. Returns whether the last one reached the end."""
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
