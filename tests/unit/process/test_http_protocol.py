"""Which connections are closed when there are too many, or when their clients do not read."""

from __future__ import annotations

import asyncio
import socket
from types import SimpleNamespace
from typing import Any

import h11
import pytest
from uvicorn.protocols.http.h11_impl import H11Protocol

from holdfast.process import http_protocol
from holdfast.process.http_protocol import HttpProtocol, _waiting_since
from holdfast.process.watched_transport import READ_BYTES, READ_SECONDS, UnreadAnswers, WatchedTransport


@pytest.mark.parametrize(("others", "crowded"), [(3, False), (4, True)])
def test_room_is_made_beyond_the_limit(monkeypatch: pytest.MonkeyPatch, others: int, crowded: bool) -> None:
    made: list[str] = []
    monkeypatch.setattr(http_protocol, "CONNECTION_LIMIT", 4)
    monkeypatch.setattr(H11Protocol, "connection_made", lambda self, _: self.connections.add(self))
    monkeypatch.setattr(HttpProtocol, "_watch_request", lambda _: None)
    monkeypatch.setattr(HttpProtocol, "_make_room", lambda _: made.append("room"))
    protocol: Any = HttpProtocol.__new__(HttpProtocol)
    protocol.loop, protocol.connections = SimpleNamespace(time=lambda: 1.0), set(range(others))
    protocol.connection_made(SimpleNamespace(get_extra_info=lambda _: None))
    assert made == ["room"] * crowded


@pytest.mark.parametrize("state", [h11.IDLE, h11.SEND_BODY, h11.DONE, h11.MUST_CLOSE])
@pytest.mark.parametrize("closing", [False, True])
def test_only_a_connection_that_waits_for_its_client_makes_room(state: Any, closing: bool) -> None:
    transport = SimpleNamespace(is_closing=lambda: closing, unread_since=None)
    connection: Any = SimpleNamespace(
        transport=transport, conn=SimpleNamespace(their_state=state), _since=7.0
    )
    waits = not closing and state in (h11.IDLE, h11.SEND_BODY)
    assert _waiting_since(connection) == (7.0 if waits else None)
    transport.unread_since = 5.0
    assert _waiting_since(connection) == 5.0, "also one that closes when its answer is read"
    connection.transport = None
    assert _waiting_since(connection) is None


# --- answers that are not read --------------------------------------------------------------


class Kernel:
    """A transport that passes on what the client reads, and the loop's clock."""

    def __init__(self) -> None:
        self.buffered = 0
        self.now = 0.0
        self.aborted = False
        self.timers: list[tuple[float, Any]] = []

    def get_extra_info(self, _: str) -> None:
        """There is no socket."""

    def get_write_buffer_size(self) -> int:
        return self.buffered

    def write(self, data: bytes) -> None:
        self.buffered += len(data)

    def abort(self) -> None:
        self.aborted = True
        self.buffered = 0

    def time(self) -> float:
        return self.now

    def call_later(self, seconds: float, call: Any) -> Any:
        timer = (self.now + seconds, call)
        self.timers.append(timer)
        return SimpleNamespace(cancel=lambda: self.timers.remove(timer))

    def read(self, size: int) -> None:
        self.buffered -= size

    def wait(self, seconds: float) -> None:
        end = self.now + seconds
        while self.timers and min(self.timers)[0] <= end:
            timer = min(self.timers)
            self.timers.remove(timer)
            self.now = timer[0]
            timer[1]()
        self.now = end


def test_a_client_that_reads_enough_is_kept_and_one_that_stops_is_not() -> None:
    kernel: Any = Kernel()
    transport = WatchedTransport(kernel, kernel)
    transport.write(b"x" * 400_000)
    for _ in range(3):
        kernel.read(READ_BYTES)
        kernel.wait(READ_SECONDS)
        assert transport.unread_since == kernel.now, "not the longest waiting one in a crowd"
    assert not kernel.aborted
    kernel.wait(2 * READ_SECONDS)
    assert kernel.aborted


@pytest.mark.parametrize("drop", [0, 1, READ_BYTES // 100])
def test_a_few_bytes_now_and_then_are_no_reading(drop: int) -> None:
    kernel: Any = Kernel()
    transport = WatchedTransport(kernel, kernel)
    transport.write(b"x" * 400_000)
    for _ in range(50):
        kernel.wait(READ_SECONDS / 50)
        kernel.read(drop)
        transport.write(b"more")
    kernel.wait(0.001)
    assert kernel.aborted


def test_a_client_that_has_read_everything_starts_anew() -> None:
    kernel: Any = Kernel()
    transport = WatchedTransport(kernel, kernel)
    for _ in range(5):
        transport.write(b"a heartbeat")
        assert transport.unread_since == kernel.now
        kernel.wait(READ_SECONDS * 0.9)
        assert not kernel.aborted
        kernel.read(kernel.buffered)
        assert transport.unread_since is None
    transport.write(b"a heartbeat")
    transport.stop_watch()
    kernel.wait(READ_SECONDS * 2)
    assert not kernel.aborted, "the connection has ended"


def test_all_unread_answers_together_are_bounded() -> None:
    """Those that have not read for longest are aborted. What clients have read meanwhile does not count."""
    unread = UnreadAnswers(limit=1_000_000)
    kernels: list[Any] = []
    for number in range(30):
        kernel: Any = Kernel()
        kernel.now = float(number)
        kernels.append(kernel)
        WatchedTransport(kernel, kernel, unread).write(b"x" * 100_000)
        kernels[0].read(kernels[0].buffered)  # the first one reads everything, late
        assert sum(each.buffered for each in kernels) <= 1_000_000
    assert not kernels[0].aborted
    aborted = [number for number, each in enumerate(kernels) if each.aborted]
    assert aborted == list(range(1, aborted[-1] + 1)), "in the order in which they stopped reading"
    assert 19 <= len(aborted) <= 22


def test_a_connection_that_has_ended_holds_no_answer() -> None:
    unread = UnreadAnswers(limit=1_000_000)
    for _ in range(20):
        kernel: Any = Kernel()
        transport = WatchedTransport(kernel, kernel, unread)
        transport.write(b"x" * 900_000)
        kernel.buffered = 0
        transport.stop_watch()
        assert not kernel.aborted
    assert unread.bytes == 0


def test_a_real_client_that_reads_slowly_is_kept_and_one_that_does_not_read_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The kernel's send queue takes megabytes, and more only when a third of it is free."""
    monkeypatch.setattr("holdfast.process.watched_transport.READ_SECONDS", 0.2)

    async def run() -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32 * 1024)  # announces small steps
        client.connect(listener.getsockname())
        served, _ = listener.accept()
        loop = asyncio.get_running_loop()
        real, _ = await loop.create_connection(asyncio.Protocol, sock=served)
        transport = WatchedTransport(real, loop)
        with listener, client:
            transport.write(b"x" * 20_000_000)
            for _ in range(8):
                read = 0
                while read < 2 * READ_BYTES:
                    read += len(client.recv(READ_BYTES))
                await asyncio.sleep(0.2)
                assert not real.is_closing()
            await asyncio.sleep(0.5)
            assert real.is_closing()
            assert transport._read() >= 0, "its socket is closed"

    asyncio.run(run())
