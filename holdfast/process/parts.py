"""The parts of a process, each of which starts and stops in a fixed order.

``PARTS`` defines the order; docs/design/architecture.md quotes it. Parts start from first to last. They stop
by ``stop_stage``: the parts of one stage stop concurrently, and the stages stop one after another.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import TYPE_CHECKING, Any

from prometheus_client import REGISTRY

from holdfast.compute.cpu_pool import CpuPool
from holdfast.dbos_adapter.ledger import EffectLedger
from holdfast.dbos_adapter.registrations import publish, publish_soon
from holdfast.dbos_adapter.schedules import guard_schedule
from holdfast.dbos_adapter.schema import wait_until_prepared
from holdfast.durable.resources import Resources, provide
from holdfast.observability.database_metrics import DatabaseCollector
from holdfast.postgres.database import Row
from holdfast.postgres.outage import until_connected
from holdfast.process.engine import Engine
from holdfast.recovery.versions import settle_latest

if TYPE_CHECKING:
    from holdfast.process.process import Process

log = logging.getLogger("holdfast.process")

_DESTROY_SECONDS = 1.0


def _nothing(_: Process) -> None:
    """Does nothing, for a part that needs no start or ends with the process."""


@dataclass(frozen=True)
class Part:
    """A part that lives as long as the process. ``stop`` takes at most about a second."""

    name: str
    start: Callable[[Process], None] = _nothing
    stop: Callable[[Process], None] = _nothing
    stop_stage: int | None = None


def start_all(process: Process) -> None:
    """Starts all parts in the order of ``PARTS``. Raises the error of a failed start."""
    for part in PARTS:
        part.start(process)


def stop_all(process: Process) -> None:
    """Stops stage by stage, one stage's parts concurrently: with a frozen PostgreSQL each takes a second."""
    for stage in stop_stages():
        if len(stage) == 1:
            stage[0].stop(process)
            continue
        threads = [threading.Thread(target=part.stop, args=[process]) for part in stage]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def stop_stages() -> list[list[Part]]:
    """Returns the parts of each stage, in the order in which the stages stop."""
    stopped = [(part.stop_stage, part) for part in PARTS if part.stop_stage is not None]
    ordered = sorted(stopped, key=lambda pair: pair[0])
    return [[part for _, part in pairs] for _, pairs in groupby(ordered, key=lambda pair: pair[0])]


# --- start and stop functions of the parts -------------------------------------------------------


def _start_child_processes(process: Process) -> None:
    if process.application.uses_cpu_pool:
        process.pool = CpuPool(process.settings.slots, preload=process.application.preload)


def _stop_child_processes(process: Process) -> None:
    # The work is handed over already, so errors that the children's end causes cannot be recorded.
    if process.pool is not None:
        process.pool.close()


def _wait_for_database(process: Process) -> None:
    purpose = process.identity.purpose("start")
    wait_until_prepared(process.settings, purpose=purpose, give_up=lambda: process.stopping)


def _create_engine(process: Process) -> None:
    process.engine = Engine(
        process.settings,
        process.identity,
        process.waker,
        guard_schedules=lambda: _guard_schedules(process),
    )


def _destroy_engine(process: Process) -> None:
    if process.engine is not None:
        process.engine.destroy(timeout_seconds=_DESTROY_SECONDS)


def _provide_resources(process: Process) -> None:
    assert process.engine is not None
    ledger = (
        EffectLedger(
            process.settings,
            process.engine.sessions,
            application=process.identity.application,
            purpose=process.identity.purpose("effects"),
        )
        if process.application.uses_cpu_pool
        else None
    )
    provide(
        Resources(process.settings, process.executor_id, process.ops, process.waker, process.pool, ledger)
    )


def _guard_schedules(process: Process) -> None:
    guard_schedule(
        lambda: _database_now(process),
        early_seconds=process.settings.clock_tolerance_seconds,
        late_seconds=process.settings.late_tick_seconds,
        before_tick=lambda: settle_latest(process.ops, process.identity),
    )


def _database_now(process: Process) -> datetime:
    # Uses the monotonic clock, so that a jump of the wall clock between two heartbeats is detected.
    time_then, monotonic_then = process.lease.database_clock
    return datetime.fromtimestamp(time_then, UTC) + timedelta(seconds=time.monotonic() - monotonic_then)


def _start_lease(process: Process) -> None:
    until_connected(process.lease.start, seconds=process.settings.database_wait_seconds, log=log)


def _install_trials(process: Process) -> None:
    process.trials.install()
    process.waker.slots.limit_abandoned(
        process.settings.abandoned_threads_limit, lambda _: process.replace_after_abandoned()
    )


def _launch(process: Process) -> None:
    assert process.engine is not None
    process.engine.launch()
    settle_latest(process.ops, process.identity, starting=True)


def _publish_workflows(process: Process) -> None:
    assert process.engine is not None
    without, schedules = process.application.foreign_workflows, process.application.schedule_names
    process.engine.claimable.on_change = lambda: publish_soon(
        process.ops, process.executor_id, without, schedules
    )
    publish(process.ops.run_patiently, process.executor_id, without, schedules)


def _start_operations(process: Process) -> None:
    if process.role == "api":
        process.operations.start()


def _start_database_metrics(process: Process) -> None:
    # The database's metrics are the same for all processes, so only the API reports them.
    if process.role != "api":
        return
    process.collector = DatabaseCollector(
        lambda statements: _read_metrics(process, statements),
        applications=process.settings.application_names,
        late_seconds=process.settings.late_tick_seconds,
        lease_seconds=process.settings.lease_seconds,
    )
    REGISTRY.register(process.collector)


def _stop_database_metrics(process: Process) -> None:
    if process.collector is not None:
        REGISTRY.unregister(process.collector)
        process.collector = None


def _read_metrics(process: Process, statements: Mapping[str, dict[str, Any]]) -> dict[str, list[Row]]:
    # Scrapes run in threads, with the time limit of requests: without it, a frozen server delayed them 4.5 s.
    assert process.loop is not None
    reading = process.gateway.call(process.gateway.metrics.run_all, statements)
    return asyncio.run_coroutine_threadsafe(reading, process.loop).result()


PARTS: tuple[Part, ...] = (
    Part("HTTP sessions", stop=lambda p: p.gateway.close(), stop_stage=7),
    Part("ops sessions", stop=lambda p: p.ops.close(), stop_stage=8),
    Part("child processes", _start_child_processes, _stop_child_processes, stop_stage=1),
    Part("database", _wait_for_database),
    Part("DBOS", _create_engine, _destroy_engine, stop_stage=2),
    Part(
        "workflows",
        lambda p: p.application.prepare(p.settings),
        lambda p: p.application.close(),
        stop_stage=4,
    ),
    Part("resources", _provide_resources, lambda _: provide(None), stop_stage=6),
    # Starts after the imports, because the import of a user-defined module may block for long.
    Part("watchdog", lambda p: p.watchdog.start(), lambda p: p.watchdog.stop(), stop_stage=3),
    Part("lease", _start_lease, lambda p: p.lease.stop(), stop_stage=2),
    Part("trials", _install_trials),
    Part("listener", lambda p: p.listener.start(), lambda p: p.listener.stop(), stop_stage=2),
    Part("launch", _launch),
    Part("queues and schedules", lambda p: p.application.register(p.settings)),
    Part("registrations", _publish_workflows),
    Part("accounting", lambda p: p.accounting.start(), lambda p: p.accounting.stop(), stop_stage=2),
    Part("sweep", lambda p: p.sweep.start(), lambda p: p.sweep.stop(), stop_stage=2),
    Part("control operations", _start_operations, lambda p: p.operations.stop(), stop_stage=2),
    Part("database metrics", _start_database_metrics, _stop_database_metrics, stop_stage=5),
)
"""All parts, in the order of their start."""
