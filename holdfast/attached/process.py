"""The life of one attached application in this process: from before its launch until after its end.

It is the counterpart of `holdfast.process.process.Process`, which also owns the process. Here the application
owns it, and Holdfast starts no server but its probes. Holdfast ends the process only in these cases: peers
declared it dead, the watchdog found its interpreter blocked, an operator requested a drain (SIGTERM) or a
crash, a signal came for which the application has no handler (after the drain), or the main thread has ended
and threads of handed-over steps are left.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
import time
from functools import partial
from typing import Any

from holdfast.attached.admission import admission
from holdfast.attached.forks import HasDescriptors, let_go
from holdfast.attached.identity import new_identity
from holdfast.attached.probes import Probes, show_metrics
from holdfast.attached.settings import AttachedSettings
from holdfast.attached.stop_orders import StopOrders
from holdfast.dbos_adapter import launching
from holdfast.dbos_adapter.launching import Configured
from holdfast.dbos_adapter.registrations import publish_soon
from holdfast.postgres.database import OpsPool
from holdfast.postgres.outage import until_connected
from holdfast.process.drain import wait_and_hand_over
from holdfast.process.engine import AttachedEngine
from holdfast.process.executor import Executor
from holdfast.recovery.adoption import AutomaticAdoption
from holdfast.recovery.lease import EXIT_FENCED
from holdfast.recovery.takeover import hand_over
from holdfast.recovery.versions import settle_latest
from holdfast.recovery.watchdog import Watchdog

log = logging.getLogger("holdfast.attached")

_OPS_SESSIONS = 2
# The rest of a drain, after the limit for running steps: see `holdfast.process.drain`.
_HAND_OVER_SECONDS = 5.0
_POLL_SECONDS = 0.2
_THREADS_END_SECONDS = 1.0


class AttachedProcess(Executor):
    """One launched application with its lease, sweep, wake-ups and drain."""

    settings: AttachedSettings

    def __init__(self, settings: AttachedSettings, configured: Configured) -> None:
        # A process that does not run every queue must not run suspects from the others either.
        self._isolates = configured.listens_to_all
        identity = new_identity(settings, configured, isolates=self._isolates)
        super().__init__(
            settings,
            identity,
            ops=OpsPool(settings, purpose=identity.purpose("ops"), size=_OPS_SESSIONS, wait_seconds=5),
            watchdog=Watchdog(settings, identity, ends_programs=False),
        )
        self.ends = False
        """Whether the application has ended: the drain is over when nothing runs any more."""
        self.engine: AttachedEngine = AttachedEngine(settings, identity, self.waker)
        self.probes = None if settings.port is None else Probes(self, settings.bind_host, settings.port)
        self.adoption = AutomaticAdoption(settings, identity, settings.adopt_after_seconds)
        self.dbos_sessions: launching.DbosSessions | None = None
        self._threads = (self.adoption, self.listener, self.sweep, self.lease)
        self.drained = threading.Event()
        self._lock = threading.Lock()
        self._is_live = self.is_declared_dead = False
        self._orders = StopOrders()
        self.has_handed_over = False
        self._is_closed = False
        self.waker.slots.admit = admission(self)

    @property
    def state(self) -> str:  # type: ignore[override]
        """Returns what this process does, in one or two words."""
        if self.drained.is_set():
            return "stopped"
        if self._orders.are_given:
            return "draining"
        if self.is_declared_dead:
            return "declared dead"
        return "live" if self._is_live else "starting"

    @property
    def draining_seconds(self) -> float:
        """Time since the drain began, or 0 if there is none."""
        return self._orders.seconds

    def active(self) -> list[str]:
        """Returns the ids of the workflows that run here, without abandoned threads."""
        return self.engine.active()

    def executing(self) -> list[str]:
        """Returns the ids of all workflows whose code runs here, also of those that were handed over."""
        return [*self.waker.slots.executing(), *self.engine.waits.direct.ids()]

    # --- start -----------------------------------------------------------------------------

    def before_launch(self, application: Any) -> None:
        """Registers the executor, then prepares DBOS. Raises ``psycopg2.Error`` and ``OSError``."""
        threading.Thread(target=self._drain, name="holdfast-drain", daemon=True).start()
        self.watchdog.start()
        seen = {"name": self.identity.application, "dbos_version": launching.dbos_version()}
        for call in (self.lease.start, partial(self.ops.run, "note_attached", **seen)):
            until_connected(call, seconds=self.settings.database_wait_seconds, log=log)
        launching.identify(
            application,
            executor_id=self.executor_id,
            version=self.identity.version,
            session_name=self.identity.purpose("dbos"),
        )
        self.dbos_sessions = launching.DbosSessions(application)
        self.dbos_sessions.start()
        self.engine.attach(application)
        if self._isolates:
            launching.add_hidden_queue(application, self.identity.suspects_queue)
            launching.add_hidden_queue(application, self.identity.trials_queue)
            self.trials.install()
        self.listener.start()

    def after_launch(self) -> None:
        """Begins to watch the peers, unless a stop was requested during the launch."""
        self.engine.attach_database()
        self.engine.count_starts()
        show_metrics(self)
        if self.probes is not None:
            self.probes.start()
        self._orders.launched()
        if self._orders.are_given:
            return
        settle_latest(self.ops, self.identity, starting=True)
        self.engine.claimable.on_change = lambda: publish_soon(self.ops, self.executor_id)
        publish_soon(self.ops, self.executor_id)
        self.sweep.start()
        if self.settings.adopt_after_seconds:
            self.adoption.start()
        self._is_live = True
        log.info(
            "protected: executor %s of %s, version %s",
            self.executor_id,
            self.identity.application,
            self.identity.version,
            extra={"action": "executor.started"},
        )

    def launch_refused(self) -> None:
        """Signs off after an error of `before_launch`: the application launches without protection."""
        self.lease.leaving = True
        if self.lease.session.is_started:
            hand_over(self.settings, self.identity, only_waiting=False)
        self.close()

    def launch_failed(self) -> None:
        """Signs off, because the application did not launch."""
        self.end("the launch failed")
        self.close()

    # --- stop ------------------------------------------------------------------------------

    def stop_soon(self, reason: str, *, again: bool) -> None:
        """Begins the drain: takes no work any more, and hands over what waits. ``again`` hurries it.

        Signal handlers call this, so it takes no lock.
        """
        self.hurry = self.hurry or (again and self._orders.are_given)
        self.lease.state = "draining"
        self._orders.stop(reason)

    def end(self, reason: str, *, hurry: bool = False) -> None:
        """Drains and signs off. Returns once the work is handed over."""
        self.stop_soon(reason, again=False)
        self.ends = True
        self.hurry = self.hurry or hurry
        self._orders.launcher_waits()
        self.wait_drained()

    def wait_drained(self) -> None:
        """Waits until this executor has signed off. The wait ends even if PostgreSQL does not answer."""
        limit = self.settings.drain_seconds + _HAND_OVER_SECONDS
        # Short waits, so that the main thread can run signal handlers.
        while not self.drained.wait(_POLL_SECONDS) and self.draining_seconds < limit:
            pass

    def release_threads(self) -> bool:
        """Ends the threads that only wait for outcomes from elsewhere. Returns whether no thread is left.

        If the work could not be handed over, they are left alone: it is still theirs, so that their end would
        be recorded as the outcome of their workflows.
        """
        if not self.has_handed_over:
            return not self.executing()
        self.waker.endings.end()
        deadline = time.monotonic() + _THREADS_END_SECONDS
        while self.executing() and time.monotonic() < deadline:
            time.sleep(0.01)
        return not self.executing()

    def _drain(self) -> None:
        if not self._orders.wait(self.settings.drain_seconds):
            return
        try:
            handed, self.has_handed_over = asyncio.run(wait_and_hand_over(self))
            if not self.has_handed_over:
                log.warning(
                    "the database did not take the handover: peers take the work over once this process has"
                    " ended",
                    extra={"action": "drain.failed"},
                )
                return
            log.info(
                "drained in %.2f s, handed over %d workflows",
                self.draining_seconds,
                handed,
                extra={"action": "executor.drained"},
            )
        except Exception:
            log.exception("the drain failed; peers take the work over", extra={"action": "drain.failed"})
        finally:
            self.drained.set()

    def close(self) -> None:
        """Ends all sessions and threads. Idempotent."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
        self._orders.close()
        self.engine.detach()
        self.watchdog.stop()
        if self.dbos_sessions is not None:
            self.dbos_sessions.stop()
        if self.probes is not None:
            self.probes.stop()
        started = [part.session for part in self._threads if part.session.is_started]
        for session in started:
            session.stopping.set()
        for session in started:
            session.join(1.0)
        self.engine.sessions.close()
        self.ops.close()

    def forget_in_fork(self) -> None:
        """Lets go of all sessions, and of the port for probes, in a forked child."""
        pools: list[HasDescriptors] = [self.ops, self.engine.sessions, self.watchdog]
        pools += [each for each in (self.dbos_sessions, self.probes) if each is not None]
        let_go([part.session for part in self._threads], pools)

    # --- decisions of peers and operators --------------------------------------------------

    def _fenced(self) -> None:
        if self.settings.on_fenced == "log":
            log.error(
                "peers declared this process dead and go on with its work: restart it. It takes no work"
                " (HOLDFAST_ON_FENCED=log)",
                extra={"action": "executor.fenced"},
            )
            self.is_declared_dead = True
            self.engine.stop_dequeuing()
            return
        log.error(
            "peers declared this process dead and go on with its work: it ends with code %d",
            EXIT_FENCED,
            extra={"action": "executor.fenced"},
        )
        logging.shutdown()
        os._exit(EXIT_FENCED)

    def _desired(self, state: str) -> None:
        if state == "draining":
            if not self._orders.are_given:
                self.stop_soon("an operator asked for it", again=False)
                os.kill(os.getpid(), signal.SIGTERM)  # the application's own way to end
        elif self.settings.chaos:
            log.critical("crashing at an operator's request", extra={"action": "executor.crash"})
            logging.shutdown()
            os.kill(os.getpid(), signal.SIGKILL)
