"""A connection to PostgreSQL with added latency: a proxy on the loopback that delays packets."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seconds: float) -> None:
    loop = asyncio.get_running_loop()
    held: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

    async def let_go() -> None:
        while True:
            due, data = await held.get()
            await asyncio.sleep(due - loop.time())
            if not data:
                writer.close()
                return
            writer.write(data)

    going = asyncio.create_task(let_go())
    try:
        data = b"-"
        while data:
            with suppress(OSError):
                data = await reader.read(1 << 20)
            held.put_nowait((loop.time() + seconds, data))
        await going
    finally:
        going.cancel()
        writer.close()


@contextmanager
def slow_line(port: int, seconds: float) -> Iterator[int]:
    """Yields a local port that leads to another one and adds ``seconds`` to each round trip."""
    loop = asyncio.new_event_loop()

    async def joined(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to_server = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(
            _pass_on(reader, to_server[1], seconds / 2), _pass_on(to_server[0], writer, seconds / 2)
        )

    server = loop.run_until_complete(asyncio.start_server(joined, "127.0.0.1", 0))
    thread = threading.Thread(target=loop.run_forever, name="slow-line", daemon=True)
    thread.start()
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        for task in asyncio.all_tasks(loop):
            task.cancel()
            with suppress(asyncio.CancelledError):
                loop.run_until_complete(task)
        server.close()
        loop.close()
