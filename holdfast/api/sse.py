"""What every stream of server-sent events shares: framing, heartbeat, and an end where nobody reads."""

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
"""A client that takes nothing for this long is cut off; it may come back with its Last-Event-ID."""
STOP_SECONDS = 0.3


class BoundedStream(StreamingResponse):
    """One client's stream. `leave` is called once however it ends, also before its first byte."""

    def __init__(self, process: Process, events: AsyncIterator[str], leave: Callable[[], None]) -> None:
        super().__init__(events, media_type="text/event-stream", headers=HEADERS)
        self._process = process
        self._leave = leave

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until the events end, the client leaves or does not read, or the process stops."""
        streaming = asyncio.ensure_future(self._send(scope, send))
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
            self._leave()
            for task in watched:
                task.cancel()

    async def _send(self, scope: Scope, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        try:
            async for text in self.body_iterator:
                assert isinstance(text, str)
                # What the connection cannot take waits here, in its bounded buffer, and nowhere else.
                async with asyncio.timeout(SLOW_SECONDS):
                    await send({"type": "http.response.body", "body": text.encode(), "more_body": True})
        except TimeoutError:
            log.info(
                "a client does not read, its stream of %s is cut off",
                getattr(scope.get("route"), "path", "events"),
                extra={"action": "stream.cut_off"},
            )
            return
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def sse_event(kind: str, event_id: str, text: str) -> str:
    """One event; `text` is a single line."""
    return f"id: {event_id}\nevent: {kind}\ndata: {text}\n\n"


async def woken(stopping: asyncio.Future[None], news: asyncio.Event, seconds: float) -> bool:
    """Whether one of them came within that time."""
    waiting = asyncio.ensure_future(news.wait())
    either: set[asyncio.Future[Any]] = {stopping, waiting}
    try:
        done, _ = await asyncio.wait(either, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
    return bool(done)
