"""Answers of an S3 server that wants memory, threads or rows: each is one clear error of the step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import pytest

from services.settings import ShowcaseSettings
from services.worker.buckets import bounded_http, object_store, workflows
from services.worker.buckets.errors import ObjectStoreError, ObjectStoreUnavailable
from tests.support.raw_server import Counted, FastClock, raw_server

LIMIT = 3
_OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/xml\r\n%s\r\n"


def listing(*contents: str, more: str = "false") -> bytes:
    inside = "".join(f"<Contents>{one}</Contents>" for one in contents)
    return f"<ListBucketResult><IsTruncated>{more}</IsTruncated>{inside}</ListBucketResult>".encode()


def entry(key: str, size: object = 1) -> str:
    return f"<Key>{key}</Key><Size>{size}</Size>"


def answer(body: bytes, headers: bytes = b"") -> list[bytes]:
    return [_OK % headers + body]


@pytest.fixture
def list_from(tmp_path: Path) -> Iterator[Callable[[int], Any]]:
    """Lists a bucket of the server on this port."""
    credentials = tmp_path / "credentials"
    credentials.write_text("[default]\naws_access_key_id = k\naws_secret_access_key = s\n")

    def ask(port: int) -> Any:
        object_store.close()
        settings = ShowcaseSettings(
            s3_endpoint=f"http://127.0.0.1:{port}", s3_credentials_file=credentials, s3_timeout_seconds=20
        )
        return object_store.list_objects(settings, "some-bucket", "", "", LIMIT)

    yield ask
    object_store.close()


def test_what_is_within_the_bounds_is_listed(list_from: Callable[[int], Any]) -> None:
    largest = [("k" * 1024, 2**63 - 1), ("é", 0), ("z", 1)]
    body = listing(*(entry(key, size) for key, size in largest), more="true")
    with raw_server(answer(body)) as (port, _):
        assert list_from(port) == object_store.Listed(largest, more=True)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(listing(*[entry("a")] * (LIMIT + 1)), id="more keys than asked for"),
        pytest.param(listing(entry("a", 2**63)), id="a size that no row can hold"),
        pytest.param(listing(entry("a", -1)), id="a negative size"),
        pytest.param(listing(entry("a", "9" * 5000)), id="a size of 5,000 digits"),
        pytest.param(listing(entry("a", "x")), id="a size that is no number"),
        pytest.param(listing(entry("a" * 1025)), id="a long key"),
        pytest.param(listing(entry("é" * 513)), id="a long key in bytes"),
        pytest.param(listing("<Size>1</Size>"), id="no key"),
        pytest.param(listing("<a/>" * 70_000), id="many elements"),
        pytest.param(listing(entry("a") + "<LastModified>x</LastModified>"), id="no time"),
    ],
)
def test_an_answer_out_of_bounds_is_one_error(list_from: Callable[[int], Any], body: bytes) -> None:
    with raw_server(answer(body)) as (port, requests), pytest.raises(ObjectStoreError) as error:
        list_from(port)
    assert "answer" in error.value.message and "HOLDFAST_S3_ENDPOINT" in error.value.message
    assert len(error.value.message) < 300
    assert not workflows._heals(error.value) and len(requests) == 1


@pytest.mark.parametrize(
    "status", [pytest.param(b"200 OK", id="a listing"), pytest.param(b"500 x", id="an error")]
)
@pytest.mark.parametrize(
    "head", [b"", b"Transfer-Encoding: chunked\r\n", b"Content-Length: 99999999999\r\n", b"X: "]
)
def test_an_endless_answer_is_left_at_its_limit(
    list_from: Callable[[int], Any], status: bytes, head: bytes
) -> None:
    part = b"10000\r\n" + b"x" * 65536 + b"\r\n" if b"chunked" in head else b"x: y\r\n" * 10_000
    start = b"HTTP/1.1 %s\r\n%s" % (status, head) + (b"" if head == b"X: " else b"\r\n")
    parts = Counted(chain([start], repeat(part)))
    with raw_server(parts) as (port, _), pytest.raises(ObjectStoreError):
        list_from(port)
    assert parts.bytes < 4 * object_store.ANSWER_BYTES


def test_a_declared_length_over_the_limit_is_not_read(list_from: Callable[[int], Any]) -> None:
    parts = answer(b"", b"Content-Length: %d\r\n" % (object_store.ANSWER_BYTES + 1))
    with raw_server(parts) as (port, _), pytest.raises(ObjectStoreError, match="bytes") as error:
        list_from(port)
    assert not workflows._heals(error.value)


@pytest.mark.parametrize("start", [b"HTTP/1.1 200 OK\r\nX: ", _OK % b""], ids=["head", "body"])
def test_a_dripping_answer_is_left_at_its_deadline(
    list_from: Callable[[int], Any], monkeypatch: pytest.MonkeyPatch, start: bytes
) -> None:
    """Each byte arrives in time; the whole never does. That may pass, so the step tries again."""
    clock = FastClock()
    monkeypatch.setattr(bounded_http, "monotonic", clock)
    with raw_server(chain([start], repeat(b"x"))) as (port, _), pytest.raises(ObjectStoreUnavailable):
        list_from(port)
    assert clock.now < 20 + 3 * clock.step
