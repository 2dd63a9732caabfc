"""Whether new work is let in: not while more than HOLDFAST_QUEUE_LIMIT workflows are unfinished."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

from holdfast.errors import BacklogFull

log = logging.getLogger("holdfast.api")

FRESH_SECONDS = 1.0
# Counting may take a tenth of the time at most, however large the backlog.
SHARE = 10

Ops = Callable[..., Awaitable[list[dict[str, Any]]]]


class Admission:
    """Counts unfinished work, up to the limit and no further, at most once a second.

    Between two counts this process adds what it let in itself, so that it alone lets in no more than the
    limit and the children of one request. Beyond it go, in the meantime, what other API processes let in and
    children that are enqueued later.
    """

    def __init__(self, ops: Ops, limit: int) -> None:
        self.limit = limit
        self._ops = ops
        self._known = 0
        self._fresh_until = float("-inf")
        self._counting: asyncio.Task[None] | None = None
        self._full = False

    async def admit(self, key: str | None, workflows: int = 1) -> None:
        """Returns when so many may be let in, or when `key` stands for work that is stored already.

        Raises ``BacklogFull``, and ``DatabaseUnavailable`` when nobody can tell.
        """
        if not self.limit:
            return
        if time.monotonic() >= self._fresh_until:
            # One counts, the others share what it finds, also that nobody answers.
            self._counting = self._counting or asyncio.create_task(self._count())
            await asyncio.shield(self._counting)
        full = self._known >= self.limit
        if full != self._full:
            self._full = full
            text = "too much unfinished work, no more is let in" if full else "work is let in again"
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
