"""Attaches Holdfast's parts to one DBOS application, and stops that application's claims."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import dbos._core

from holdfast.dbos_adapter.claimable import Claimable
from holdfast.dbos_adapter.claimable import attach as attach_claimable
from holdfast.dbos_adapter.waiting import wait
from holdfast.dbos_adapter.waiting.waits import Waits
from holdfast.dbos_adapter.wake_ups import Waker
from holdfast.postgres.sessions import Sessions


def attach_waker(application: Any, waker: Waker) -> None:
    """Makes a DBOS application wait for the wake-ups of ``waker`` and count executions in its slots.

    Call before the launch, after `holdfast.dbos_adapter.patching.install`.
    """
    application.waker = waker
    application._active_workflows_set = waker.slots


def attach_database(
    application: Any, waker: Waker, *, sessions: Sessions, waits: Waits, homes: object, claimable: Claimable
) -> None:
    """Gives the system database of a launched application the objects that the replaced methods use."""
    database = application._sys_db
    # Before the sessions: a claim that finds those asks for this condition too.
    attach_claimable(database, claimable)
    database.homes = homes
    database.sessions = sessions
    waker.notices.attach(database)
    wait.attach(database, waits, waker.endings)


def count_starts(application: Any, waker: Waker) -> None:
    """Makes a workflow that was started directly hold a slot while it waits for a free thread of DBOS.

    Otherwise it would not be known to run here, and the sweep would release it. Call after the launch, which
    makes the pool of threads. Claims of queues hold their slots from their dispatch on.
    """
    executor = application._executor
    submit: Callable[..., Future[Any]] = executor.submit

    def submitted(function: Any, /, *args: Any, **options: Any) -> Future[Any]:
        if function is not dbos._core._execute_workflow_wthread or args[3].owner_xid is None:
            return submit(function, *args, **options)
        _, status, _, context, *_ = args
        execution = waker.slots.reserve(
            status["workflow_uuid"],
            context.owner_xid,
            status.get("queue_name"),
            status.get("queue_partition_key"),
        )
        try:
            future = submit(function, *args, **options)
        except BaseException:
            execution.release()
            raise
        future.add_done_callback(lambda _: execution.release())  # also of one that was cancelled
        return future

    executor.submit = submitted


def stop_claiming(application: Any, waker: Waker, *, timeout_seconds: float) -> None:
    """Stops the threads of queues and schedules, and waits for claims under way. Running work continues."""
    for event in application.background_thread_stop_events:
        event.set()
    waker.wake_all()
    deadline = time.monotonic() + timeout_seconds
    for thread in threading.enumerate():
        # A thread that is just being started cannot be joined, and sees the event by itself.
        if thread.name.startswith("queue-worker-") and thread.is_alive():
            thread.join(max(0.0, deadline - time.monotonic()))
