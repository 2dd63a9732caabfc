"""Wakes DBOS's queue threads instead of polling fast.

DBOS's queue thread sleeps on a stop event between two polls. Here two more events end that sleep: a NOTIFY,
which a trigger sends when work waits, and the end of a workflow here, which frees its slot. A fallback poll
runs every few seconds, rarely while the queue is quiet. Private to DBOS 3.4.0 and used here, with contract
tests: ``dbos._queue.queue_worker_thread``, and the methods by which it claims.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import Any

import dbos._queue
from dbos._sys_db_postgres import PostgresSystemDatabase

from holdfast.dbos_adapter.cancelling import CANCELLED_CHANNEL, Cancellations
from holdfast.dbos_adapter.slots import Slots
from holdfast.dbos_adapter.waiting.ending import Endings
from holdfast.dbos_adapter.waiting.notices import CHANNELS, Notices
from holdfast.executor_settings import ExecutorSettings
from holdfast.postgres.database import Connection, connect, wait_readable
from holdfast.postgres.outage import REACH
from holdfast.postgres.session_thread import SessionThread

log = logging.getLogger("holdfast.waking")

QUEUE_CHANNEL = "holdfast_queue"
DONE_CHANNEL = "holdfast_done"

_QUIET_SHARE = 0.1
_LONGEST_QUIET_PAUSE_SECONDS = 3.0


def poll_pause_seconds(interval: float, quiet_seconds: float) -> float:
    """Returns the pause until the next poll of a queue that has been quiet for ``quiet_seconds``.

    Quiet is a queue without a wake-up, a claim, a failed poll and a rate limit, which frees room without any
    notice. Notifications arrive, so a poll of such a queue finds only room that another process left unused.
    What waits for that waits at most a tenth longer.
    """
    return max(interval, min(quiet_seconds * _QUIET_SHARE, _LONGEST_QUIET_PAUSE_SECONDS))


class _WakeEvent(threading.Event):
    """Replaces the stop event of one queue thread. A wake-up ends its wait early."""

    def __init__(self, stop: threading.Event, notices_arrive: Callable[[], bool] = lambda: False) -> None:
        super().__init__()
        self._stop_event = stop
        self._notices_arrive = notices_arrive
        self._active_at = time.monotonic()
        self.open = threading.Event()
        self.open.set()
        self.polls = 0
        self.waiting = False

    def is_set(self) -> bool:
        return self._stop_event.is_set()

    def set(self) -> None:
        self.note_activity()
        super().set()

    def note_activity(self) -> None:
        """Begins the time anew after which the queue counts as quiet."""
        self._active_at = time.monotonic()

    def wait(self, timeout: float | None = None) -> bool:
        self.polls += 1
        self.waiting = True
        try:
            return self._wait(timeout)
        finally:
            self.waiting = False

    def settles(self) -> Callable[[], bool]:
        """Returns a function that returns whether the poll that goes on now, if one does, has ended."""
        begun = self.polls - 1 if self.waiting else self.polls
        return lambda: self.waiting or self.polls > begun

    def _wait(self, timeout: float | None) -> bool:
        if not self._stop_event.is_set():
            if timeout is not None and self._notices_arrive():
                timeout = poll_pause_seconds(timeout, time.monotonic() - self._active_at)
            super().wait(timeout)
        while not self._stop_event.is_set() and not self.open.wait(0.1):
            pass
        self.clear()
        return self._stop_event.is_set()


_polling: ContextVar[_WakeEvent | None] = ContextVar("holdfast_polling", default=None)
"""The wake-up event of the queue whose thread this is."""


class Waker:
    """Wakes the queue threads of this process, and the callers that wait for the end of workflows."""

    def __init__(self) -> None:
        self.cancellations = Cancellations()
        self.endings = Endings()
        self.notices = Notices()
        self.slots = Slots(self.cancellations, on_free=self.wake)
        self._wake_events: dict[str, _WakeEvent] = {}
        self._exclusive_queue: str | None = None
        self._exclusive_since = 0.0
        self._lock = threading.Lock()

    @contextmanager
    def register_wake_event(self, queue_name: str, stop: threading.Event) -> Iterator[threading.Event]:
        """Registers the wake-up event of a queue's thread while that thread runs."""
        wake_event = _WakeEvent(stop, lambda: self.endings.notices_arrive)
        # Notifications sent before this thread registered are lost, so it polls once immediately.
        wake_event.set()
        with self._lock:
            self._wake_events[queue_name] = wake_event
            if self._exclusive_queue not in (None, queue_name):
                wake_event.open.clear()
        token = _polling.set(wake_event)
        try:
            yield wake_event
        finally:
            _polling.reset(token)
            wake_event.waiting = True  # the thread claims nothing more

    @contextmanager
    def pause_others(self, queue_name: str) -> Iterator[None]:
        """Pauses all other queues of this process inside the block. A claim under way still completes."""
        with self._lock:
            self._exclusive_queue = queue_name
            self._exclusive_since = time.monotonic()
            for name, wake_event in self._wake_events.items():
                if name != queue_name:
                    wake_event.open.clear()
        try:
            yield
        finally:
            with self._lock:
                self._exclusive_queue = None
                for wake_event in self._wake_events.values():
                    wake_event.open.set()

    def stopping(self, queue_name: str) -> bool:
        """Returns whether that queue of this process has to stop."""
        wake_event = self._wake_events.get(queue_name)
        return wake_event is not None and wake_event.is_set()

    def settles(self, queue_name: str | None) -> Callable[[], bool]:
        """Returns a function that returns whether all that the queue has claimed up to now was dispatched.

        That costs at most the poll that goes on now, however busy the queue is afterwards.
        """
        wake_event = self._wake_events.get(queue_name or "")
        return (lambda: True) if wake_event is None else wake_event.settles()

    def is_paused(self, queue_name: str) -> bool:
        """Returns whether the queue is paused because another one runs exclusively (see `pause_others`)."""
        wake_event = self._wake_events.get(queue_name)
        return wake_event is not None and not wake_event.open.is_set()

    @property
    def paused_seconds(self) -> float:
        """Returns for how long one queue has run exclusively (see `pause_others`), 0 if none does."""
        return 0.0 if self._exclusive_queue is None else time.monotonic() - self._exclusive_since

    def wake(self, queue_name: str) -> None:
        """Wakes the queue's thread to poll now. Ignores queues that this process does not run."""
        if wake_event := self._wake_events.get(queue_name):
            wake_event.set()

    def wake_all(self) -> None:
        """Makes every queue poll and every waiting parent check, after missed notifications and at a stop."""
        with self._lock:
            wake_events = list(self._wake_events.values())
        for wake_event in wake_events:
            wake_event.set()
        self.endings.poll_all()
        self.notices.streams.poll_all()


def with_activity(claim: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a claim that notes in the thread of a queue what keeps that queue from being quiet."""

    @wraps(claim)
    def noting(db: Any, queue: Any, *args: Any, **options: Any) -> Any:
        is_quiet = False
        try:
            found = claim(db, queue, *args, **options)
            claimed = found[0] if isinstance(found, tuple) else found
            rated = (getattr(queue, name, None) for name in ("_limiter", "_partition_limiter"))
            is_quiet = not claimed and not any(rated)
            return found
        finally:
            if not is_quiet and (wake_event := _polling.get()) is not None:
                wake_event.note_activity()

    noting.without_activity = claim  # type: ignore[attr-defined]
    return noting


def install() -> None:
    """Makes the queue threads of an application that has a `Waker` wait for its wake-ups. Idempotent."""
    kind: Any = PostgresSystemDatabase
    for name in ("start_queued_workflows", "start_queued_partitioned_workflows"):
        if (claim := getattr(kind, name, None)) is not None and not hasattr(claim, "without_activity"):
            setattr(kind, name, with_activity(claim))
    queues: Any = dbos._queue
    original = queues.queue_worker_thread
    if hasattr(original, "without_wake_ups"):
        return

    def with_wake_ups(stop_event: threading.Event, instance: Any, queue: Any) -> None:
        waker: Waker | None = vars(instance).get("waker")
        if waker is None:
            original(stop_event, instance, queue)
            return
        with waker.register_wake_event(queue.name, stop_event) as wake_event:
            original(wake_event, instance, queue)

    with_wake_ups.without_wake_ups = original  # type: ignore[attr-defined]
    queues.queue_worker_thread = with_wake_ups


class Listener:
    """A thread that turns PostgreSQL's notifications into wake-ups."""

    def __init__(self, settings: ExecutorSettings, waker: Waker, *, purpose: str) -> None:
        self._waker = waker
        self.session = SessionThread(
            "listener",
            connect=lambda: connect(settings, purpose=purpose),
            work=self._listen,
            log=log,
            text="listener lost its session",
            action="listener.lost",
            opened=self._opened,
            lost=REACH.lost,
            closing=self._closing,
        )

    def start(self) -> None:
        """Starts to listen. The thread reconnects by itself."""
        self.session.start()

    def stop(self) -> None:
        """Stops listening within a fraction of a second. Blocks for a second at most."""
        self.session.stop()

    def _opened(self, connection: Connection) -> None:
        with connection.cursor() as cursor:
            ours = (QUEUE_CHANNEL, DONE_CHANNEL, CANCELLED_CHANNEL)
            cursor.execute("; ".join(f"LISTEN {channel}" for channel in (*ours, *CHANNELS)))
        self._waker.cancellations.check(connection, now=True)
        self._waker.notices.check(connection, now=True)
        self.session.works()
        REACH.returned()
        self._waker.endings.notices_arrive = True
        self._waker.wake_all()

    def _closing(self) -> None:
        self._waker.endings.notices_arrive = False

    def _listen(self, connection: Connection) -> None:
        try:
            self._listen_a_while(connection)
        except Exception:
            # For example, an event loop closes while its parent is woken. The remaining notifications are
            # lost, so a new session checks everything.
            connection.close()
            raise

    def _listen_a_while(self, connection: Connection) -> None:
        self._waker.notices.check(connection)
        self._waker.cancellations.check(connection)
        self._waker.slots.free_lost()
        self._waker.cancellations.report_ended(connection)
        # The answers of the checks may have brought notifications along: then the socket stays silent.
        if not connection.notifies:
            if not wait_readable(connection, 0.2):
                return
            connection.poll()
        while connection.notifies:
            notice = connection.notifies.pop(0)
            if notice.channel == QUEUE_CHANNEL:
                self._waker.wake(notice.payload)
            elif notice.channel == DONE_CHANNEL:
                self._waker.endings.notice(notice.payload)
            elif notice.channel == CANCELLED_CHANNEL:
                self._waker.cancellations.cancelled(notice.payload)
            else:
                self._waker.notices.heard(notice.channel, notice.payload)
