"""The thread that publishes in ``ops.waits`` which workflows of this process only wait."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection
from typing import Protocol

import psycopg2
import sqlalchemy as sa
from dbos import error as dbos_error

from holdfast.dbos_adapter.waiting.runs import CHANGING, HIDDEN, SHOWN, Key, Run, Runs
from holdfast.dbos_adapter.waiting.wait import Wait, cancelled
from holdfast.postgres.database import Row
from holdfast.postgres.outage_log import OutageLog

log = logging.getLogger("holdfast.waits")

_AT_ONCE = 500
_RETRY_SECONDS = 1.0
_LONGEST_SECONDS = 1e9


class Withdraw(Protocol):
    """The signature of `Waits.withdraw`."""

    def __call__(self, run: Run, *, raises: bool) -> None:
        """Withdraws the published wait of an execution."""


class Publisher:
    """Publishes waits that last, withdraws obsolete ones, and releases isolated work.

    ``statement`` runs a named statement. `Waits` explains ``isolated`` and ``release_claim``.
    """

    def __init__(
        self,
        runs: Runs,
        statement: Callable[..., list[Row]],
        withdraw: Withdraw,
        *,
        isolated: Collection[str],
        release_claim: Callable[[str], bool],
    ) -> None:
        self._runs = runs
        self._statement = statement
        self._withdraw = withdraw
        self._isolated, self._release_claim = isolated, release_claim
        self._thread = threading.Thread(target=self._serve, name="waits", daemon=True)
        self._outage_log = OutageLog(log, "cannot publish waits", action="waits.failed")

    def start(self) -> None:
        """Starts the publishing thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stops publishing. Published rows stay. Blocks for a second at most."""
        with self._runs.changed:
            self._runs.stopped = True
            self._runs.changed.notify_all()
        self._thread.join(timeout=1)

    def _serve(self) -> None:
        while not self._runs.stopped:
            try:
                due, leaving, obsolete = self._due()
                for run in obsolete:
                    self._withdraw(run, raises=False)
                if due:
                    self._publish(due)
                for run in leaving:
                    self._release(run)
            except Exception:
                log.exception("publishing waits failed, trying again", extra={"action": "waits.failed"})
                time.sleep(0.1)

    def _due(self) -> tuple[list[Run], list[Run], list[Run]]:
        """Waits until executions are due. Returns those to publish, to release and to withdraw."""
        with self._runs.changed:
            while not self._runs.stopped:
                if self._runs.obsolete:
                    obsolete, self._runs.obsolete = self._runs.obsolete, []
                    return [], [], obsolete
                now = time.monotonic()
                due = [run for run in self._runs.unshown if run.due <= now][:_AT_ONCE]
                leaving = [run for run, due in self._runs.leaving.items() if due <= now]
                for run in due:
                    self._runs.unshown.discard(run)
                    run.state = CHANGING
                if due or leaving:
                    return due, leaving, []
                times = [*(run.due for run in self._runs.unshown), *self._runs.leaving.values()]
                self._runs.changed.wait(min(times) - now if times else None)
            return [], [], []

    def _publish(self, due: list[Run]) -> None:
        rows: dict[Key, Row] = {}
        failed = set(due)
        try:
            rows, failed = self._rows(due), set()
            self._outage_log.record_success()
        except sa.exc.DataError:
            rows, failed = self._one_by_one(due)
        except sa.exc.SQLAlchemyError as error:
            self._outage_log.record_failure(error)
        finally:
            with self._runs.changed:
                for run in due:
                    shown = run.key in rows and rows[run.key]["published"]
                    run.state, run.doubtful = (SHOWN if shown else HIDDEN), run in failed
                    self._runs.settle(run)
                    if run in failed:
                        run.due = time.monotonic() + _RETRY_SECONDS
                    elif not shown:
                        self._runs.unshown.discard(run)
                    elif rows[run.key]["queue_name"] in self._isolated:
                        self._runs.leaving[run] = 0.0
                self._runs.changed.notify_all()
        for run in due:
            row = rows.get(run.key)
            if row is not None and not row["published"]:
                # The notification was missed, or arrived before the wait.
                lost = dbos_error.DBOSWorkflowConflictIDError(run.key[0])
                self._runs.interrupt(run, cancelled(run.key[0]) if row["status"] == "CANCELLED" else lost)

    def _one_by_one(self, due: list[Run]) -> tuple[dict[Key, Row], set[Run]]:
        """Publishes each wait alone, because PostgreSQL refused a value. Returns the rows and the retries."""
        rows: dict[Key, Row] = {}
        failed = set()
        for run in due:
            try:
                rows |= self._rows([run])
            except sa.exc.DataError as error:
                fields = {"action": "waits.refused", "workflow_id": run.key[0]}
                log.error("wait not published: %s", str(error).strip(), extra=fields)  # noqa: TRY400
            except sa.exc.SQLAlchemyError as error:
                self._outage_log.record_failure(error)
                failed.add(run)
        return rows, failed

    def _rows(self, due: list[Run]) -> dict[Key, Row]:
        stored = self._store([(run.key, run.first()) for run in due if run.waits])
        return {(row["workflow_id"], row["owner_xid"]): row for row in stored}

    def _store(self, due: list[tuple[Key, Wait]]) -> list[Row]:
        if not due:
            return []
        now = time.monotonic()
        return self._statement(
            "publish_waits",
            workflow_ids=[key[0] for key, _ in due],
            owners=[key[1] for key, _ in due],
            kinds=[wait.kind for _, wait in due],
            subjects=[wait.subject for _, wait in due],
            waited=[now - wait.begun for _, wait in due],
            seconds=[_left(wait, now) for _, wait in due],
        )

    def _release(self, run: Run) -> None:
        """Releases waiting work from a queue whose only slot belongs to running work."""
        try:
            gone = self._release_claim(run.key[0])
        except psycopg2.Error as error:
            self._outage_log.record_failure(error)
            with self._runs.changed:
                if run in self._runs.leaving:
                    self._runs.leaving[run] = time.monotonic() + _RETRY_SECONDS
            return
        with self._runs.changed:
            self._runs.leaving.pop(run, None)
        if gone:
            self._runs.interrupt(run, dbos_error.DBOSWorkflowConflictIDError(run.key[0]))


def _left(wait: Wait, now: float) -> float | None:
    """Returns the seconds until a wait ends. None if it has no end that fits a timestamp (``math.inf``)."""
    if wait.until is None or not wait.until - now <= _LONGEST_SECONDS:
        return None
    return max(0.0, wait.until - now)
