"""Many connections at once: idle ones, slow heads, slow bodies, streams that nobody reads."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from holdfast.api import middleware, sse
from holdfast.process import http_protocol, watched_transport
from tests.support.api_server import Api, serving
from tests.support.database import Database, wait_until
from tests.support.reporting import record

SLOW_HEAD = b"GET /livez HTTP/1.1\r\nHost: localhost\r\nA: "
SLOW_BODY = (
    b"POST /nested HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b"Content-Length: 99\r\n\r\n{"
)

BIG = b"GET /static/swagger-ui-bundle.js HTTP/1.1\r\nHost: localhost\r\n\r\n"
"""1.5 MB that everyone may ask for, with or without a token."""


@pytest.fixture
def api(database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    # Longer than the tests: what they see is not that the crowd has gone by itself.
    monkeypatch.setattr(http_protocol, "HEAD_SECONDS", 60.0)
    monkeypatch.setattr(middleware, "BODY_TIMEOUT_SECONDS", 60.0)
    with serving(database.settings("api")) as made:
        yield made
        assert made.http.get("/livez").status_code == 200


@pytest.fixture
def crowd(api: Api) -> Iterator[Crowd]:
    with ExitStack() as stack:
        yield Crowd(api, stack)


class Crowd:
    """Connections that stay."""

    def __init__(self, api: Api, stack: ExitStack) -> None:
        self.api = api
        self._stack = stack
        self.connections: list[socket.socket] = []

    def add(self, number: int, start: bytes = b"") -> list[socket.socket]:
        added = []
        for _ in range(number):
            connection = self._stack.enter_context(socket.create_connection(self.api.address, timeout=20))
            connection.sendall(start)
            added.append(connection)
        self.connections += added
        return added

    def add_that_never_read(self, number: int, start: bytes) -> None:
        for _ in range(number):
            connection = self._stack.enter_context(socket.socket())
            # As little as possible waits in the kernel.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
            connection.connect(self.api.address)
            connection.sendall(start)

    def unread(self) -> int:
        return sum(each.transport.unread_since is not None for each in self.open())

    def open(self) -> list[Any]:
        return list(self.api.server.server_state.connections)

    def accepted(self) -> int:
        return len(self.api.server.server_state.connections)


def probes(api: Api, number: int) -> list[float]:
    """Seconds that /readyz takes, each over a connection of its own, in order of length."""
    took = []
    for _ in range(number):
        began = time.monotonic()
        answer = httpx.get(f"{api.http.base_url}/readyz", timeout=10, trust_env=False)
        took.append(time.monotonic() - began)
        assert answer.status_code == 200
    return sorted(took)


@pytest.mark.timing
def test_a_crowd_of_all_kinds_does_not_slow_the_probes(api: Api, crowd: Crowd) -> None:
    crowd.add(1000)
    crowd.add(200, SLOW_HEAD)
    crowd.add(200, SLOW_BODY)
    wait_until(lambda: crowd.accepted() >= 1400, "all are accepted")
    took = probes(api, 100)
    record("readyz_p99_seconds_with_1400_slow_connections", took[98])
    # A client of its own a probe costs most of it; what is looked for is a second's wait behind the crowd.
    assert took[98] < 0.5, took[-5:]
    assert crowd.accepted() >= 1400, "they ended too early to tell anything"
    assert api.http.post("/nested").status_code == 202


@pytest.mark.timing
def test_the_crowd_drips_and_the_probes_still_answer(api: Api, crowd: Crowd) -> None:
    crowd.add(300, SLOW_HEAD)
    crowd.add(300, SLOW_BODY)
    wait_until(lambda: crowd.accepted() >= 600, "all are accepted")
    slowest = 0.0
    for _ in range(10):
        for connection in crowd.connections:
            connection.sendall(b" ")
        slowest = max(slowest, probes(api, 5)[-1])
    record("readyz_slowest_seconds_with_600_dripping_connections", slowest)
    assert slowest < 1


def test_connections_are_bounded_and_newcomers_are_served(
    api: Api, crowd: Crowd, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(http_protocol, "CONNECTION_LIMIT", 100)
    files = open_files()
    # One is being answered all the time: it is not the one that has to go.
    batch = api.http.post("/fibonacci/batches").json()["workflow_id"]
    with api.http.stream("GET", f"/fibonacci/batches/{batch}/events") as stream:
        lines = stream.iter_lines()
        assert next(lines)
        for kind in (b"", SLOW_HEAD, SLOW_BODY):
            crowd.add(300, kind)
            probes(api, 3)
            assert crowd.accepted() <= 110
        # Ours and theirs are both in this process.
        assert open_files() - files - len(crowd.connections) < 130
        api.http.post(f"/workflows/{batch}/cancel")
        assert any("end" in line for line in lines), "the stream went on to its end"
    told = [r for r in caplog.records if getattr(r, "action", "") == "http.crowded"]
    assert len(told) == 1, "said once, not at every connection"


def test_the_kernel_holds_little_of_an_unread_answer(api: Api, crowd: Crowd) -> None:
    crowd.add_that_never_read(3, BIG)
    wait_until(lambda: crowd.unread() == 3, "their answers wait for them")
    for each in crowd.open():
        queued = each.transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
        assert queued <= 2 * http_protocol.SEND_QUEUE_BYTES


@pytest.mark.parametrize("asked", [1, 4], ids=["once", "pipelined"])
def test_clients_that_never_read_lock_nobody_out(
    api: Api, crowd: Crowd, monkeypatch: pytest.MonkeyPatch, asked: int
) -> None:
    monkeypatch.setattr(http_protocol, "CONNECTION_LIMIT", 10)
    for _ in range(3):
        crowd.add_that_never_read(12, BIG * asked)
        wait_until(lambda: crowd.unread() >= 9, "their answers wait for them")
        probes(api, 3)
        assert httpx.get(f"{api.http.base_url}/executors", trust_env=False).status_code == 200


@pytest.mark.parametrize("closed", [False, True], ids=["open", "closing"])
def test_answers_that_nobody_reads_end(
    api: Api, crowd: Crowd, monkeypatch: pytest.MonkeyPatch, closed: bool
) -> None:
    monkeypatch.setattr(watched_transport, "READ_SECONDS", 1.0)
    close = b"\r\nConnection: close\r\n\r\n"
    crowd.add_that_never_read(20, BIG.replace(b"\r\n\r\n", close) if closed else BIG * 4)
    wait_until(lambda: crowd.unread() == 20, "their answers wait for them")
    # uvicorn's own limit of an idle connection is 15 s, and its close waits for the client.
    wait_until(lambda: not crowd.open(), "all are aborted", seconds=10)


def test_those_that_waited_longest_make_room(api: Api, crowd: Crowd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_protocol, "CONNECTION_LIMIT", 100)
    first = crowd.add(50)
    wait_until(lambda: crowd.accepted() >= 50, "the first are accepted")
    later = crowd.add(53)
    wait_until(lambda: any(is_closed(one) for one in first), "room is made")
    assert not any(is_closed(one) for one in later)


def test_a_crowd_that_is_being_answered_turns_newcomers_away(
    api: Api, crowd: Crowd, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nobody's connection idles.
    batch = api.http.post("/fibonacci/batches", headers={"Connection": "close"}).json()["workflow_id"]
    follow = f"GET /fibonacci/batches/{batch}/events HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    for connection in crowd.add(20, follow):
        assert connection.recv(100).startswith(b"HTTP/1.1 200")
    monkeypatch.setattr(http_protocol, "CONNECTION_LIMIT", 10)
    with socket.create_connection(api.address, timeout=10) as newcomer:
        said = newcomer.recv(65_536)
    assert said.startswith(b"HTTP/1.1 503")
    assert b"application/problem+json" in said
    monkeypatch.undo()


def test_a_reader_of_a_batch_that_does_not_read_is_cut_off(
    api: Api, database: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sse, "SLOW_SECONDS", 1.0)
    caplog.set_level("INFO")
    numbers = {"numbers": [0] * 1000}
    batch = api.http.post("/fibonacci/batches", json=numbers).json()["workflow_id"]
    feeds = api.server.config.app.state.feeds  # type: ignore[union-attr]
    with socket.socket() as lazy:
        lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        lazy.connect(api.address)
        lazy.sendall(f"GET /fibonacci/batches/{batch}/events HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        wait_until(lambda: feeds.permits.in_use == 1, "it has a place")
        state = 0
        began = time.monotonic()
        while feeds.permits.in_use and time.monotonic() - began < 120:
            # Each change of a number is an event: more and more than anyone keeps for it.
            state += 1
            database.rows(
                """
                INSERT INTO dbos.workflow_status (workflow_uuid, status, name, application_name, queue_name,
                    parent_workflow_id, serialization, executor_id, created_at, updated_at, recovery_attempts,
                    priority)
                SELECT %(batch)s || '-' || n, 'PENDING', 'fibonacci.number', 'holdfast-worker', 'fibonacci',
                    %(batch)s, 'portable_json', 'worker-' || repeat('x', 900), 1, 1, %(state)s, 0
                FROM generate_series(0, 999) AS n
                ON CONFLICT (workflow_uuid) DO UPDATE SET recovery_attempts = excluded.recovery_attempts
                """,
                batch=batch,
                state=state,
            )
            time.sleep(0.3)
        assert feeds.permits.in_use == 0, "it keeps its place for ever"
    assert feeds._feeds == {}
    assert [r for r in caplog.records if getattr(r, "action", "") == "stream.cut_off"]


def test_the_limit_of_open_files_is_raised_or_kept_to(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(http_protocol.resource, "setrlimit", lambda _, limits: asked.append(limits))
    for limits, set_to, connections in (
        ((1024, 1_048_576), [(8192, 1_048_576)], 2000),
        ((1024, 4096), [(4096, 4096)], 2000),
        ((256, 256), [(256, 256)], 128),
        ((65_536, 65_536), [], 2000),
        ((-1, -1), [], 2000),
    ):
        monkeypatch.setattr(http_protocol, "CONNECTION_LIMIT", 2000)
        monkeypatch.setattr(http_protocol.resource, "getrlimit", lambda _, limits=limits: limits)
        asked.clear()
        http_protocol.allow_open_files()
        assert asked == set_to, limits
        assert connections == http_protocol.CONNECTION_LIMIT, limits


def is_closed(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False
    finally:
        connection.settimeout(20)


def open_files() -> int:
    return len(list(Path(f"/proc/{os.getpid()}/fd").iterdir()))


def test_the_server_believes_no_forwarded_address(database: Database) -> None:
    """uvicorn by itself does, from clients on this machine: everyone here could be anyone."""
    with serving(database.settings("api", rate_limit=0.1, rate_burst=3)) as api:
        statuses = [
            api.http.get("/executors", headers={"X-Forwarded-For": f"10.0.0.{n}"}).status_code
            for n in range(5)
        ]
        assert statuses == [200, 200, 200, 429, 429]
