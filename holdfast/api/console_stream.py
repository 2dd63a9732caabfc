"""The console's data as server-sent events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from holdfast.api.sse import HEARTBEAT_SECONDS, RECONNECT_MILLISECONDS, sse_event, woken
from holdfast.console.reader import Reader

if TYPE_CHECKING:
    from holdfast.process.process import Process


async def events(process: Process, reader: Reader, last_event_id: str | None) -> AsyncIterator[str]:
    """Yields a `snapshot` unless resumed, then `change` events, until the process drains. Requires `join`."""
    yield f"retry: {RECONNECT_MILLISECONDS}\n\n"
    number = reader.resume(last_event_id)
    stopping = asyncio.ensure_future(process.wait_stopping())
    try:
        while not stopping.done():
            # Taken before the changes are read, so that a change in between sets it and is not missed.
            next_change = reader.next_change
            changes = None if number is None else reader.after(number)
            if changes is None:
                number, text = reader.snapshot()
                yield sse_event("snapshot", reader.event_id(number), text)
            elif changes:
                number = changes[-1][0]
                yield "".join(sse_event("change", reader.event_id(key), text) for key, text in changes)
            elif not await woken(stopping, next_change, HEARTBEAT_SECONDS):
                yield ": still here\n\n"
    finally:
        stopping.cancel()
