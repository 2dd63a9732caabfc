"""Interrupts an execution of this process whose workflow was cancelled or is no longer its own.

A NOTIFY only reports that a workflow was cancelled. The workflow's row shows whether that affects the
execution that runs here, or an earlier one before a resume: an execution owns its workflow while the row is
PENDING under the token of its claim (``owner_xid``).

Private to DBOS 3.4.0 and used here: ``dbos._context.current_owner_xid`` (test_round_trips.py).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from holdfast.postgres.database import Connection, query

log = logging.getLogger("holdfast.cancelling")

CANCELLED_CHANNEL = "holdfast_cancelled"

# A workflow that continues elsewhere without a cancel sends no notification. This poll finds its execution.
_READ_ALL_SECONDS = 10.0
# A notification may arrive between the commit of a claim and the registration of its execution.
_REMEMBER_SECONDS = 10.0
_SETTLED_SECONDS = 1.1


class Cancellation:
    """Records whether an execution lost its workflow, by a cancel or otherwise. Thread-safe."""

    def __init__(self, workflow_id: str = "", owner_xid: str | None = None) -> None:
        self.workflow_id = workflow_id
        self.owner_xid = owner_xid
        self._lock = threading.Lock()
        self._cancelled = False
        self._ends: list[Callable[[], object]] = []

    def set(self) -> None:
        """Marks the execution as cancelled and calls the registered callbacks."""
        with self._lock:
            self._cancelled = True
            ends, self._ends = self._ends, []
        for end in ends:
            try:
                end()
            except Exception:  # the other callbacks still run
                log.exception("the end of an execution failed", extra={"action": "cancel.end"})

    @property
    def is_set(self) -> bool:
        """Returns whether the execution lost its workflow."""
        return self._cancelled

    def add(self, end: Callable[[], object]) -> None:
        """Calls ``end`` once the execution is cancelled, or immediately if it is already."""
        with self._lock:
            now = self._cancelled
            if not now:
                self._ends.append(end)
        if now:
            end()

    @contextmanager
    def ending(self, end: Callable[[], object]) -> Iterator[None]:
        """Inside the block, calls ``end`` once the execution is cancelled, or immediately if it is."""
        self.add(end)
        try:
            yield
        finally:
            with self._lock:
                if end in self._ends:
                    self._ends.remove(end)


class Cancellations:
    """Watches the executions of this process for the loss of their workflow. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._of: dict[str, list[Cancellation]] = {}
        self._doubtful: set[str] = set()
        self._noticed: dict[str, float] = {}
        self._all_read_at = 0.0
        self._ended: set[tuple[str, str]] = set()
        self._report_at = float("inf")
        self.executor_id: str | None = None
        """The executor whose executions these are, once an engine is attached."""
        self.also_running: list[Callable[[], Iterable[tuple[str, str]]]] = []
        """Each returns executions of this process that are not watched, or claims that may become one."""

    @contextmanager
    def watch_current(self, workflow_id: str) -> Iterator[Cancellation]:
        """Watches the calling execution. Enter before its first step, which checks for earlier cancels."""
        from dbos._context import current_owner_xid  # DBOS 3.0 and 3.1 lack it, and this watch

        made = self.watch(workflow_id, current_owner_xid(workflow_id))
        try:
            yield made
        finally:
            self.forget(made)

    def watch(self, workflow_id: str, owner_xid: str | None) -> Cancellation:
        """Watches one execution until `forget`. Without a token only the row's status counts."""
        made = Cancellation(workflow_id, owner_xid)
        with self._lock:
            self._of.setdefault(workflow_id, []).append(made)
            if workflow_id in self._noticed:
                self._doubtful.add(workflow_id)
        return made

    def forget(self, made: Cancellation) -> None:
        """Stops watching an execution."""
        with self._lock:
            watches = self._of[made.workflow_id]
            watches.remove(made)
            if not watches:
                del self._of[made.workflow_id]
                self._doubtful.discard(made.workflow_id)

    def cancelled(self, workflow_id: str) -> None:
        """Handles a notification that a workflow was cancelled. `check` reads which execution it affects."""
        now = time.monotonic()
        with self._lock:
            if workflow_id in self._of:
                self._doubtful.add(workflow_id)
            self._noticed.pop(workflow_id, None)
            self._noticed[workflow_id] = now
            self._report_at = min(self._report_at, now)
            for noticed, at in list(self._noticed.items()):
                if now - at < _REMEMBER_SECONDS:
                    break
                del self._noticed[noticed]

    def ended(self, workflow_id: str, owner_xid: str | None) -> None:
        """Records that the code of an execution has ended that had lost its workflow."""
        if owner_xid is not None:
            with self._lock:
                self._ended.add((workflow_id, owner_xid))
                self._report_at = 0.0

    def report_ended(self, connection: Connection) -> None:
        """Deletes the records of revoked executions that no longer run here: a resume waits for that.

        Reads only after a notification or the end of such an execution. A claim that is not dispatched yet
        is not known here, so what is not running counts as ended only a second after its cancel.
        """
        now = time.monotonic()
        if self.executor_id is None or now < self._report_at:
            return
        rows = query(connection, "revoked_executions", executor_id=self.executor_id)
        # Read before the watched ones: a held claim that starts is watched before it is no longer held.
        unwatched = {execution for each in self.also_running for execution in each()}
        with self._lock:
            runs = {(id_, one.owner_xid) for id_, watches in self._of.items() for one in watches} | unwatched
            ended, self._ended = self._ended, set()
            pairs = {(row["workflow_id"], row["owner_xid"]): row["settled"] for row in rows}
            # Nothing reports the end of what is not watched.
            again = not all(pairs.values()) or not unwatched.isdisjoint(pairs)
            self._report_at = now + _SETTLED_SECONDS if again else float("inf")
        over = [pair for pair, settled in pairs.items() if pair not in runs and (settled or pair in ended)]
        if over:
            workflow_ids, owner_xids = zip(*over, strict=True)
            query(connection, "forget_revoked", workflow_ids=list(workflow_ids), owner_xids=list(owner_xids))

    def watched(self) -> list[Cancellation]:
        """Returns all watched executions."""
        with self._lock:
            return [one for watches in self._of.values() for one in watches]

    def check(self, connection: Connection, *, now: bool = False) -> None:
        """Reads the rows of executions whose workflow was cancelled, and ends those that lost it.

        Periodically, and with ``now``, it reads the rows of all: a notification may have been missed.
        """
        at = time.monotonic()
        now = now or at - self._all_read_at >= _READ_ALL_SECONDS
        if now:
            self._all_read_at = at
            self._report_at = 0.0
        executions = self._doubtful_ones(all_of_them=now)
        if executions:
            rows = query(
                connection,
                "lost_executions",
                workflow_ids=[one.workflow_id for one in executions],
                owner_xids=[one.owner_xid for one in executions],
            )
            self.lost((row["workflow_id"], row["owner_xid"]) for row in rows)

    def _doubtful_ones(self, *, all_of_them: bool) -> list[Cancellation]:
        with self._lock:
            ids, self._doubtful = list(self._of) if all_of_them else list(self._doubtful), set()
            return [one for workflow_id in ids for one in self._of.get(workflow_id, ())]

    def lost(self, executions: Iterable[tuple[str, str | None]]) -> None:
        """Ends the executions (given by id and token) that no longer own their workflows."""
        gone = set(executions)
        with self._lock:
            found = [one for id_, token in gone for one in self._of.get(id_, ()) if one.owner_xid == token]
        for one in found:
            one.set()
