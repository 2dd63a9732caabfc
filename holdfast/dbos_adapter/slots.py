"""Slots of queues: an execution holds one from its claim until its end, or until its cancel.

DBOS counts an execution against ``worker_concurrency`` once its thread or task has begun. At the next poll of
the queue it ignores claims that have not begun, so a burst of work exceeded every limit. Here an execution
counts from its dispatch, which happens in the queue's thread before the thread polls again.

An execution that has lost its workflow (a cancel, a passed deadline, a resume elsewhere) releases its slot
when its code ends, at the latest after `GRACE_SECONDS`: Python code in a thread cannot be interrupted. After
that its thread is *abandoned*: DBOS records nothing that it does, it counts for no limit, and no drain waits
for it. A process with too many abandoned threads is replaced (`Slots.limit_abandoned`).
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import dbos._core

from holdfast.dbos_adapter.cancelling import Cancellation, Cancellations

log = logging.getLogger("holdfast.slots")

GRACE_SECONDS = 0.3
"""Grace period for the code of an execution that lost its workflow. After it, the slot is freed."""

Bucket = tuple[str | None, str | None]
"""Queue name and partition key: what a limit counts."""


@dataclass(frozen=True)
class Claim:
    """A workflow that this process claimed from a queue and has not started yet."""

    workflow_id: str
    owner_xid: str
    admit: Callable[[], bool]
    """Returns whether the workflow may start. May block (`Slots.admit`)."""
    start: Callable[[], Any]


class Execution:
    """One run of a workflow in this process. DBOS releases it as its own entry, once or several times."""

    def __init__(self, slots: Slots, watch: Cancellation, bucket: Bucket) -> None:
        self.watch = watch
        self.bucket = bucket
        self.home: Bucket | None = None
        """The home queue's bucket, in which a suspect counts as well."""
        self.holds_slot = True
        self.over = False
        self._slots = slots

    @property
    def workflow_id(self) -> str:
        """Returns the id of the execution's workflow."""
        return self.watch.workflow_id

    @property
    def lost(self) -> bool:
        """Returns whether the execution lost its workflow."""
        return self.watch.is_set

    def count_at(self, home_queue: str) -> None:
        """Counts a suspect against its home queue as well, while it holds its slot."""
        self._slots.count_at(self, home_queue)

    def release(self) -> None:
        """Ends the execution, whose code has ended, and frees its slot. Idempotent."""
        self._slots.end(self)


_current: ContextVar[Execution | None] = ContextVar("holdfast_execution", default=None)


class Slots:
    """Replaces DBOS's set of running executions. Also tracks dispatched and abandoned executions.

    Calls ``on_free`` with a queue's name whenever one of that queue's slots becomes free. Thread-safe.
    """

    def __init__(self, cancellations: Cancellations, *, on_free: Callable[[str], object]) -> None:
        self._lock = threading.Lock()
        self._cancellations = cancellations
        self._on_free = on_free
        self._executions: dict[str, list[Execution]] = {}
        self._held: Counter[Bucket] = Counter()
        self._lost: dict[Execution, float] = {}
        self._abandoned: dict[Execution, float] = {}
        self._limit: int | None = None
        self._on_too_many: Callable[[int], object] = lambda _: None
        self.admit: Callable[[Any, Any, Execution | None], bool] = lambda *_: True
        """Returns whether a claim may start. May block (`Homes.admit`)."""
        self.starters: dict[str, Callable[[Claim], object]] = {}
        """Maps a queue to the component that starts its claims, in the thread of the queue."""

    # --- what DBOS calls -------------------------------------------------------------------

    def add(
        self, key: str, queue_name: str | None = None, queue_partition_key: str | None = None
    ) -> Execution:
        """Returns the execution reserved for the workflow. DBOS calls this where an execution begins."""
        current = _current.get()
        if current is not None and current.workflow_id == key and not current.over:
            return current
        return self.reserve(key, None, queue_name, queue_partition_key)

    def activeList(self) -> list[str]:  # noqa: N802 - DBOS's name
        """Returns the ids of workflows that were dispatched here or run here, without abandoned ones."""
        with self._lock:
            return [id_ for id_, found in self._executions.items() if any(one.holds_slot for one in found)]

    def count_for_queue(self, queue_name: str) -> int:
        """Returns how many slots of a queue are in use in this process."""
        with self._lock:
            return sum(count for bucket, count in self._held.items() if bucket[0] == queue_name)

    def count_for_partition(self, queue_name: str, queue_partition_key: str | None) -> int:
        """Returns how many slots of one partition of a queue are in use in this process."""
        with self._lock:
            return self._held[queue_name, queue_partition_key]

    # --- an execution's life ---------------------------------------------------------------

    def reserve(
        self, workflow_id: str, owner_xid: str | None, queue_name: str | None, partition: str | None
    ) -> Execution:
        """Acquires a slot for an execution, or returns the execution if it has one already."""
        with self._lock:
            for one in self._executions.get(workflow_id, ()):
                if owner_xid is not None and one.watch.owner_xid == owner_xid:
                    return one
            execution = Execution(
                self, self._cancellations.watch(workflow_id, owner_xid), (queue_name, partition)
            )
            self._executions.setdefault(workflow_id, []).append(execution)
            self._held[execution.bucket] += 1
        execution.watch.add(lambda: self._lose(execution))
        return execution

    def count_at(self, execution: Execution, home_queue: str) -> None:
        """Counts a suspect against its home queue as well, see `Execution.count_at`."""
        with self._lock:
            if execution.holds_slot and execution.home is None:
                execution.home = (home_queue, execution.bucket[1])
                self._held[execution.home] += 1

    def end(self, execution: Execution) -> None:
        """Ends an execution whose code has ended, and frees its slot if it still holds one. Idempotent."""
        with self._lock:
            if execution.over:
                return
            execution.over = True
            executions = self._executions[execution.workflow_id]
            executions.remove(execution)
            if not executions:
                del self._executions[execution.workflow_id]
            self._lost.pop(execution, None)
            abandoned_at = self._abandoned.pop(execution, None)
            left = len(self._abandoned)
            freed = self._free(execution)
        self._cancellations.forget(execution.watch)
        if execution.lost:
            self._cancellations.ended(execution.workflow_id, execution.watch.owner_xid)
        if freed:
            self._notify_free(execution)
        if abandoned_at is not None:
            log.info(
                "an abandoned thread has ended after %.1f s; %d are left",
                time.monotonic() - abandoned_at,
                left,
                extra={"action": "thread.ended", "workflow_id": execution.workflow_id},
            )

    def _lose(self, execution: Execution) -> None:
        with self._lock:
            if not execution.over and execution.holds_slot:
                self._lost[execution] = time.monotonic()

    def _free(self, execution: Execution) -> bool:
        if not execution.holds_slot:
            return False
        execution.holds_slot = False
        for bucket in (execution.bucket, execution.home):
            if bucket is not None:
                self._held[bucket] -= 1
                if not self._held[bucket]:
                    del self._held[bucket]
        return True

    def _notify_free(self, execution: Execution) -> None:
        for bucket in (execution.bucket, execution.home):
            if bucket is not None and bucket[0] is not None:
                self._on_free(bucket[0])

    # --- abandoned threads -----------------------------------------------------------------

    @property
    def abandoned(self) -> list[str]:
        """Returns the workflow id of each abandoned execution: its slot is free, but its code still runs."""
        with self._lock:
            return sorted(one.workflow_id for one in self._abandoned)

    def executing(self) -> list[str]:
        """Returns ids of all workflows whose code runs or is about to run here, including abandoned ones."""
        with self._lock:
            return list(self._executions)

    def limit_abandoned(self, limit: int, on_too_many: Callable[[int], object]) -> None:
        """Sets ``on_too_many``, which is called once with the count if more than ``limit`` are abandoned."""
        self._limit, self._on_too_many = limit, on_too_many

    def free_lost(self) -> None:
        """Frees the slots of executions that lost their workflow and did not end within the grace period.

        Call it several times a second.
        """
        now = time.monotonic()
        with self._lock:
            due = [one for one, lost_at in self._lost.items() if now - lost_at >= GRACE_SECONDS]
            for one in due:
                del self._lost[one]
                self._free(one)
                self._abandoned[one] = now
            count = len(self._abandoned)
            limit = self._limit
            too_many = limit is not None and count > limit
            if too_many:
                self._limit = None
        for one in due:
            self._notify_free(one)
            log.warning(
                "the slot is free, but the code of the cancelled workflow still runs: %d abandoned threads",
                count,
                extra={"action": "thread.abandoned", "workflow_id": one.workflow_id},
            )
        if too_many:
            self._on_too_many(count)


def current_execution() -> Execution | None:
    """Returns the execution whose code calls this, or None for a workflow that was called like a function."""
    return _current.get()


def slots_of(instance: Any) -> Slots | None:
    """Returns the slots of an application, or None if the application is not Holdfast's."""
    slots = instance._active_workflows_set
    return slots if isinstance(slots, Slots) else None


@contextmanager
def _running(instance: Any, status: Any, context: Any) -> Iterator[None]:
    """Counts one execution from the start of its thread or task to its end, even before its code runs."""
    if (slots := slots_of(instance)) is None:
        yield
        return
    execution = slots.reserve(
        status["workflow_uuid"],
        context.owner_xid,
        status.get("queue_name"),
        status.get("queue_partition_key"),
    )
    token = _current.set(execution)
    try:
        yield
    finally:
        _current.reset(token)
        execution.release()


def install() -> None:
    """Counts every execution in the `Slots` of its application while its code runs. Idempotent.

    `holdfast.dbos_adapter.dispatch` counts it from its dispatch on.
    """
    core: Any = dbos._core
    thread, task = core._execute_workflow_wthread, core._execute_workflow_async
    if hasattr(thread, "without_slots"):
        return

    def in_thread(instance: Any, status: Any, func: Any, context: Any, *args: Any) -> Any:
        with _running(instance, status, context):
            return thread(instance, status, func, context, *args)

    async def as_task(instance: Any, status: Any, func: Any, context: Any, *args: Any) -> Any:
        with _running(instance, status, context):
            return await task(instance, status, func, context, *args)

    in_thread.without_slots = thread  # type: ignore[attr-defined]
    core._execute_workflow_wthread, core._execute_workflow_async = in_thread, as_task
