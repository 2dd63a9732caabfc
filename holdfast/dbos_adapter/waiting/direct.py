"""Workflows that were called like a function: each has a row and runs here, and holds no slot."""

from __future__ import annotations

import threading
from typing import Any


class DirectRuns:
    """Those of this process, by DBOS's context of each. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._contexts: dict[int, Any] = {}

    def begins(self, ctx: Any) -> None:
        """Called. Whether it runs here shows later: by the token that DBOS gives to its execution."""
        with self._lock:
            self._contexts[id(ctx)] = ctx

    def ends(self, ctx: Any) -> None:
        """It returns, or runs elsewhere and only its caller waits here. Idempotent."""
        with self._lock:
            self._contexts.pop(id(ctx), None)

    def ids(self) -> list[str]:
        """Ids of those that run here."""
        with self._lock:
            return [ctx.workflow_id for ctx in self._contexts.values() if ctx.owner_xid is not None]
