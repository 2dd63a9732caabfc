"""Messages, events and streams over HTTP, and what a workflow waits for."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from fastapi.testclient import TestClient

from holdfast.api import streams
from holdfast.api.streams import CLOSED, LAST_OFFSET, Reader, position, values
from holdfast.dbos_adapter.waiting.notices import stream_name
from holdfast.errors import DatabaseUnavailable
from tests.unit.api_fakes import FakeProcess
from tests.unit.services.test_batch_events import parse


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "FALLBACK_SECONDS", 0.02)
    monkeypatch.setattr(streams, "OUTAGE_SECONDS", 0.02)


@pytest.fixture
def process() -> FakeProcess:
    process = FakeProcess()
    process.gateway.client.add("w", status="PENDING")
    return process


# --- messages -----------------------------------------------------------------------------------------


def sent(process: FakeProcess) -> list[tuple[str, Any, str | None]]:
    return list(process.gateway.client.messages.values())


@pytest.mark.parametrize("message", [None, True, 1.5, "text", [1, {"a": []}], {"n": 2**70}, "half \ud800"])
def test_a_message_is_any_json(process: FakeProcess, client: TestClient, message: Any) -> None:
    for headers in ({}, {"Idempotency-Key": "k"}):
        answer = client.post(
            "/workflows/w/messages",
            content=json.dumps({"message": message, "topic": "approval"}),
            headers={"Content-Type": "application/json", **headers},
        )
        assert answer.status_code == 202, answer.text
        assert sent(process).pop() == ("w", message, "approval")


def test_without_a_key_every_message_is_another(process: FakeProcess, client: TestClient) -> None:
    for _ in range(2):
        assert client.post("/workflows/w/messages", json={"message": 1}).json()["topic"] is None
    assert sent(process) == [("w", 1, None)] * 2


def test_the_same_key_delivers_once_also_after_the_end(process: FakeProcess, client: TestClient) -> None:
    headers = {"Idempotency-Key": "k"}
    first = client.post("/workflows/w/messages", json={"message": 1}, headers=headers)
    process.gateway.client.rows["w"].status = "SUCCESS"
    again = client.post("/workflows/w/messages", json={"message": 1}, headers=headers)
    assert (first.status_code, again.status_code) == (202, 202)
    assert first.json() == again.json()
    assert len(sent(process)) == 1
    assert process.gateway.requests["k"]["workflow_id"] == "w", "the key lives as long as the workflow"


@pytest.mark.parametrize(
    ("workflow_id", "body"),
    [("w", {"message": 2}), ("w", {"message": 1, "topic": "t"}), ("v", {"message": 1})],
)
def test_the_same_key_for_another_message_is_a_conflict(
    process: FakeProcess, client: TestClient, workflow_id: str, body: dict[str, Any]
) -> None:
    process.gateway.client.add("v", status="PENDING")
    headers = {"Idempotency-Key": "k"}
    client.post("/workflows/w/messages", json={"message": 1}, headers=headers)
    answer = client.post(f"/workflows/{workflow_id}/messages", json=body, headers=headers)
    assert answer.status_code == 409
    assert answer.json()["type"] == "urn:holdfast:problem:idempotency-conflict"
    assert len(sent(process)) == 1


@pytest.mark.parametrize(
    ("status", "code"),
    [
        *((status, 202) for status in ("DELAYED", "ENQUEUED", "PENDING", "MAX_RECOVERY_ATTEMPTS_EXCEEDED")),
        *((status, 409) for status in ("SUCCESS", "ERROR", "CANCELLED")),
    ],
)
def test_who_may_still_receive(process: FakeProcess, client: TestClient, status: Any, code: int) -> None:
    process.gateway.client.rows["w"].status = status
    answer = client.post("/workflows/w/messages", json={"message": 1})
    assert answer.status_code == code
    assert len(sent(process)) == (code == 202)
    if code == 409:
        assert status in answer.json()["detail"]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"topic": "t"},
        {"message": 1, "topic": ""},
        {"message": 1, "topic": "x" * 256},
        {"message": 1, "topic": "a\nb"},
        {"message": 1, "topic": 5},
        {"message": 1, "to": "v"},
    ],
)
def test_wrong_messages_are_named(process: FakeProcess, client: TestClient, body: dict[str, Any]) -> None:
    answer = client.post("/workflows/w/messages", json=body)
    assert answer.status_code == 422
    assert not sent(process)


def test_a_number_that_is_none_is_refused(client: TestClient) -> None:
    headers = {"Content-Type": "application/json"}
    answer = client.post("/workflows/w/messages", content=b'{"message": [1e999]}', headers=headers)
    assert answer.status_code == 422
    assert answer.json()["field"] == "message"


def test_nobody_sends_to_nobody_or_without_the_token(process: FakeProcess, client: TestClient) -> None:
    assert client.post("/workflows/gone/messages", json={"message": 1}).status_code == 404
    refused = client.post(
        "/workflows/w/messages", json={"message": 1}, headers={"Authorization": "Bearer no"}
    )
    assert refused.status_code == 403
    process.gateway.down = True
    assert client.post("/workflows/w/messages", json={"message": 1}).status_code == 503
    assert not sent(process)


# --- events -------------------------------------------------------------------------------------------


def test_events_by_key_in_pages(process: FakeProcess, client: TestClient) -> None:
    process.gateway.events = {key: json.dumps({"at": key}) for key in "cab"}
    page = client.get("/workflows/w/events?limit=2").json()
    assert [(event["key"], event["value"]) for event in page["events"]] == [
        ("a", {"at": "a"}),
        ("b", {"at": "b"}),
    ]
    assert page["next_after"] == "b"
    last = client.get("/workflows/w/events", params={"after": "b"}).json()
    assert [event["key"] for event in last["events"]] == ["c"]
    assert last["next_after"] is None


def test_large_pickled_and_broken_values_are_shown_as_text(process: FakeProcess, client: TestClient) -> None:
    process.gateway.events = {
        "big": json.dumps("x" * 5000),
        "broken": "{",
        "number": str(2**60),
        "pickle": "pickled:gASV",
    }
    found = {event["key"]: event for event in client.get("/workflows/w/events").json()["events"]}
    assert found["big"]["shortened"] and len(found["big"]["value"]) == 4096 and found["big"]["bytes"] == 5002
    assert (found["broken"]["value"], found["broken"]["shortened"]) == ("{", False)
    assert found["number"]["value"] == str(2**60), "no reader rounds it"
    sentence = "stored as pickle, readable only by the application (12 bytes)"
    assert (found["pickle"]["value"], found["pickle"]["format"]) == (sentence, "py_pickle")


@pytest.mark.parametrize("what", ["events", "streams"])
def test_a_workflow_without_any(client: TestClient, what: str) -> None:
    assert client.get(f"/workflows/w/{what}").json()[what] == []
    assert client.get(f"/workflows/gone/{what}").status_code == 404
    assert client.get(f"/workflows/w/{what}?limit=1001").status_code == 422


# --- streams ------------------------------------------------------------------------------------------


def test_streams_are_listed(process: FakeProcess, client: TestClient) -> None:
    process.gateway.streams = {"open": ["1", "2"], "shut": ["1", CLOSED]}
    assert client.get("/workflows/w/streams").json()["streams"] == [
        {"key": "open", "length": 2, "closed": False},
        {"key": "shut", "length": 1, "closed": True},
    ]


async def follow(
    process: FakeProcess, act: Callable[[Any], None] = lambda _: None, *, offset: int = 0
) -> list[Any]:
    """Every event of the stream `s`; `act` sees each as it comes."""
    reader = Reader(process, "w", "s", offset)  # type: ignore[arg-type]
    assert await reader.read()
    found = []
    async with asyncio.timeout(5):
        async for text in values(process, reader):  # type: ignore[arg-type]
            if event := parse(text):
                found.append(event)
                act(event)
    return found


def test_values_come_as_they_are_written_until_the_stream_is_closed(
    process: FakeProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "FALLBACK_SECONDS", 60.0)  # only notifications wake
    process.gateway.streams = {"s": ['"a"']}

    def write(event: Any) -> None:
        kind, _, data = event
        if kind == "value" and data["offset"] < 3:
            text = '"b"' if data["offset"] < 2 else CLOSED
            asyncio.get_running_loop().call_later(0.02, lambda: put(text))

    def put(text: str) -> None:
        process.gateway.streams["s"].append(text)
        process.waker.notices.heard("dbos_streams_channel", stream_name("w", "s"))

    events = asyncio.run(follow(process, write))
    assert [(kind, event_id) for kind, event_id, _ in events] == [
        ("value", "0"),
        ("value", "1"),
        ("value", "2"),
        ("end", "2-end"),
    ]
    assert [data["value"] for _, _, data in events[:3]] == ["a", "b", "b"]
    assert events[3][2] == {"closed": True, "status": "PENDING", "length": 3}


def test_the_workflows_end_ends_it_after_its_last_value(process: FakeProcess) -> None:
    process.gateway.streams = {"s": ["1", "2"]}
    process.gateway.client.rows["w"].status = "CANCELLED"
    events = asyncio.run(follow(process, offset=1))
    assert [event_id for _, event_id, _ in events] == ["1", "1-end"]
    assert events[-1][2] == {"closed": False, "status": "CANCELLED", "length": 2}


def test_an_outage_only_delays_it_and_a_deleted_workflow_ends_it(process: FakeProcess) -> None:
    process.gateway.streams = {"s": ["1"]}

    def act(event: Any) -> None:
        loop = asyncio.get_running_loop()
        if event[1] == "0":
            process.gateway.broken = DatabaseUnavailable()
            process.gateway.streams["s"].append("2")
            loop.call_later(0.1, lambda: setattr(process.gateway, "broken", None))
        else:
            process.gateway.client.rows.clear()

    assert [event_id for _, event_id, _ in asyncio.run(follow(process, act))] == ["0", "1"]


def test_a_stop_ends_it(process: FakeProcess) -> None:
    process.gateway.streams = {"s": ["1"]}
    events = asyncio.run(follow(process, lambda _: process.request_stop("test")))
    assert [event_id for _, event_id, _ in events] == ["0"]


def test_over_http(process: FakeProcess, client: TestClient) -> None:
    process.gateway.streams = {"s": ["1", "2", CLOSED], "s 2/ü": [CLOSED]}
    answer = client.get("/workflows/w/streams/s", headers={"Last-Event-ID": "0"})
    assert answer.headers["content-type"].startswith("text/event-stream")
    found = [event for part in answer.text.split("\n\n") if (event := parse(part + "\n\n"))]
    assert [event_id for _, event_id, _ in found] == ["1", "1-end"]
    assert client.get("/workflows/w/streams/s", headers={"Last-Event-ID": "1-end"}).status_code == 204
    assert client.get("/workflows/gone/streams/s").status_code == 404
    assert client.get("/workflows/w/streams/s?offset=-1").status_code == 422
    process.gateway.client.rows["w"].status = "SUCCESS"
    assert "event: end" in client.get("/workflows/w/streams/unwritten").text


def test_open_streams_are_bounded(process: FakeProcess, client: TestClient) -> None:
    permits = client.app.state.feeds.permits  # type: ignore[attr-defined]
    permits.in_use = permits.limit
    assert client.get("/workflows/w/streams/s").status_code == 503
    permits.in_use = 0
    for path in ("/workflows/gone/streams/s", "/workflows/w/streams/s"):
        process.gateway.client.rows["w"].status = "SUCCESS"
        client.get(path)
    assert permits.in_use == 0


@pytest.mark.parametrize(
    ("last", "expected"),
    [
        (None, (5, False)),
        ("x", (5, False)),
        ("7", (8, False)),
        ("7-end", (8, True)),
        ("9999999999", (LAST_OFFSET, False)),
    ],
)
def test_where_a_client_goes_on(last: str | None, expected: tuple[int, bool]) -> None:
    assert position(last, 5) == expected


# --- waiting ------------------------------------------------------------------------------------------

_AT = datetime(2026, 11, 30, 14, 3, 20, tzinfo=UTC)


def test_what_a_workflow_waits_for(process: FakeProcess, client: TestClient) -> None:
    gateway = process.gateway
    gateway.waits["w"] = {"kind": "message", "subject": "approval", "since": _AT, "until": None}
    gateway.client.add("q", status="ENQUEUED", queue_name="fast")
    gateway.client.add(
        "d", status="DELAYED", queue_name="fast", delay_until_epoch_ms=int(_AT.timestamp() * 1000)
    )
    gateway.client.add("s", status="SUCCESS")
    at = "2026-11-30T14:03:20+00:00"
    expected: dict[str, dict[str, Any] | None] = {
        "w": {"kind": "message", "subject": "approval", "since": at, "until": None},
        "q": {"kind": "queue", "subject": "fast", "until": None},
        "d": {"kind": "delay", "subject": "fast", "until": at},
        "s": None,
    }
    listed = {row["workflow_id"]: row for row in client.get("/workflows").json()["workflows"]}
    for workflow_id, waiting in expected.items():
        for row in (client.get(f"/workflows/{workflow_id}").json(), listed[workflow_id]):
            found = row["waiting"]
            assert (found and {name: found[name] for name in waiting or {}}) == waiting
    process.gateway.client.rows["w"].status = "SUCCESS"
    assert client.get("/workflows/w").json()["waiting"] is None, "a row that was left behind says nothing"
