"""uvicorn's HTTP/1.1 protocol with limits on connections and on every wait for a client.

uvicorn limits only the idle time after an answer: a client that opens a connection and sends nothing, sends
its headers one byte at a time, or does not read its answer, would keep a connection forever. The API itself
limits the bodies. uvicorn's own concurrency limit counts idle connections, so it would refuse new requests,
first of all the probes. Errors are answered as problem documents.
"""

from __future__ import annotations

import asyncio
import json
import logging
import resource
import socket
from contextlib import suppress
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol

from holdfast.process.watched_transport import WatchedTransport

HEAD_SECONDS = 10.0
"""Time limit for a request's headers, from the connection or a later request's first byte."""
LINGER_SECONDS = 2.0
"""How long a connection is still read after its refusal, or after an answer that did not need the whole body.

An immediate close would reset the connection and lose the answer.
"""
CONNECTION_LIMIT = 2000
"""Above this limit, the connections that have waited longest for their client are closed."""
SEND_QUEUE_BYTES = 64 * 1024
"""What the kernel takes of an answer before its client has read it; Linux doubles it.

Left alone, the kernel takes up to 4 MB per connection: memory that no limit of ours counts, and milliseconds
of the event loop for each write.
"""
_FREED_DIVISOR = 20  # frees 1/20 of the limit in one scan, so that a flood does not scan per connection
_OPEN_FILES = 8192
_LOG_INTERVAL_SECONDS = 10.0

log = logging.getLogger("holdfast.http")


def allow_open_files() -> None:
    """Raises this process's limit of open files as far as permitted, and derives the limit of connections."""
    global CONNECTION_LIMIT  # noqa: PLW0603
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if resource.RLIM_INFINITY not in (soft, hard) and soft < _OPEN_FILES:
        soft = min(hard, _OPEN_FILES)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft != resource.RLIM_INFINITY:
        # The other half is for PostgreSQL, child processes and files.
        CONNECTION_LIMIT = min(CONNECTION_LIMIT, soft // 2)


class HttpProtocol(H11Protocol):
    """One connection. Late headers are answered 408, broken HTTP 400; a silent connection is closed."""

    _deadline: asyncio.TimerHandle | None = None
    _deadline_is_of_a_body = False
    _refused = False
    _since = 0.0
    _logged_at = float("-inf")
    transport: WatchedTransport  # type: ignore[assignment]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Starts the time limit of the first head, and closes waiting connections if there are too many."""
        _bound_send_queue(transport)
        super().connection_made(WatchedTransport(transport, self.loop))  # type: ignore[arg-type]
        self._since = self.loop.time()
        self._watch_request()
        if len(self.connections) > CONNECTION_LIMIT:
            self._make_room()

    def on_response_complete(self) -> None:
        """The connection is idle again: restart its idle clock."""
        self._since = self.loop.time()
        super().on_response_complete()
        if self.conn.their_state is h11.SEND_BODY:  # uvicorn's keep-alive limit starts anew with each byte
            self._watch_request()

    def data_received(self, data: bytes) -> None:
        """Feeds the parser, unless this connection was refused."""
        if self._refused:
            return
        super().data_received(data)
        self._watch_request()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancels the time limits."""
        self._stop_watch()
        if self.transport is not None:
            self.transport.stop_watch()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Refuses the connection. uvicorn calls this for any input that is not HTTP, also within a body."""
        self._refuse(400, msg)

    def _watch_request(self) -> None:
        """Limits the time of a head, and of what is left of a body when its request has been answered."""
        of_a_body = self.conn.their_state is h11.SEND_BODY
        answered = of_a_body and self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE, h11.SEND_BODY)
        owed = self.conn.their_state is h11.IDLE or answered
        if self._refused or self.transport.is_closing() or not owed:
            self._stop_watch()
            return
        if self._deadline is not None and self._deadline_is_of_a_body is not of_a_body:
            self._stop_watch()
        if self._deadline is None:
            self._deadline_is_of_a_body = of_a_body
            self._deadline = self.loop.call_later(LINGER_SECONDS if of_a_body else HEAD_SECONDS, self._late)

    def _stop_watch(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _late(self) -> None:
        self._deadline = None
        if self.transport.is_closing():
            return
        if self._deadline_is_of_a_body:
            self.transport.abort()
        elif self.conn.trailing_data[0]:
            self._refuse(408, "The request's headers came too slowly. Send it again.")
        else:
            self.transport.close()

    def _make_room(self) -> None:
        """Closes the connections that have waited longest for their client; active requests are kept."""
        since = {other: _waiting_since(other) for other in self.connections if other is not self}
        waiting = sorted(
            (seconds, id(other), other) for other, seconds in since.items() if seconds is not None
        )
        room = max(1, CONNECTION_LIMIT // _FREED_DIVISOR)
        now = self.loop.time()
        if now - HttpProtocol._logged_at > _LOG_INTERVAL_SECONDS:
            HttpProtocol._logged_at = now
            log.warning(
                "%d connections are open: closing the %d that have waited longest for their client",
                len(self.connections),
                min(room, len(waiting)),
                extra={"action": "http.crowded"},
            )
        for _, _, other in waiting[:room]:
            other.transport.abort()
        if not waiting:
            self._refuse(503, "Too many requests are being answered. Send it again shortly.")

    def _refuse(self, status: int, detail: str) -> None:
        self._refused = True
        self._stop_watch()
        self._unset_keepalive_if_required()
        if self.cycle is not None and not self.cycle.response_complete:
            # The application must not answer too: it sees a client that has disconnected.
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            for event in _problem(status, detail):
                self.transport.write(self.conn.send(event) or b"")
            self.flow.resume_reading()
            if self.transport.can_write_eof():
                self.transport.write_eof()
            self.loop.call_later(LINGER_SECONDS, self.transport.close)
        else:  # part of the answer is sent: only a closed connection can signal the error
            self.transport.close()


def _bound_send_queue(transport: asyncio.Transport) -> None:
    sock = transport.get_extra_info("socket")
    if sock is not None:
        with suppress(OSError):  # closed by now
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_QUEUE_BYTES)


def _waiting_since(connection: Any) -> float | None:
    """Since when a connection has waited for its client: to read, or to send a head or a body."""
    if connection.transport is None:
        return None
    since: float | None = connection.transport.unread_since
    if since is None and not connection.transport.is_closing():
        owes_a_request = connection.conn.their_state in (h11.IDLE, h11.SEND_BODY)
        since = connection._since if owes_a_request else None
    return since


def _problem(status: int, detail: str) -> list[Any]:
    phrase = STATUS_PHRASES[status]
    title = phrase.decode()
    document = {
        "type": f"urn:holdfast:problem:{title.lower().replace(' ', '-')}",
        "title": title,
        "status": status,
        "detail": detail,
    }
    body = json.dumps(document).encode()
    headers = [
        (b"content-type", b"application/problem+json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
    ]
    return [
        h11.Response(status_code=status, headers=headers, reason=phrase),
        h11.Data(body),
        h11.EndOfMessage(),
    ]
