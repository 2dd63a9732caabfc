"""Tracks workflows that were called like a function: each has a row and runs here, but holds no slot."""

from __future__ import annotations

import threading
from typing import Any


class DirectRuns:
    """The directly called workflows of this process, by the DBOS context of each. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._contexts: dict[int, Any] = {}

    def begins(self, ctx: Any) -> None:
        """Adds a call. If the workflow runs here, DBOS gives its execution a token later."""
        with self._lock:
            self._contexts[id(ctx)] = ctx

    def ends(self, ctx: Any) -> None:
        """Removes a call that returned, or that only waits for a run elsewhere. Idempotent."""
        with self._lock:
            self._contexts.pop(id(ctx), None)

    def ids(self) -> list[str]:
        """Returns the ids of the directly called workflows that run here."""
        return [workflow_id for workflow_id, _ in self.executions()]

    def executions(self) -> list[tuple[str, str]]:
        """Returns the ids of the directly called workflows that run here, each with its execution's token."""
        with self._lock:
            found = [(ctx.workflow_id, ctx.owner_xid) for ctx in self._contexts.values()]
        return [execution for execution in found if execution[1] is not None]
