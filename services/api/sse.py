"""What every stream of server-sent events shares."""

from __future__ import annotations

import asyncio
from typing import Any

HEARTBEAT_SECONDS = 10.0
RECONNECT_MILLISECONDS = 1000
HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


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
