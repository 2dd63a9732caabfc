"""A suspect counts against the limits of the queue it came from, wherever it runs.

Poison's suspects run on queues of their own (`holdfast.recovery.blame`). Without this one of them ran beside
the next workflow of its home queue, whose limit allowed one. Its claim reserves a place at home: from then on
the claims of the home queue count it, in this process by `Slots`, in all processes by `claims`. It starts
when the home queue's limits have room for it. Where that takes long it is given back, and for a while this
process claims suspects of other home queues only. Each such wait is twice as long as the one before.

A trial runs alone in its process, so only the limits that all executors share concern it.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg2
import sqlalchemy as sa

from holdfast.dbos_adapter import claims
from holdfast.dbos_adapter.slots import Execution
from holdfast.identity import Identity
from holdfast.postgres.sessions import Sessions
from holdfast.recovery.takeover import give_back
from holdfast.settings import Settings

if TYPE_CHECKING:
    from holdfast.dbos_adapter.wake_ups import Waker

log = logging.getLogger("holdfast.homes")

_LOOK_SECONDS = 0.1
_PAUSE_FACTOR = 3
# Behind another suspect of the same home queue, which may run for hours.
_BEHIND_SECONDS = 1.0
_BEHIND_SECONDS_MOST = 60.0


@dataclass
class _Claim:
    """A suspect that is claimed and has not started."""

    workflow_id: str
    partition: str | None
    isolated: str
    execution: Execution | None
    home: str | None = None
    polls: int = 0


class Homes:
    """Starts suspects and trials of this process when their home queue has room."""

    def __init__(self, settings: Settings, identity: Identity, waker: Waker, sessions: Sessions) -> None:
        self._settings = settings
        self._identity = identity
        self._waker = waker
        self._sessions = sessions
        self._first_wait_seconds = max(1.0, settings.drain_seconds)
        # By the queue of suspects and the home queue.
        self._wait_seconds: dict[tuple[str, str], float] = {}
        self._behind_seconds: dict[tuple[str, str], float] = {}
        self._paused: dict[tuple[str, str], float] = {}

    def paused(self, queue_name: str) -> list[str]:
        """Home queues whose workflows are not claimed from that queue of suspects for now."""
        now = time.monotonic()
        return [
            home for (queue, home), until in list(self._paused.items()) if queue == queue_name and until > now
        ]

    def admit(self, db: Any, status: Any, execution: Execution | None) -> bool:
        """Whether a claim may start; waits for that, in the thread of its queue. If not, it was given back.

        A trial asks without an execution, before it closes the other queues of its process.
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
                found = self._room(db, claim)
            except sa.exc.SQLAlchemyError as error:
                log.debug("cannot tell whether its home queue has room: %s", error)
                found = "full"
            key = (isolated, claim.home or "")
            if found == "room":
                self._wait_seconds.pop(key, None)
                self._behind_seconds.pop(key, None)
                return True
            waits = self._wait_seconds.get(key, self._first_wait_seconds)
            if found == "behind":
                pause = self._behind_seconds.get(key, _BEHIND_SECONDS)
                self._behind_seconds[key] = min(2 * pause, _BEHIND_SECONDS_MOST)
            elif time.monotonic() - begun >= waits:
                pause = _PAUSE_FACTOR * waits
                self._wait_seconds[key] = 2 * waits
            else:
                time.sleep(_LOOK_SECONDS)
                continue
            self._paused[key] = time.monotonic() + pause
            self._give_back(claim)
            return False
        return False  # the drain hands it over

    def _room(self, db: Any, claim: _Claim) -> claims.Room:
        execution = claim.execution
        if claim.home is None:
            rows = self._sessions.run("home_queue", workflow_id=claim.workflow_id)
            if not rows or rows[0]["queue_name"] == claim.isolated:
                return "room"
            claim.home = rows[0]["queue_name"]
            claim.polls = self._waker.polls(claim.home)
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
        limits = queue._worker_concurrency, queue._partition_worker_concurrency
        if limits == (None, None):
            return True
        # A claim that was under way when this one began to count at home may not have been dispatched.
        if not self._waker.settled(claim.home, claim.polls):
            return False
        slots = self._waker.slots
        taken = slots.count_for_queue(claim.home), slots.count_for_partition(claim.home, claim.partition)
        return all(limit is None or count <= limit for count, limit in zip(taken, limits, strict=True))

    def _give_back(self, claim: _Claim) -> None:
        try:
            give_back(self._settings, self._identity, claim.workflow_id, reason="home queue full")
        except psycopg2.Error as error:
            # It never started here, so the sweep releases it after a lease.
            log.warning("cannot give it back: %s", str(error).strip(), extra={"action": "suspect.failed"})
            return
        log.warning(
            "given back: no room in its home queue %s",
            claim.home,
            extra={"action": "suspect.postponed", "workflow_id": claim.workflow_id},
        )
