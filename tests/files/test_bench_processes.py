"""The comparison's processes: asked with a limit, ended with all they started; and servers that are not
durable give no figure."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import pytest

from bench.compare import load
from bench.compare.processes import Asked, NotMeasured, Running
from bench.compare.servers import DURABLE, REPORTED, postgres_settings
from holdfast.installations.supervised import is_alive

ECHO = "import sys\nfor line in sys.stdin: print(line.strip(), flush=True)"
DEAF = "import sys, time\nsys.stdin.readline()\ntime.sleep(60)"
FAMILY = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
child = subprocess.Popen([sys.executable, "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"])
print(child.pid, flush=True)
time.sleep(60)
"""


def command(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_a_driver_answers_line_by_line(tmp_path: Path) -> None:
    driver = Asked(command(ECHO), tmp_path / "log", {})
    try:
        assert driver.ask(10, "tiny", n=3) == {"command": "tiny", "n": 3}
        with pytest.raises(NotMeasured, match="out of order"):
            driver.ask(10, "tiny", error="out of order")
    finally:
        driver.end()
    with pytest.raises(NotMeasured):
        driver.ask(10, "tiny")


def test_a_driver_that_is_too_slow_is_ended(tmp_path: Path) -> None:
    """Its late answer would be taken for the next one's."""
    driver = Asked(command(DEAF), tmp_path / "log", {})
    begun = time.monotonic()
    with pytest.raises(NotMeasured, match=r"no answer within 0\.2 s"):
        driver.ask(0.2, "tiny")
    assert driver.process.poll() is not None
    assert time.monotonic() - begun < 10
    driver.end()


def test_the_end_reaches_what_a_process_started(tmp_path: Path) -> None:
    log = tmp_path / "log"
    running = Running(command(FAMILY), log)
    child = int(running.wait_for(lambda: log.read_text("ascii").strip(), 10, "the child"))
    assert is_alive(child)
    running.end()
    deadline = time.monotonic() + 10
    while is_alive(child):  # its new parent may take a moment to bury it
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_server_that_ends_says_why(tmp_path: Path) -> None:
    running = Running(command("import sys; sys.exit('the port is taken')"), tmp_path / "log")
    with pytest.raises(NotMeasured, match=r"exit code 1: the port is taken"):
        running.wait_for(lambda: False, 10, "the server")
    running.end()


class Server:
    """A PostgreSQL that tells its settings."""

    def __init__(self, **settings: str) -> None:
        self.settings = dict.fromkeys(REPORTED, "1") | DURABLE | {"server_version": "18"} | settings
        self.asked = ""

    def cursor(self) -> Server:
        return self

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def execute(self, statement: str) -> None:
        self.asked = statement.removeprefix("SHOW ")

    def fetchone(self) -> Any:
        return (self.settings[self.asked],)


@pytest.mark.parametrize("name", sorted(DURABLE))
def test_a_server_that_does_not_wait_for_its_disk_gives_no_figure(name: str) -> None:
    assert postgres_settings(Server())["server_version"] == "18"
    with pytest.raises(NotMeasured, match=f"not durable: .*{name}"):
        postgres_settings(Server(**{name: "off"}))


@pytest.mark.timing
def test_the_load_counts_from_when_a_request_was_due() -> None:
    """A server that stalls for a moment shows in every request that was due meanwhile."""
    import asyncio

    stalled = {"until": 0.0}

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            if b"content-length" in head.lower():
                length = next(
                    int(line.split(b":")[1])
                    for line in head.split(b"\r\n")
                    if line.lower().startswith(b"content-l")
                )
                await reader.readexactly(length)
            await asyncio.sleep(max(0.0, stalled["until"] - time.monotonic()))
            status = b"202 Accepted" if head.startswith(b"POST") else b"200 OK"
            writer.write(b"HTTP/1.1 " + status + b"\r\nContent-Length: 2\r\n\r\n{}")

    async def run() -> dict[str, Any]:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        stalled["until"] = time.monotonic() + 0.6
        try:
            return await load.load(f"http://127.0.0.1:{port}", "secret", 1.0)
        finally:
            server.close()

    told = asyncio.run(run())
    assert told["statuses"] == {"readyz 200": 160, "submit 202": 40}
    late = [value for value in told["milliseconds"]["readyz"] if value > 200]
    # 200 a second for 0.4 s of the stall, less those that are due when it is nearly over.
    assert 40 <= len(late) <= 110
