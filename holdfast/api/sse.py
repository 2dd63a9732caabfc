"""Common parts of all streams of server-sent events: framing, heartbeat, and a cut-off of slow clients."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

if TYPE_CHECKING:
    from holdfast.process.process import Process

log = logging.getLogger("holdfast.api")

HEARTBEAT_SECONDS = 10.0
RECONNECT_MILLISECONDS = 1000
HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
SLOW_SECONDS = 10.0
"""A client that reads nothing for this long is cut off. It may reconnect with its Last-Event-ID."""
STOP_SECONDS = 0.3


class BoundedStream(StreamingResponse):
    """One client's stream. `leave` is called once when the stream ends, even before its first byte."""

    def __init__(self, process: Process, events: AsyncIterator[str], leave: Callable[[], None]) -> None:
        super().__init__(events, media_type="text/event-stream", headers=HEADERS)
        self._process = process
        self._leave = leave

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends until the events end, the client disconnects or does not read, or the process stops."""
        streaming = asyncio.ensure_future(self._send(scope, send))
        gone = asyncio.ensure_future(self.listen_for_disconnect(receive))
        stopping = asyncio.ensure_future(self._process.wait_stopping())
        watched: set[asyncio.Future[None]] = {streaming, gone, stopping}
        try:
            await asyncio.wait(watched, return_when=asyncio.FIRST_COMPLETED)
            if not streaming.done() and not gone.done():
                # On a stop the stream ends by itself, unless it waits for a client that does not read.
                await asyncio.wait({streaming}, timeout=STOP_SECONDS)
            if streaming.done():
                await streaming
        finally:
            self._leave()
            for task in watched:
                task.cancel()

    async def _send(self, scope: Scope, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        try:
            async for text in self.body_iterator:
                assert isinstance(text, str)
                # Backpressure: while the connection's bounded buffer is full, this send waits.
                async with asyncio.timeout(SLOW_SECONDS):
                    await send({"type": "http.response.body", "body": text.encode(), "more_body": True})
        except TimeoutError:
            log.info(
                "a client does not read: its stream of %s is closed",
                getattr(scope.get("route"), "path", "events"),
                extra={"action": "stream.cut_off"},
            )
            return
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def sse_event(kind: str, event_id: str, text: str) -> str:
    """Formats one event. `text` must be a single line."""
    return f"id: {event_id}\nevent: {kind}\ndata: {text}\n\n"


async def woken(stopping: asyncio.Future[None], news: asyncio.Event, seconds: float) -> bool:
    """Waits for the stop or for `news`, at most `seconds`. Returns whether one of them came."""
    waiting = asyncio.ensure_future(news.wait())
    either: set[asyncio.Future[Any]] = {stopping, waiting}
    try:
        done, _ = await asyncio.wait(either, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
    return bool(done)
