"""Which workflows of this process only wait, told in ``ops.waits`` (docs/design/recovery.md, "Waiting").

A workflow only waits while at least one of its blocking calls (sleep, message, event, another workflow,
stream) waits and no step of it runs. A wait that lasts gets a row, from one thread for all; a short one costs
nothing. The row is deleted before anything else of the workflow runs. Who finds it gone has been released as
waiting meanwhile, goes on elsewhere, and must not go on here.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

import psycopg2
import sqlalchemy as sa
from dbos import error as dbos_error
from dbos._utils import LoopAwareEvent

from holdfast.dbos_adapter.cancelling import Cancellations
from holdfast.dbos_adapter.retries import patiently
from holdfast.dbos_adapter.waiting.direct import DirectRuns
from holdfast.dbos_adapter.waiting.wait import Kind, Wait, cancelled
from holdfast.postgres.database import Row, Trouble

log = logging.getLogger("holdfast.waits")

Key = tuple[str, str]
"""One execution: the workflow's id, and its claim's token."""

SETTLE_SECONDS = 0.05
"""How long a workflow must have waited before it is told: what runs between two short waits costs nothing."""

SURE_SECONDS = 1.0
"""A sleep of this length is told at once: nothing ends it early."""

_AT_ONCE = 500
_MOST_FOLLOWERS = 10_000
_RETRY_SECONDS = 1.0
_LONGEST_SECONDS = 1e9
_HIDDEN, _CHANGING, _SHOWN = range(3)


@dataclass(eq=False)
class Run:
    """One execution of a workflow, while it waits or runs a step."""

    key: Key
    waits: list[Wait] = field(default_factory=list)
    steps: int = 0
    state: int = _HIDDEN
    # Whether it may have a row although it is hidden: nobody knows what a statement without an answer did.
    doubtful: bool = False
    due: float = 0.0
    # Whether the execution has ended.
    over: bool = False

    def first(self) -> Wait:
        """The wait that is told: the one that ends first by itself, else the one that began first."""
        return min(self.waits, key=lambda wait: (wait.until is None, wait.until or wait.begun))


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
        self._isolated, self._give_back = isolated, give_back
        self._settle_seconds = settle_seconds
        self._runs: dict[Key, Run] = {}
        self._unshown: set[Run] = set()
        self._leaving: dict[Run, float] = {}
        self._followers: dict[Key, None] = {}
        self._changed = threading.Condition()
        self._obsolete: list[Run] = []
        self.direct = DirectRuns()
        self._stopped = False
        self._thread = threading.Thread(target=self._serve, name="waits", daemon=True)
        self._trouble = Trouble(log, "cannot tell who waits", action="waits.failed")

    def start(self) -> None:
        """Starts to tell."""
        self._thread.start()

    def stop(self) -> None:
        """Tells nothing more; what is told stays. Takes a second at most."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self._thread.join(timeout=1)

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
        with self._changed:
            return [run.key[0] for run in self._runs.values() if run.state == _SHOWN]

    def released(self, workflow_ids: Collection[str]) -> None:
        """These were handed over as waiting: their executions here stop at once."""
        with self._changed:
            found = [run for run in self._runs.values() if run.key[0] in workflow_ids]
        for run in found:
            self._interrupt(run, dbos_error.DBOSWorkflowConflictIDError(run.key[0]))

    # --- what the executions do ---------------------------------------------------------------

    def follows(self, key: Key) -> None:
        """This execution goes on after another one, which may have left a row that says that it waits."""
        with self._changed:
            self._followers[key] = None
            if len(self._followers) > _MOST_FOLLOWERS:
                del self._followers[next(iter(self._followers))]

    def begins(self, key: Key, wait: Wait) -> Run:
        """One more wait of an execution."""
        with self._changed:
            run = self._runs.setdefault(key, Run(key))
            run.waits.append(wait)
            self._settle(run)
            if wait.kind == "sleep" and wait.until is not None and wait.until - wait.begun >= SURE_SECONDS:
                run.due = wait.begun
            return run

    def ends(self, run: Run, wait: Wait) -> None:
        """One less."""
        with self._changed:
            run.waits.remove(wait)
            self._settle(run)

    def step_begins(self, key: Key) -> Run | None:
        """A step's body is about to run; the execution, if it must be withdrawn before."""
        with self._changed:
            run = self._runs.setdefault(key, Run(key))
            run.steps += 1
            if key in self._followers:
                del self._followers[key]
                run.doubtful = True
            self._settle(run)
            return run if run.state != _HIDDEN or run.doubtful else None

    def step_ends(self, key: Key) -> None:
        """It has run."""
        with self._changed:
            run = self._runs.get(key)
            if run is None or run.steps == 0:
                return  # the step outlived its execution
            run.steps -= 1
            self._settle(run)

    def over(self, key: Key) -> None:
        """The execution has ended, whatever a task that it left behind still waits for."""
        with self._changed:
            self._followers.pop(key, None)
            run = self._runs.pop(key, None)
            if run is not None:
                run.over = True
                self._unshown.discard(run)
                self.withdraw_soon(run)

    def goes_on(self, key: Key) -> None:
        """The execution is about to do something else than wait. Raises as `withdraw`."""
        if (run := self._runs.get(key)) is not None:
            self.withdraw(run)

    def withdraw(self, run: Run, *, raises: bool = True) -> None:
        """Tells no more that it waits: before anything else of the workflow runs.

        Raises `DBOSWorkflowConflictIDError` where it was released as waiting and goes on elsewhere.
        """
        with self._changed:
            while run.state == _CHANGING and not self._stopped:
                self._changed.wait()
            if self._stopped or (run.state == _HIDDEN and not run.doubtful):
                return
            run.state = _CHANGING
        owned = True
        try:
            owned = self._withdrawn(run.key)
        finally:
            with self._changed:
                run.state, run.doubtful = _HIDDEN, False
                self._leaving.pop(run, None)
                self._settle(run)
                self._changed.notify_all()
        if not owned and raises:
            raise dbos_error.DBOSWorkflowConflictIDError(run.key[0])

    def withdraw_soon(self, run: Run) -> None:
        """As `withdraw`, in the thread that tells, and not waited for."""
        with self._changed:
            if run.state != _HIDDEN or run.doubtful:
                self._obsolete.append(run)
                self._changed.notify_all()

    async def withdraw_async(self, run: Run, *, raises: bool = True) -> None:
        """As `withdraw`, in another thread. A cancelled task goes on only after it, too."""
        with self._changed:
            if run.state == _HIDDEN and not run.doubtful:
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

    def _settle(self, run: Run) -> None:
        """Where it stands, now that something changed. Under the lock."""
        if run.waits and run.steps == 0 and run.state == _HIDDEN and not run.over:
            run.due = time.monotonic() + self._settle_seconds
            self._unshown.add(run)
            self._changed.notify_all()
            return
        self._unshown.discard(run)
        idle = not run.waits and run.steps == 0 and run.state == _HIDDEN and not run.doubtful
        if idle and self._runs.get(run.key) is run:
            del self._runs[run.key]

    def _interrupt(self, run: Run, error: BaseException) -> None:
        with self._changed:
            waits = list(run.waits)
        for wait in waits:
            wait.interrupt(error)

    # --- the thread that tells ------------------------------------------------------------------

    def _serve(self) -> None:
        while not self._stopped:
            try:
                some, leaving, obsolete = self._due()
                for run in obsolete:
                    self.withdraw(run, raises=False)
                if some:
                    self._publish(some)
                for run in leaving:
                    self._release(run)
            except Exception:
                log.exception("waits are told on after an error", extra={"action": "waits.failed"})
                time.sleep(0.1)

    def _due(self) -> tuple[list[Run], list[Run], list[Run]]:
        """Those to be told now, to be given back and to be withdrawn, waited for until there is one."""
        with self._changed:
            while not self._stopped:
                if self._obsolete:
                    obsolete, self._obsolete = self._obsolete, []
                    return [], [], obsolete
                now = time.monotonic()
                some = [run for run in self._unshown if run.due <= now][:_AT_ONCE]
                leaving = [run for run, due in self._leaving.items() if due <= now]
                for run in some:
                    self._unshown.discard(run)
                    run.state = _CHANGING
                if some or leaving:
                    return some, leaving, []
                times = [*(run.due for run in self._unshown), *self._leaving.values()]
                self._changed.wait(min(times) - now if times else None)
            return [], [], []

    def _publish(self, some: list[Run]) -> None:
        rows: dict[Key, Row] = {}
        failed = set(some)
        try:
            rows, failed = self._rows(some), set()
            self._trouble.over()
        except sa.exc.DataError:
            rows, failed = self._one_by_one(some)
        except sa.exc.SQLAlchemyError as error:
            self._trouble.met(error)
        finally:
            with self._changed:
                for run in some:
                    shown = run.key in rows and rows[run.key]["published"]
                    run.state, run.doubtful = (_SHOWN if shown else _HIDDEN), run in failed
                    self._settle(run)
                    if run in failed:
                        run.due = time.monotonic() + _RETRY_SECONDS
                    elif not shown:
                        self._unshown.discard(run)
                    elif rows[run.key]["queue_name"] in self._isolated:
                        self._leaving[run] = 0.0
                self._changed.notify_all()
        for run in some:
            row = rows.get(run.key)
            if row is not None and not row["published"]:
                # Its notice was missed, or came before the wait.
                lost = dbos_error.DBOSWorkflowConflictIDError(run.key[0])
                self._interrupt(run, cancelled(run.key[0]) if row["status"] == "CANCELLED" else lost)

    def _one_by_one(self, some: list[Run]) -> tuple[dict[Key, Row], set[Run]]:
        """Their rows, and what is to be tried again: a value that PostgreSQL refuses is one wait's own."""
        rows: dict[Key, Row] = {}
        failed = set()
        for run in some:
            try:
                rows |= self._rows([run])
            except sa.exc.DataError as error:
                fields = {"action": "waits.refused", "workflow_id": run.key[0]}
                log.error("this wait is not told: %s", str(error).strip(), extra=fields)  # noqa: TRY400
            except sa.exc.SQLAlchemyError as error:
                self._trouble.met(error)
                failed.add(run)
        return rows, failed

    def _rows(self, some: list[Run]) -> dict[Key, Row]:
        told = self._tell([(run.key, run.first()) for run in some if run.waits])
        return {(row["workflow_id"], row["owner_xid"]): row for row in told}

    def _tell(self, some: list[tuple[Key, Wait]]) -> list[Row]:
        if not some:
            return []
        now = time.monotonic()
        return self._statement(
            "publish_waits",
            workflow_ids=[key[0] for key, _ in some],
            owners=[key[1] for key, _ in some],
            kinds=[wait.kind for _, wait in some],
            subjects=[wait.subject for _, wait in some],
            waited=[now - wait.begun for _, wait in some],
            seconds=[_left(wait, now) for _, wait in some],
        )

    def _release(self, run: Run) -> None:
        """Out of a queue whose place belongs to who runs."""
        try:
            gone = self._give_back(run.key[0])
        except psycopg2.Error as error:
            self._trouble.met(error)
            with self._changed:
                if run in self._leaving:
                    self._leaving[run] = time.monotonic() + _RETRY_SECONDS
            return
        with self._changed:
            self._leaving.pop(run, None)
        if gone:
            self._interrupt(run, dbos_error.DBOSWorkflowConflictIDError(run.key[0]))


def _left(wait: Wait, now: float) -> float | None:
    """Seconds to its end; None where it has none that a timestamp can say, as with ``math.inf``."""
    if wait.until is None or not wait.until - now <= _LONGEST_SECONDS:
        return None
    return max(0.0, wait.until - now)
