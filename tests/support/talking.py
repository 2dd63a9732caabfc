"""A user-defined module whose workflow receives messages, and reports each by an event and a stream."""

from __future__ import annotations

from dbos import DBOS

from holdfast.durable.registry import Queue, register, workflow


@workflow("talk.collect")
def collect(count: int) -> list[int]:
    """Returns the received messages, in order."""
    received: list[int] = []
    while len(received) < count:
        message = DBOS.recv("number", timeout_seconds=120)
        if message is None:
            break
        received.append(message)
        DBOS.set_event("received", len(received))
        DBOS.write_stream("numbers", message)
    DBOS.close_stream("numbers")
    return received


register(Queue("talk", [collect]))
