"""One blocking call of a workflow: it begins when it really blocks, and a cancel or a release also ends it.

`holdfast.dbos_adapter.waiting.waits` publishes the waits.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Literal

from dbos import error as dbos_error
from dbos._context import get_local_dbos_context
from dbos._utils import LoopAwareEvent

if TYPE_CHECKING:
    from holdfast.dbos_adapter.waiting.ending import Endings
    from holdfast.dbos_adapter.waiting.runs import Run
    from holdfast.dbos_adapter.waiting.waits import Waits

Kind = Literal["sleep", "message", "event", "workflow", "stream"]


class Wait:
    """One blocking call of a workflow, or of a step of it (which has no row, see `Waits.wait`)."""

    def __init__(  # noqa: PLR0917
        self,
        waits: Waits,
        execution: tuple[str, str | None],
        kind: Kind,
        subject: str | None,
        seconds: float | None,
        event: LoopAwareEvent | None,
    ) -> None:
        self.kind, self.subject = kind, subject
        self.begun = time.monotonic()
        self.until = None if seconds is None else self.begun + seconds
        self.event = LoopAwareEvent() if event is None else event
        self._waits = waits
        self._workflow_id, self._owner_xid = execution
        self._run: Run | None = None
        self._interruption: BaseException | None = None
        self._on = False
        self._hearing = ExitStack()

    def begin(self) -> None:
        """Begins the wait: from here on the workflow waits. Idempotent."""
        if self._on:
            return
        self._on = True
        cancellation = self._hearing.enter_context(self._waits.cancellations.watch_current(self._workflow_id))
        self._hearing.enter_context(cancellation.ending(self._cancelled))
        if self._owner_xid is not None:
            self._run = self._waits.begins((self._workflow_id, self._owner_xid), self)

    def block(self, seconds: float | None) -> None:
        """Blocks until the event is set, at most ``seconds``. Raises the error that interrupted the wait."""
        if self._interruption is None:
            LoopAwareEvent.wait(self.event, seconds)
        if self._interruption is not None:
            raise self._interruption

    async def block_async(self, seconds: float) -> None:
        """As `block`, on an event loop."""
        if self._interruption is None:
            await LoopAwareEvent.wait_async(self.event, seconds)
        if self._interruption is not None:
            raise self._interruption

    def interrupt(self, error: BaseException) -> None:
        """Ends the wait with this error, from any thread."""
        self._interruption = self._interruption or error
        LoopAwareEvent.set(self.event)

    def end(self) -> None:
        """Ends the wait. Raises `DBOSWorkflowConflictIDError` if the workflow continues elsewhere."""
        if (run := self.forget()) is not None:
            self._waits.withdraw(run, raises=self._interruption is None)

    async def end_async(self) -> None:
        """As `end`, without blocking the event loop."""
        if (run := self.forget()) is not None:
            await self._waits.withdraw_async(run, raises=self._interruption is None)

    def forget(self) -> Run | None:
        """Ends the wait but keeps its published row for now. Returns the wait's execution, if it has one."""
        if not self._on:
            return None
        self._on = False
        self._hearing.close()
        if self._run is not None:
            self._waits.ends(self._run, self)
        return self._run

    def _cancelled(self) -> None:
        self.interrupt(cancelled(self._workflow_id))


def cancelled(workflow_id: str) -> dbos_error.DBOSWorkflowCancelledError:
    """Returns the error for a cancelled workflow's wait: no `Exception`, so user code does not catch it."""
    return dbos_error.DBOSWorkflowCancelledError(f"Workflow {workflow_id} is cancelled: it waits no more.")


class NoWait:
    """Replaces a wait outside of workflows."""

    def __init__(self) -> None:
        self.event = LoopAwareEvent()

    def begin(self) -> None:
        pass

    def block(self, seconds: float) -> None:
        self.event.wait(seconds)

    async def block_async(self, seconds: float) -> None:
        await self.event.wait_async(seconds)

    def end(self) -> None:
        pass

    async def end_async(self) -> None:
        pass


class _Launched:
    """Holds the waits of this process's application while it is launched."""

    waits: Waits | None = None


LAUNCHED = _Launched()


def attach(db: Any, waits: Waits, endings: Endings) -> None:
    """Makes this system database's calls publish their waits."""
    db.waits, db.endings = waits, endings
    LAUNCHED.waits = waits


def detach(waits: Waits) -> None:
    """Detaches `waits`. Call before their application is destroyed."""
    if LAUNCHED.waits is waits:
        LAUNCHED.waits = None


def wait_in(waits: Waits, kind: Kind, subject: str | None = None, **options: Any) -> Wait | None:
    """Returns a wait of the workflow or step that runs here, or None outside of both."""
    ctx = get_local_dbos_context()
    if ctx is None or not ctx.workflow_id:
        return None
    if ctx.is_workflow():
        workflow_id, owner_xid = ctx.workflow_id, ctx.owner_xid
        if owner_xid is None and (parent := vars(ctx).get("awaited_by")) is not None:
            workflow_id, owner_xid = parent  # the workflow was called like a function and runs elsewhere
        if workflow_id == subject:
            waits.direct.ends(ctx)
            return None  # the execution lost its workflow: only its thread waits
        return waits.wait(workflow_id, owner_xid, kind, subject, **options)
    return waits.wait(ctx.workflow_id, None, kind, subject, **options)


def wait_here(kind: Kind, subject: str | None = None) -> Wait | NoWait:
    """Returns a wait for one of Holdfast's own blocking calls in the body of a workflow."""
    return (LAUNCHED.waits and wait_in(LAUNCHED.waits, kind, subject)) or NoWait()


def waits_of(db: Any) -> Waits | None:
    """Returns the waits of a system database, or None if it is not of this process's application."""
    found: Waits | None = vars(db).get("waits")
    return found
