"""Odd bytes and odd clients against the real API: a 4xx problem or a clean close, never 500, never a hang."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from holdfast.api import middleware
from holdfast.process import http_protocol, watched_transport
from tests.support.api_server import Api, serving, serving_with_token
from tests.support.database import Database, wait_until

LIMIT = 1_048_576
JSON = {"content-type": "application/json"}
HEAD_SECONDS = BODY_SECONDS = 2.0
"""Shortened here; what counts is that they end, and that they end in their time."""


@pytest.fixture
def api(database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    monkeypatch.setattr(http_protocol, "HEAD_SECONDS", HEAD_SECONDS)
    monkeypatch.setattr(middleware, "BODY_TIMEOUT_SECONDS", BODY_SECONDS)
    with serving(database.settings("api")) as made:
        yield made
        assert made.http.get("/livez").status_code == 200


def stored(database: Database) -> int:
    return int(database.one("SELECT count(*) FROM dbos.workflow_status"))


def is_problem(answer: httpx.Response, *statuses: int) -> None:
    assert answer.status_code in statuses, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == answer.status_code


def raw(api: Api, sent: bytes, *, seconds: float = 20.0) -> bytes:
    """Everything the server says to `sent` until it closes."""
    with socket.create_connection(api.address, timeout=seconds) as connection:
        connection.sendall(sent)
        return everything(connection)


def everything(connection: socket.socket) -> bytes:
    said = b""
    while chunk := connection.recv(65_536):
        said += chunk
    return said


def problem_of(connection: socket.socket) -> bytes:
    """A whole problem document of a connection that stays open."""
    said = b""
    while not said.endswith(b"}"):
        chunk = connection.recv(65_536)
        assert chunk, said
        said += chunk
    return said


def refused(said: bytes, *statuses: int) -> None:
    """A whole problem document with one of `statuses`."""
    head, _, body = said.partition(b"\r\n\r\n")
    assert int(head.split()[1]) in statuses, said
    assert b"content-type: application/problem+json" in head.lower()
    assert json.loads(body)["status"] in statuses


@pytest.mark.parametrize("chunked", [False, True], ids=["content-length", "chunked"])
@pytest.mark.parametrize(("size", "status"), [(LIMIT - 1, 202), (LIMIT, 202), (LIMIT + 1, 413)])
def test_the_limit_is_exact(api: Api, database: Database, size: int, status: int, chunked: bool) -> None:
    body = b'{"queued": true}'.ljust(size)
    content: Any = iter([body[i : i + 10_000] for i in range(0, size, 10_000)]) if chunked else body
    answer = api.http.post("/nested", content=content, headers=JSON)
    assert answer.status_code == status
    assert stored(database) == (status == 202)
    if status == 413:
        is_problem(answer, 413)


def deep(opening: str, closing: str, depth: int = 100_000) -> bytes:
    return (opening * depth + "1" + closing * depth).encode()


@pytest.mark.parametrize(
    ("content", "statuses"),
    [
        pytest.param(b"[" * 100_000, (400,), id="brackets"),
        pytest.param(deep("[", "]"), (400, 422), id="closed brackets"),
        pytest.param(deep('{"steps":', "}"), (400, 422), id="objects"),
        pytest.param(b'{"steps": ' + deep("[", "]") + b"}", (400, 422), id="brackets in a field"),
        pytest.param(b'{"steps": "\xff\xfe"}', (400,), id="bad UTF-8"),
        pytest.param(b'{"steps": "\xed\xa0\x80"}', (400,), id="a surrogate in UTF-8"),
        pytest.param('{"steps": 1}'.encode("utf-16"), (400,), id="UTF-16"),
        pytest.param(b'{"steps": NaN}', (400,), id="NaN"),
        pytest.param(b'{"step_seconds": Infinity}', (400,), id="Infinity"),
        pytest.param(b'{"step_seconds": -Infinity}', (400,), id="-Infinity"),
        pytest.param(b'{"step_seconds": 1e400}', (422,), id="1e400"),
        pytest.param(b'{"steps": 1e400}', (422,), id="1e400 as an integer"),
        pytest.param(b'{"steps": ' + b"1" * 10_000 + b"}", (400,), id="10,000 digits"),
        pytest.param(b'{"steps": ' + b"1" * 4_000 + b"}", (422,), id="4,000 digits"),
        pytest.param(b'{"steps": 9007199254740993}', (422,), id="2^53+1"),
        pytest.param(b'{"steps": 1, "steps": 2}', (400,), id="one key twice"),
        pytest.param(b'{"wait": {"a": 1, "a": 2}}', (400,), id="one key twice, deeper"),
        pytest.param(b'{"steps": "\\ud800"}', (422,), id="a lone surrogate"),
        pytest.param(b'{"\\udfff": 1}', (422,), id="a lone surrogate as a name"),
        pytest.param(b'{"steps": "a\\u0000b"}', (422,), id="NUL, escaped"),
        pytest.param(b'{"steps": "a\x00b"}', (400,), id="NUL, raw"),
        pytest.param(b"\x00", (400,), id="only NUL"),
        pytest.param(b" ", (400,), id="blank"),
        pytest.param(b"\xef\xbb\xbf{}", (400,), id="a byte order mark"),
    ],
)
def test_odd_json(api: Api, database: Database, content: bytes, statuses: tuple[int, ...]) -> None:
    is_problem(api.http.post("/scope/class", content=content, headers=JSON), *statuses)
    assert stored(database) == 0


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/xml", "application/json; charset=utf-16", ""]
)
def test_a_wrong_content_type(api: Api, database: Database, content_type: str) -> None:
    is_problem(api.http.post("/nested", content=b"{}", headers={"content-type": content_type}), 415)
    assert stored(database) == 0


@pytest.mark.parametrize("headers", [JSON, {"transfer-encoding": "chunked", **JSON}])
def test_an_empty_body_means_the_defaults(api: Api, headers: dict[str, str]) -> None:
    assert api.http.post("/nested", content=b"", headers=headers).status_code == 202


def test_big_integers_come_back_exactly(api: Api, database: Database) -> None:
    """Beyond the 53 bits of a double they are decimal strings, which no reader rounds."""
    started = api.http.post("/nested").json()["workflow_id"]
    big = [2**53 - 1, 2**53, {"n": -(2**63) - 1}, [10**400 + 7], 1.5, True]
    database.rows(
        "UPDATE dbos.workflow_status SET status = 'SUCCESS' WHERE workflow_uuid = %(id)s", id=started
    )
    database.rows(
        "INSERT INTO dbos.workflow_output (workflow_uuid, output) VALUES (%(id)s, %(output)s)",
        id=started,
        output=json.dumps(big),
    )
    shown = api.http.get(f"/workflows/{started}")
    assert shown.status_code == 200
    assert shown.json()["output"] == [
        2**53 - 1, str(2**53), {"n": str(-(2**63) - 1)}, [str(10**400 + 7)], 1.5, True
    ]  # fmt: skip
    # More digits than Python reads as a number: the stored text, whole up to what is shown of anything.
    database.rows(
        "UPDATE dbos.workflow_output SET output = %(output)s WHERE workflow_uuid = %(id)s",
        id=started,
        output="7" * 4_301,
    )
    shown = api.http.get(f"/workflows/{started}")
    assert shown.json()["output"] == "7" * 4_096
    assert shown.json()["output_shortened"]


@pytest.mark.parametrize("path", ["/workflows/a%00b", "/%00", "/workflows/%ff%fe", "/workflows/%ed%a0%80"])
def test_odd_paths(api: Api, path: str) -> None:
    is_problem(api.http.get(path), 404, 422)


@pytest.mark.parametrize("query", ["name=a%00", "limit=%00", "limit=" + "9" * 10_000, "%00=1"])
def test_odd_queries(api: Api, query: str) -> None:
    is_problem(api.http.get(f"/workflows?{query}"), 422)


def test_a_name_that_is_no_text_is_nobodys(api: Api) -> None:
    assert api.http.get("/workflows?name=%ff").json()["workflows"] == []


@pytest.mark.parametrize("key", [b"a\x00b", b"\xff", b"a" * 256, b"a b"])
def test_odd_keys(api: Api, database: Database, key: bytes) -> None:
    head = b"POST /nested HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nIdempotency-Key: " + key
    refused(raw(api, head + b"\r\n\r\n"), 400, 422)
    assert stored(database) == 0


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(
            b"GET /livez HTTP/1.1\r\nHost: localhost\r\nA: " + b"a" * 1_000_000 + b"\r\n\r\n", id="one"
        ),
        pytest.param(
            b"GET /livez HTTP/1.1\r\nHost: localhost\r\n" + b"A: b\r\n" * 200_000 + b"\r\n", id="many"
        ),
        pytest.param(b"GET /" + b"a" * 1_000_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", id="path"),
        pytest.param(b"POST /nested HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n", id="length"),
        pytest.param(
            b"POST /nested HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            id="chunk",
        ),
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", id="no host"),
        pytest.param(b"GET /\x00 HTTP/1.1\r\nHost: localhost\r\n\r\n", id="NUL"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 500 + b"\r\n\r\n", id="TLS"),
    ],
)
def test_broken_http_gets_its_answer_and_a_clean_close(api: Api, sent: bytes) -> None:
    refused(raw(api, sent), 400)


def drip(api: Api, start: bytes, drop: bytes, every_seconds: float = 0.2) -> tuple[bytes, float]:
    """One drop at a time until the server has had enough: what it said, and after how long."""
    began = time.monotonic()
    with socket.create_connection(api.address, timeout=every_seconds) as connection:
        connection.sendall(start)
        while True:
            assert time.monotonic() - began < 60, "the server waits for ever"
            try:
                said = connection.recv(65_536)
            except TimeoutError:
                connection.sendall(drop)
                continue
            connection.settimeout(10)
            return said + everything(connection), time.monotonic() - began


HEAD = b"POST /nested HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize(
    ("start", "drop"),
    [
        pytest.param(b"GET /livez HTTP/1.1\r\nA: ", b"a", id="head"),
        pytest.param(HEAD + b"Content-Length: 1000\r\n\r\n{", b" ", id="body"),
        pytest.param(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n", id="chunks"),
    ],
)
def test_a_dripping_client_gets_408(api: Api, start: bytes, drop: bytes) -> None:
    said, seconds = drip(api, start, drop)
    refused(said, 408)
    assert seconds > HEAD_SECONDS - 0.1


@pytest.mark.parametrize(("host", "status"), [(b"localhost", b"401"), (b"evil.example", b"421")])
def test_a_body_that_drips_after_its_answer_ends(
    database: Database, tmp_path: Path, host: bytes, status: bytes
) -> None:
    """Every byte puts off uvicorn's own limit of an idle connection."""
    with (
        serving_with_token(database, tmp_path / "token", "secret") as api,
        socket.create_connection(api.address, timeout=20) as connection,
    ):
        connection.sendall(HEAD.replace(b"localhost", host) + b"Content-Length: 1000000000\r\n\r\n")
        assert problem_of(connection).split()[1] == status
        connection.settimeout(0.2)
        with suppress(ConnectionError, TimeoutError):
            for _ in range(50):
                connection.sendall(b" ")
                with suppress(TimeoutError):
                    assert connection.recv(65_536) == b""
                    break
            else:
                pytest.fail("the server waits for ever")
        assert not api.server.server_state.connections


def test_what_is_left_of_a_body_may_come_after_its_answer(database: Database, tmp_path: Path) -> None:
    with (
        serving_with_token(database, tmp_path / "token", "secret") as api,
        socket.create_connection(api.address, timeout=20) as connection,
    ):
        for _ in range(2):
            connection.sendall(HEAD + b"Content-Length: 100000\r\n\r\n")
            assert problem_of(connection).split()[1] == b"401"
            connection.sendall(b" " * 100_000)


def test_a_slow_second_head_gets_408(api: Api) -> None:
    with socket.create_connection(api.address, timeout=20) as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert connection.recv(65_536).startswith(b"HTTP/1.1 200")
        connection.sendall(b"GET /livez HT")
        refused(everything(connection), 408)


def test_silence_is_closed(api: Api) -> None:
    assert raw(api, b"") == b""


@contextmanager
def crowd(api: Api, number: int, start: bytes) -> Iterator[list[socket.socket]]:
    """So many connections that have sent `start` and then stay."""
    with ExitStack() as opened:
        connections = []
        for _ in range(number):
            connection = opened.enter_context(socket.socket())
            # Small, so that an unread answer stays in the server.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            connection.settimeout(20)
            connection.connect(api.address)
            connection.sendall(start)
            connections.append(connection)
        yield connections


@pytest.mark.timing
@pytest.mark.parametrize(
    ("number", "start"),
    [
        pytest.param(100, b"GET /livez HTTP/1.1\r\nA: ", id="100 slow heads"),
        pytest.param(100, HEAD + b"Content-Length: 1000\r\n\r\n{", id="100 slow bodies"),
        pytest.param(1000, b"", id="1,000 idle"),
        # More of them would be disconnected at once: their unread answers are bounded together.
        pytest.param(
            20,
            b"GET /static/swagger-ui-bundle.js HTTP/1.1\r\nHost: localhost\r\n\r\n" * 4,
            id="20 that never read",
        ),
    ],
)
def test_a_crowd_does_not_stop_the_probes(
    api: Api, monkeypatch: pytest.MonkeyPatch, number: int, start: bytes
) -> None:
    # Long enough that all are there at once.
    monkeypatch.setattr(http_protocol, "HEAD_SECONDS", 6.0)
    monkeypatch.setattr(middleware, "BODY_TIMEOUT_SECONDS", 6.0)
    monkeypatch.setattr(watched_transport, "READ_SECONDS", 6.0)
    with crowd(api, number, start) as connections:
        wait_until(lambda: len(api.server.server_state.connections) >= number, "all are accepted")
        for path in ("/readyz", "/livez", "/executors"):
            # A connection of its own: it stands behind all of them, and is answered before one of them ends.
            answer = httpx.get(f"{api.http.base_url}{path}", timeout=10, trust_env=False)
            assert answer.status_code == 200
        assert len(api.server.server_state.connections) >= number, "they ended too early to tell anything"
        wait_until(lambda: not api.server.server_state.connections, "all end", seconds=20)
        for connection in connections:
            said = connection.recv(65_536)
            assert said == b"" or said.split()[1] in (b"408", b"200")
