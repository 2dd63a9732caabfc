"""Old rows, and a purge of them slice by slice as the workflow does it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from services.runtime.database import OpsPool
from services.runtime.retention import TIDY, Cutoffs, Done, Purger
from tests.support.database import Database
from tests.support.executors import insert

DAY = 86_400.0
# Settings are read from the environment, which threads share.
_ENVIRONMENT = threading.Lock()
WEEK = 7 * DAY


def finished(database: Database, workflow_ids: Iterable[str], days: float, **columns: Any) -> None:
    """Workflows that ended so many days ago; ``status`` may say that they did not, after all."""
    ended = int(database.one("SELECT extract(epoch FROM now())::float8 * 1000") - days * DAY * 1000)
    times = {"created_at": ended - 2000, "started_at_epoch_ms": ended - 1000, "completed_at": ended}
    if columns.get("status") in ("ENQUEUED", "PENDING", "DELAYED"):
        times["completed_at"] = None  # type: ignore[assignment]
    insert(database, workflow_ids, **{"status": "SUCCESS", "executor_id": "e", **times, **columns})


def ids(database: Database) -> set[str]:
    """Of all stored workflows."""
    return {row["id"] for row in database.rows("SELECT workflow_uuid AS id FROM dbos.workflow_status")}


@dataclass
class Purged:
    """What a purge reported."""

    complete: bool = False
    deleted: int = 0
    workflows: dict[str, dict[str, int]] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=lambda: dict.fromkeys(TIDY, 0))

    def add(self, done: Done) -> None:
        for name, by_status in done["workflows"].items():
            known = self.workflows.setdefault(name, {})
            for status, number in by_status.items():
                known[status] = known.get(status, 0) + number
                self.deleted += number


def purge(
    database: Database,
    *,
    age_seconds: float = WEEK,
    parked_seconds: float | None = None,
    dry_run: bool = False,
    stop_after: int | None = None,
    stopping: Callable[[], bool] = lambda: False,
    **options: Any,
) -> Purged:
    """A purge to its end; ``stop_after``: told to stop at its so many-th look at whether it is."""
    looks = 0

    def stop() -> bool:
        nonlocal looks
        looks += 1
        return stopping() or (stop_after is not None and looks > stop_after)

    with _ENVIRONMENT:
        settings = database.settings()
    ops = OpsPool(settings, purpose="holdfast/test/steps")
    it = Purger(settings, ops, purpose="holdfast/test/purge", stopping=stop, dry_run=dry_run, **options)
    try:
        ages = {"age_seconds": age_seconds, "parked_age_seconds": parked_seconds}
        cutoffs: Cutoffs = ops.run("purge_begin", dry_run=dry_run, **ages)[0]  # type: ignore[assignment]
        return _to_the_end(it, cutoffs)
    finally:
        ops.close()


def _to_the_end(it: Purger, cutoffs: Cutoffs) -> Purged:
    purged = Purged()
    done = it.workflows(cutoffs, None)
    purged.add(done)
    while done["more"] and not done["stopped"]:
        done = it.workflows(cutoffs, done["after"])
        purged.add(done)
    if done["stopped"]:
        return purged
    for statement in TIDY:
        after = None
        while True:
            done = it.tidy(statement, cutoffs, after)
            purged.rows[statement] += done["rows"]
            if done["stopped"]:
                return purged
            if not done["more"]:
                break
            after = done["after"]
    purged.complete = True
    return purged
