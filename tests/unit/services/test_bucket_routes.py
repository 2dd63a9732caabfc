"""Listings over HTTP: what is refused, and how one is shown while it runs and when it has ended."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.support.app import create_app
from tests.unit.api_fakes import ADMIN, FakeProcess

REPORT: dict[str, Any] = {
    "bucket": "some-bucket",
    "prefix": "",
    "pages": 5,
    "keys": 42,
    "bytes": 420,
    "largest": {"key": "a/1", "bytes": 40},
    "folders": 1,
    "top": [{"prefix": "a/", "keys": 41, "bytes": 400}],
    "loose": {"prefix": "", "keys": 1, "bytes": 20},
    "executors": {"worker-a": 5},
    "complete": True,
    "next_start_after": None,
}


@pytest.fixture
def process() -> FakeProcess:
    return FakeProcess(s3_max_pages=50)


@pytest.fixture
def client(process: FakeProcess) -> Iterator[TestClient]:
    with TestClient(create_app(process), raise_server_exceptions=False, headers=ADMIN) as client:  # type: ignore[arg-type]
        yield client


@pytest.mark.parametrize(
    ("bucket", "body", "field"),
    [
        ("UPPER", {}, "bucket"),
        ("no", {}, "bucket"),
        ("a_b_c", {}, "bucket"),
        ("-abc", {}, "bucket"),
        ("..%2f..", {}, "bucket"),
        ("some-bucket", {"page_size": 0}, "page_size"),
        ("some-bucket", {"page_size": 1001}, "page_size"),
        ("some-bucket", {"max_pages": 51}, "max_pages"),
        ("some-bucket", {"max_pages": 0}, "max_pages"),
        ("some-bucket", {"prefix": "a\x00"}, "prefix"),
        ("some-bucket", {"prefix": "a" * 1025}, "prefix"),
        ("some-bucket", {"start_after": "\n"}, "start_after"),
        ("some-bucket", {"delimiter": "/"}, "delimiter"),
    ],
)
def test_what_is_wrong_is_named(
    client: TestClient, process: FakeProcess, bucket: str, body: dict[str, Any], field: str
) -> None:
    answer = client.post(f"/buckets/{bucket}/listing", json=body)
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json().get("field") == field
    assert process.gateway.client.rows == {}


def test_the_limit_of_pages_is_documented_and_the_default(client: TestClient, process: FakeProcess) -> None:
    request = client.get("/openapi.json").json()["components"]["schemas"]["ListingRequest"]
    assert request["properties"]["max_pages"]["anyOf"][0]["maximum"] == 50
    assert client.post("/buckets/some-bucket/listing").status_code == 202
    assert process.gateway.client.enqueued[0]["args"][-1] == 50


def shown(client: TestClient, process: FakeProcess, **row: Any) -> Any:
    location = client.post("/buckets/some-bucket/listing").headers["location"]
    [stored] = process.gateway.client.rows.values()
    for name, value in row.items():
        setattr(stored, name, value)
    answer = client.get(location)
    assert answer.status_code == 200
    return answer.json()


def test_progress_while_it_runs(client: TestClient, process: FakeProcess) -> None:
    found = shown(client, process, status="PENDING")
    progress = {"pages": 4, "completed": 2, "keys": 20, "bytes": 200}
    assert {name: found[name] for name in progress} == progress
    assert (found["bucket"], found["report"], found["error"]) == ("some-bucket", None, None)


def test_the_report_when_it_has_ended_also_without_its_pages(
    client: TestClient, process: FakeProcess
) -> None:
    found = shown(client, process, status="SUCCESS", output=REPORT)
    assert found["report"] == {name: REPORT[name] for name in REPORT if name not in ("bucket", "prefix")}
    assert (found["pages"], found["completed"], found["keys"], found["bytes"]) == (5, 5, 42, 420)


@pytest.mark.parametrize("output", ["not a report", {"pages": "many"}, None])
def test_a_report_that_cannot_be_read_is_no_500(
    client: TestClient, process: FakeProcess, output: object
) -> None:
    found = shown(client, process, status="SUCCESS", output=output)
    assert found["report"] is None
    assert found["error"] == "the stored report can't be read"


def test_why_it_failed(client: TestClient, process: FakeProcess) -> None:
    found = shown(client, process, status="ERROR", error=ValueError("There is no bucket some-bucket."))
    assert found["error"] == "ValueError: There is no bucket some-bucket."


def test_another_buckets_or_no_listing_is_unknown(client: TestClient) -> None:
    listing = client.post("/buckets/some-bucket/listing").json()["workflow_id"]
    batch = client.post("/fibonacci/batches").json()["workflow_id"]
    for path in (f"other-bucket/listing/{listing}", f"some-bucket/listing/{batch}", "some-bucket/listing/x"):
        answer = client.get(f"/buckets/{path}")
        assert answer.status_code == 404, path
        assert answer.json()["type"].endswith("unknown-workflow")
