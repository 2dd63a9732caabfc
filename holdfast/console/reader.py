"""The only console reader of a process: polls the database while a page is open, and feeds every open page.

A poll reads what changed since the last one. The result is one change, which is kept as text in a ring. Any
number of pages therefore cost the database and the encoder no more than one page, and a page that reconnects
continues where it was.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import secrets
import time
from collections import deque
from typing import Any

from holdfast.console.bars import BUCKET_SECONDS, Row
from holdfast.console.history import History
from holdfast.console.labels import needs_input
from holdfast.console.page_data import EXECUTOR_LIMIT, PageData, Pulse
from holdfast.console.shown_rows import Ask, with_shown_rows
from holdfast.errors import DatabaseUnavailable

log = logging.getLogger("holdfast.console")

WINDOW_SECONDS = 900.0
POLL_SECONDS = 0.25
OUTAGE_POLL_SECONDS = 0.5
FRESH_SECONDS = 1.0
OVERLAP_SECONDS = 2.0
"""Polls overlap by this time, because a start gets its timestamp before its transaction commits."""
BAR_LIMIT = 2000
MOVE_LIMIT = 500
COUNT_LIMIT = 100_000
RING_CHANGES = 600
RING_CHARACTERS = 4_000_000

_EVENT_ID = re.compile(r"([0-9a-f]{8})-(\d{1,15})")


class Reader:
    """Polls while it has listeners. `fixed` are members of the snapshot that never change."""

    def __init__(
        self, ask: Ask, fixed: dict[str, Any], *, lease_seconds: float, pulse: Pulse | None = None
    ) -> None:
        self._ask = ask = with_shown_rows(ask)
        self._fixed = {**fixed, "pulse_seconds": pulse.seconds if pulse else None}
        self._tick = pulse.workflow if pulse else ""
        self.boot = secrets.token_hex(4)
        self.number = 0
        self.listeners = 0
        self.polls = 0
        self.next_change = asyncio.Event()
        """Set at the next change, and then replaced by a new event."""
        self.history = History(window_seconds=WINDOW_SECONDS, bar_limit=BAR_LIMIT, move_limit=MOVE_LIMIT)
        self.page_data = PageData(ask, WINDOW_SECONDS, lease_seconds, pulse)
        self._ring: deque[tuple[int, str]] = deque()
        self._ring_characters = 0
        self._database: dict[str, Any] = {"up": False, "since": time.time()}
        self._takeover: dict[str, Any] | None = None
        self._published: dict[str, Any] = {"database": self._database, "last_takeover": None}
        self._snapshot: tuple[int, str] | None = None
        self._database_time = time.time()
        self._at = time.monotonic()
        self._polled_at: float | None = None
        self._poll_cost_seconds = 0.0
        self._poll_lock = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    # --- calls of the streams --------------------------------------------------------------

    async def join(self) -> None:
        """Adds a listener. The first one starts the polls. Returns once the data is fresh."""
        self.listeners += 1
        try:
            await self.refresh()
        except BaseException:
            self.leave()
            raise
        if self._task is None and self.listeners:
            self._task = asyncio.create_task(self._follow(), name="console-reader")

    def leave(self) -> None:
        """Undoes one `join`. The last one ends the polls. The data is kept for clients that reconnect."""
        self.listeners -= 1
        if self.listeners == 0 and self._task is not None:
            self._task.cancel()
            self._task = None

    async def refresh(self) -> None:
        """Polls, unless a poll just ended. An outage of the database is part of the data, not an error."""
        async with self._poll_lock:
            if self._polled_at is None or time.monotonic() - self._polled_at > FRESH_SECONDS:
                await self._poll()

    def snapshot(self) -> tuple[int, str]:
        """Returns the number of the newest change, and all data as one JSON text."""
        if self._snapshot is None or self._snapshot[0] != self.number:
            self._snapshot = (self.number, _json(self.document()))
        return self._snapshot

    def document(self) -> dict[str, Any]:
        """Returns all data in the page's form."""
        return {
            "id": self.event_id(self.number),
            "now": round(self.now(), 3),
            "window_seconds": WINDOW_SECONDS,
            **self._fixed,
            "database": self._database,
            "bars": list(self.history.bars.items.values()),
            "more": self.history.more.shown(),
            "moves": list(self.history.moves.items.values()),
            "last_takeover": self._takeover,
            **self.page_data.document(),
        }

    def event_id(self, number: int) -> str:
        """Returns the id of a change: the id of this process's start and a sequence number."""
        return f"{self.boot}-{number}"

    def resume(self, last_event_id: str | None) -> int | None:
        """Returns the number after which a page continues; None if it needs a snapshot."""
        match = _EVENT_ID.fullmatch(last_event_id or "")
        if match is None or match[1] != self.boot:
            return None
        number = int(match[2])
        return number if self.after(number) is not None else None

    def after(self, number: int) -> list[tuple[int, str]] | None:
        """Returns the changes after that number, oldest first; None if the ring no longer has all of them."""
        first = self._ring[0][0] if self._ring else self.number + 1
        if not first - 1 <= number <= self.number:
            return None
        return [change for change in self._ring if change[0] > number]

    def now(self) -> float:
        """Returns the database's time, extrapolated with the monotonic clock."""
        return self._database_time + time.monotonic() - self._at

    # --- polling ---------------------------------------------------------------------------

    async def _follow(self) -> None:
        while True:
            # A slow database is polled less often: polls take at most a fifth of its time.
            pause = max(POLL_SECONDS, min(4 * self._poll_cost_seconds, 2.0))
            await asyncio.sleep(pause if self._database["up"] else OUTAGE_POLL_SECONDS)
            async with self._poll_lock:
                await self._poll()

    async def _poll(self) -> None:
        began = time.monotonic()
        try:
            await self._read()
        except DatabaseUnavailable:
            self._set_database(up=False)
        except Exception:
            # Pages keep their data; the next poll reads the same again.
            log.exception("console poll failed", extra={"action": "request.failed"})
        else:
            self._set_database(up=True)
        finally:
            self.polls += 1
            self._polled_at = time.monotonic()
            self._poll_cost_seconds = self._polled_at - began
            self._publish()

    async def _read(self) -> None:
        history = self.history
        executors = await self._ask("console_executors", window_seconds=WINDOW_SECONDS, limit=EXECUTOR_LIMIT)
        now = executors[0]["now"]
        # Since the last complete poll: the next poll reads what a failed one missed.
        last = self.page_data.read_at
        since = max(now - WINDOW_SECONDS, (last or 0.0) - OVERLAP_SECONDS)
        rows = await self._ask(
            "console_attempts", since_ms=int(since * 1000), limit=BAR_LIMIT, tick=self._tick
        )
        await self._count_skipped(rows, since)
        left = sorted(history.bars.running() - {row["workflow_id"] for row in rows})
        if left:
            ended = await self._ask("console_attempts_of", workflow_ids=left)
            history.vanished(set(left) - {row["workflow_id"] for row in ended})
            rows += ended
        moves = await self._ask(
            "console_moves", since=since - OVERLAP_SECONDS, open_ids=history.open_moves(), limit=MOVE_LIMIT
        )
        inputs = await self._inputs([*rows, *moves])
        history.attempts(rows, inputs, now)
        history.moved(moves, inputs, now)
        history.trim(now)
        await self.page_data.read(executors, now)
        self._takeover = self.history.last_takeover()
        self._database_time, self._at = now, time.monotonic()

    async def _count_skipped(self, rows: list[Row], since: float) -> None:
        """Counts the older starts if more workflows started than one poll reads."""
        begun = sorted(row["started_ms"] for row in rows if (row["started_ms"] or 0) > since * 1000)
        if len(begun) < BAR_LIMIT:
            return
        oldest = begun[-BAR_LIMIT]
        counts = await self._ask(
            "console_more",
            after_ms=int(max(since, self.history.floor) * 1000),
            before_ms=oldest,
            bucket_seconds=BUCKET_SECONDS,
            tick=self._tick,
            limit=COUNT_LIMIT,
        )
        self.history.add_counts(counts, oldest / 1000)

    async def _inputs(self, rows: list[Row]) -> dict[str, str]:
        wanted = {
            row["workflow_id"]
            for row in rows
            if needs_input(row["name"]) and not self.history.bars.knows(row["workflow_id"])
        }
        if not wanted:
            return {}
        input_rows = await self._ask("console_inputs", workflow_ids=sorted(wanted))
        return {row["workflow_id"]: row["inputs"] for row in input_rows}

    # --- changes ---------------------------------------------------------------------------

    def _set_database(self, *, up: bool) -> None:
        if self._database["up"] is not up:
            self._database = {"up": up, "since": round(self.now(), 3)}

    def _publish(self) -> None:
        change = self._change()
        if not change:
            return
        self.number += 1
        text = _json({"now": round(self.now(), 3), **change})
        self._ring.append((self.number, text))
        self._ring_characters += len(text)
        while len(self._ring) > RING_CHANGES or self._ring_characters > RING_CHARACTERS:
            self._ring_characters -= len(self._ring.popleft()[1])
        changed, self.next_change = self.next_change, asyncio.Event()
        changed.set()

    def _change(self) -> dict[str, Any]:
        bars, bars_gone = self.history.bars.take()
        moves, moves_gone = self.history.moves.take()
        change, gone = self.page_data.take()
        change |= {"bars": bars, "moves": moves, "more": self.history.more.take()}
        gone |= {"bars": bars_gone, "moves": moves_gone}
        change = {name: value for name, value in change.items() if value}
        if any(gone.values()):
            change["gone"] = {name: keys for name, keys in gone.items() if keys}
        single = {"database": self._database, "last_takeover": self._takeover}
        for name, value in single.items():
            if self._published.get(name) != value:
                change[name] = self._published[name] = value
        return change


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)
