"""Waiting for the end of workflows: whoever waits counts the notices that say so."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Ends:
    """Counts ends since the last `restart`, for one waiting coroutine.

    Restart, look, then wait for as many ends as the look found unfinished: one that comes between look and
    wait is counted, and one that the look saw already only makes the next look earlier.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._enough = asyncio.Event()
        self._seen = 0
        self._wanted = sys.maxsize

    def restart(self) -> None:
        """Counts from 0 again. Call before a look."""
        with self._lock:
            self._seen, self._wanted = 0, sys.maxsize
            self._enough.clear()

    async def wait(self, count: int, timeout_seconds: float) -> None:
        """Returns when so many have ended since `restart`, or after that time: a notice may be missed."""
        with self._lock:
            self._wanted = count
            if self._seen >= count:
                return
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._enough.wait()
        except TimeoutError:
            pass

    def add(self, count: int) -> None:
        """So many more, from any thread."""
        with self._lock:
            self._seen += count
            enough = self._seen >= self._wanted
        if enough and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._enough.set)


class Endings:
    """Who waits for which workflows in this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[str, set[Ends]] = {}

    @contextmanager
    def of(self, name: str) -> Iterator[Ends]:
        """``name`` as notices have it: a parent's id for its children, ``=`` and its id for a workflow
        without a parent.
        """
        ends = Ends()
        with self._lock:
            self._waiting.setdefault(name, set()).add(ends)
        try:
            yield ends
        finally:
            with self._lock:
                self._waiting[name].discard(ends)
                if not self._waiting[name]:
                    del self._waiting[name]

    def ended(self, name: str) -> None:
        """One notice."""
        self._tell(name, 1)

    def ended_perhaps(self) -> None:
        """Makes everyone look: after missed notices, and at a stop."""
        with self._lock:
            names = list(self._waiting)
        for name in names:
            self._tell(name, sys.maxsize)

    def _tell(self, name: str, count: int) -> None:
        with self._lock:
            waiting = list(self._waiting.get(name, ()))
        for ends in waiting:
            ends.add(count)
