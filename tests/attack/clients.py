"""The attackers: one process with at most 2,000 connections, to loopback only, until its input ends.

``python -m tests.attack.clients PORT CONNECTIONS`` prints how many connections are open, once per second. A
client whose connection was closed waits a second and comes again, so that the attack goes on.
"""

from __future__ import annotations

import asyncio
import resource
import socket
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress

HOST = "127.0.0.1"
MOST = 2000
"""As many as the API accepts (`CONNECTION_LIMIT`)."""
HEAD = b"HTTP/1.1\r\nHost: localhost\r\n"
BIG = b"GET /static/swagger-ui-bundle.js " + HEAD + b"\r\n"
"""1.5 MB that everyone may ask for."""
JSON = b"POST /nested " + HEAD + b"Content-Type: application/json\r\nContent-Length: "
BODY_BYTES = 1024 * 1024
AGAIN_SECONDS = 1.0
HOLD_SECONDS = 15.0
"""After this time a client that does not read comes again: it cannot see that it was closed."""

Client = Callable[[socket.socket], Awaitable[None]]


async def ask_and_never_read(connection: socket.socket) -> None:
    """Asks once for a large file."""
    await _send(connection, BIG)
    await asyncio.sleep(HOLD_SECONDS)


async def pipeline_and_never_read(connection: socket.socket) -> None:
    """Asks four times at once for a large file."""
    await _send(connection, BIG * 4)
    await asyncio.sleep(HOLD_SECONDS)


async def send_a_slow_head(connection: socket.socket) -> None:
    """Sends the head of a request, a byte per second."""
    await _drip(connection, b"GET /livez " + HEAD + b"A: ")


async def send_a_slow_body(connection: socket.socket) -> None:
    """Sends a body, a byte per second."""
    await _drip(connection, JSON + b"999\r\n\r\n{")


async def drip_after_a_refusal(connection: socket.socket) -> None:
    """Goes on with a body that was refused for its length."""
    await _drip(connection, JSON + b"%d\r\n\r\n{" % 10**9)


async def hold_a_body(connection: socket.socket) -> None:
    """Sends a large body but for its last byte."""
    await _send(connection, JSON + b"%d\r\n\r\n{" % BODY_BYTES + b" " * (BODY_BYTES - 2))
    await _read_until_closed(connection)


async def say_nothing(connection: socket.socket) -> None:
    """Opens a connection."""
    await _read_until_closed(connection)


async def ask_for_metrics(connection: socket.socket) -> None:
    """Asks for /metrics, again and again."""
    await _repeat(connection, b"GET /metrics " + HEAD + b"\r\n")


async def use_a_foreign_host(connection: socket.socket) -> None:
    """Asks as a page whose name was rebound, ten times per second."""
    await _repeat(connection, b"GET /executors HTTP/1.1\r\nHost: evil.example\r\n\r\n", pause_seconds=0.1)


async def use_a_foreign_origin(connection: socket.socket) -> None:
    """Asks as a page of another origin, ten times per second."""
    await _repeat(
        connection, b"POST /nested " + HEAD + b"Origin: http://evil.example\r\n\r\n", pause_seconds=0.1
    )


SHARES: dict[Client, int] = {
    pipeline_and_never_read: 25,
    ask_and_never_read: 20,
    say_nothing: 15,
    send_a_slow_head: 15,
    send_a_slow_body: 10,
    drip_after_a_refusal: 7,
    hold_a_body: 5,
    ask_for_metrics: 1,
    use_a_foreign_host: 1,
    use_a_foreign_origin: 1,
}
"""Percent of the connections."""


async def _send(connection: socket.socket, data: bytes) -> None:
    await asyncio.get_running_loop().sock_sendall(connection, data)


async def _read_until_closed(connection: socket.socket) -> None:
    while await asyncio.get_running_loop().sock_recv(connection, 65_536):
        pass


async def _drip(connection: socket.socket, start: bytes) -> None:
    await _send(connection, start)
    while True:
        await asyncio.sleep(1.0)
        await _send(connection, b" ")


async def _repeat(connection: socket.socket, request: bytes, *, pause_seconds: float = 0.0) -> None:
    while True:
        await _send(connection, request)
        if not await asyncio.get_running_loop().sock_recv(connection, 1_000_000):
            return
        await asyncio.sleep(pause_seconds)


class Crowd:
    """All clients."""

    def __init__(self, port: int, number: int) -> None:
        self.port = port
        self.number = min(number, MOST)
        self.open = 0

    async def attack(self) -> None:
        """Runs until it is cancelled."""
        async with asyncio.TaskGroup() as group:
            for client, share in SHARES.items():
                for _ in range(max(1, self.number * share // 100)):
                    group.create_task(self._live(client))
                    await asyncio.sleep(0)
            while True:
                sys.stdout.write(f"{self.open}\n")
                sys.stdout.flush()
                await asyncio.sleep(1.0)

    async def _live(self, client: Client) -> None:
        while True:
            with socket.socket() as connection, suppress(OSError):
                if client in (ask_and_never_read, pipeline_and_never_read):
                    # As little as possible waits in the kernel.
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
                    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
                connection.setblocking(False)
                await asyncio.get_running_loop().sock_connect(connection, (HOST, self.port))
                self.open += 1
                try:
                    await client(connection)
                finally:
                    self.open -= 1
            await asyncio.sleep(AGAIN_SECONDS)


async def main() -> None:
    """Attacks until the end of standard input."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 2 * MOST + 100), hard))
    attack = asyncio.create_task(Crowd(int(sys.argv[1]), int(sys.argv[2])).attack())
    await asyncio.to_thread(sys.stdin.read)
    attack.cancel()


if __name__ == "__main__":
    asyncio.run(main())
