"""Trials: the last run of a suspect before it is parked, alone in its process, so that a death is proof.

The process that claims a workflow from the trials queue pauses its other queues, waits until it is idle,
records the start of the trial, runs the workflow alone, and then resumes the queues. If the other workflows
take long, the claim is released for a while: a waiting suspect does no harm, but paused queues do. Each such
wait is twice as long as the one before, so the trial starts eventually if the other workflows ever end.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable

import psycopg2

from holdfast.dbos_adapter.slots import Claim
from holdfast.dbos_adapter.wake_ups import Waker
from holdfast.executor_settings import ExecutorSettings
from holdfast.identity import Identity
from holdfast.postgres.database import OpsPool
from holdfast.recovery.takeover import release_claim

log = logging.getLogger("holdfast.trials")

_POLL_SECONDS = 0.2
_PAUSE_FACTOR = 3


class Trials:
    """Runs each workflow that this process claims from its trials queue alone.

    ``active`` returns the ids of the workflows that run here, ``executing`` also those of abandoned threads
    (`Slots`). ``on_postponed`` is called after a trial is released: an abandoned thread may never end.
    """

    def __init__(
        self,
        settings: ExecutorSettings,
        identity: Identity,
        waker: Waker,
        *,
        ops: OpsPool,
        active: Callable[[], Iterable[str]],
        executing: Callable[[], Iterable[str]],
        on_postponed: Callable[[], object] = lambda: None,
    ) -> None:
        self._settings = settings
        self._identity = identity
        self._waker = waker
        self._ops = ops
        self._active = active
        self._executing = executing
        self._on_postponed = on_postponed
        self._first_wait_seconds = max(1.0, settings.drain_seconds)
        self._wait_seconds = self._first_wait_seconds
        self.held: tuple[str, ...] = ()
        """The id of the workflow that is claimed here and has not started yet."""
        self._held_token = ""

    def install(self) -> None:
        """Makes DBOS start claims of the trials queue through this object. Call once, before its launch."""
        self._waker.slots.starters[self._identity.trials_queue] = self._hold

    def held_executions(self) -> list[tuple[str, str]]:
        """Returns the workflow that is held, with the token of its claim."""
        return [(workflow_id, self._held_token) for workflow_id in self.held]

    def _hold(self, claim: Claim) -> None:
        """Runs one trial in the thread of the trials queue, which claims nothing else meanwhile."""
        workflow_id, owner_xid = claim.workflow_id, claim.owner_xid
        fields = {"workflow_id": workflow_id}
        self._held_token = owner_xid
        self.held = (workflow_id,)
        try:
            # Ask before the other queues are paused: the home queue may be busy elsewhere for hours.
            if not claim.admit():
                return
            with self._waker.pause_others(self._identity.trials_queue):
                if self._alone(workflow_id, owner_xid):
                    log.warning("on trial, alone", extra={"action": "trial.started", **fields})
                    claim.start()
                    self.held = ()
                    self._wait_seconds = self._first_wait_seconds
                    while not self._stopping and self._runs_here(workflow_id):
                        time.sleep(_POLL_SECONDS)
                    return
                if self._stopping:
                    return  # the drain hands it over
                self._release_claim(workflow_id)
                self._on_postponed()
        finally:
            self.held = ()
        self._pause(_PAUSE_FACTOR * self._wait_seconds)
        self._wait_seconds *= 2

    def _release_claim(self, workflow_id: str) -> None:
        try:
            release_claim(self._settings, self._identity, workflow_id, reason="not alone")
        except psycopg2.Error as error:
            # The workflow never started here, so the sweep releases it after a lease.
            log.warning("cannot release the claim: %s", str(error).strip(), extra={"action": "trial.failed"})
            return
        log.warning(
            "claim released: other workflows still ran here after %.0f s",
            self._wait_seconds,
            extra={"action": "trial.postponed", "workflow_id": workflow_id},
        )

    @property
    def _stopping(self) -> bool:
        return self._waker.stopping(self._identity.trials_queue)

    def _alone(self, workflow_id: str, owner_xid: str) -> bool:
        """Waits until nothing else runs here, and records the start. False on a timeout or a stop."""
        deadline = time.monotonic() + self._wait_seconds
        idle_polls = 0
        while not self._stopping:
            # A claim that was in progress when the queues were paused is visible in the second check.
            idle_polls = idle_polls + 1 if self._company(workflow_id) == [] else 0
            if idle_polls >= 2 and self._recorded(workflow_id, owner_xid):
                return True
            if time.monotonic() >= deadline:
                return False
            time.sleep(_POLL_SECONDS)
        return False

    def _recorded(self, workflow_id: str, owner_xid: str) -> bool:
        """Records the start of the trial and returns the success. A death parks only a recorded trial."""
        try:
            self._ops.run("start_trial", workflow_id=workflow_id, owner_xid=owner_xid)
        except psycopg2.Error:
            return False
        return True

    def _company(self, workflow_id: str) -> list[str] | None:
        """Returns the other workflows that run here, without waiting ones. None if the database fails."""
        rows = self._rows()
        if rows is None:
            return None
        # Check threads and database: a cancelled or lost workflow may still execute here and crash.
        return sorted({*self._executing(), *rows} - {w for w, waits in rows.items() if waits} - {workflow_id})

    def _runs_here(self, workflow_id: str) -> bool:
        rows = self._rows()
        return rows is None or workflow_id in rows or workflow_id in self._active()

    def _rows(self) -> dict[str, bool] | None:
        """Returns the ids of workflows that are recorded as running here, and whether each only waits."""
        me = self._identity
        try:
            rows = self._ops.run(
                "own_work", executor_id=me.executor_id, application=me.application, version=me.version
            )
        except psycopg2.Error:
            return None
        return {row["workflow_id"]: row["waits"] for row in rows}

    def _pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until and not self._stopping:
            time.sleep(_POLL_SECONDS)
