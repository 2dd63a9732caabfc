"""Which hosts `holdfast verify` asks for metrics, and what it accepts as an answer."""

from __future__ import annotations

import random
import socket
from itertools import repeat
from typing import Any

import pytest
from fastapi.testclient import TestClient

from holdfast.audit import evidence, scraping
from holdfast.process.worker_app import create_app as create_worker
from tests.support.raw_server import Counted, FastClock, raw_server
from tests.unit.api_fakes import FakeProcess

METRICS = b'# TYPE holdfast_x counter\nholdfast_x_total{a="b"} 3\n'
_HEAD = b"HTTP/1.1 %d x\r\n%s\r\n"


def answer(body: bytes = METRICS, status: int = 200, headers: bytes = b"") -> list[bytes]:
    return [_HEAD % (status, headers) + body]


@pytest.mark.parametrize("hostname", [socket.gethostname(), "127.0.0.1", "localhost"])
def test_a_host_is_asked_for_its_metrics(hostname: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with raw_server(answer()) as (port, requests):
        text = scraping.scrape({"hostname": hostname, "port": port})
    assert text is not None and evidence.samples(text, "holdfast_x_total") == {("b",): 3}
    assert requests[0].startswith(b"GET /metrics HTTP/1.1\r\n") and b"Authorization" not in requests[0]


def test_a_container_is_asked_by_a_name_that_its_guard_accepts(monkeypatch: pytest.MonkeyPatch) -> None:
    """In Compose the host name of an executor is the id of its container, which is no name of the server."""
    resolve = socket.getaddrinfo
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda host, *a, **k: resolve(host.replace("3f2a9c1b7d5e", "127.0.0.1"), *a, **k),
    )
    with raw_server(answer()) as (port, requests):
        assert scraping.scrape({"hostname": "3f2a9c1b7d5e", "port": port}) is not None
    _, *lines, _, _ = requests[0].decode().split("\r\n")
    process: Any = FakeProcess()
    with TestClient(create_worker(process)) as worker:
        assert worker.get("/metrics", headers=dict(line.split(": ", 1) for line in lines)).status_code == 200


@pytest.mark.parametrize(
    "hostname",
    [
        *("", " ", "127.0.0.1:80", "127.0.0.1/x?", "http://127.0.0.1", "u:p@127.0.0.1", "127.0.0.1\r\nX: y"),
        *(
            "a..b",
            "x" * 64,
            "a." * 127 + "a",
            "-a",
            "é.example",
            "[::1]",
            "127.0.0.1\n",
            "a\0b",
            "127.0.0.1#",
        ),
        # The credentials of a cloud's machine are here, and 0.0.0.0 is this machine by another name.
        *("169.254.169.254", "::ffff:169.254.169.254", "fe80::1", "0.0.0.0", "::", "224.0.0.1"),
    ],
)
def test_what_is_no_host_is_not_asked(hostname: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(*_: Any, **__: Any) -> Any:
        raise AssertionError("asked")

    monkeypatch.setattr(socket, "create_connection", connect)
    assert scraping.scrape({"hostname": hostname, "port": 80}) is None


def test_a_name_that_leads_to_such_an_address_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("169.254.169.254", 80))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    asked: list[Any] = []
    monkeypatch.setattr(socket, "create_connection", lambda *a, **_: asked.append(a))
    assert scraping.scrape({"hostname": "metadata.example", "port": 80}) is None
    assert not asked


@pytest.mark.parametrize("port", [None, 0, -1, 65536])
def test_a_port_that_is_none_is_not_asked(port: int | None) -> None:
    assert scraping.scrape({"hostname": "127.0.0.1", "port": port}) is None


@pytest.mark.parametrize(
    "parts",
    [
        pytest.param(answer(status=500), id="an error"),
        pytest.param(
            answer(status=302, headers=b"Location: http://127.0.0.1:9/metrics\r\n"), id="a redirect"
        ),
        pytest.param(answer(b"\xff\xfe"), id="no text"),
        pytest.param(answer(b'x{"} 1\n'), id="no metrics"),
        pytest.param(answer(b"-1\r\n", headers=b"Transfer-Encoding: chunked\r\n"), id="chunks of no size"),
        pytest.param([b"\0" * 100], id="no HTTP"),
        pytest.param([], id="silence"),
        pytest.param([*answer(), *repeat(b"# more\n" * 10_000, 200)], id="more than is read"),
    ],
)
def test_an_answer_of_another_kind_is_none(parts: Any) -> None:
    with raw_server(parts) as (port, _):
        assert scraping.scrape({"hostname": "127.0.0.1", "port": port}) is None


def test_no_text_ends_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """The parser raises what it likes: `a_totalw{x="y", ="w"} 3` is an IndexError."""
    choose = random.Random(5)
    seed = METRICS.decode() + 'a_total{x="y", z="w"} 3 # {t="1"} 2 1.5\na_bucket{le="+Inf"} NaN -1\n'
    texts = ['a_totalw{x="y", ="w"} 3\n']
    for _ in range(2000):
        mutated = list(seed)
        for _ in range(choose.randrange(1, 4)):
            place = choose.randrange(len(mutated))
            mutated[place : place + choose.randrange(3)] = choose.choices(
                '{}",=\\ #\n1e', k=choose.randrange(3)
            )
        texts.append("".join(mutated))
    accepted = 0
    for text in texts:
        monkeypatch.setattr(scraping, "_received", lambda *_, text=text: b"".join(answer(text.encode())))
        if (found := scraping.scrape({"hostname": "127.0.0.1", "port": 80})) is not None:
            accepted += 1
            evidence.samples(found, "holdfast_x_total")
    assert 0 < accepted < len(texts)


def test_an_endless_answer_is_left_at_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scraping, "ANSWER_SECONDS", 60.0)
    with raw_server(counted := Counted(repeat(b"x" * 65536))) as (port, _):
        assert scraping.scrape({"hostname": "127.0.0.1", "port": port}) is None
    assert counted.bytes < 4 * scraping.ANSWER_BYTES


def test_a_dripping_answer_is_left_at_its_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each byte arrives in time; the whole never does."""
    clock = FastClock()
    monkeypatch.setattr(scraping, "monotonic", clock)
    with raw_server(repeat(b"x", 10_000)) as (port, _):
        assert scraping.scrape({"hostname": "127.0.0.1", "port": port}) is None
    assert clock.now < scraping.ANSWER_SECONDS + 2 * clock.step


def test_odd_values_end_no_check() -> None:
    values = ("NaN", "+Inf", "-1", "1e300", "2")
    text = "".join(f'holdfast_x_total{{a="{number}"}} {value}\n' for number, value in enumerate(values))
    assert evidence.samples(text, "holdfast_x_total") == {("2",): -1, ("4",): 2}
