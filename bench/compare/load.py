"""Open-loop load on an API: ``python -m bench.compare.load URL SECONDS``, the token on standard input.

Requests are due at fixed times whatever the answers do, and a latency counts from when its request was
due, so that a stall is not hidden by requests that were never sent. A bare HTTP/1.1 client: a full one
would take the CPU that the API is short of.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any
from urllib.parse import urlsplit

RATE = 200
SUBMIT_EVERY = 5
"""Every fifth request starts work, the others ask for readiness."""
CONNECTIONS = 32
_LATE_SECONDS = 10.0


class Connection:
    """One kept connection, made again when the server closes it."""

    def __init__(self, host: str, port: int) -> None:
        self.host, self.port = host, port
        self.reader: asyncio.StreamReader | None = None
        self.writer: asyncio.StreamWriter | None = None

    async def request(self, head: str, body: bytes) -> int:
        """The status. Raises ``OSError`` or ``EOFError`` when there is none."""
        if self.writer is None or self.reader is None:
            self.reader, self.writer = await asyncio.open_connection(self.host, self.port)
        self.writer.write(head.encode() + body)
        answer = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        length = next(
            (int(line[15:]) for line in answer.split("\r\n") if line.startswith("content-length:")), 0
        )
        await self.reader.readexactly(length)
        if "\r\nconnection: close" in answer:
            self.close()
        return int(answer.split(" ", 2)[1])

    def close(self) -> None:
        """Forget it."""
        if self.writer is not None:
            self.writer.close()
        self.reader = self.writer = None


async def load(url: str, token: str, seconds: float) -> dict[str, Any]:
    """Latencies in milliseconds by kind, and what went wrong."""
    host, port = str(urlsplit(url).hostname), int(urlsplit(url).port or 80)
    body = json.dumps({"numbers": [1]}).encode()
    common = f"Host: {host}:{port}\r\nAuthorization: Bearer {token}\r\n"
    heads = {
        "readyz": (f"GET /readyz HTTP/1.1\r\n{common}\r\n", b""),
        "submit": (
            f"POST /fibonacci/batches HTTP/1.1\r\n{common}Content-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n",
            body,
        ),
    }
    wanted = {"readyz": (200,), "submit": (200, 202)}
    found: dict[str, list[float]] = {"readyz": [], "submit": []}
    statuses: dict[str, int] = {}
    due: asyncio.Queue[tuple[str, float]] = asyncio.Queue()
    last = 0.0

    async def serve() -> None:
        nonlocal last
        connection = Connection(host, port)
        while True:
            kind, at = await due.get()
            try:
                async with asyncio.timeout(_LATE_SECONDS):
                    status = await connection.request(*heads[kind])
                outcome = str(status)
                good = status in wanted[kind]
            except (OSError, EOFError, TimeoutError, ValueError) as error:
                connection.close()
                outcome, good = type(error).__name__, False
            last = time.perf_counter()
            statuses[f"{kind} {outcome}"] = statuses.get(f"{kind} {outcome}", 0) + 1
            if good:
                found[kind].append(1000 * (last - at))
            due.task_done()

    serving = [asyncio.create_task(serve()) for _ in range(CONNECTIONS)]
    begun = time.perf_counter()
    for number in range(int(RATE * seconds)):
        at = begun + number / RATE
        await asyncio.sleep(max(0.0, at - time.perf_counter()))
        due.put_nowait(("submit" if number % SUBMIT_EVERY == 0 else "readyz", at))
    await due.join()
    for task in serving:
        task.cancel()
    return {"seconds": last - begun, "milliseconds": found, "statuses": statuses}


def main() -> None:
    """Prints the outcome as one line of JSON."""
    token = sys.stdin.readline().strip()
    json.dump(asyncio.run(load(sys.argv[1], token, float(sys.argv[2]))), sys.stdout)


if __name__ == "__main__":
    main()
