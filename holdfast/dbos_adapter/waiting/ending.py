"""Waits for the end of workflows by counting completion notices."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager


class EndCounter:
    """Counts workflow ends since the last `restart`, for one waiting coroutine.

    Call `restart`, poll, then wait for as many ends as the poll found unfinished. An end between the poll and
    the wait is counted. An end that the poll saw already only makes the next poll earlier.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._enough = asyncio.Event()
        self._seen = 0
        self._wanted = sys.maxsize

    def restart(self) -> None:
        """Resets the counter. Call before a poll."""
        with self._lock:
            self._seen, self._wanted = 0, sys.maxsize
            self._enough.clear()

    async def wait(self, count: int, timeout_seconds: float) -> None:
        """Waits for ``count`` ends since `restart`, at most ``timeout_seconds``: a notice may be missed."""
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
        """Adds ``count`` ends, from any thread."""
        with self._lock:
            self._seen += count
            enough = self._seen >= self._wanted
        if enough and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._enough.set)


class _EndCallback:
    """Calls a function at each end."""

    def __init__(self, callback: Callable[[], object]) -> None:
        self._callback = callback

    def add(self, _: int) -> None:
        self._callback()


class Endings:
    """Tracks which callers in this process wait for which workflows."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[str, set[EndCounter | _EndCallback]] = {}
        self.notices_arrive = False
        """Whether completion notices arrive: if so, waiting callers poll rarely. The listener sets it."""

        self.over = False
        """Whether nothing waits here any more, because the application has ended (see `end`)."""

    def end(self) -> None:
        """Ends every wait: what ran here was handed over, and its outcome will not be seen here."""
        self.over = True
        self.poll_all()

    @contextmanager
    def count_ends(self, name: str) -> Iterator[EndCounter]:
        """Counts ends of a parent's children (``name`` is its id) or of one workflow (``=`` and its id)."""
        ends = EndCounter()
        with self._registered([name], ends):
            yield ends

    @contextmanager
    def on_end(self, workflow_ids: Iterable[str], callback: Callable[[], object]) -> Iterator[None]:
        """Inside the block, calls ``callback`` when one of these workflows ends or a notice may be missed."""
        with self._registered([f"={workflow_id}" for workflow_id in workflow_ids], _EndCallback(callback)):
            yield

    @contextmanager
    def _registered(self, names: list[str], ends: EndCounter | _EndCallback) -> Iterator[None]:
        with self._lock:
            for name in names:
                self._waiting.setdefault(name, set()).add(ends)
        try:
            yield
        finally:
            with self._lock:
                for name in names:
                    self._waiting[name].discard(ends)
                    if not self._waiting[name]:
                        del self._waiting[name]

    def notice(self, payload: str) -> None:
        """Handles a completion notice: the length of a workflow's id, a colon, the id, any parent's id."""
        length, _, ids = payload.partition(":")
        if not length:
            self.poll_all()  # the ids are too long for a notice
            return
        self.ended(f"={ids[: int(length)]}")
        if parent := ids[int(length) :]:
            self.ended(parent)

    def ended(self, name: str) -> None:
        """Handles one end. ``name`` is the same as for `count_ends`."""
        self._notify(name, 1)

    def poll_all(self) -> None:
        """Makes every waiting caller poll, after missed notices and at a stop."""
        with self._lock:
            names = list(self._waiting)
        for name in names:
            self._notify(name, sys.maxsize)

    def _notify(self, name: str, count: int) -> None:
        with self._lock:
            waiting = list(self._waiting.get(name, ()))
        for ends in waiting:
            ends.add(count)
