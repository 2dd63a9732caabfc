"""Applies the concurrency limits of a suspect's home queue, that is, the queue it came from.

Suspects run on separate queues (`holdfast.recovery.blame`). Without this module a suspect could run beside
the next workflow of a home queue whose limit is one. The claim of a suspect therefore reserves a slot of its
home queue: from then on the claims of the home queue count it, in this process through `Slots`, in all
processes through `claims`. The suspect starts when the home queue's limits have room. If that takes long, it
is released, and this process claims only suspects of other home queues for a while. Each such wait is twice
as long as the one before.

A trial runs alone in its process, so only limits that all executors share apply to it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg2
import sqlalchemy as sa

from holdfast.dbos_adapter import claims
from holdfast.dbos_adapter.slots import Execution
from holdfast.executor_settings import ExecutorSettings
from holdfast.identity import Identity
from holdfast.postgres.sessions import Sessions
from holdfast.recovery.takeover import release_claim

if TYPE_CHECKING:
    from holdfast.dbos_adapter.wake_ups import Waker

log = logging.getLogger("holdfast.homes")

_POLL_SECONDS = 0.1
_PAUSE_FACTOR = 3
# Pause while another suspect of the same home queue runs, which may take hours.
_BEHIND_SECONDS = 1.0
_MAX_BEHIND_SECONDS = 60.0
# Where claims are DBOS's own, this process's queue of suspects pauses as a whole.
_LONGEST_OWN_PAUSE_SECONDS = 5.0


@dataclass
class _Claim:
    """A suspect that is claimed but has not started."""

    workflow_id: str
    partition: str | None
    isolated: str
    execution: Execution | None
    home: str | None = None
    settled: Callable[[], bool] = lambda: True


class Homes:
    """Delays the start of this process's suspects and trials until their home queue has room."""

    def __init__(
        self, settings: ExecutorSettings, identity: Identity, waker: Waker, sessions: Sessions
    ) -> None:
        self._settings = settings
        self._identity = identity
        self._waker = waker
        self._sessions = sessions
        self._first_wait_seconds = max(1.0, settings.drain_seconds)
        # Keys: the queue of suspects and the home queue.
        self._wait_seconds: dict[tuple[str, str], float] = {}
        self._behind_seconds: dict[tuple[str, str], float] = {}
        self._paused: dict[tuple[str, str], float] = {}

    def paused(self, queue_name: str) -> list[str]:
        """Returns the home queues whose workflows this queue of suspects must not claim at present."""
        now = time.monotonic()
        return [
            home for (queue, home), until in list(self._paused.items()) if queue == queue_name and until > now
        ]

    def admit(self, db: Any, status: Any, execution: Execution | None) -> bool:
        """Waits in the queue's thread until a claim may start. Returns False if it was released instead.

        A trial calls this without an execution, before it pauses the other queues of its process.
        """
        isolated = self._identity.trials_queue if execution is None else self._identity.suspects_queue
        if status["queue_name"] != isolated:
            return True
        begun = time.monotonic()
        claim = _Claim(status["workflow_uuid"], status["queue_partition_key"], isolated, execution)
        while not self._waker.stopping(isolated):
            if execution is not None and execution.lost:
                return False
            try:
                state = self._room(db, claim)
            except sa.exc.SQLAlchemyError as error:
                log.debug("cannot check whether the home queue has room: %s", error)
                state = "full"
            key = (isolated, claim.home or "")
            if state == "room":
                self._wait_seconds.pop(key, None)
                self._behind_seconds.pop(key, None)
                return True
            waits = self._wait_seconds.get(key, self._first_wait_seconds)
            if state == "behind":
                pause = self._behind_seconds.get(key, _BEHIND_SECONDS)
                self._behind_seconds[key] = min(2 * pause, _MAX_BEHIND_SECONDS)
            elif time.monotonic() - begun >= waits:
                pause = _PAUSE_FACTOR * waits
                self._wait_seconds[key] = 2 * waits
            else:
                time.sleep(_POLL_SECONDS)
                continue
            self._paused[key] = time.monotonic() + pause
            self._release(claim)
            if not claims.are_gated():
                self._pause(isolated, min(pause, _LONGEST_OWN_PAUSE_SECONDS))
            return False
        return False  # the drain hands it over

    def _pause(self, isolated: str, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until and not self._waker.stopping(isolated):
            time.sleep(_POLL_SECONDS)

    def _room(self, db: Any, claim: _Claim) -> claims.Room:
        execution = claim.execution
        if claim.home is None:
            rows = self._sessions.run("home_queue", workflow_id=claim.workflow_id)
            if not rows or rows[0]["queue_name"] == claim.isolated:
                return "room"
            claim.home = rows[0]["queue_name"]
            claim.settled = self._waker.settles(claim.home)
            if execution is not None:
                execution.count_at(claim.home)
        queue = db.get_queue(claim.home)
        if queue is None:
            return "room"
        if execution is not None and not self._room_here(queue, claim):
            return "full"
        return claims.room(db, queue, claim.workflow_id, claim.partition)

    def _room_here(self, queue: Any, claim: _Claim) -> bool:
        assert claim.home is not None
        limits = claims.limits_per_process(queue)
        if limits == (None, None):
            return True
        # A claim that was in progress when this suspect began to count may not be dispatched yet.
        if not claim.settled():
            return False
        slots = self._waker.slots
        taken = slots.count_for_queue(claim.home), slots.count_for_partition(claim.home, claim.partition)
        return all(limit is None or count <= limit for count, limit in zip(taken, limits, strict=True))

    def _release(self, claim: _Claim) -> None:
        try:
            release_claim(self._settings, self._identity, claim.workflow_id, reason="home queue full")
        except psycopg2.Error as error:
            # The workflow never started here, so the sweep releases it after a lease.
            log.warning(
                "cannot release a suspect: %s", str(error).strip(), extra={"action": "suspect.failed"}
            )
            return
        log.warning(
            "suspect released: its home queue %s has no room",
            claim.home,
            extra={"action": "suspect.postponed", "workflow_id": claim.workflow_id},
        )
