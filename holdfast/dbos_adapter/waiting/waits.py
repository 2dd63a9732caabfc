"""Which workflows of this process only wait, told in ``ops.waits`` (docs/design/recovery.md, "Waiting").

A workflow only waits while at least one of its blocking calls (sleep, message, event, another workflow,
stream) waits and no step of it runs. A wait that lasts gets a row, from one thread for all; a short one costs
nothing. The row is deleted before anything else of the workflow runs. Who finds it gone has been released as
waiting meanwhile, goes on elsewhere, and must not go on here.
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
"""How long a workflow must have waited before it is told: what runs between two short waits costs nothing."""

SURE_SECONDS = 1.0
"""A sleep of this length is told at once: nothing ends it early."""

_MOST_FOLLOWERS = 10_000


class Waits:
    """What the workflows of this process wait for.

    ``run`` runs a named statement. Work that a queue in ``isolated`` holds is handed to ``give_back`` when it
    begins to wait: that queue's one place belongs to who runs. It says whether the work is gone.
    """

    def __init__(
        self,
        run: Callable[..., list[Row]],
        cancellations: Cancellations,
        *,
        isolated: Collection[str] = (),
        give_back: Callable[[str], bool] = lambda _: False,
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
            give_back=give_back,
        )

    def start(self) -> None:
        """Starts to tell."""
        self._publisher.start()

    def stop(self) -> None:
        """Tells nothing more; what is told stays. Takes a second at most."""
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
        """A wait that can begin; without ``owner_xid`` a step's, which only a cancel ends and is not told."""
        return Wait(self, (workflow_id, owner_xid), kind, subject, seconds, event)

    def waiting(self) -> list[str]:
        """Ids of the workflows here of which a wait is told."""
        with self.runs.changed:
            return [run.key[0] for run in self.runs.by_key.values() if run.state == SHOWN]

    def released(self, workflow_ids: Collection[str]) -> None:
        """These were handed over as waiting: their executions here stop at once."""
        with self.runs.changed:
            found = [run for run in self.runs.by_key.values() if run.key[0] in workflow_ids]
        for run in found:
            self.runs.interrupt(run, dbos_error.DBOSWorkflowConflictIDError(run.key[0]))

    # --- what the executions do ---------------------------------------------------------------

    def follows(self, key: Key) -> None:
        """This execution goes on after another one, which may have left a row that says that it waits."""
        with self.runs.changed:
            self._followers[key] = None
            if len(self._followers) > _MOST_FOLLOWERS:
                del self._followers[next(iter(self._followers))]

    def begins(self, key: Key, wait: Wait) -> Run:
        """One more wait of an execution."""
        with self.runs.changed:
            run = self.runs.by_key.setdefault(key, Run(key))
            run.waits.append(wait)
            self.runs.settle(run)
            if wait.kind == "sleep" and wait.until is not None and wait.until - wait.begun >= SURE_SECONDS:
                run.due = wait.begun
            return run

    def ends(self, run: Run, wait: Wait) -> None:
        """One less."""
        with self.runs.changed:
            run.waits.remove(wait)
            self.runs.settle(run)

    def step_begins(self, key: Key) -> Run | None:
        """A step's body is about to run; the execution, if it must be withdrawn before."""
        with self.runs.changed:
            run = self.runs.by_key.setdefault(key, Run(key))
            run.steps += 1
            if key in self._followers:
                del self._followers[key]
                run.doubtful = True
            self.runs.settle(run)
            return run if run.state != HIDDEN or run.doubtful else None

    def step_ends(self, key: Key) -> None:
        """It has run."""
        with self.runs.changed:
            run = self.runs.by_key.get(key)
            if run is None or run.steps == 0:
                return  # the step outlived its execution
            run.steps -= 1
            self.runs.settle(run)

    def over(self, key: Key) -> None:
        """The execution has ended, whatever a task that it left behind still waits for."""
        with self.runs.changed:
            self._followers.pop(key, None)
            run = self.runs.by_key.pop(key, None)
            if run is not None:
                run.over = True
                self.runs.unshown.discard(run)
                self.withdraw_soon(run)

    def goes_on(self, key: Key) -> None:
        """The execution is about to do something else than wait. Raises as `withdraw`."""
        if (run := self.runs.by_key.get(key)) is not None:
            self.withdraw(run)

    def withdraw(self, run: Run, *, raises: bool = True) -> None:
        """Tells no more that it waits: before anything else of the workflow runs.

        Raises `DBOSWorkflowConflictIDError` where it was released as waiting and goes on elsewhere.
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
        """As `withdraw`, in the thread that tells, and not waited for."""
        with self.runs.changed:
            if run.state != HIDDEN or run.doubtful:
                self.runs.obsolete.append(run)
                self.runs.changed.notify_all()

    async def withdraw_async(self, run: Run, *, raises: bool = True) -> None:
        """As `withdraw`, in another thread. A cancelled task goes on only after it, too."""
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
        """Deletes the row; whether the execution still owns its workflow."""
        run = patiently(self._statement)
        execution = {"workflow_id": key[0], "owner_xid": key[1]}
        try:
            return bool(run("withdraw_wait", **execution) or run("still_owned", **execution))
        except sa.exc.SQLAlchemyError as error:
            # DBOS checks the owner at the next write; the row of who works on says "waits" until then.
            log.error("wait not withdrawn: %s", str(error).strip(), extra={"action": "waits.failed"})  # noqa: TRY400
            return True
