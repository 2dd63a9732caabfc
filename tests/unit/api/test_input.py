"""Bad input: a problem document with the right 4xx, the field named, nothing stored."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from holdfast.api import middleware
from tests.support.app import create_app
from tests.unit.api_fakes import ADMIN, FakeProcess

BATCHES = "/fibonacci/batches"


@pytest.fixture
def process() -> FakeProcess:
    return FakeProcess(max_body_bytes=4096)


def is_problem(response: httpx.Response, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert {"type", "title", "status", "detail", "instance", "request_id"} <= body.keys()
    assert body["status"] == status
    assert body["request_id"] == response.headers["x-request-id"]
    return body


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/scope/class", {"steps": "3"}, "steps"),
        ("/scope/class", {"steps": True}, "steps"),
        ("/scope/class", {"steps": 3.0}, "steps"),
        ("/scope/class", {"steps": None}, "steps"),
        ("/scope/class", {"steps": 0}, "steps"),
        ("/scope/class", {"steps": 10**30}, "steps"),
        ("/scope/class", {"step_seconds": "0.5"}, "step_seconds"),
        ("/scope/class", {"step_seconds": True}, "step_seconds"),
        ("/scope/class", {"step_seconds": -0.1}, "step_seconds"),
        ("/scope/class", {"step_seconds": 1e9}, "step_seconds"),
        ("/scope/function", {"wait": "yes"}, "wait"),
        ("/scope/function", {"wait": 1}, "wait"),
        ("/scope/instance/alpha", {"stepz": 3}, "stepz"),
        ("/users/pages", {"pages": 0}, "pages"),
        ("/users/pages", {"page_size": [3]}, "page_size"),
        ("/users/pages", {"secret": "x"}, "secret"),
        ("/nested", {"queued": "true"}, "queued"),
        ("/nested", {"\ud800": 1}, ""),
        (BATCHES, {"count": 0}, "count"),
        (BATCHES, {"count": -1}, "count"),
        (BATCHES, {"count": 1001}, "count"),
        (BATCHES, {"count": 50.0}, "count"),
        (BATCHES, {"count": "50"}, "count"),
        (BATCHES, {"numbers": []}, "numbers"),
        (BATCHES, {"numbers": 5}, "numbers"),
        (BATCHES, {"numbers": [1, True]}, "numbers.1"),
        (BATCHES, {"numbers": [1, "2"]}, "numbers.1"),
        (BATCHES, {"numbers": [1, None]}, "numbers.1"),
        (BATCHES, {"numbers": [1, -1]}, "numbers.1"),
        (BATCHES, {"numbers": [34, 35]}, "numbers.1"),
        (BATCHES, {"numbers": [0] * 1001}, "numbers"),
        (BATCHES, {"numbers": [1_000_001], "method": "doubling"}, "numbers.0"),
        (BATCHES, {"numbers": [1], "count": 1}, "numbers"),
        (BATCHES, {"method": "magic"}, "method"),
        (BATCHES, {"sequential": 0}, "sequential"),
        (BATCHES, {"n": 5}, "n"),
    ],
)
def test_a_wrong_field_is_named(
    client: TestClient, process: FakeProcess, path: str, body: dict[str, Any], field: str
) -> None:
    response = client.post(path, content=json.dumps(body), headers={"content-type": "application/json"})
    problem = is_problem(response, 422)
    assert problem["field"] == field
    assert problem["errors"][0]["field"] == field
    assert process.gateway.client.rows == {}


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"{", 400),
        (b"   ", 400),
        (b"{'steps': 1}", 400),
        (b'{"steps": 1}x', 400),
        (b'{"steps": \xff\xfe}', 400),
        (b'\xef\xbb\xbf{"steps": 1}', 400),
        (b'{"step_seconds": NaN}', 400),
        (b'{"step_seconds": Infinity}', 400),
        (b'{"step_seconds": 1e999}', 422),
        (b'{"steps": ' + b"1" * 4000 + b"}", 422),
        (b"[" * 4000, 400),
        (b'{"steps": ' + b"[" * 1900 + b"]" * 1900 + b"}", 400),
        (b'{"a":' * 500 + b"1" + b"}" * 500, 422),
        (b"null", 422),
        (b"[]", 422),
        (b'"steps"', 422),
        (b"3", 422),
        (b'{"steps": 1, "\\u0000": 1}', 422),
    ],
)
def test_an_odd_body_is_refused(
    client: TestClient, process: FakeProcess, content: bytes, status: int
) -> None:
    response = client.post("/scope/class", content=content, headers={"content-type": "application/json"})
    is_problem(response, status)
    assert process.gateway.client.rows == {}


@pytest.mark.parametrize(("content", "status"), [(b"[]", 422), (b"null", 422), (b"{", 400)])
def test_the_body_rules_hold_where_no_body_is_needed(
    client: TestClient, process: FakeProcess, content: bytes, status: int
) -> None:
    is_problem(
        client.post("/shutdown", content=content, headers={"content-type": "application/json"}), status
    )
    assert process.stops == []


def test_a_number_with_too_many_digits_is_refused() -> None:
    process = FakeProcess()
    with TestClient(create_app(process), headers=ADMIN) as client:  # type: ignore[arg-type]
        content = b'{"steps": ' + b"1" * 5000 + b"}"
        response = client.post("/scope/class", content=content, headers={"content-type": "application/json"})
    assert "digits" in is_problem(response, 400)["detail"]


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/json; charset=latin-1",
        "json",
        "",
    ],
)
def test_a_body_that_is_not_declared_as_json_gets_415(
    client: TestClient, process: FakeProcess, content_type: str | None
) -> None:
    headers = {} if content_type is None else {"content-type": content_type}
    is_problem(client.post("/scope/class", content=b'{"steps": 1}', headers=headers), 415)
    assert process.gateway.client.rows == {}


@pytest.mark.parametrize("content_type", ["application/json", "Application/JSON; charset=UTF-8"])
def test_json_is_accepted_with_and_without_its_charset(client: TestClient, content_type: str) -> None:
    response = client.post("/scope/class", content=b'{"steps": 1}', headers={"content-type": content_type})
    assert response.status_code == 202


def test_no_body_means_the_defaults(client: TestClient, process: FakeProcess) -> None:
    assert client.post("/scope/class").status_code == 202
    assert process.gateway.client.enqueued[0]["args"] == (30, 0.5)


@pytest.mark.parametrize(("size", "status"), [(4096, 202), (4097, 413), (10_000_000, 413)])
def test_the_body_limit_is_exact(client: TestClient, process: FakeProcess, size: int, status: int) -> None:
    content = b'{"steps": 1}'.ljust(size)
    response = client.post("/scope/class", content=content, headers={"content-type": "application/json"})
    assert response.status_code == status
    assert len(process.gateway.client.rows) == (status == 202)
    if status == 413:
        assert "4096" in is_problem(response, 413)["detail"]
        assert response.headers["connection"] == "close"


@pytest.mark.parametrize(("size", "status"), [(4096, 202), (4097, 413), (3_000_000, 413)])
def test_the_body_limit_holds_without_a_content_length(size: int, status: int) -> None:
    async def body() -> AsyncIterator[bytes]:
        content = b'{"steps": 1}'.ljust(size)
        for start in range(0, size, 1024):
            yield content[start : start + 1024]

    async def main() -> httpx.Response:
        transport = httpx.ASGITransport(create_app(FakeProcess(max_body_bytes=4096)))  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.post(
                "/scope/class", content=body(), headers={"content-type": "application/json"}
            )

    assert asyncio.run(main()).status_code == status


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nowhere", 404),
        ("GET", "/scope/class/", 404),
        ("POST", "/scope/instance/gamma", 404),
        ("POST", "/scope/instance/alpha%2fbeta", 422),
        ("POST", "/scope/instance/" + "a" * 101, 422),
        ("GET", "/workflows/unknown", 404),
        ("GET", "/workflows/unknown/steps", 404),
        ("POST", "/workflows/unknown/cancel", 404),
        ("POST", "/workflows/unknown/resume", 404),
        ("POST", "/workflows/unknown/fork", 404),
        ("GET", "/workflows/" + "a" * 2001, 422),
        ("GET", "/workflows/a%00b", 422),
        ("GET", "/workflows/%F0%9F%92%A3", 404),
        ("GET", "/workflows/a%0A", 404),
        ("GET", "/fibonacci/batches/unknown", 404),
        ("GET", "/fibonacci/batches/unknown/events", 404),
        ("GET", "/fibonacci/batches/a;b", 404),
        ("POST", "/executors/unknown/drain", 404),
        ("POST", "/executors/un:known/drain", 404),
        ("GET", "/workflows?limit=0", 422),
        ("GET", "/workflows?limit=201", 422),
        ("GET", "/workflows?limit=ten", 422),
        ("GET", "/workflows?offset=-1", 422),
        ("GET", "/workflows?offset=" + "9" * 5000, 422),
        ("GET", "/workflows?status=LOST", 422),
        ("GET", "/workflows?name=a%00", 422),
        ("GET", "/workflows?colour=red", 422),
        ("GET", "/workflows/x/steps?limit=1001", 422),
        ("GET", "/schedule?limit=0", 422),
        ("GET", "/schedule?limit=1001", 422),
        ("PUT", "/scope/class", 405),
        ("DELETE", "/workflows", 405),
        ("BREW", "/cache", 405),
    ],
)
def test_an_odd_address_is_a_problem(client: TestClient, method: str, path: str, status: int) -> None:
    is_problem(client.request(method, path), status)


def test_405_lists_every_method_of_the_address(client: TestClient) -> None:
    assert client.post("/cache").headers["allow"] == "DELETE, GET"
    is_problem(client.request("TRACE", "/scope/class", json={}), 405)


@pytest.mark.parametrize("key", ["", "a" * 256, "a b", "käse".encode(), b"a\x7f", b"\x01"])
def test_a_bad_idempotency_key_is_refused(client: TestClient, process: FakeProcess, key: str | bytes) -> None:
    response = client.post("/scope/class", headers={"Idempotency-Key": key})
    assert is_problem(response, 422)["field"].lower() == "idempotency-key"
    assert process.gateway.requests == {}


def test_the_answer_never_quotes_the_input(client: TestClient) -> None:
    response = client.post("/scope/class", json={"steps": "hunter2-secret"})
    assert "hunter2" not in response.text


def test_a_thousand_errors_make_a_short_answer(client: TestClient) -> None:
    response = client.post(BATCHES, json={"numbers": ["x"] * 900})
    assert len(is_problem(response, 422)["errors"]) == 20


class Bodies:
    """Requests with bodies of 4,001 bytes for one reader, whose application answers when it is allowed to."""

    def __init__(self) -> None:
        self.reader = middleware.RequestBody(self._app, max_body_bytes=4096)
        self.statuses: list[int] = []
        self.arrived, self.go_on = asyncio.Event(), asyncio.Event()
        self.references: asyncio.Queue[int] = asyncio.Queue()

    async def post(self, body: bytes = b"{" + b" " * 3999 + b"}") -> None:
        """Sends a body whose last byte comes when `arrived` is set."""
        parts = iter([body[:-1], body[-1:]])

        async def receive() -> Any:
            part = next(parts, None)
            if part == body[-1:]:
                await self.arrived.wait()
            return {"type": "http.request", "body": part or b"", "more_body": part == body[:-1]}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                self.statuses.append(message["status"])
                if message["status"] == 503:
                    assert (b"retry-after", b"1") in message["headers"]

        headers = [(b"content-length", b"%d" % len(body)), (b"content-type", b"application/json")]
        await self.reader({"type": "http", "method": "POST", "path": "/", "headers": headers}, receive, send)

    async def refused(self, body: bytes, *, more: bool) -> tuple[int, int]:
        """Sends a body, of which more is to come that never does. Returns the answer's status, and how many
        references to the body the reader keeps while it sends that.
        """
        alone = sys.getrefcount(body)
        parts = [{"type": "http.request", "body": body, "more_body": more}]
        found: list[tuple[int, int]] = []

        async def receive() -> Any:
            return parts.pop() if parts else await asyncio.Event().wait()

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                found.append((message["status"], sys.getrefcount(body) - alone))

        headers = [(b"content-length", b"4001"), (b"content-type", b"application/json")]
        await self.reader({"type": "http", "method": "POST", "path": "/", "headers": headers}, receive, send)
        return found[0]

    async def _app(self, _scope: Any, receive: Any, send: Any) -> None:
        body = (await receive()).pop("body")
        unshared = bytes(bytearray(body))
        self.references.put_nowait(sys.getrefcount(body) - sys.getrefcount(unshared))
        await self.go_on.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        self.held_by_the_answered = self.reader.held_bytes
        await asyncio.sleep(0)


def test_all_bodies_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each connection may send a whole body but for its last byte, or all of it, and then wait."""
    monkeypatch.setattr(middleware, "BODIES_BYTES", 10_000)
    monkeypatch.setattr(middleware, "SMALL_BYTES", 100)

    async def main() -> Bodies:
        bodies = Bodies()
        async with asyncio.timeout(10), asyncio.TaskGroup() as group:
            for _ in range(5):
                group.create_task(bodies.post())
            await asyncio.sleep(0.01)
            assert bodies.statuses == [], "those that are refused are read to their end first"
            bodies.arrived.set()
            references = [await bodies.references.get() for _ in range(2)]
            assert bodies.reader.held_bytes == 2 * 4001, "whole ones count until their answer begins"
            await bodies.post()
            group.create_task(bodies.post(b"{}"))
            references.append(await bodies.references.get())  # small ones are served beside them
            assert references == [0, 0, 0], "nothing else keeps a body that the application has received"
            bodies.go_on.set()
        monkeypatch.setattr(middleware, "BODY_TIMEOUT_SECONDS", 0.01)
        monkeypatch.setattr(middleware, "DRAIN_SECONDS", 0.01)
        for status, body, more in ((408, b"{", True), (400, b"{", False), (400, b"\xff", False)):
            found = await bodies.refused(bytes(bytearray(body * 4001)), more=more)
            assert found == (status, 0), "a refusal keeps nothing of what was read"
        return bodies

    bodies = asyncio.run(main())
    assert sorted(bodies.statuses) == [200, 200, 200, 503, 503, 503, 503]
    assert bodies.reader.held_bytes == 0
    assert bodies.held_by_the_answered == 0, "an answer that lasts holds nothing"


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE", "OPTIONS"])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_request_that_takes_no_body_may_send_none(client: TestClient, method: str, chunked: bool) -> None:
    content: Any = iter([b"{", b"}"]) if chunked else b"{}"
    response = client.request(method, "/executors", content=content)
    if method != "GET":  # which no route of that path serves
        assert response.status_code == 405
        return
    assert response.headers["connection"] == "close"
    assert "takes no body" in is_problem(response, 413)["detail"]
