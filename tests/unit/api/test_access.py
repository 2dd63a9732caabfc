"""Orders need the admin token: none, a wrong one, the right one, a new one; and no file at all."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient
from starlette.routing import Route

from holdfast.api.access import controlled
from tests.support.app import create_app
from tests.unit.api_fakes import FakeProcess, FakeSettings, executor

READING = {"GET", "HEAD"}
PROBES = {"/livez", "/readyz", "/metrics"}

CONTROL = [
    ("POST", "/shutdown"),
    ("POST", "/executors/e/drain"),
    ("POST", "/executors/e/crash"),
    ("POST", "/workflows/w/cancel"),
    ("POST", "/workflows/w/resume"),
    ("POST", "/workflows/w/reopen"),
    ("POST", "/workflows/w/fork"),
    ("POST", "/workflows/w/adopt"),
    ("DELETE", "/workflows/w"),
    ("POST", "/workflows/w/messages"),
    ("POST", "/stranded/adopt"),
    ("POST", "/purge"),
    ("DELETE", "/cache"),
]
OPEN_WRITES = {
    "/workflows",
    "/scope/class",
    "/scope/function",
    "/scope/instance/{name}",
    "/users/pages",
    "/buckets/{bucket}/listing",
    "/nested",
    "/fibonacci/batches",
}
RIGHT = "right-token-0123456789"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "admin_token"
    path.write_text(f"{RIGHT}\n", "ascii")
    return path


@pytest.fixture
def process(file: Path) -> FakeProcess:
    process = FakeProcess(admin_token_file=file, chaos=True)
    process.gateway.executors = [executor("e")]
    process.gateway.client.add("w", status="PENDING")
    return process


@pytest.fixture
def client(process: FakeProcess) -> Iterator[TestClient]:
    with TestClient(create_app(process), raise_server_exceptions=False) as client:  # type: ignore[arg-type]
        yield client


def send(client: TestClient, call: tuple[str, str], token: str | None) -> httpx.Response:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    return client.request(*call, headers=headers)


def untouched(process: FakeProcess) -> bool:
    client = process.gateway.client
    return not (process.stops or process.gateway.orders or process.operations.requested or client.forked)


@pytest.mark.parametrize("call", CONTROL, ids=" ".join)
def test_without_a_token_it_asks_for_one(
    client: TestClient, process: FakeProcess, call: tuple[str, str]
) -> None:
    for headers in ({}, {"Authorization": "Basic eDp5"}, {"Authorization": RIGHT}):
        answer = client.request(*call, headers=headers)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        assert answer.headers["content-type"] == "application/problem+json"
        assert "holdfast token" in answer.json()["detail"]
    assert untouched(process)


@pytest.mark.parametrize("call", CONTROL, ids=" ".join)
@pytest.mark.parametrize("token", ["guessed-one", f"{RIGHT}x", RIGHT[:-1], "\xe9\xff", "x" * 5000])
def test_a_wrong_token_is_refused_and_never_logged(
    client: TestClient,
    process: FakeProcess,
    call: tuple[str, str],
    token: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.DEBUG):
        answer = client.request(*call, headers={"Authorization": f"Bearer {token}".encode("latin-1")})
    assert answer.status_code == 403
    assert answer.json()["type"].endswith("wrong-admin-token")
    assert RIGHT not in answer.text + caplog.text
    assert token not in answer.text + caplog.text
    assert untouched(process)


@pytest.mark.parametrize("call", CONTROL, ids=" ".join)
def test_the_right_token_lets_through(client: TestClient, call: tuple[str, str]) -> None:
    assert send(client, call, RIGHT).status_code not in (401, 403)


def test_replacing_the_file_rotates_the_token(client: TestClient, file: Path) -> None:
    call = ("POST", "/executors/e/drain")
    assert send(client, call, RIGHT).status_code == 202
    new = file.with_suffix(".new")
    new.write_text("second-token", "ascii")
    new.replace(file)
    assert send(client, call, RIGHT).status_code == 403
    assert send(client, call, "second-token").status_code == 202


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"\xff\xfe", None], ids=["empty", "blank", "binary", "missing"]
)
def test_a_file_without_a_token_opens_nothing(client: TestClient, file: Path, content: bytes | None) -> None:
    if content is None:
        file.unlink()
    else:
        file.write_bytes(content)
    for token in ("", " ", "x", RIGHT):
        answer = send(client, ("POST", "/shutdown"), token)
        assert answer.status_code in (401, 503)
    assert "HOLDFAST_ADMIN_TOKEN_FILE" in send(client, ("POST", "/shutdown"), "x").json()["detail"]


@pytest.mark.parametrize("call", CONTROL, ids=" ".join)
def test_no_file_configured_says_what_to_set(call: tuple[str, str]) -> None:
    process = FakeProcess(admin_token_file=None, chaos=True)
    with TestClient(create_app(process), raise_server_exceptions=False) as client:  # type: ignore[arg-type]
        for token in (None, "", "x"):
            answer = send(client, call, token)
            assert answer.status_code == 403
            assert "HOLDFAST_ADMIN_TOKEN_FILE" in answer.json()["detail"]
    assert untouched(process)


def test_every_call_that_changes_something_is_a_control_operation_or_starts_work(client: TestClient) -> None:
    """A new route is one or the other on purpose, also one that the schema does not show."""
    guarded, opened = set(), set()
    for method, route in routes(client):
        if method not in READING:
            (guarded if needs_token(route.dependant) else opened).add((method, route.path))
    assert opened == {("POST", path) for path in OPEN_WRITES}
    ids = {"e": "{executor_id}", "w": "{workflow_id}"}
    assert guarded == {
        (method, "/".join(ids.get(segment, segment) for segment in path.split("/")))
        for method, path in CONTROL
    }


def test_nothing_changes_anything_but_a_route(client: TestClient) -> None:
    """No mount and no bare Starlette route, which no dependency guards."""
    for route in flat(client.app.router.routes):  # type: ignore[attr-defined]
        if not isinstance(route, APIRoute):
            assert isinstance(route, Route) and route.methods is not None, route
            assert route.methods <= READING, route.path


def flat(routes: list[Any]) -> Iterator[Any]:
    """Routes with those of included routers, as FastAPI keeps them."""
    for route in routes:
        included = getattr(route, "original_router", None)
        yield from flat(included.routes) if included is not None else [route]


def routes(client: TestClient) -> Iterator[tuple[str, APIRoute]]:
    for route in flat(client.app.router.routes):  # type: ignore[attr-defined]
        if isinstance(route, APIRoute):
            yield from ((method, route) for method in route.methods)


def needs_token(dependant: Dependant) -> bool:
    return dependant.call is controlled or any(map(needs_token, dependant.dependencies))


def test_the_schema_says_which_calls_need_it(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    assert paths["/shutdown"]["post"]["security"] == [{"HTTPBearer": []}]
    assert "security" not in paths["/fibonacci/batches"]["post"]
    assert {"401", "403"} <= paths["/workflows/{workflow_id}/cancel"]["post"]["responses"].keys()


def test_the_schema_lists_the_answers_of_each_call(client: TestClient) -> None:
    for path, operations in client.get("/openapi.json").json()["paths"].items():
        for operation in operations.values():
            assert {"403", "421"} <= operation["responses"].keys(), path
            assert ("429" in operation["responses"]) is (path not in PROBES - {"/metrics"})


# --- the token for everything --------------------------------------------------------------


@pytest.fixture
def closed(file: Path) -> Iterator[TestClient]:
    """HOLDFAST_REQUIRE_TOKEN=true."""
    process = FakeProcess(admin_token_file=file, chaos=True, require_token=True)
    process.gateway.client.add("w", status="PENDING")
    with TestClient(create_app(process), raise_server_exceptions=False) as client:  # type: ignore[arg-type]
        yield client
        assert list(process.gateway.client.rows) == ["w"]
        assert untouched(process)


def test_every_address_needs_the_token_but_these(closed: TestClient) -> None:
    opened = set()
    for route in flat(closed.app.router.routes):  # type: ignore[attr-defined]
        path = (
            route.path.replace("{file}", "main.js").replace("{workflow_id}", "w").replace("{name}", "alpha")
        )
        for method in route.methods:
            answer = closed.request(method, path.replace("{executor_id}", "e"))
            if answer.status_code != 401:
                opened.add((method, route.path))
            else:
                assert answer.headers["www-authenticate"] == "Bearer"
                assert answer.headers["content-type"] == "application/problem+json"
    page = {"/", "/static/{file}", "/docs", "/console/workflows/{workflow_id}"}
    assert opened == {("GET", path) for path in PROBES | page}


@pytest.mark.parametrize(
    "path",
    [
        "/nowhere",
        "/workflows/",
        "/console/workflows/w/tree",
        "/console/workflows/../../workflows",
        "http://testserver//workflows",
        "/static/..%2f..%2fworkflows",
        "/livez/",
        "/livez%0a",
        "/docs/x",
    ],
)
def test_no_way_around(closed: TestClient, path: str) -> None:
    answer = closed.get(path)
    assert answer.status_code in (401, 404), answer.text
    assert "created_at" not in answer.text
    if answer.status_code == 404:
        assert answer.json()["type"].endswith("not-found")


@pytest.mark.parametrize("path", ["/workflows", "/console/snapshot", "/openapi.json", "/executors"])
def test_the_token_reads(closed: TestClient, file: Path, path: str) -> None:
    assert send(closed, ("GET", path), RIGHT).status_code == 200
    assert closed.get(path, headers={"Authorization": f"bearer  {RIGHT} "}).status_code == 200
    wrong = send(closed, ("GET", path), "wrong")
    assert wrong.status_code == 403
    assert wrong.json()["type"].endswith("wrong-admin-token")
    assert closed.get(path, params={"token": RIGHT, "access_token": RIGHT}).status_code == 401
    assert closed.get(path, headers={"Cookie": f"token={RIGHT}"}).status_code == 401
    file.write_text("second", "ascii")
    assert send(closed, ("GET", path), RIGHT).status_code == 403
    assert send(closed, ("GET", path), "second").status_code == 200
    file.write_text("", "ascii")
    answer = send(closed, ("GET", path), "second")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")


def test_nothing_is_read_of_a_body_without_the_token(closed: TestClient) -> None:
    for content, kind in ((b"{", "application/json"), (b"x", "text/plain"), (b"x" * 2_000_000, "text/plain")):
        assert closed.post("/nested", content=content, headers={"Content-Type": kind}).status_code == 401


def test_the_schema_says_that_everything_needs_it(closed: TestClient) -> None:
    paths = send(closed, ("GET", "/openapi.json"), RIGHT).json()["paths"]
    for path, operations in paths.items():
        for operation in operations.values():
            closed_there = path not in PROBES
            assert (operation.get("security") == [{"HTTPBearer": []}]) is closed_there, path
            assert ("401" in operation["responses"]) is closed_there, path


# --- what must not start -------------------------------------------------------------------

BEYOND = ["0.0.0.0", "::", "[::]", "192.168.1.5", "myhost", "fe80::1"]


@pytest.mark.parametrize("address", BEYOND)
@pytest.mark.parametrize("bind_host", ["127.0.0.1", "0.0.0.0"])
def test_published_to_others_without_the_token_is_refused(address: str, bind_host: str) -> None:
    refusal = FakeSettings(publish_address=address, bind_host=bind_host).refusal
    assert refusal is not None
    assert f"HOLDFAST_PUBLISH_ADDRESS={address} " in refusal
    assert "HOLDFAST_REQUIRE_TOKEN=true" in refusal
    assert FakeSettings(publish_address=address, bind_host=bind_host, require_token=True).refusal is None


@pytest.mark.parametrize("address", [*BEYOND, ""])
@pytest.mark.parametrize("published", [None, ""])
def test_without_a_published_address_the_own_one_is_judged(address: str, published: str | None) -> None:
    refusal = FakeSettings(publish_address=published, bind_host=address).refusal
    assert refusal is not None
    assert f"HOLDFAST_BIND_HOST={address} " in refusal
    assert "HOLDFAST_REQUIRE_TOKEN=true" in refusal


@pytest.mark.parametrize("address", ["127.0.0.1", "localhost", "::1", "[::1]"])
def test_loopback_is_open(address: str) -> None:
    assert FakeSettings(bind_host=address).refusal is None
    assert FakeSettings(bind_host="0.0.0.0", publish_address=address).refusal is None


def test_a_token_for_everything_needs_a_file() -> None:
    refusal = FakeSettings(require_token=True, admin_token_file=None).refusal
    assert refusal is not None and "HOLDFAST_ADMIN_TOKEN_FILE" in refusal
