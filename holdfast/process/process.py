"""The life of a process: start → ready → serve → drain → hand over → exit, in that order.

The exit code is 0 after an orderly stop, 1 if the start failed, and 75 if a peer declared this executor dead.
``os._exit`` ends the process, because a step in a thread would block Python's own exit.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import signal
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from prometheus_client import disable_created_metrics

from holdfast.compute.cpu_pool import CpuPool
from holdfast.control.runner import Operations
from holdfast.dbos_adapter.gateway import Gateway
from holdfast.dbos_adapter.schedules import Accounting
from holdfast.errors import HoldfastError
from holdfast.identity import Identity
from holdfast.observability import logs, metrics
from holdfast.observability.database_metrics import DatabaseCollector
from holdfast.postgres import budget
from holdfast.postgres.database import OpsPool
from holdfast.postgres.outage import is_outage
from holdfast.process.application import Application
from holdfast.process.drain import wait_and_hand_over
from holdfast.process.engine import Engine
from holdfast.process.executor import Executor
from holdfast.process.parts import start_all, stop_all
from holdfast.recovery.lease import EXIT_FENCED
from holdfast.recovery.watchdog import Watchdog
from holdfast.settings import STANDSTILL_SECONDS, Settings

log = logging.getLogger("holdfast.process")


class Process(Executor):
    """One incarnation of the API or of a worker."""

    settings: Settings

    def __init__(self, settings: Settings, application: Application, *, port: int) -> None:
        self.application: Application = application
        self.role = application.role
        application.load(settings)
        identity = _identity(settings, application, port)
        super().__init__(
            settings,
            identity,
            ops=OpsPool(settings, purpose=identity.purpose("steps"), size=budget.STEPS, wait_seconds=5),
            watchdog=Watchdog(settings, identity),
            on_trial_postponed=self.replace_after_abandoned,
        )
        self.gateway: Gateway = Gateway(
            settings,
            purpose=identity.purpose("http"),
            database_up=lambda: self.lease.database_up,
            heartbeat_age_seconds=lambda: time.monotonic() - self.lease.last_heartbeat,
        )
        self.operations: Operations = Operations(settings, identity, self.gateway.pool)
        self.accounting: Accounting = Accounting(
            self.ops,
            identity.application,
            is_allowed=lambda: self.state in ("starting", "live") and self.clock_is_right(),
            apply_definitions=lambda: application.apply_definitions(settings),
            has_schedules=self.role == "worker",
        )
        self.pool: CpuPool | None = None
        self.engine: Engine | None = None
        self._stopping = asyncio.Event()
        self.loop: asyncio.AbstractEventLoop | None = None
        self.ends = True
        self.collector: DatabaseCollector | None = None

    # --- state, for other components -------------------------------------------------------

    def active(self) -> list[str]:
        """Returns the ids of the workflows that run here, from their claim on, without abandoned threads."""
        return self.engine.active() if self.engine else []

    def replace_after_abandoned(self) -> None:
        """Requests an orderly stop, to be replaced, if code of cancelled workflows still runs here."""
        if (count := len(self.waker.slots.abandoned)) and not self.stopping:
            self.request_stop(f"{count} threads of cancelled workflows go on; another process takes over")

    def _checks(self) -> dict[str, str]:
        closed = self.waker.paused_seconds
        queues = "ok" if closed < STANDSTILL_SECONDS else f"closed for {closed:.0f} s by a trial"
        return {**super()._checks(), "queues": queues}

    def request_stop(self, reason: str) -> None:
        """Begins an orderly stop. Thread-safe. A second call ends the wait for running steps."""
        if self._stopping.is_set():
            self.hurry = True
            return
        log.info("stopping: %s", reason, extra={"action": "executor.draining"})
        if self.loop is not None:
            self.loop.call_soon_threadsafe(self._stopping.set)

    @property
    def stopping(self) -> bool:
        """Whether a stop has begun. Event streams end then."""
        return self._stopping.is_set()

    async def wait_stopping(self) -> None:
        """Waits until a stop begins."""
        await self._stopping.wait()

    # --- start -----------------------------------------------------------------------------

    @asynccontextmanager
    async def life(self) -> AsyncIterator[None]:
        """Starts the process, and drains and ends it on exit. For an application's lifespan.

        Raises the error of a failed start.
        """
        self.loop = asyncio.get_running_loop()
        try:
            await asyncio.to_thread(self._start)
        except Exception as error:
            _log_failed_start(error)
            raise
        try:
            yield
        finally:
            await self.drain()
            await asyncio.to_thread(self._end)

    def _start(self) -> None:
        # The `_created` series are off: they add one unused series per counter and histogram.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        metrics.set_build(self.identity)
        start_all(self)
        self.state = "live"
        log.info(
            "ready with %d slots, version %s",
            self.identity.slots,
            self.identity.version,
            extra={"action": "executor.started"},
        )

    # --- stop ------------------------------------------------------------------------------

    async def drain(self) -> None:
        """Stops taking work, waits for running steps, and hands over the rest. Idempotent."""
        if self.state != "live":
            return
        begun = self._drain_begun = time.monotonic()
        self._stopping.set()
        self.state = self.lease.state = "draining"
        handed, _ = await wait_and_hand_over(self)
        self.state = "stopped"
        log.info(
            "drained in %.2f s, handed over %d workflows",
            time.monotonic() - begun,
            handed,
            extra={"action": "executor.drained"},
        )

    def _end(self) -> None:
        stop_all(self)

    # --- decisions of peers and operators --------------------------------------------------

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
            log.critical("crashing at an operator's request", extra={"action": "executor.crash"})
            logs.flush()
            os.kill(os.getpid(), signal.SIGKILL)


def _log_failed_start(error: Exception) -> None:
    """Logs one sentence where the operator has to act, and a traceback where the code is to blame."""
    if isinstance(error, HoldfastError):
        log.critical("does not start: %s", error.message, extra={"action": "executor.refused"})
    elif is_outage(error):
        text = str(getattr(error, "orig", None) or error).strip().partition("\n")[0]
        log.critical("not started, it ends: %s", text, extra={"action": "executor.no_database"})
    else:
        log.critical("not started, it ends", exc_info=error, extra={"action": "executor.failed"})


def _identity(settings: Settings, application: Application, port: int) -> Identity:
    """Creates the identity of a new executor. Its id is never reused."""
    role = application.role
    hostname = socket.gethostname()
    return Identity(
        executor_id=f"{role}-{hostname[:24]}-{secrets.token_hex(4)}",
        application=settings.application_name(role),
        version=settings.version_name(role),
        role=role,
        hostname=hostname,
        pid=os.getpid(),
        port=port,
        slots=settings.slots if application.uses_cpu_pool else 0,
        suspects_queue=application.suspects_queue,
        trials_queue=application.trials_queue,
        leaf_queues=application.leaf_queues,
    )
