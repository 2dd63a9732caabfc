"""Why and when an attached process drains. Signal handlers call this, so nothing in it takes a lock."""

from __future__ import annotations

import logging
import queue
import threading
import time

log = logging.getLogger("holdfast.attached")

_LAUNCHED, _CLOSED = "", "closed"


class StopOrders:
    """Orders to the thread that drains. It runs already: a signal handler cannot start one safely."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._launcher = threading.get_ident()
        self._begun: float | None = None

    @property
    def are_given(self) -> bool:
        """Whether a stop was requested."""
        return self._begun is not None

    @property
    def seconds(self) -> float:
        """Time since the first request of a stop, or 0 if there is none."""
        return 0.0 if self._begun is None else time.monotonic() - self._begun

    def stop(self, reason: str) -> None:
        """Requests a stop. Only the first one counts."""
        if self._begun is None:
            self._begun = time.monotonic()
        self._queue.put(reason)

    def launched(self) -> None:
        """Records that the launch is over."""
        self._queue.put(_LAUNCHED)

    def launcher_waits(self) -> None:
        """Records that the caller waits for the drain. If it is the one that launches, the launch is over."""
        if threading.get_ident() == self._launcher:
            self.launched()

    def close(self) -> None:
        """Ends a `wait` that nothing else has ended."""
        self._queue.put(_CLOSED)

    def wait(self, limit_seconds: float) -> bool:
        """Waits until a stop is requested and the launch is over. Returns False if it is closed before.

        Threads that a launch starts after a drain would take work that is handed over to no other process.
        A launch that goes on for ``limit_seconds`` after the request hangs, and is waited for no longer.
        """
        reason, is_launched = "", False
        while not (reason and is_launched):
            try:
                left = max(0.0, limit_seconds - self.seconds) if reason else None
                order = self._queue.get(timeout=left)
            except queue.Empty:
                break
            if order == _CLOSED:
                return False
            if order == _LAUNCHED:
                is_launched = True
            elif not reason:
                reason = order
                log.info("stopping: %s", reason, extra={"action": "executor.draining"})
        return True
