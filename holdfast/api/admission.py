"""Admission control: rejects new work while HOLDFAST_QUEUE_LIMIT workflows are unfinished."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

from holdfast.errors import BacklogFull

log = logging.getLogger("holdfast.api")

FRESH_SECONDS = 1.0
# Counting takes at most a tenth of the time, however large the backlog.
SHARE = 10

Ops = Callable[..., Awaitable[list[dict[str, Any]]]]


class Admission:
    """Counts unfinished work, up to the limit and no further, at most once per second.

    Between two counts this process adds the workflows that it admitted itself. By itself it therefore exceeds
    the limit by at most the children of one request. Work that other API processes admit in the meantime, and
    children that are enqueued later, can exceed it further.
    """

    def __init__(self, ops: Ops, limit: int) -> None:
        self.limit = limit
        self._ops = ops
        self._known = 0
        self._fresh_until = float("-inf")
        self._counting: asyncio.Task[None] | None = None
        self._full = False

    async def admit(self, key: str | None, workflows: int = 1) -> None:
        """Returns if `workflows` more may be admitted, or if `key` stands for work that is stored already.

        Raises ``BacklogFull`` otherwise, and ``DatabaseUnavailable`` if the work cannot be counted.
        """
        if not self.limit:
            return
        if time.monotonic() >= self._fresh_until:
            # One caller counts; concurrent callers share its result or its error.
            self._counting = self._counting or asyncio.create_task(self._count())
            await asyncio.shield(self._counting)
        full = self._known >= self.limit
        if full != self._full:
            self._full = full
            text = "new work is refused: too much is unfinished" if full else "new work is admitted again"
            log.warning("%s", text, extra={"action": "work.refused" if full else "work.admitted"})
        if not full:
            self._known += workflows
        elif key is None or not await self._ops("stored_request", key=key):
            raise BacklogFull

    async def _count(self) -> None:
        began = time.monotonic()
        try:
            [row] = await self._ops("backlog", limit=self.limit)
            self._known = row["unfinished"]
            took = time.monotonic() - began
            self._fresh_until = time.monotonic() + max(FRESH_SECONDS, SHARE * took)
        finally:
            self._counting = None
