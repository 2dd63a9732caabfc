"""Starts each claimed workflow: the work of this process before DBOS runs it.

DBOS starts every claim through one function, in the thread of the claim's queue. `install` replaces that
function. If another component starts the claims of that queue (`Slots.starters`), it gets the claim. Then the
workflow's wait in the queue is measured, a slot is reserved, and `Slots.admit` decides whether the claim may
start now.
"""

from __future__ import annotations

from typing import Any

import dbos._queue

from holdfast.dbos_adapter.slots import Claim, Slots, slots_of
from holdfast.dbos_adapter.waiting.wait import LAUNCHED
from holdfast.observability import metrics, tracing


def install() -> None:
    """Replaces the function that starts claims, for every application of this process. Idempotent."""
    queue: Any = dbos._queue
    original = queue.execute_dequeued_workflow
    if hasattr(original, "without_slots"):
        return

    def start(instance: Any, status: Any, owner_xid: str) -> Any:
        observe_claim(status, owner_xid)
        slots = slots_of(instance)
        if slots is None or status["status"] != "PENDING":  # DBOS runs no other status
            return original(instance, status, owner_xid)
        return _start_in_slot(slots, original, instance, status, owner_xid)

    def dispatch(instance: Any, status: Any, owner_xid: str) -> Any:
        slots = slots_of(instance)
        starter = None if slots is None else slots.starters.get(status["queue_name"])
        if slots is None or starter is None:
            return start(instance, status, owner_xid)
        return starter(
            Claim(
                status["workflow_uuid"],
                owner_xid,
                admit=lambda: slots.admit(instance._sys_db, status, None),
                start=lambda: start(instance, status, owner_xid),
            )
        )

    dispatch.without_slots = original  # type: ignore[attr-defined]
    queue.execute_dequeued_workflow = dispatch


def _start_in_slot(slots: Slots, original: Any, instance: Any, status: Any, owner_xid: str) -> Any:
    execution = slots.reserve(
        status["workflow_uuid"], owner_xid, status.get("queue_name"), status.get("queue_partition_key")
    )
    try:
        if slots.admit(instance._sys_db, status, execution):
            return original(instance, status, owner_xid)
    except BaseException:
        execution.release()
        raise
    execution.release()
    return None


def observe_claim(status: Any, owner_xid: str) -> None:
    """Measures how long a workflow waited in its queue before this process claimed it.

    Only the first claim counts: claims after a takeover or a handover have other metrics. A delayed workflow
    waits from the end of its delay. Both times come from the database. Traces get the number of the attempt.
    """
    claimed, enqueued = status["started_at_epoch_ms"], status["created_at"]
    if status["recovery_attempts"] == 1 and status["queue_name"] and claimed and enqueued:
        waited = claimed - max(enqueued, status["delay_until_epoch_ms"] or 0)
        metrics.QUEUE_WAIT.labels(queue_name=status["queue_name"]).observe(max(0.0, waited / 1000))
    if status["status"] == "PENDING":  # DBOS runs no other status
        tracing.note_claim(status["workflow_uuid"], status["recovery_attempts"])
        if LAUNCHED.waits is not None and (status["recovery_attempts"] or 0) > 1:
            LAUNCHED.waits.follows((status["workflow_uuid"], owner_xid))
