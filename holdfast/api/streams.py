"""A workflow's stream as server-sent events, read when DBOS's notification announces a new value."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, NamedTuple

from holdfast.api.sse import HEARTBEAT_SECONDS, RECONNECT_MILLISECONDS, sse_event
from holdfast.api.views import stored_value
from holdfast.dbos_adapter.waiting.notices import stream_name
from holdfast.errors import DatabaseUnavailable
from holdfast.statuses import TERMINAL

if TYPE_CHECKING:
    from holdfast.dbos_adapter.waiting.ending import EndCounter
    from holdfast.process.process import Process

VALUE_BYTES = 64 * 1024
"""Maximum size of a value in an event; a longer value is cut."""
BATCH_BYTES = 256 * 1024
BATCH_VALUES = 200
FALLBACK_SECONDS = 5.0
"""Fallback poll interval, for a lost notification and for the end of the workflow."""
OUTAGE_SECONDS = 1.0
LAST_OFFSET = 2**31 - 2
"""DBOS's offsets are 32 bits."""

CLOSED = '"__DBOS_STREAM_CLOSED__"'
"""The last value of a closed stream, as DBOS stores it."""

_EVENT_ID = re.compile(r"(\d{1,10})(-end)?")


class Position(NamedTuple):
    """The offset from which a client continues, and whether it has received the end."""

    offset: int
    ended: bool


def position(last_event_id: str | None, offset: int) -> Position:
    """Returns the position after the client's last event, or ``offset`` if the id is not ours."""
    match = _EVENT_ID.fullmatch(last_event_id or "")
    if match is None:
        return Position(offset, ended=False)
    return Position(min(int(match[1]) + 1, LAST_OFFSET), ended=match[2] is not None)


class Reader:
    """Reads one stream for one client in bounded batches."""

    def __init__(self, process: Process, workflow_id: str, key: str, offset: int) -> None:
        self.workflow_id, self.key, self.offset = workflow_id, key, offset
        self.batch: list[dict[str, Any]] = []
        self.status = ""
        self._process = process

    async def read(self) -> bool:
        """Reads the next batch. Returns whether the workflow exists. Raises `DatabaseUnavailable`."""
        rows = await self._process.gateway.ops(
            "stream_values",
            workflow_id=self.workflow_id,
            key=self.key,
            offset=self.offset,
            limit=BATCH_VALUES,
            value_bytes=VALUE_BYTES,
            budget=BATCH_BYTES,
        )
        self.batch = [row for row in rows if row["offset"] is not None]
        self.status = rows[0]["status"] if rows else ""
        return bool(rows)


async def values(process: Process, reader: Reader) -> AsyncIterator[str]:
    """Yields an event `value` for each value, then `end`. Requires a first `read` of the reader.

    Stops without `end` if the process drains or the workflow is deleted; the client then reconnects.
    """
    yield f"retry: {RECONNECT_MILLISECONDS}\n\n"
    stopping = asyncio.ensure_future(process.wait_stopping())
    waker = process.waker
    name = stream_name(reader.workflow_id, reader.key)
    try:
        with (
            waker.notices.streams.count_ends(name) as written,
            waker.endings.count_ends(f"={reader.workflow_id}") as ended,
        ):
            # A value written between the first read and this line is found without a wait.
            exists, quiet, pause = True, 0.0, 0.001
            while exists and not stopping.done():
                batch, reader.batch = reader.batch, []
                for row in batch:
                    if row["value"] == CLOSED and row["serialization"] == "portable_json":
                        yield _end(reader, closed=True)
                        return
                    value = stored_value(row, VALUE_BYTES).model_dump(mode="json")
                    yield sse_event(
                        "value", str(row["offset"]), json.dumps({"offset": row["offset"], **value})
                    )
                    reader.offset = row["offset"] + 1
                if not batch and reader.status in TERMINAL:
                    yield _end(reader, closed=False)
                    return
                if not batch:
                    quiet += await _woken(stopping, written, ended, pause or FALLBACK_SECONDS)
                    if quiet >= HEARTBEAT_SECONDS:
                        quiet = 0.0
                        yield ": still here\n\n"
                # Reset before the read, so that a value written after the read wakes the loop.
                written.restart()
                ended.restart()
                try:
                    exists, pause = await reader.read(), 0.0
                except DatabaseUnavailable:
                    pause, reader.status = OUTAGE_SECONDS, ""
    finally:
        stopping.cancel()


def _value(row: dict[str, Any]) -> str:
    data = {"offset": row["offset"], **stored_value(row, VALUE_BYTES).model_dump(mode="json")}
    return sse_event("value", str(row["offset"]), json.dumps(data))


def _end(reader: Reader, *, closed: bool) -> str:
    data = {"closed": closed, "status": reader.status, "length": reader.offset}
    return sse_event("end", f"{max(0, reader.offset - 1)}-end", json.dumps(data))


async def _woken(
    stopping: asyncio.Future[None], written: EndCounter, ended: EndCounter, seconds: float
) -> float:
    """Waits for the stop, a new value or the end, at most `seconds`. Returns the seconds waited."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    waiting = [asyncio.ensure_future(ends.wait(1, seconds)) for ends in (written, ended)]
    try:
        await asyncio.wait({stopping, *waiting}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waiting:
            task.cancel()
    return loop.time() - began
