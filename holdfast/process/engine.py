"""DBOS as Holdfast runs it: configured, woken, stopped. The one place that touches its private names.

Private to DBOS 3.4.0 and used here, each held by a contract test (tests/integration/test_contracts.py):
``_dbos_global_instance``'s ``background_thread_stop_events`` and ``_active_workflows_set``, the names
of its queue threads, and their ``execute_dequeued_workflow``.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

import dbos._queue
from dbos import DBOS, DBOSConfig

from holdfast.dbos_adapter import claims, outcomes, replay, retries, round_trips, slots
from holdfast.dbos_adapter.round_trips import POOL_OPTIONS
from holdfast.dbos_adapter.schema import sqlalchemy_url
from holdfast.dbos_adapter.serializer import json_serializer
from holdfast.dbos_adapter.waiting import awaited, blocking_calls
from holdfast.dbos_adapter.waiting.wait import LAUNCHED, attach, detach
from holdfast.dbos_adapter.waiting.waits import Waits
from holdfast.dbos_adapter.wake_ups import Waker
from holdfast.identity import Identity
from holdfast.observability import metrics, tracing
from holdfast.postgres import budget
from holdfast.postgres.sessions import SESSION_OPTIONS, Sessions
from holdfast.recovery.homes import Homes
from holdfast.recovery.takeover import give_back
from holdfast.settings import Settings

log = logging.getLogger("holdfast.engine")


class Engine:
    """One launched DBOS application in this process."""

    def __init__(self, settings: Settings, identity: Identity, waker: Waker) -> None:
        """Constructs DBOS without connecting. Configured instances may be built after this."""
        claims.install()  # before the other, which keeps what it replaces
        round_trips.install()
        replay.install()
        blocking_calls.install()
        outcomes.install()
        retries.install()
        waker.install()
        slots.install()
        observe_claims()
        self._waker = waker
        self.sessions = Sessions(settings, purpose=identity.purpose("trips"), size=budget.SESSIONS)
        self.waits = Waits(
            self.sessions.run,
            waker.cancellations,
            isolated={identity.suspects_queue, identity.trials_queue},
            give_back=lambda workflow_id: give_back(
                settings, identity, workflow_id, reason="waits", only_waiting=True
            ),
        )
        self.homes = Homes(settings, identity, waker, self.sessions)
        waker.slots.admit = self.homes.admit
        config: DBOSConfig = {
            "name": identity.application,
            "application_version": identity.version,
            "executor_id": identity.executor_id,
            "system_database_url": sqlalchemy_url(settings.database_url),
            "sys_db_pool_size": settings.database_pool_size,
            "db_engine_kwargs": {
                **POOL_OPTIONS,
                "connect_args": {"application_name": identity.purpose("dbos"), **SESSION_OPTIONS},
            },
            "serializer": json_serializer(),
            # Only the migrate container runs DDL; launch checks the schema's version instead.
            "run_migrations": False,
            "log_level": settings.log_level,
            "scheduler_polling_interval_sec": 5.0,
            # With notices only the net for readers of streams.
            "notification_listener_polling_interval_sec": awaited.LOOK_SECONDS,
        }
        config.update(tracing.dbos_options())
        self._dbos: Any = DBOS(config=config)
        self._dbos._active_workflows_set = waker.slots

    def launch(self) -> None:
        """Connects, and starts queue and scheduler threads.

        Call from a thread without an event loop, or DBOS runs async workflows on that loop.
        """
        DBOS.launch()
        self._dbos._sys_db.sessions = self.sessions
        self._dbos._sys_db.homes = self.homes
        self._waker.notices.attach(self._dbos._sys_db)
        attach(self._dbos._sys_db, self.waits, self._waker.endings)
        self.waits.start()

    def active(self) -> list[str]:
        """Ids of the workflows that run here, from their claim on, also of those that were called like a
        function. Abandoned threads do not count.
        """
        return list(dict.fromkeys([*self._waker.slots.activeList(), *self.waits.direct.ids()]))

    def stop_dequeuing(self) -> None:
        """Claims nothing more and fires no schedule; what runs goes on.

        Returns when claims under way are over, or after a second: a claim that ended after the hand
        over would leave work under this executor's id.
        """
        for event in self._dbos.background_thread_stop_events:
            event.set()
        self._waker.ring_all()
        deadline = time.monotonic() + 1
        for thread in threading.enumerate():
            # One that is just being started cannot be joined, and sees the event by itself.
            if thread.name.startswith("queue-worker-") and thread.is_alive():
                thread.join(max(0.0, deadline - time.monotonic()))

    def destroy(self, timeout_seconds: float) -> None:
        """Ends DBOS's threads, and waits for that at most so long."""
        detach(self.waits)
        self.waits.stop()
        thread = threading.Thread(target=DBOS.destroy, name="dbos-destroy", daemon=True)
        thread.start()
        thread.join(timeout_seconds)
        self.sessions.close()


def observe_claims() -> None:
    """Counts how long workflows waited in their queue before this process claimed them; idempotent.

    Waits count only up to the first claim: what a takeover or a hand over takes has figures of its own. A
    workflow with a delay waits from its end on. Both times are the database's. For traces it keeps which
    run of the workflow begins.
    """
    current: Any = dbos._queue.execute_dequeued_workflow  # type: ignore[attr-defined]  # it imports it
    original = getattr(current, "unmeasured", current)

    def execute(instance: Any, status: Any, owner_xid: str) -> Any:
        claimed, enqueued = status["started_at_epoch_ms"], status["created_at"]
        if status["recovery_attempts"] == 1 and status["queue_name"] and claimed and enqueued:
            waited = claimed - max(enqueued, status["delay_until_epoch_ms"] or 0)
            metrics.QUEUE_WAIT.labels(queue_name=status["queue_name"]).observe(max(0.0, waited / 1000))
        if status["status"] == "PENDING":  # else DBOS won't run it
            tracing.note_claim(status["workflow_uuid"], status["recovery_attempts"])
            if LAUNCHED.waits is not None and (status["recovery_attempts"] or 0) > 1:
                LAUNCHED.waits.follows((status["workflow_uuid"], owner_xid))
        return original(instance, status, owner_xid)

    execute.unmeasured = original  # type: ignore[attr-defined]
    dbos._queue.execute_dequeued_workflow = execute  # type: ignore[attr-defined, assignment]
