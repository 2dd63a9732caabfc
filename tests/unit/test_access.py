"""Orders need the admin token: none, a wrong one, the right one, a new one; and no file at all."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from fastapi.testclient import TestClient

from services.api.app import create_app
from tests.unit.api_fakes import FakeProcess, executor

CONTROL = [
    ("POST", "/shutdown"),
    ("POST", "/executors/e/drain"),
    ("POST", "/executors/e/crash"),
    ("POST", "/workflows/w/cancel"),
    ("POST", "/workflows/w/resume"),
    ("POST", "/workflows/w/fork"),
    ("POST", "/workflows/w/adopt"),
    ("POST", "/stranded/adopt"),
    ("DELETE", "/cache"),
]
OPEN_WRITES = {
    "/scope/class",
    "/scope/function",
    "/scope/instance/{name}",
    "/users/pages",
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
    return not (
        process.stops or process.gateway.orders or client.cancelled or client.resumed or client.forked
    )


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


def test_every_call_that_changes_something_is_an_order_or_starts_work(client: TestClient) -> None:
    """A new route is one or the other on purpose."""
    guarded, opened = set(), set()
    for path, operations in client.get("/openapi.json").json()["paths"].items():
        for method, operation in operations.items():
            if method not in ("get", "head"):
                (guarded if "security" in operation else opened).add(path)
    assert opened == OPEN_WRITES
    assert len(guarded) == len(CONTROL)


def test_the_schema_tells_which_calls_need_it(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    assert paths["/shutdown"]["post"]["security"] == [{"HTTPBearer": []}]
    assert "security" not in paths["/fibonacci/batches"]["post"]
    assert {"401", "403"} <= paths["/workflows/{workflow_id}/cancel"]["post"]["responses"].keys()
