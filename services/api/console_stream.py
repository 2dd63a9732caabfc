"""The console's figures as server-sent events: bounded in number, cut off where a client does not read."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from services.api.context import Places
from services.api.sse import HEADERS, HEARTBEAT_SECONDS, RECONNECT_MILLISECONDS, sse_event, woken
from services.console.reader import Reader

if TYPE_CHECKING:
    from services.runtime.process import Process

log = logging.getLogger("holdfast.api")

SLOW_SECONDS = 10.0
"""A client that takes nothing for this long is cut off; it may come back with its Last-Event-ID."""
STOP_SECONDS = 0.3


class ConsoleStream(StreamingResponse):
    """One page's stream. Gives its place and its share of the reader back however it ends."""

    def __init__(self, process: Process, reader: Reader, places: Places, last_event_id: str | None) -> None:
        super().__init__(
            events(process, reader, last_event_id),
            media_type="text/event-stream",
            headers=HEADERS,
        )
        self._process = process
        self._reader = reader
        self._places = places

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until the client leaves, does not read, or the process stops."""
        del scope
        streaming = asyncio.ensure_future(self._send(send))
        gone = asyncio.ensure_future(self.listen_for_disconnect(receive))
        stopping = asyncio.ensure_future(self._process.wait_stopping())
        watched: set[asyncio.Future[None]] = {streaming, gone, stopping}
        try:
            await asyncio.wait(watched, return_when=asyncio.FIRST_COMPLETED)
            if not streaming.done() and not gone.done():
                # The stream ends itself, unless it waits for a client that does not read.
                await asyncio.wait({streaming}, timeout=STOP_SECONDS)
            if streaming.done():
                await streaming
        finally:
            self._reader.leave()
            self._places.give_back()
            for task in watched:
                task.cancel()

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        try:
            async for text in self.body_iterator:
                assert isinstance(text, str)
                # What the connection cannot take waits here, in its bounded buffer, and nowhere else.
                async with asyncio.timeout(SLOW_SECONDS):
                    await send({"type": "http.response.body", "body": text.encode(), "more_body": True})
        except TimeoutError:
            log.info("a page does not read, its stream is cut off", extra={"action": "console.cut_off"})
            return
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def events(process: Process, reader: Reader, last_event_id: str | None) -> AsyncIterator[str]:
    """`snapshot` unless resumed, then `change`s, until the process drains. The reader must be joined."""
    yield f"retry: {RECONNECT_MILLISECONDS}\n\n"
    number = reader.resume(last_event_id)
    stopping = asyncio.ensure_future(process.wait_stopping())
    try:
        while not stopping.done():
            # Taken before the changes are read: one in between sets it, and nothing is slept through.
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
