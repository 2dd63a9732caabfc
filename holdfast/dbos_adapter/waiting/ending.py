"""Waiting for the end of workflows: whoever waits counts the notices that say so."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
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


class _Told:
    """Calls back at each end."""

    def __init__(self, tell: Callable[[], object]) -> None:
        self._tell = tell

    def add(self, _: int) -> None:
        self._tell()


class Endings:
    """Who waits for which workflows in this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[str, set[Ends | _Told]] = {}
        self.heard = False
        """Whether notices come in: who waits looks rarely then. Set by the listener."""

    @contextmanager
    def of(self, name: str) -> Iterator[Ends]:
        """``name`` is a parent's id for its children, ``=`` and its id for one workflow."""
        ends = Ends()
        with self._registered([name], ends):
            yield ends

    @contextmanager
    def told(self, workflow_ids: Iterable[str], tell: Callable[[], object]) -> Iterator[None]:
        """Inside, ``tell`` is called when one of these workflows ends, and when a notice may be missed."""
        with self._registered([f"={workflow_id}" for workflow_id in workflow_ids], _Told(tell)):
            yield

    @contextmanager
    def _registered(self, names: list[str], ends: Ends | _Told) -> Iterator[None]:
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
        """One notice: the length of a workflow's id, a colon, the id, and its parent's if it has one."""
        length, _, ids = payload.partition(":")
        if not length:
            self.ended_perhaps()  # the ids are too long for a notice
            return
        self.ended(f"={ids[: int(length)]}")
        if parent := ids[int(length) :]:
            self.ended(parent)

    def ended(self, name: str) -> None:
        """One end, by its name as `of` has it."""
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
