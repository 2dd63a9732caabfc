"""Which connections are closed when there are too many."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import h11
import pytest
from uvicorn.protocols.http.h11_impl import H11Protocol

from holdfast.process import http_protocol
from holdfast.process.http_protocol import HttpProtocol, _awaits_its_client


@pytest.mark.parametrize(("others", "crowded"), [(3, False), (4, True)])
def test_room_is_made_beyond_the_limit(monkeypatch: pytest.MonkeyPatch, others: int, crowded: bool) -> None:
    made: list[str] = []
    monkeypatch.setattr(http_protocol, "CONNECTION_LIMIT", 4)
    monkeypatch.setattr(H11Protocol, "connection_made", lambda self, _: self.connections.add(self))
    monkeypatch.setattr(HttpProtocol, "_watch_head", lambda _: None)
    monkeypatch.setattr(HttpProtocol, "_make_room", lambda _: made.append("room"))
    protocol: Any = HttpProtocol.__new__(HttpProtocol)
    protocol.loop, protocol.connections = SimpleNamespace(time=lambda: 1.0), set(range(others))
    protocol.connection_made(None)
    assert made == ["room"] * crowded


@pytest.mark.parametrize("state", [h11.IDLE, h11.SEND_BODY, h11.DONE, h11.MUST_CLOSE])
@pytest.mark.parametrize("closing", [False, True])
def test_only_an_open_connection_that_owes_a_request_can_make_room(state: Any, closing: bool) -> None:
    transport = SimpleNamespace(is_closing=lambda: closing)
    connection = SimpleNamespace(transport=transport, conn=SimpleNamespace(their_state=state))
    assert _awaits_its_client(connection) == (not closing and state in (h11.IDLE, h11.SEND_BODY))
    connection.transport = None  # type: ignore[assignment]
    assert not _awaits_its_client(connection)
