"""Configures, launches and stops one DBOS application for Holdfast."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from dbos import DBOS, DBOSConfig

from holdfast.dbos_adapter import application, patching
from holdfast.dbos_adapter.claimable import Claimable
from holdfast.dbos_adapter.schema import sqlalchemy_url
from holdfast.dbos_adapter.serializer import json_serializer
from holdfast.dbos_adapter.waiting import awaited
from holdfast.dbos_adapter.waiting.wait import detach
from holdfast.dbos_adapter.waiting.waits import Waits
from holdfast.dbos_adapter.wake_ups import Waker
from holdfast.executor_settings import ExecutorSettings
from holdfast.identity import Identity
from holdfast.observability import tracing
from holdfast.postgres import budget
from holdfast.postgres.sessions import SESSION_OPTIONS, Sessions
from holdfast.recovery.homes import Homes
from holdfast.recovery.takeover import release_claim

if TYPE_CHECKING:
    from holdfast.settings import Settings


class AttachedEngine:
    """What Holdfast attaches to one DBOS application, whichever code constructs and launches it.

    Call `attach` before the launch, and `attach_database` after it.
    """

    _claims_by_arguments = False

    def __init__(self, settings: ExecutorSettings, identity: Identity, waker: Waker) -> None:
        self._waker = waker
        self._dbos: Any = None
        self._is_attached = False
        self.sessions = Sessions(settings, purpose=identity.purpose("trips"), size=budget.SESSIONS)
        self.waits = Waits(
            self.sessions.run,
            waker.cancellations,
            isolated={identity.suspects_queue, identity.trials_queue},
            release_claim=lambda workflow_id: release_claim(
                settings, identity, workflow_id, reason="waits", only_waiting=True
            ),
        )
        self.claimable = Claimable(by_arguments=self._claims_by_arguments)
        self.homes = Homes(settings, identity, waker, self.sessions)
        waker.slots.admit = self.homes.admit
        waker.cancellations.executor_id = identity.executor_id
        waker.cancellations.also_running.append(self.waits.direct.executions)

    def attach(self, dbos: Any) -> None:
        """Attaches the wake-ups and slots to a constructed application, before its launch."""
        self._dbos = dbos
        application.attach_waker(dbos, self._waker)

    def attach_database(self) -> None:
        """Attaches sessions and waits to the launched application's system database."""
        application.attach_database(
            self._dbos,
            self._waker,
            sessions=self.sessions,
            waits=self.waits,
            homes=self.homes,
            claimable=self.claimable,
        )
        self.waits.start()
        self._is_attached = True

    def count_starts(self) -> None:
        """Counts workflows that wait for a thread of DBOS as running. Call after the launch."""
        application.count_starts(self._dbos, self._waker)

    def active(self) -> list[str]:
        """Returns the ids of the workflows that run here, from their claim on.

        Includes workflows that were called like a function, but not abandoned threads.
        """
        return list(dict.fromkeys([*self._waker.slots.activeList(), *self.waits.direct.ids()]))

    def stop_dequeuing(self) -> None:
        """Stops claims and schedules. Running workflows continue.

        Returns when claims in progress have ended, or after a second: a claim that ended after the handover
        would leave work under this executor's id.
        """
        application.stop_claiming(self._dbos, self._waker, timeout_seconds=1)

    def detach(self) -> None:
        """Detaches the waits. Call before the application is destroyed. Blocks for a second at most."""
        if self._is_attached:
            self._is_attached = False
            detach(self.waits)
            self.waits.stop()


class Engine(AttachedEngine):
    """One of Holdfast's own DBOS applications, constructed and launched here."""

    _claims_by_arguments = True

    def __init__(
        self,
        settings: Settings,
        identity: Identity,
        waker: Waker,
        *,
        guard_schedules: Callable[[], object] = lambda: None,
    ) -> None:
        """Patches and constructs DBOS without connecting. Configured instances may be built after this.

        ``guard_schedules`` is called as the last patch: it calls `schedules.guard_schedule` with its clock.
        """
        # It needs names that DBOS 3.0 and 3.1 lack, to which Holdfast can be attached all the same.
        from holdfast.dbos_adapter.round_trips import POOL_OPTIONS

        patching.install(guard_schedules)
        super().__init__(settings, identity, waker)
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
            # Notifications wake readers of streams, so this is only their fallback poll.
            "notification_listener_polling_interval_sec": awaited.POLL_SECONDS,
        }
        config.update(tracing.dbos_options())
        self.attach(DBOS(config=config))

    def launch(self) -> None:
        """Connects, and starts queue and scheduler threads.

        Call from a thread without an event loop, otherwise DBOS runs async workflows on that loop.
        """
        DBOS.launch()
        self.attach_database()

    def destroy(self, timeout_seconds: float) -> None:
        """Ends DBOS's threads, and waits for their end at most `timeout_seconds`."""
        self.detach()
        thread = threading.Thread(target=DBOS.destroy, name="dbos-destroy", daemon=True)
        thread.start()
        thread.join(timeout_seconds)
        self.sessions.close()
