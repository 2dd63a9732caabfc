"""Publishes in ``ops.waits`` which workflows of this process only wait (docs/design/recovery.md, "Waiting").

A workflow only waits while at least one of its blocking calls (sleep, message, event, another workflow,
stream) waits and none of its steps runs. One thread writes the rows for all waits that last; a short wait
costs nothing. The row is deleted before anything else of the workflow runs. If it is gone by then, the
execution was released as waiting: the workflow continues elsewhere and must not continue here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection

import sqlalchemy as sa
from dbos import error as dbos_error
from dbos._utils import LoopAwareEvent

from holdfast.dbos_adapter.cancelling import Cancellations
from holdfast.dbos_adapter.retries import patiently
from holdfast.dbos_adapter.waiting.direct import DirectRuns
from holdfast.dbos_adapter.waiting.publisher import Publisher
from holdfast.dbos_adapter.waiting.runs import CHANGING, HIDDEN, SHOWN, Key, Run, Runs
from holdfast.dbos_adapter.waiting.wait import Kind, Wait
from holdfast.postgres.database import Row

log = logging.getLogger("holdfast.waits")

SETTLE_SECONDS = 0.05
"""Minimum age of a published wait. Work between two short waits thus costs nothing."""

SURE_SECONDS = 1.0
"""A sleep of at least this length is published immediately: nothing ends it early."""

_MOST_FOLLOWERS = 10_000


class Waits:
    """Tracks what the workflows of this process wait for.

    ``run`` runs a named statement. When work from a queue in ``isolated`` begins to wait, ``release_claim``
    releases it, because the queue's only slot belongs to running work. It returns whether the work is gone.
    """

    def __init__(
        self,
        run: Callable[..., list[Row]],
        cancellations: Cancellations,
        *,
        isolated: Collection[str] = (),
        release_claim: Callable[[str], bool] = lambda _: False,
        settle_seconds: float = SETTLE_SECONDS,
    ) -> None:
        self.cancellations = cancellations
        self._statement = run
        self.runs = Runs(settle_seconds)
        self._followers: dict[Key, None] = {}
        self.direct = DirectRuns()
        self._publisher = Publisher(
            self.runs,
            run,
            self.withdraw,
            isolated=isolated,
            release_claim=release_claim,
        )

    def start(self) -> None:
        """Starts the publishing thread."""
        self._publisher.start()

    def stop(self) -> None:
        """Stops publishing. Published rows stay. Blocks for a second at most."""
        self._publisher.stop()

    def wait(
        self,
        workflow_id: str,
        owner_xid: str | None,
        kind: Kind,
        subject: str | None = None,
        *,
        seconds: float | None = None,
        event: LoopAwareEvent | None = None,
    ) -> Wait:
        """Creates a wait. Without ``owner_xid`` it is a step's: only a cancel ends it, and it gets no row."""
        return Wait(self, (workflow_id, owner_xid), kind, subject, seconds, event)

    def waiting(self) -> list[str]:
        """Returns the ids of the workflows here that have a published wait."""
        with self.runs.changed:
            return [run.key[0] for run in self.runs.by_key.values() if run.state == SHOWN]

    def released(self, workflow_ids: Collection[str]) -> None:
        """Interrupts the executions here of workflows that were handed over as waiting."""
        with self.runs.changed:
            found = [run for run in self.runs.by_key.values() if run.key[0] in workflow_ids]
        for run in found:
            self.runs.interrupt(run, dbos_error.DBOSWorkflowConflictIDError(run.key[0]))

    # --- what the executions do ---------------------------------------------------------------

    def follows(self, key: Key) -> None:
        """Marks an execution whose predecessor may have left a row that says that it waits."""
        with self.runs.changed:
            self._followers[key] = None
            if len(self._followers) > _MOST_FOLLOWERS:
                del self._followers[next(iter(self._followers))]

    def begins(self, key: Key, wait: Wait) -> Run:
        """Adds a wait to an execution."""
        with self.runs.changed:
            run = self.runs.by_key.setdefault(key, Run(key))
            run.waits.append(wait)
            self.runs.settle(run)
            if wait.kind == "sleep" and wait.until is not None and wait.until - wait.begun >= SURE_SECONDS:
                run.due = wait.begun
            return run

    def ends(self, run: Run, wait: Wait) -> None:
        """Removes a wait from its execution."""
        with self.runs.changed:
            run.waits.remove(wait)
            self.runs.settle(run)

    def step_begins(self, key: Key) -> Run | None:
        """Counts a step that is about to run. Returns the execution if its wait must be withdrawn first."""
        with self.runs.changed:
            run = self.runs.by_key.setdefault(key, Run(key))
            run.steps += 1
            if key in self._followers:
                del self._followers[key]
                run.doubtful = True
            self.runs.settle(run)
            return run if run.state != HIDDEN or run.doubtful else None

    def step_ends(self, key: Key) -> None:
        """Counts a step that has run."""
        with self.runs.changed:
            run = self.runs.by_key.get(key)
            if run is None or run.steps == 0:
                return  # the step outlived its execution
            run.steps -= 1
            self.runs.settle(run)

    def over(self, key: Key) -> None:
        """Removes an execution that has ended, even if a task that it left behind still waits."""
        with self.runs.changed:
            self._followers.pop(key, None)
            run = self.runs.by_key.pop(key, None)
            if run is not None:
                run.over = True
                self.runs.unshown.discard(run)
                self.withdraw_soon(run)

    def goes_on(self, key: Key) -> None:
        """Withdraws the execution's wait before it does anything other than wait. Raises as `withdraw`."""
        if (run := self.runs.by_key.get(key)) is not None:
            self.withdraw(run)

    def withdraw(self, run: Run, *, raises: bool = True) -> None:
        """Withdraws the published wait. Call before anything else of the workflow runs.

        Raises `DBOSWorkflowConflictIDError` if it was released as waiting and continues elsewhere.
        """
        with self.runs.changed:
            while run.state == CHANGING and not self.runs.stopped:
                self.runs.changed.wait()
            if self.runs.stopped or (run.state == HIDDEN and not run.doubtful):
                return
            run.state = CHANGING
        owned = True
        try:
            owned = self._withdrawn(run.key)
        finally:
            with self.runs.changed:
                run.state, run.doubtful = HIDDEN, False
                self.runs.leaving.pop(run, None)
                self.runs.settle(run)
                self.runs.changed.notify_all()
        if not owned and raises:
            raise dbos_error.DBOSWorkflowConflictIDError(run.key[0])

    def withdraw_soon(self, run: Run) -> None:
        """As `withdraw`, in the publishing thread, and without waiting for it."""
        with self.runs.changed:
            if run.state != HIDDEN or run.doubtful:
                self.runs.obsolete.append(run)
                self.runs.changed.notify_all()

    async def withdraw_async(self, run: Run, *, raises: bool = True) -> None:
        """As `withdraw`, in another thread. A cancelled task also continues only after it."""
        with self.runs.changed:
            if run.state == HIDDEN and not run.doubtful:
                return
        task = asyncio.ensure_future(asyncio.to_thread(self.withdraw, run, raises=raises))
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            await asyncio.wait({task})
            raise

    def _withdrawn(self, key: Key) -> bool:
        """Deletes the row. Returns whether the execution still owns its workflow."""
        run = patiently(self._statement)
        execution = {"workflow_id": key[0], "owner_xid": key[1]}
        try:
            return bool(run("withdraw_wait", **execution) or run("still_owned", **execution))
        except sa.exc.SQLAlchemyError as error:
            # DBOS checks the owner at the next write. Until then the row of the running workflow says
            # "waits".
            log.error("wait not withdrawn: %s", str(error).strip(), extra={"action": "waits.failed"})  # noqa: TRY400
            return True
