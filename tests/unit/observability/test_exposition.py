"""/metrics is rendered once a second for everybody, and each client has a rate: in every kind of process."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from holdfast.attached import probes
from holdfast.attached.probes import CONNECTION_LIMIT, Probes
from holdfast.observability import exposition as module
from holdfast.observability.exposition import SCRAPES_BURST, SHARED_SECONDS, Exposition
from holdfast.process import worker_app
from tests.support.app import create_app
from tests.support.database import wait_until
from tests.support.stack import free_ports
from tests.unit.api_fakes import FakeProcess


@pytest.fixture
def rendered(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What was rendered."""
    import prometheus_client

    texts: list[bytes] = []

    def generate() -> bytes:
        texts.append(f"text {len(texts)}".encode())
        return texts[-1]

    monkeypatch.setattr(prometheus_client, "generate_latest", generate)
    return texts


def test_a_text_is_shared_for_its_time(rendered: list[bytes]) -> None:
    now, prepared = [0.0], []
    shared = Exposition(lambda: prepared.append(now[0]), clock=lambda: now[0])
    assert shared.fresh() is None
    assert {shared.text() for _ in range(5)} == {b"text 0"} == {shared.fresh()}
    now[0] += SHARED_SECONDS
    assert shared.fresh() is None
    assert shared.text() == b"text 1"
    assert prepared == [0.0, SHARED_SECONDS]


def test_many_at_once_wait_for_one_rendering(rendered: list[bytes]) -> None:
    begin = threading.Barrier(20)
    texts: list[bytes] = []
    shared = Exposition(clock=lambda: 0.0)

    def scrape() -> None:
        begin.wait(10)
        texts.append(shared.text())

    threads = [threading.Thread(target=scrape) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert texts == [b"text 0"] * 20


def test_a_client_has_a_rate_of_its_own() -> None:
    shared = Exposition(clock=lambda: 0.0)
    assert [shared.admit("10.0.0.1") for _ in range(SCRAPES_BURST)] == [0.0] * SCRAPES_BURST
    assert shared.admit("10.0.0.1") > 0
    assert shared.admit("10.0.0.2") == 0


def api(stack: ExitStack) -> Callable[[str], httpx.Response]:
    return stack.enter_context(TestClient(create_app(FakeProcess(rate_limit=0)))).get  # type: ignore[arg-type]


def worker(stack: ExitStack) -> Callable[[str], httpx.Response]:
    made = worker_app.create_app(FakeProcess())  # type: ignore[arg-type]
    return stack.enter_context(TestClient(made)).get


def attached(stack: ExitStack) -> Callable[[str], httpx.Response]:
    port, process = free_ports(1), SimpleNamespace(executor_id="here", ready=lambda: (True, {}))
    made = Probes(process, "127.0.0.1", port)  # type: ignore[arg-type]
    made.start()
    stack.callback(made.stop)
    return stack.enter_context(
        httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=20)
    ).get


@pytest.fixture(params=[api, worker, attached], ids=lambda each: each.__name__)
def get(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Any]]:
    monkeypatch.setattr(module, "SCRAPES_PER_SECOND", 0.001)
    monkeypatch.setattr(module, "SCRAPES_BURST", 3)
    monkeypatch.setattr(module, "SHARED_SECONDS", 3600)
    with ExitStack() as stack:
        yield request.param(stack)


def test_every_process_shares_and_limits(get: Callable[[str], httpx.Response], rendered: list[bytes]) -> None:
    answers = [get("/metrics") for _ in range(5)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
    assert {answer.text for answer in answers[:3]} == {"text 0"}
    assert len(rendered) == 1
    assert {get("/livez").status_code for _ in range(5)} == {200}, "the probes have no rate"


def test_silent_clients_take_few_threads_of_an_attached_application(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each connection has a thread: above the limit the oldest ends."""
    monkeypatch.setattr(probes, "CLIENT_SECONDS", 60.0)
    with ExitStack() as stack:
        get = attached(stack)
        port = int(str(get.__self__.base_url).rpartition(":")[2])  # type: ignore[attr-defined]
        before = threading.active_count()
        for _ in range(5 * CONNECTION_LIMIT):
            stack.enter_context(socket.create_connection(("127.0.0.1", port))).sendall(b"GET /livez HTT")
        assert get("/livez").status_code == 200
        wait_until(lambda: threading.active_count() - before <= CONNECTION_LIMIT, "the oldest have ended")
