"""uvicorn's HTTP/1.1 with a limit on the time that a request's head may take, and errors as problems.

uvicorn bounds only the idle time after an answer: a client that opens a connection and says nothing, or
sends its headers a byte at a time, would keep a connection for ever. Bodies are bounded by the API itself.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol

HEAD_SECONDS = 10.0
"""From the connection, or a later request's first byte, to the end of that request's headers."""
LINGER_SECONDS = 2.0
"""How long a refused connection is still read: closed at once, the answer would drown in a reset."""


class HttpProtocol(H11Protocol):
    """One connection. A head that is late gets 408, silence is closed, broken HTTP gets 400."""

    _deadline: asyncio.TimerHandle | None = None
    _refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the first head's time."""
        super().connection_made(transport)
        self._watch_head()

    def data_received(self, data: bytes) -> None:
        """Feed the parser, unless this connection has been refused."""
        if self._refused:
            return
        super().data_received(data)
        self._watch_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is waited for any more."""
        self._stop_watch()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """What uvicorn calls for everything that is not HTTP, in the middle of a body too."""
        self._refuse(400, msg)

    def _watch_head(self) -> None:
        if self._refused or self.transport.is_closing() or self.conn.their_state is not h11.IDLE:
            self._stop_watch()
        elif self._deadline is None:
            self._deadline = self.loop.call_later(HEAD_SECONDS, self._late)

    def _stop_watch(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _late(self) -> None:
        self._deadline = None
        if self.transport.is_closing():
            return
        if self.conn.trailing_data[0]:
            self._refuse(408, "The request's headers came too slowly. Send it again.")
        else:
            self.transport.close()

    def _refuse(self, status: int, detail: str) -> None:
        self._refused = True
        self._stop_watch()
        self._unset_keepalive_if_required()
        if self.cycle is not None and not self.cycle.response_complete:
            # The application must not answer a second time: to it, the client has gone.
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            for event in _problem(status, detail):
                self.transport.write(self.conn.send(event) or b"")
            self.flow.resume_reading()
            if self.transport.can_write_eof():
                self.transport.write_eof()
            self.loop.call_later(LINGER_SECONDS, self.transport.close)
        else:  # half an answer is out: only a closed connection tells the client
            self.transport.close()


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
