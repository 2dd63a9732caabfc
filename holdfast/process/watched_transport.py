"""A connection whose client must read what is written to it. Neither asyncio nor uvicorn has such a limit.

Without it, a client that asks and never reads keeps its connection and the answer in memory. ``close()`` does
not end such a connection either: asyncio first waits until the buffer is written.
"""

from __future__ import annotations

import array
import asyncio
import fcntl
import termios
from typing import Any

READ_SECONDS = 10.0
"""Time in which a client must read all that waits for it, or `READ_BYTES` of it."""
READ_BYTES = 64 * 1024
UNREAD_BYTES = 64 * 1024 * 1024
"""Limit for all answers in this process that their clients have not read yet."""


class UnreadAnswers:
    """Bounds what all connections together keep for their clients: above the limit, the slowest are aborted.

    uvicorn writes the next part of an answer only when less than 64 KiB wait. But one part may be a whole
    answer of more than a megabyte, and there may be 2,000 connections.
    """

    def __init__(self, limit: int = UNREAD_BYTES) -> None:
        self.bytes = 0
        self._limit = limit
        self._sizes: dict[WatchedTransport, int] = {}

    def note(self, transport: WatchedTransport) -> None:
        """Counts what waits in one transport, and makes room if all together are above the limit."""
        size = transport.get_write_buffer_size()
        if size or transport in self._sizes:
            self._count(transport, size)
            if self.bytes > self._limit:
                self._make_room()

    def forget(self, transport: WatchedTransport) -> None:
        """Counts an ended connection no longer."""
        self.bytes -= self._sizes.pop(transport, 0)

    def _count(self, transport: WatchedTransport, size: int) -> None:
        self.forget(transport)
        if size:
            self._sizes[transport] = size
            self.bytes += size

    def _make_room(self) -> None:
        # What was read since the last write is noticed only here. A quarter stays free, so that a crowd does
        # not cost one scan per write.
        for transport in list(self._sizes):
            self._count(transport, transport.get_write_buffer_size())
        waiting = sorted(self._sizes, key=lambda each: each.unread_since or 0.0)
        for transport in waiting:
            if self.bytes <= self._limit * 3 // 4:
                return
            transport.abort()
            self.forget(transport)


_unread_answers = UnreadAnswers()


class WatchedTransport:
    """A transport that aborts its connection if the client does not read.

    A client falls behind when a write does not fit into the kernel's buffer. From then on, it must read
    everything or `READ_BYTES` in each `READ_SECONDS`. This holds while the transport is closing, too.

    A client's kernel announces what was read in steps: 90 KiB on Linux, more with a larger receive buffer.
    So a client that reads little more than `READ_BYTES` can still be aborted.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        loop: asyncio.AbstractEventLoop,
        unread: UnreadAnswers = _unread_answers,
    ) -> None:
        self._unread = unread
        self._transport = transport
        self._loop = loop
        self._written = 0
        self._read_at_mark = 0
        self._check: asyncio.TimerHandle | None = None
        self._since = 0.0

    def __getattr__(self, name: str) -> Any:
        """Everything except writes is the transport's own."""
        return getattr(self._transport, name)

    @property
    def unread_since(self) -> float | None:
        """Since when the client has read too little, or None if nothing waits for it."""
        return self._since if self._transport.get_write_buffer_size() else None

    def write(self, data: bytes) -> None:
        """Writes, and starts the client's time limit if it does not take everything immediately."""
        if not self._transport.get_write_buffer_size():
            self.stop_watch()
        self._written += len(data)
        self._transport.write(data)
        if self._check is None and self._transport.get_write_buffer_size():
            self._mark()
        self._unread.note(self)

    def stop_watch(self) -> None:
        """Stops the time limit."""
        self._unread.forget(self)
        if self._check is not None:
            self._check.cancel()
            self._check = None

    def _mark(self) -> None:
        self._since = self._loop.time()
        self._read_at_mark = self._read()
        self._check = self._loop.call_later(READ_SECONDS, self._compare)

    def _read(self) -> int:
        return self._written - self._transport.get_write_buffer_size() - self._sending()

    def _sending(self) -> int:
        """Returns the bytes in the kernel's send queue, which takes more only when much of it is free."""
        count = array.array("i", [0])
        try:
            fcntl.ioctl(self._transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, count)
        except (AttributeError, OSError, ValueError):  # no socket, or a closed one
            return 0
        return count[0]

    def _compare(self) -> None:
        self._check = None
        if not self._transport.get_write_buffer_size():
            return
        if self._read() - self._read_at_mark < READ_BYTES:
            self._transport.abort()
        else:
            self._mark()
