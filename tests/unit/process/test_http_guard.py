"""Names that are not ours, pages of other origins, and the headers on every answer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from holdfast.probe_paths import PROBE_PATHS
from holdfast.process.worker_app import create_app as create_worker
from tests.support.app import create_app
from tests.unit.api_fakes import ADMIN, FakeProcess

FOREIGN = {"Origin": "http://evil.example", "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors"}
SECURED = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}
PATHS = ["/", "/static/main.js", "/livez", "/readyz", "/metrics", "/openapi.json", "/docs", "/nowhere"]
READING = ["/workflows", "/executors", "/schedule", "/console/snapshot", "/cache"]
CHANGING = ["/nested", "/scope/class", "/fibonacci/batches", "/users/pages", "/shutdown", "/stranded/adopt"]


@pytest.fixture
def process() -> FakeProcess:
    return FakeProcess(allowed_hosts="testserver, holdfast.example")


@pytest.fixture
def client(process: FakeProcess) -> Iterator[TestClient]:
    with TestClient(create_app(process), raise_server_exceptions=False) as client:  # type: ignore[arg-type]
        yield client


def nothing_happened(process: FakeProcess) -> bool:
    gateway = process.gateway
    return not (gateway.client.rows or gateway.requests or gateway.orders or process.stops)


def is_problem(answer: httpx.Response, status: int, kind: str) -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["type"].endswith(kind)
    assert answer.json()["request_id"] == answer.headers["x-request-id"]


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "127.0.0.1.nip.io", "a b", ""])
@pytest.mark.parametrize("path", [*PATHS, *READING])
def test_a_rebound_name_reads_nothing(client: TestClient, host: str, path: str) -> None:
    is_problem(client.get(path, headers={"Host": host}), 421, "unknown-host")


@pytest.mark.parametrize("path", CHANGING)
def test_a_rebound_name_starts_nothing(client: TestClient, process: FakeProcess, path: str) -> None:
    # Same-origin to the browser: the page was loaded under this name.
    headers = {"Host": "evil.example", "Origin": "http://evil.example", "Sec-Fetch-Site": "same-origin"}
    is_problem(client.post(path, headers=headers | ADMIN), 421, "unknown-host")
    assert nothing_happened(process)


@pytest.mark.parametrize(
    "host", ["localhost:8000", "127.0.0.1", "[::1]:8000", "192.168.1.5:8000", "holdfast.example"]
)
def test_our_names_are_served(client: TestClient, host: str) -> None:
    assert client.get("/livez", headers={"Host": host}).status_code == 200
    assert client.get("/workflows", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("service", ["api", "worker"])
def test_a_name_of_a_service_is_for_prometheus_alone(process: FakeProcess, service: str) -> None:
    host = {"Host": f"{service}:8000"}
    # Same-origin to the browser: any network may resolve a name without dots.
    page = host | {"Origin": f"http://{service}:8000", "Sec-Fetch-Site": "same-origin"}
    with TestClient(create_app(process), raise_server_exceptions=False) as client:  # type: ignore[arg-type]
        for path in {*PATHS, *READING, "/livez/", "/metrics/x"} - set(PROBE_PATHS):
            is_problem(client.get(path, headers=page), 421, "unknown-host")
        for path in (*CHANGING, *PROBE_PATHS):
            is_problem(client.post(path, headers=page | ADMIN), 421, "unknown-host")
        assert nothing_happened(process)
        for path in PROBE_PATHS:
            assert client.get(path, headers=host).status_code == 200
            assert client.head(path, headers=host).status_code == client.head(path).status_code != 421
    named: Any = FakeProcess(allowed_hosts=service)
    with TestClient(create_app(named)) as client:
        assert client.get("/workflows", headers=host).status_code == 200, "named by the operator"


@pytest.mark.parametrize("path", CHANGING)
@pytest.mark.parametrize("admin", [{}, ADMIN], ids=["without token", "with token"])
@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({}, id="no body"),
        pytest.param({"Content-Type": "text/plain"}, id="text"),
        pytest.param({"Content-Type": "application/x-www-form-urlencoded"}, id="form"),
        pytest.param({"Content-Type": "application/json"}, id="json"),
    ],
)
def test_a_foreign_page_changes_nothing(
    client: TestClient, process: FakeProcess, path: str, admin: dict[str, str], headers: dict[str, str]
) -> None:
    body = b'{"queued": true}' if headers else b""
    for sent in (
        FOREIGN,
        {"Origin": "http://evil.example"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "null"},
    ):
        answer = client.post(path, content=body, headers=headers | admin | sent)
        is_problem(answer, 403, "foreign-page")
    assert nothing_happened(process)


@pytest.mark.parametrize("path", [*PATHS, *READING])
def test_a_foreign_page_reads_nothing(client: TestClient, path: str) -> None:
    is_problem(client.get(path, headers=FOREIGN), 403, "foreign-page")
    is_problem(
        client.get(path, headers={"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "image"}),
        403,
        "foreign-page",
    )


def test_our_own_page_may(client: TestClient) -> None:
    ours = {"Origin": "http://testserver", "Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors"}
    assert client.get("/console/snapshot", headers=ours).status_code == 200
    assert client.post("/nested", headers=ours).status_code == 202
    assert client.post("/nested", headers={"Origin": "http://testserver"}).status_code == 202


def test_a_link_from_elsewhere_opens_the_page(client: TestClient) -> None:
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    assert client.get("/", headers=link).status_code == 200
    assert client.get("/", headers=link | {"Sec-Fetch-Dest": "iframe"}).status_code == 403


@pytest.mark.parametrize("path", [*PATHS, *READING])
@pytest.mark.parametrize("method", ["GET", "OPTIONS", "POST"])
def test_there_is_no_cors_and_every_answer_is_secured(client: TestClient, method: str, path: str) -> None:
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    for headers in ({}, {"Origin": "http://testserver"}, FOREIGN | asked, {"Host": "evil.example"}):
        answer = client.request(method, path, headers=headers)
        assert not [name for name in answer.headers if name.startswith("access-control")]
        assert SECURED.items() <= dict(answer.headers).items(), answer.headers
        assert "server" not in answer.headers
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
        assert "unsafe-eval" not in policy and "*" not in policy


def test_data_is_not_kept_by_browsers_and_proxies(client: TestClient) -> None:
    for path in READING:
        assert client.get(path).headers["cache-control"] == "no-store", path
    assert client.get("/static/main.js").headers["cache-control"] == "no-cache"


def test_the_page_runs_its_own_scripts_only(client: TestClient) -> None:
    policy = client.get("/").headers["content-security-policy"]
    rules: dict[str, str] = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["script-src"] == rules["style-src"] == rules["connect-src"] == "'self'"
    assert rules["frame-ancestors"] == rules["base-uri"] == rules["form-action"] == "'none'"
    assert "camera=()" in client.get("/").headers["permissions-policy"]


def test_the_worker_refuses_them_too() -> None:
    process: Any = FakeProcess()
    app: FastAPI = create_worker(process)
    with TestClient(app) as client:
        assert client.get("/livez").status_code == 200
        for host in ("172.18.0.5:8001", "worker:8001"):
            assert client.get("/livez", headers={"Host": host}).status_code == 200
        for headers, status in (({"Host": "evil.example"}, 421), (FOREIGN, 403)):
            answer = client.get("/metrics", headers=headers)
            assert answer.status_code == status
            assert answer.headers["content-type"] == "application/problem+json"
            assert SECURED.items() <= dict(answer.headers).items()
