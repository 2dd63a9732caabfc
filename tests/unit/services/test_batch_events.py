"""A batch as server-sent events: snapshot, changes, resuming, and ending when the process drains."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from holdfast.api.models import Status
from holdfast.errors import UnknownWorkflow
from services.worker.fibonacci import events as module
from services.worker.fibonacci.batches import read_batch
from services.worker.fibonacci.events import Feed, Feeds, events, finished, seen
from tests.support import names
from tests.support.app import create_app
from tests.unit.api_fakes import FakeProcess, computed

FINISHED = {"status": "SUCCESS"}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(module, "OUTAGE_POLL_SECONDS", 0.02)


@pytest.fixture
def process() -> FakeProcess:
    process = FakeProcess()
    add = process.gateway.client.add
    given = {"args": ([5, 6, 7], "recursive", False), "kwargs": {}}
    add("b", name=names.FIBONACCI_BATCH, status="PENDING", input=given)
    for index in range(3):
        add(f"b-{index}", name=names.FIBONACCI_NUMBER, parent_workflow_id="b")
    return process


def finish(process: FakeProcess, *indexes: int) -> None:
    for index in indexes:
        row = process.gateway.client.rows[f"b-{index}"]
        row.status = "SUCCESS"
        row.output = computed(5 + index, str(index))


def end(process: FakeProcess, status: Status = "SUCCESS") -> None:
    process.gateway.client.rows["b"].status = status


Event = tuple[str, str, Any]


def parse(text: str) -> Event | None:
    """(event, id, data) of one event; None for a comment or a bare retry."""
    fields = dict(line.split(": ", 1) for line in text.strip().splitlines() if not line.startswith(":"))
    return (fields["event"], fields["id"], json.loads(fields["data"])) if "event" in fields else None


async def follow(
    process: FakeProcess,
    act: Callable[[Event], None] = lambda _: None,
    last_event_id: str | None = None,
) -> list[Event]:
    """Reads the whole stream; `act` sees each event as it comes."""
    feeds = Feeds(process, 10)  # type: ignore[arg-type]
    feed = await feeds.join("b")
    found: list[Event] = []
    try:
        async with asyncio.timeout(5):
            async for text in events(process, feed, last_event_id):  # type: ignore[arg-type]
                event = parse(text)
                if event is not None:
                    found.append(event)
                    act(event)
    finally:
        feeds.leave(feed)
    return found


def test_a_stream_is_a_snapshot_then_changes_then_the_end(process: FakeProcess) -> None:
    def act(event: Event) -> None:
        kind, _, data = event
        if kind == "snapshot":
            finish(process, 1)
        elif kind == "number" and data["index"] == 1:
            finish(process, 0, 2)
            end(process)

    found = asyncio.run(follow(process, act))
    assert found[0][0] == "snapshot"
    assert [row["status"] for row in found[0][2]["results"]] == ["ENQUEUED"] * 3
    numbers = [data["index"] for kind, _, data in found if kind == "number" and data["status"] == "SUCCESS"]
    assert numbers == [1, 0, 2]
    assert found[-1][0] == "end"
    assert found[-1][2] == {
        "workflow_id": "b",
        "status": "SUCCESS",
        "total": 3,
        "completed": 3,
        "error": None,
    }
    assert "results" not in found[-1][2]


def test_a_takeover_is_a_change(process: FakeProcess) -> None:
    row = process.gateway.client.rows["b-0"]

    def act(event: Event) -> None:
        kind, _, data = event
        if kind == "snapshot":
            row.status, row.executor_id, row.recovery_attempts = "PENDING", "worker-a", 1
        elif kind == "number" and data["executor_id"] == "worker-a":
            row.executor_id, row.recovery_attempts = "worker-b", 2
        elif kind == "number":
            end(process, "CANCELLED")

    found = asyncio.run(follow(process, act))
    changes = [(data["executor_id"], data["attempts"]) for kind, _, data in found if kind == "number"]
    assert changes == [("worker-a", 1), ("worker-b", 2)]
    assert found[-1][2]["status"] == "CANCELLED"


@pytest.mark.parametrize("cut", range(1, 4))
def test_a_reconnect_goes_on_where_the_stream_broke(process: FakeProcess, cut: int) -> None:
    """However many results had come, each comes exactly once over both connections."""
    first: list[Event] = []

    class BrokenError(Exception):
        pass

    def act(event: Event) -> None:
        first.append(event)
        kinds = [kind for kind, _, data in first if kind == "snapshot" or data.get("status") == "SUCCESS"]
        if len(kinds) == cut:
            raise BrokenError
        finish(process, len(kinds) - 1)

    with pytest.raises(BrokenError):
        asyncio.run(follow(process, act))
    finish(process, 0, 1, 2)
    end(process)
    second = asyncio.run(follow(process, last_event_id=first[-1][1]))
    assert not [kind for kind, _, _ in second if kind == "snapshot"]
    came = [data["index"] for kind, _, data in first + second if kind == "number" and data["result"]]
    assert sorted(came) == [0, 1, 2]
    assert second[-1][0] == "end"


@pytest.mark.parametrize("strange", ["", "x", "3-", "3-zz", "99-7", "-1-7", "3-7-fin", "3-" + "f" * 3001])
def test_a_strange_last_event_id_gets_the_snapshot(process: FakeProcess, strange: str) -> None:
    end(process)
    assert asyncio.run(follow(process, last_event_id=strange))[0][0] == "snapshot"


def test_ids_say_what_the_client_has() -> None:
    assert seen("3-5", 3) == {0, 2}
    assert seen("3-0", 3) == set()
    assert seen("3-7-end", 3) == {0, 1, 2}
    assert seen("4-7", 3) is None
    assert seen(None, 3) is None
    assert finished("3-7-end")
    assert not finished("3-7")
    assert not finished(None)


def test_a_drain_ends_the_stream_at_once(process: FakeProcess) -> None:
    asked: list[float] = []

    def act(event: Event) -> None:
        if event[0] == "snapshot":
            asyncio.get_running_loop().call_later(0.1, process.request_stop, "test")
            asked.append(time.monotonic() + 0.1)

    found = asyncio.run(follow(process, act))
    assert time.monotonic() - asked[0] < 30
    assert [kind for kind, _, _ in found] == ["snapshot"], "no end: the client is to reconnect"


def test_an_outage_of_the_database_does_not_end_a_stream(process: FakeProcess) -> None:
    def back() -> None:
        process.gateway.down = False
        finish(process, 0, 1, 2)
        end(process)

    def act(event: Event) -> None:
        if event[0] == "snapshot":
            process.gateway.down = True
            asyncio.get_running_loop().call_later(0.2, back)

    found = asyncio.run(follow(process, act))
    assert found[-1][2]["completed"] == 3


def test_a_failing_reader_ends_the_stream_without_an_end(process: FakeProcess) -> None:
    def act(event: Event) -> None:
        process.gateway.broken = RuntimeError("surprise")

    assert [kind for kind, _, _ in asyncio.run(follow(process, act))] == ["snapshot"]


def test_a_quiet_stream_has_a_heartbeat(process: FakeProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HEARTBEAT_SECONDS", 0.05)
    monkeypatch.setattr(module, "POLL_SECONDS", 5)

    async def main() -> list[str]:
        feeds = Feeds(process, 10)  # type: ignore[arg-type]
        feed = await feeds.join("b")
        lines: list[str] = []
        async with asyncio.timeout(5):
            async for text in events(process, feed, None):  # type: ignore[arg-type]
                lines.append(text)
                if len([line for line in lines if line.startswith(":")]) == 2:
                    break
        feeds.leave(feed)
        return lines

    assert asyncio.run(main())[-1].startswith(":")


def test_many_streams_share_one_reader(process: FakeProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = 0
    read = read_batch

    def counted(*args: Any) -> Any:
        nonlocal looks
        looks += 1
        return read(*args)

    monkeypatch.setattr(module, "read_batch", counted)

    async def main() -> None:
        feeds = Feeds(process, 10)  # type: ignore[arg-type]
        joined = await asyncio.gather(*(feeds.join("b") for _ in range(5)))
        assert len({id(feed) for feed in joined}) == 1
        [feed] = set(joined)
        await feed.next_poll.wait()
        before = looks  # between two polls: none is under way
        await feed.next_poll.wait()
        assert looks == before + 1, "one poll however many listen"
        for _ in joined:
            feeds.leave(feed)
        assert feeds._feeds == {}
        assert feed.task is not None
        with pytest.raises(asyncio.CancelledError):
            await feed.task

    asyncio.run(main())


def test_a_result_is_loaded_once(process: FakeProcess) -> None:
    finish(process, 0, 1)

    async def main() -> None:
        feeds = Feeds(process, 10)  # type: ignore[arg-type]
        feed = await feeds.join("b")
        process.gateway.client.loads.clear()
        for _ in range(2):
            await feed.next_poll.wait()
        # The batch itself with its payload, and its children without: nobody's result again.
        assert set(process.gateway.client.loads) == {(True, True), (False, False)}
        feeds.leave(feed)

    asyncio.run(main())


def test_a_deleted_batch_ends_its_feed(process: FakeProcess) -> None:
    async def main() -> Feed:
        feeds = Feeds(process, 10)  # type: ignore[arg-type]
        feed = await feeds.join("b")
        del process.gateway.client.rows["b"]
        assert feed.task is not None
        await asyncio.wait_for(feed.task, 5)
        with pytest.raises(UnknownWorkflow):
            await Feeds(process, 10).join("b")  # type: ignore[arg-type]
        return feed

    assert asyncio.run(main()).ended


@pytest.fixture
def client(process: FakeProcess) -> Iterator[TestClient]:
    with TestClient(create_app(process), raise_server_exceptions=False) as client:  # type: ignore[arg-type]
        yield client


def test_over_http(client: TestClient, process: FakeProcess) -> None:
    finish(process, 0, 1, 2)
    end(process)
    response = client.get("/fibonacci/batches/b/events")
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["cache-control"] == "no-store"
    parsed = [parse(text) for text in response.text.split("\n\n")]
    assert [event[0] for event in parsed if event] == ["snapshot", "end"]
    assert client.app.state.feeds.permits.in_use == 0  # type: ignore[attr-defined]
    assert client.app.state.feeds._feeds == {}  # type: ignore[attr-defined]
    last = next(event[1] for event in reversed(parsed) if event)
    again = client.get("/fibonacci/batches/b/events", headers={"Last-Event-ID": last})
    assert again.status_code == 204
    assert client.app.state.feeds._feeds == {}  # type: ignore[attr-defined]
    assert client.app.state.feeds.permits.in_use == 0  # type: ignore[attr-defined]


def test_open_streams_are_bounded(client: TestClient) -> None:
    permits = client.app.state.feeds.permits  # type: ignore[attr-defined]
    permits.in_use = permits.limit
    response = client.get("/fibonacci/batches/b/events")
    assert response.status_code == 503
    assert response.headers["retry-after"] == "1"
    assert "100" in response.json()["detail"]
    assert permits.in_use == permits.limit


def test_a_refused_stream_gives_its_place_back(client: TestClient, process: FakeProcess) -> None:
    assert client.get("/fibonacci/batches/none/events").status_code == 404
    process.gateway.down = True
    assert client.get("/fibonacci/batches/b/events").status_code == 503
    assert client.app.state.feeds.permits.in_use == 0  # type: ignore[attr-defined]


def test_a_client_that_leaves_gives_its_place_back(process: FakeProcess) -> None:
    app = create_app(process)  # type: ignore[arg-type]

    async def receive() -> AsyncIterator[Any]:
        yield {"type": "http.request", "body": b"", "more_body": False}
        await started.wait()
        yield {"type": "http.disconnect"}

    started = asyncio.Event()

    async def main() -> None:
        messages = receive()

        async def send(message: Any) -> None:
            if message["type"] == "http.response.body":
                assert app.state.feeds.permits.in_use == 1
                started.set()

        path = "/fibonacci/batches/b/events"
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "method": "GET",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": [(b"host", b"testserver")],
        }
        async with asyncio.timeout(5):
            await app(scope, messages.__anext__, send)
        assert app.state.feeds.permits.in_use == 0
        assert app.state.feeds._feeds == {}

    asyncio.run(main())
