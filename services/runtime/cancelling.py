"""Ends the computation of a workflow that is cancelled: at once, by a notice."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

CANCELLED_CHANNEL = "holdfast_cancelled"


class Cancellation:
    """Whether a workflow that runs here was cancelled. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._cancelled = False
        self._ends: list[Callable[[], object]] = []

    def set(self) -> None:
        """It was."""
        with self._lock:
            self._cancelled = True
            ends, self._ends = self._ends, []
        for end in ends:
            end()

    @contextmanager
    def ending(self, end: Callable[[], object]) -> Iterator[None]:
        """Inside, ``end`` is called once it is cancelled, or at once if it is already."""
        with self._lock:
            now = self._cancelled
            if not now:
                self._ends.append(end)
        if now:
            end()
        try:
            yield
        finally:
            with self._lock:
                if end in self._ends:
                    self._ends.remove(end)


class Cancellations:
    """Those of the workflows that can be ended in the middle of a step."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._of: dict[str, list[Cancellation]] = {}

    @contextmanager
    def of(self, workflow_id: str) -> Iterator[Cancellation]:
        """For one execution. Enter before its first step: that one's look at the workflow sees whatever
        came earlier."""
        made = Cancellation()
        with self._lock:
            self._of.setdefault(workflow_id, []).append(made)
        try:
            yield made
        finally:
            with self._lock:
                self._of[workflow_id].remove(made)
                if not self._of[workflow_id]:
                    del self._of[workflow_id]

    def watched(self) -> list[str]:
        """Ids of the workflows to hear of."""
        with self._lock:
            return list(self._of)

    def cancelled(self, workflow_id: str) -> None:
        """That workflow was cancelled; of no meaning for one that does not run here."""
        with self._lock:
            found = list(self._of.get(workflow_id, ()))
        for one in found:
            one.set()
