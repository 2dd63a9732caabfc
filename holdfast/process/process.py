"""The life of a process: start → ready → serve → drain → hand over → exit, in that order.

Every exit is deliberate: 0 after an orderly stop, 1 when the start failed, 75 when a peer declared
this executor dead. ``os._exit`` ends it, since a step in a thread would hold up Python's own exit.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import Future
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Protocol

from prometheus_client import REGISTRY

from holdfast.compute.cpu_pool import CpuPool
from holdfast.dbos_adapter.gateway import Gateway
from holdfast.dbos_adapter.ledger import EffectLedger
from holdfast.dbos_adapter.schedules import Accounting, guard_schedule
from holdfast.dbos_adapter.schema import wait_until_prepared
from holdfast.dbos_adapter.wake_ups import Listener, Waker
from holdfast.durable.resources import Resources, provide
from holdfast.identity import Identity
from holdfast.observability import logs, metrics
from holdfast.observability.database_metrics import DatabaseCollector
from holdfast.postgres import budget
from holdfast.postgres.database import OpsPool, Row
from holdfast.process.engine import Engine
from holdfast.recovery.lease import Lease
from holdfast.recovery.sweep import Sweep
from holdfast.recovery.takeover import HandedOver, hand_over
from holdfast.recovery.takeover_metrics import count_takeover
from holdfast.recovery.trials import Trials
from holdfast.recovery.versions import settle_latest
from holdfast.recovery.watchdog import Watchdog
from holdfast.settings import STANDSTILL_SECONDS, Role, Settings

log = logging.getLogger("holdfast.process")

EXIT_FENCED = 75

# A restart of PostgreSQL fits into the first, an answer of a slow one into the second; with the second that
# `_end` may take all of it fits into the 5 s between drain and grace.
_HAND_OVER_RETRY_SECONDS = 1.5
_HAND_OVER_SECONDS = 2.5


class Application(Protocol):
    """What a role runs; ``services.composition`` has the two."""

    @property
    def role(self) -> Role:
        """``api`` or ``worker``."""

    @property
    def suspects_queue(self) -> str:
        """Where suspects of poison run one at a time."""

    @property
    def trials_queue(self) -> str:
        """Where they run alone in their process, before they are parked."""

    @property
    def leaf_queues(self) -> frozenset[str]:
        """Queues whose workflows may be moved there."""

    @property
    def uses_cpu_pool(self) -> bool:
        """Whether the process keeps child processes and the effect ledger."""

    @property
    def preload(self) -> tuple[str, ...]:
        """Modules that each of these child processes imports before its first task."""

    def load(self, settings: Settings) -> None:
        """Imports modules of your own, before anything else is asked. Raises ``ModuleWrong``."""

    def prepare(self, settings: Settings) -> None:
        """Imports workflows and builds configured instances: after DBOS exists, before its launch."""

    def register(self, settings: Settings) -> None:
        """Registers queues and schedules, after the launch."""

    def close(self) -> None:
        """Clears process-wide state at the end."""


class Process:
    """One incarnation of the API or of a worker."""

    def __init__(self, settings: Settings, application: Application, *, port: int) -> None:
        self.settings = settings
        self.application = application
        self.role = application.role
        application.load(settings)
        hostname = socket.gethostname()
        self.executor_id = f"{self.role}-{hostname[:24]}-{secrets.token_hex(4)}"
        self.identity = Identity(
            executor_id=self.executor_id,
            application=settings.application_name(self.role),
            version=settings.version_name(self.role),
            role=self.role,
            hostname=hostname,
            pid=os.getpid(),
            port=port,
            slots=settings.slots if application.uses_cpu_pool else 0,
            suspects_queue=application.suspects_queue,
            trials_queue=application.trials_queue,
            leaf_queues=application.leaf_queues,
        )
        self.state = "starting"
        self.waker = Waker()
        self.watchdog = Watchdog(settings, self.identity)
        self.lease = Lease(
            settings,
            self.identity,
            on_fenced=self._fenced,
            on_desired=self._desired,
            in_flight=lambda: len(self.active()),
            on_session=self.watchdog.watch,
        )
        self.sweep = Sweep(
            settings,
            self.identity,
            settled_seconds=lambda: self.lease.settled_seconds,
            on_takeover=count_takeover,
            running=lambda: [*self.active(), *self.trials.held],
        )
        self.listener = Listener(settings, self.waker, purpose=self.identity.purpose("listener"))
        self.gateway = Gateway(
            settings,
            purpose=self.identity.purpose("http"),
            database_up=lambda: self.lease.database_up,
            beat_age_seconds=lambda: time.monotonic() - self.lease.last_beat,
        )
        steps = self.identity.purpose("steps")
        self.ops = OpsPool(settings, purpose=steps, size=budget.STEPS, wait_seconds=5)
        self.accounting = Accounting(
            self.ops,
            self.identity.application,
            is_allowed=lambda: self.state in ("starting", "live") and self._clock_is_right(),
        )
        self.trials = Trials(
            settings,
            self.identity,
            self.waker,
            ops=self.ops,
            active=self.active,
            executing=self.waker.slots.executing,
            on_postponed=self._replace_after_abandoned,
        )
        self.pool: CpuPool | None = None
        self._engine: Engine | None = None
        self._stopping = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._hurry = False
        self._collector: DatabaseCollector | None = None
        self._drain_begun: float | None = None

    # --- what others ask -------------------------------------------------------------------

    def active(self) -> list[str]:
        """Ids of the workflows that run here, from their claim on. Abandoned threads do not count."""
        return self._engine.active() if self._engine else []

    def _replace_after_abandoned(self) -> None:
        """Stops this process in good order for another one, if cancelled workflows' code still runs in it."""
        if (count := len(self.waker.slots.abandoned)) and not self.stopping:
            self.request_stop(f"{count} threads of cancelled workflows go on; another process takes over")

    def ready(self) -> tuple[bool, dict[str, str]]:
        """Whether this process should get work, and what each check says ("ok" or the trouble)."""
        off = abs(self.lease.clock_difference_seconds)
        closed = self.waker.closed_seconds
        checks = {
            "state": "ok" if self.state == "live" else self.state,
            "database": "ok" if self.lease.database_up else self.lease.outage or "no heartbeat goes through",
            "clock": "ok" if self._clock_is_right() else f"{off:.1f} s from the database's clock",
            "queues": "ok" if closed < STANDSTILL_SECONDS else f"closed for {closed:.0f} s by a trial",
        }
        return all(text == "ok" for text in checks.values()), checks

    @property
    def draining_seconds(self) -> float:
        """How long this process has been draining, 0 if it is not."""
        return 0.0 if self._drain_begun is None else time.monotonic() - self._drain_begun

    def request_stop(self, reason: str) -> None:
        """Begins an orderly stop, from any thread; a second call ends the wait for running steps."""
        if self._stopping.is_set():
            self._hurry = True
            return
        log.info("stopping: %s", reason, extra={"action": "executor.draining"})
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._stopping.set)

    @property
    def stopping(self) -> bool:
        """Whether a stop has begun; event streams end on it."""
        return self._stopping.is_set()

    async def wait_stopping(self) -> None:
        """Returns when a stop begins."""
        await self._stopping.wait()

    # --- start -----------------------------------------------------------------------------

    @asynccontextmanager
    async def life(self) -> AsyncIterator[None]:
        """Start to end, for an application's lifespan. Raises what the start raises."""
        self._loop = asyncio.get_running_loop()
        await asyncio.to_thread(self._start)
        try:
            yield
        finally:
            await self.drain()
            await asyncio.to_thread(self._end)

    def _start(self) -> None:
        metrics.tell_build(self.identity)
        if self.application.uses_cpu_pool:
            self.pool = CpuPool(self.settings.slots, preload=self.application.preload)
        wait_until_prepared(
            self.settings, purpose=self.identity.purpose("start"), give_up=lambda: self.stopping
        )
        self._engine = Engine(self.settings, self.identity, self.waker)
        self.application.prepare(self.settings)
        ledger = (
            EffectLedger(
                self.settings,
                self._engine.sessions,
                application=self.identity.application,
                purpose=self.identity.purpose("effects"),
            )
            if self.application.uses_cpu_pool
            else None
        )
        resources = Resources(self.settings, self.executor_id, self.ops, self.waker, self.pool, ledger)
        provide(resources)
        # Not before: what a module does while it is imported may take its time.
        self.watchdog.start()
        self.lease.start()
        guard_schedule(
            self._database_now,
            early_seconds=self.settings.clock_tolerance_seconds,
            late_seconds=self.settings.pulse_late_seconds,
            before_tick=lambda: settle_latest(self.ops, self.identity),
        )
        self.trials.install()
        self.waker.slots.limit_abandoned(
            self.settings.abandoned_threads_limit, lambda _: self._replace_after_abandoned()
        )
        self.listener.start()
        self._engine.launch()
        settle_latest(self.ops, self.identity, starting=True)
        self.application.register(self.settings)
        if self.role == "worker":
            self.accounting.start()
        self.sweep.start()
        if self.role == "api":
            # The database's figures are everyone's: one process reports them.
            self._collector = DatabaseCollector(
                self._read_figures,
                applications=self.settings.application_names,
                late_seconds=self.settings.pulse_late_seconds,
                lease_seconds=self.settings.lease_seconds,
            )
            REGISTRY.register(self._collector)
        self.state = "live"
        log.info(
            "ready with %d slots, version %s",
            self.identity.slots,
            self.identity.version,
            extra={"action": "executor.started"},
        )

    def _read_figures(self, statements: Mapping[str, dict[str, Any]]) -> dict[str, list[Row]]:
        # Scrapes run in threads, and are bounded as requests are: a frozen server took them 4.5 s.
        assert self._loop is not None
        reading = self.gateway.call(self.gateway.figures.run_all, statements)
        return asyncio.run_coroutine_threadsafe(reading, self._loop).result()

    def _clock_is_right(self) -> bool:
        return abs(self.lease.clock_difference_seconds) <= self.settings.clock_tolerance_seconds

    def _database_now(self) -> datetime:
        # Rests on the monotonic clock, so that a wall clock that jumps between two beats is noticed.
        time_then, monotonic_then = self.lease.database_clock
        return datetime.fromtimestamp(time_then, UTC) + timedelta(seconds=time.monotonic() - monotonic_then)

    # --- stop ------------------------------------------------------------------------------

    async def drain(self) -> None:
        """Stops taking work, waits for running steps, hands the rest over. Idempotent."""
        if self.state != "live":
            return
        begun = self._drain_begun = time.monotonic()
        self._stopping.set()
        self.state = self.lease.state = "draining"
        assert self._engine is not None
        await asyncio.to_thread(self._engine.stop_dequeuing)
        handed = 0
        attempt: asyncio.Future[HandedOver | None] | None = None
        recorded: frozenset[str] | None = None
        again_at = 0.0
        while True:
            if attempt is None and time.monotonic() >= again_at:
                # What only waits goes at once, also what begins to wait meanwhile.
                attempt = self._begin_hand_over(only_waiting=True)
            if attempt is not None and (await asyncio.wait({attempt}, timeout=0.1))[0]:
                again_at = time.monotonic() + (0.2 if attempt.result() else 1.0)
                if (done := attempt.result()) is not None:
                    handed += len(done.verdicts)
                    recorded = done.left
                    self._engine.waits.released({verdict.work.workflow_id for verdict in done.verdicts})
                attempt = None
            # What is no longer recorded as running here (cancelled, handed over) executes for nothing.
            running = [w for w in self.active() if recorded is None or w in recorded]
            elapsed = time.monotonic() - begun
            if not running or elapsed >= self.settings.drain_seconds or self._hurry:
                break
            await asyncio.sleep(min(0.1, max(0.01, self.settings.drain_seconds - elapsed)))
        self.lease.leaving = True
        left = await self._hand_over_the_rest()
        self.state = "stopped"
        log.info(
            "drained in %.2f s, handed over %d workflows",
            time.monotonic() - begun,
            (len(left.verdicts) if left else 0) + handed,
            extra={"action": "executor.drained"},
        )

    async def _hand_over_the_rest(self) -> HandedOver | None:
        """None when the database did not let it: peers then wait until they find this executor gone."""
        begun = time.monotonic()
        while True:
            attempt = self._begin_hand_over(only_waiting=False)
            await asyncio.wait({attempt}, timeout=begun + _HAND_OVER_SECONDS - time.monotonic())
            if not attempt.done():
                log.warning("hand over unanswered", extra={"action": "executor.hand_over_failed"})
                return None
            # Worth a few tries.
            done = attempt.result()
            if done is not None or time.monotonic() - begun >= _HAND_OVER_RETRY_SECONDS:
                return done
            await asyncio.sleep(0.1)

    def _begin_hand_over(self, *, only_waiting: bool) -> asyncio.Future[HandedOver | None]:
        """In a thread that nobody has to wait for: what a frozen PostgreSQL never answers has no end."""
        outcome: Future[HandedOver | None] = Future()

        def run() -> None:
            try:
                outcome.set_result(
                    hand_over(
                        self.settings,
                        self.identity,
                        only_waiting=only_waiting,
                        drain_seconds=self.draining_seconds,
                    )
                )
            except Exception as error:
                outcome.set_exception(error)

        threading.Thread(target=run, name="hand-over", daemon=True).start()
        return asyncio.wrap_future(outcome)

    def _end(self) -> None:
        # The work is no longer ours, so nothing that the children's end breaks can be recorded.
        if self.pool is not None:
            self.pool.close()
        # Together: against a frozen PostgreSQL each takes its whole second.
        stops: list[Callable[[], None]] = [
            self.accounting.stop,
            self.sweep.stop,
            self.lease.stop,
            self.listener.stop,
        ]
        if self._engine is not None:
            stops.append(partial(self._engine.destroy, timeout_seconds=1.0))
        threads = [threading.Thread(target=stop) for stop in stops]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.watchdog.stop()
        self.application.close()
        if self._collector is not None:
            REGISTRY.unregister(self._collector)
            self._collector = None
        provide(None)
        self.gateway.close()
        self.ops.close()

    # --- what peers and operators decide ---------------------------------------------------

    def _fenced(self) -> None:
        if self.pool is not None:
            self.pool.close()
        logs.flush()
        os._exit(EXIT_FENCED)

    def _desired(self, state: str) -> None:
        if state == "draining":
            if not self.stopping:
                self.request_stop("an operator asked for it")
        elif self.settings.chaos:
            log.critical("crashing on an operator's order", extra={"action": "executor.crash"})
            logs.flush()
            os.kill(os.getpid(), signal.SIGKILL)
