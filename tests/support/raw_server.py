"""A server on the loopback that sends raw bytes, whatever it is asked."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress


@contextmanager
def raw_server(parts: Iterable[bytes]) -> Iterator[tuple[int, list[bytes]]]:
    """Sends the parts to each client in turn, then closes; yields its port and the requests that it got."""
    requests: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            while True:
                try:
                    client, _ = listening.accept()
                except OSError:
                    return
                with client, suppress(OSError):
                    requests.append(client.recv(4096))
                    for part in parts:
                        client.sendall(part)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield listening.getsockname()[1], requests
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join(5)


class Counted:
    """Parts, and the number of bytes that were taken of them."""

    def __init__(self, parts: Iterable[bytes]) -> None:
        self._parts = parts
        self.bytes = 0

    def __iter__(self) -> Iterator[bytes]:
        for part in self._parts:
            self.bytes += len(part)
            yield part


class FastClock:
    """A monotonic clock on which half a second passes with every look."""

    step = 0.5

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += self.step
        return self.now
