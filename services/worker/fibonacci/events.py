"""A batch as server-sent events. One reader per batch feeds all open streams of this process.

An event's id encodes the numbers that the client has (`{total}-{bits in hex}`). A reconnect, to any API
process, therefore continues where the stream broke: `Last-Event-ID` needs no memory on our side.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from holdfast.errors import DatabaseUnavailable, HoldfastError
from holdfast.statuses import TERMINAL
from holdfast.web import HEARTBEAT_SECONDS, RECONNECT_MILLISECONDS, Permits, sse_event, woken
from services.worker.fibonacci.batches import read_batch
from services.worker.fibonacci.models import Batch, NumberResult

if TYPE_CHECKING:
    from holdfast.web import Process

logger = logging.getLogger("holdfast.api")

POLL_SECONDS = 0.25
OUTAGE_POLL_SECONDS = 1.0

_EVENT_ID = re.compile(r"(\d{1,5})-([0-9a-f]{1,3000})(-end)?")


class Feed:
    """The only reader of a batch. It polls while it has listeners, and wakes them."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self.listeners = 0
        self.ended = batch.status in TERMINAL
        self.task: asyncio.Task[None] | None = None
        self.next_poll = asyncio.Event()
        """Set at the reader's next poll, and then replaced by a new event."""

    async def follow(self, process: Process) -> None:
        """Keeps `batch` fresh until it is terminal. An outage of the database only delays it."""
        loop = asyncio.get_running_loop()
        gateway = process.gateway
        while not self.ended:
            began = loop.time()
            pause = POLL_SECONDS
            try:
                known = {number.index: number for number in self.batch.results if number.status == "SUCCESS"}
                self.batch = await gateway.call(read_batch, gateway.client, self.batch.workflow_id, known)
                # Polls use at most a fifth of the time: a batch of a thousand numbers costs more than one of
                # fifty.
                pause = max(pause, 4 * (loop.time() - began))
            except DatabaseUnavailable:
                pause = OUTAGE_POLL_SECONDS
            except HoldfastError:  # the batch was deleted
                self.ended = True
            except Exception:
                # The streams end without `end`, so that their clients reconnect.
                logger.exception("event feed failed", extra={"action": "request.failed"})
                self.ended = True
            self.ended = self.ended or self.batch.status in TERMINAL
            polled, self.next_poll = self.next_poll, asyncio.Event()
            polled.set()
            if not self.ended:
                await asyncio.sleep(pause)


class Feeds:
    """All open feeds of this process, and the limit on open streams."""

    def __init__(self, process: Process, limit: int) -> None:
        self.process = process
        self.permits = Permits(limit)
        self._feeds: dict[str, Feed] = {}

    async def join(self, batch_id: str) -> Feed:
        """Returns the batch's feed after a first poll. Raises `UnknownWorkflow`, `DatabaseUnavailable`."""
        if batch_id not in self._feeds:
            gateway = self.process.gateway
            batch = await gateway.call(read_batch, gateway.client, batch_id)
            self._feeds.setdefault(batch_id, Feed(batch))
        feed = self._feeds[batch_id]
        feed.listeners += 1
        if feed.task is None:
            feed.task = asyncio.create_task(feed.follow(self.process))
        return feed

    def leave(self, feed: Feed) -> None:
        """Undoes one `join`. The last one ends the reader."""
        feed.listeners -= 1
        if feed.listeners == 0:
            self._feeds.pop(feed.batch.workflow_id, None)
            if feed.task is not None:
                feed.task.cancel()


async def events(process: Process, feed: Feed, last_event_id: str | None) -> AsyncIterator[str]:
    """Yields `snapshot` (unless resumed), `number` per change, `progress`, and `end` when terminal.

    Stops without `end` when the process drains, so that the client reconnects to the next process.
    """
    yield f"retry: {RECONNECT_MILLISECONDS}\n\n"
    sent: dict[int, Any] = {}
    progress: tuple[str, int] | None = None
    resumed = seen(last_event_id, feed.batch.total)
    if resumed is None:
        batch = feed.batch
        sent = {number.index: _mark(number) for number in batch.results}
        progress = (batch.status, batch.completed)
        yield _event("snapshot", batch.model_dump(mode="json"), _bits(batch, sent))
    else:
        sent = dict.fromkeys(resumed, "SUCCESS")
    stopping = asyncio.ensure_future(process.wait_stopping())
    try:
        while True:
            # Taken before the batch is read: a poll in between sets it, so no change is missed.
            next_poll = feed.next_poll
            batch, ended = feed.batch, feed.ended
            for number in batch.results:
                mark = _mark(number)
                if sent.get(number.index) != mark:
                    sent[number.index] = mark
                    yield _event("number", number.model_dump(mode="json"), _bits(batch, sent))
            if progress != (batch.status, batch.completed):
                progress = (batch.status, batch.completed)
                yield _event("progress", _progress(batch), _bits(batch, sent))
            if ended:
                if batch.status in TERMINAL:
                    yield _event("end", _progress(batch), f"{_bits(batch, sent)}-end")
                return
            if not await woken(stopping, next_poll, HEARTBEAT_SECONDS):
                yield ": still here\n\n"
            if stopping.done():
                return
    finally:
        stopping.cancel()


def finished(last_event_id: str | None) -> bool:
    """Whether the client has received the end, and reconnects only because EventSource always does."""
    return bool(last_event_id and (match := _EVENT_ID.fullmatch(last_event_id)) and match[3])


def seen(last_event_id: str | None, total: int) -> set[int] | None:
    """Returns the indexes that the client has; None for an id that does not belong to this batch."""
    match = _EVENT_ID.fullmatch(last_event_id or "")
    if match is None or int(match[1]) != total:
        return None
    bits = int(match[2], 16)
    return {index for index in range(total) if bits >> index & 1}


def _mark(number: NumberResult) -> Any:
    # A number with a result never changes. Without one, a change of status, executor or attempts is an event.
    return "SUCCESS" if number.status == "SUCCESS" else (number.status, number.executor_id, number.attempts)


def _bits(batch: Batch, sent: dict[int, Any]) -> str:
    return f"{batch.total}-{sum(1 << index for index, mark in sent.items() if mark == 'SUCCESS'):x}"


def _progress(batch: Batch) -> dict[str, Any]:
    return batch.model_dump(mode="json", exclude={"results"})


def _event(kind: str, data: dict[str, Any], event_id: str) -> str:
    return sse_event(kind, event_id, json.dumps(data))
