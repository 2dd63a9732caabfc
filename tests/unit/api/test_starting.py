"""Starting workflows by the names that live executors have registered."""

from __future__ import annotations

import asyncio
from difflib import get_close_matches
from typing import Any

import pytest
from fastapi.testclient import TestClient

from holdfast.api import starting
from tests.support import names
from tests.unit.api_fakes import WORKER, FakeProcess

SHOP: dict[str, Any] = {
    "checkout": {},
    "Till.total": {"class": "Till"},
    "Till.close": {"class": "Till", "instances": ["north", "south"]},
    "open <locals>": {"portable": True},
}


@pytest.fixture
def process() -> FakeProcess:
    made = FakeProcess()
    made.gateway.registered = {
        "shop": ("py_pickle", SHOP),
        "stand": ("portable_json", {"checkout": {}, "sell": {}}),
        WORKER: ("portable_json", {"plain": {}, names.BUCKET_LISTING: {}}),
    }
    return made


def started(client: TestClient, process: FakeProcess, **body: Any) -> dict[str, Any]:
    answer = client.post("/workflows", json=body)
    assert answer.status_code == 202, answer.text
    options = process.gateway.client.enqueued[-1]
    assert options["workflow_id"] == answer.json()["workflow_id"]
    assert answer.headers["location"] == f"/workflows/{answer.json()['workflow_id']}"
    return options


def test_a_workflow_starts_in_its_application_as_that_would_start_it(
    client: TestClient, process: FakeProcess
) -> None:
    options = started(
        client, process, workflow="checkout", application="shop", args=[1, "a"], kwargs={"x": [2]}
    )
    assert (options["application_name"], options["app_version"]) == ("shop", "shop-7")
    assert (options["workflow_name"], options["queue_name"]) == ("checkout", "_dbos_internal_queue")
    assert (options["args"], options["kwargs"]) == ((1, "a"), {"x": [2]})
    assert options["as_pickle"] is True, "the format of its application"
    assert options["workflow_id"].startswith("checkout-")


@pytest.mark.parametrize(
    ("body", "as_pickle"),
    [
        ({"workflow": "checkout", "application": "shop", "portable": True}, False),
        ({"workflow": "open <locals>"}, False),
        ({"workflow": "sell"}, False),
        ({"workflow": "Till.total"}, True),
    ],
)
def test_the_format_is_the_applications(
    client: TestClient, process: FakeProcess, body: dict[str, Any], as_pickle: bool
) -> None:
    assert started(client, process, **body)["as_pickle"] is as_pickle


def test_name_is_another_word_for_workflow(client: TestClient, process: FakeProcess) -> None:
    assert started(client, process, name="sell")["application_name"] == "stand"


def test_a_class_and_an_instance(client: TestClient, process: FakeProcess) -> None:
    options = started(client, process, workflow="Till.close", instance="north")
    assert (options["class_name"], options["instance_name"]) == ("Till", "north")
    assert "instance_name" not in started(client, process, workflow="Till.total")


def test_every_option_of_a_queue(client: TestClient, process: FakeProcess) -> None:
    options = started(
        client,
        process,
        workflow="sell",
        queue="stand-queue",
        priority=3,
        partition_key="p",
        delay_seconds=1.5,
        timeout_seconds=60.0,
    )
    assert options["queue_name"] == "stand-queue"
    assert (options["priority"], options["queue_partition_key"]) == (3, "p")
    assert (options["delay_seconds"], options["workflow_timeout"]) == (1.5, 60.0)
    options = started(client, process, workflow="sell", queue="stand-queue", deduplication_id="d")
    assert options["deduplication_id"] == "d"


def test_a_declared_workflow_starts_on_its_queue(client: TestClient, process: FakeProcess) -> None:
    options = started(client, process, workflow=names.BUCKET_LISTING, args=["b", "", "", 1, 1])
    assert options["queue_name"] == names.BUCKET_LISTINGS_QUEUE
    assert started(client, process, workflow="plain")["queue_name"] == "_dbos_internal_queue"


@pytest.mark.parametrize(
    ("body", "field", "text"),
    [
        ({"workflow": "checkout"}, "application", "shop, stand. Name one."),
        ({"workflow": "sell", "arguments": {"a": 1}}, "arguments", "args and kwargs"),
        ({"workflow": "sell", "input": {"a": 1}}, "arguments", "args and kwargs"),
        ({"workflow": "Till.close"}, "instance", "north, south"),
        ({"workflow": "Till.close", "instance": "west"}, "instance", "north, south"),
        ({"workflow": "sell", "instance": "north"}, "instance", "does not run on an instance"),
        ({"workflow": "sell", "queue": "shop-queue"}, "queue", "It has: stand-partitions, stand-queue."),
        ({"workflow": "sell", "priority": 1}, "priority", "Give queue too."),
        ({"workflow": "sell", "deduplication_id": "d"}, "deduplication_id", "Give queue too."),
        (
            {"workflow": "sell", "queue": "stand-queue", "deduplication_id": "d", "partition_key": "p"},
            "partition_key",
            "deduplication_id",
        ),
        ({"workflow": "sell", "queue": "stand-partitions"}, "partition_key", "stand-partitions"),
        ({"workflow": ""}, "workflow", ""),
        ({"workflow": "sell", "args": {"a": 1}}, "args", ""),
        ({"workflow": "sell", "timeout_seconds": 0}, "timeout_seconds", ""),
        ({"workflow": "sell", "surprise": 1}, "surprise", ""),
        (
            {"workflow": "nothing"},
            "workflow",
            "no live executor has registered a workflow of this name. Registered: Till.",
        ),
        (
            {"workflow": "TILLS"},
            "workflow",
            "of this name. Did you mean Till.close or Till.total? Registered: Till.close, ",
        ),
        (
            {"workflow": "sell", "application": "gone"},
            "workflow",
            "no live executor of gone has registered",
        ),
    ],
)
def test_what_is_refused_names_the_field(
    client: TestClient, process: FakeProcess, body: dict[str, Any], field: str, text: str
) -> None:
    answer = client.post("/workflows", json=body)
    assert answer.status_code == 422, answer.text
    assert field in str(answer.json()), answer.json()
    assert text in answer.json()["detail"]
    assert process.gateway.client.enqueued == []


def test_a_key_starts_one(client: TestClient, process: FakeProcess) -> None:
    headers = {"Idempotency-Key": "k"}
    answers = [client.post("/workflows", json={"name": "sell", "args": [1]}, headers=headers) for _ in "ab"]
    assert answers[0].json() == answers[1].json()
    assert len(process.gateway.client.enqueued) == 1
    other = client.post("/workflows", json={"name": "sell", "args": [2]}, headers=headers)
    assert other.status_code == 409


def test_a_name_is_compared_with_few_others_and_not_on_the_event_loop(
    client: TestClient, process: FakeProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    process.gateway.registered["shop"] = ("py_pickle", {f"{n:04}{'x' * 96}": {} for n in range(1000)})
    compared: list[str] = []

    def spy(word: str, names: dict[str, str], **options: Any) -> list[str]:
        with pytest.raises(RuntimeError, match="no running event loop"):
            asyncio.get_running_loop()
        compared.extend([word, *names])
        return get_close_matches(word, names, **options)

    monkeypatch.setattr(starting, "get_close_matches", spy)
    answer = client.post("/workflows", json={"workflow": "x" * 100, "application": "shop"})
    assert answer.status_code == 422 and "Did you mean 0" in answer.json()["detail"]
    assert len(compared) <= 201 and max(map(len, compared)) <= 60
