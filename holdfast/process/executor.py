"""What every executor is built from: its lease, sweep, trials and wake-ups, and whether it is ready."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable

from holdfast.dbos_adapter.wake_ups import Listener, Waker
from holdfast.executor_settings import ExecutorSettings
from holdfast.identity import Identity
from holdfast.postgres.database import OpsPool
from holdfast.recovery.lease import Lease
from holdfast.recovery.sweep import Sweep
from holdfast.recovery.takeover_metrics import count_takeover
from holdfast.recovery.trials import Trials
from holdfast.recovery.watchdog import Watchdog


class Executor(ABC):
    """The parts of a process by which its peers know it, connected to each other and not yet started.

    A subclass starts and stops them: `Process` in the stack, `AttachedProcess` in a user's application.
    """

    state: str = "starting"

    def __init__(
        self,
        settings: ExecutorSettings,
        identity: Identity,
        *,
        ops: OpsPool,
        watchdog: Watchdog,
        on_trial_postponed: Callable[[], object] = lambda: None,
    ) -> None:
        self.settings = settings
        self.identity = identity
        self.executor_id = identity.executor_id
        self.ops = ops
        self.watchdog = watchdog
        self.waker = Waker()
        self.lease: Lease = Lease(
            settings,
            identity,
            on_fenced=self._fenced,
            on_desired=self._desired,
            in_flight=lambda: len(self.active()),
            on_session=watchdog.watch,
        )
        self.trials = Trials(
            settings,
            identity,
            self.waker,
            ops=ops,
            active=self.active,
            executing=self.executing,
            on_postponed=on_trial_postponed,
        )
        self.waker.cancellations.also_running.append(self.trials.held_executions)
        self.sweep: Sweep = Sweep(
            settings,
            identity,
            settled_seconds=lambda: self.lease.settled_seconds,
            on_takeover=count_takeover,
            running=lambda: [*self.active(), *self.trials.held],
            settles=self.waker.settles,
        )
        self.listener: Listener = Listener(settings, self.waker, purpose=identity.purpose("listener"))
        self.hurry = False
        self._drain_begun: float | None = None

    # --- state, for other components -------------------------------------------------------

    @abstractmethod
    def active(self) -> list[str]:
        """Returns the ids of the workflows that run here, from their claim on, without abandoned threads."""

    def executing(self) -> Iterable[str]:
        """Returns the ids of all workflows whose code runs here, also of those that were handed over."""
        return self.waker.slots.executing()

    def clock_is_right(self) -> bool:
        """Whether this machine's clock agrees with the database's."""
        return abs(self.lease.clock_difference_seconds) <= self.settings.clock_tolerance_seconds

    def ready(self) -> tuple[bool, dict[str, str]]:
        """Returns whether this process should get work, and each check's result: "ok" or the problem."""
        checks = self._checks()
        return all(text == "ok" for text in checks.values()), checks

    def _checks(self) -> dict[str, str]:
        off = abs(self.lease.clock_difference_seconds)
        return {
            "state": "ok" if self.state == "live" else self.state,
            "database": "ok" if self.lease.database_up else self.lease.outage or "no heartbeat goes through",
            "clock": "ok" if self.clock_is_right() else f"{off:.1f} s from the database's clock",
        }

    @property
    def draining_seconds(self) -> float:
        """Time since the drain began, or 0 if there is none."""
        return 0.0 if self._drain_begun is None else time.monotonic() - self._drain_begun

    # --- decisions of peers and operators --------------------------------------------------

    @abstractmethod
    def _fenced(self) -> None:
        """Ends the process, because peers declared it dead and continue its work."""

    @abstractmethod
    def _desired(self, state: str) -> None:
        """Drains or crashes the process, because an operator requested it."""
