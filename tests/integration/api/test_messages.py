"""Events, messages and streams under the real roles: what DBOS needs for them, and what wakes who waits."""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Iterator
from typing import Any

import pytest
from dbos import DBOS, Debouncer, SendMessage

from holdfast.api import streams
from holdfast.dbos_adapter.wake_ups import Listener
from holdfast.settings import Role
from tests.support.api_server import serving
from tests.support.database import Database, wait_until
from tests.support.engines import Launched, launched
from tests.support.executors import insert
from tests.unit.api_fakes import FakeProcess

_QUEUE = "messages-q"


@DBOS.step(name="messages.step")
def _step(me: str) -> Any:
    DBOS.set_event("from-step", "e")
    DBOS.send(me, "m", "from-step")
    DBOS.write_stream("from-step", "s")
    DBOS.close_stream("from-step")
    return DBOS.get_event(me, "from-step", 5)


@DBOS.workflow(name="messages.all", max_recovery_attempts=None)
def _all() -> dict[str, Any]:
    """Every primitive once, also the way of a later change, and what a fork copies."""
    me = str(DBOS.workflow_id)
    DBOS.set_event("key", 1)
    DBOS.set_event("key", 2)
    DBOS.send(me, "one", "topic", send_to_forks=True)
    DBOS.send_bulk([SendMessage(me, "two", "topic"), SendMessage(me, "three", None)])
    DBOS.write_stream("stream", 1)
    DBOS.write_stream("stream", 2)
    DBOS.close_stream("stream")
    return {
        "step": _step(me),
        "event": DBOS.get_event(me, "key", 5),
        "events": DBOS.get_all_events(me),
        "messages": [DBOS.recv(topic, 5) for topic in ("topic", "topic", None, "from-step")],
        "nothing": DBOS.recv("nothing", 0.05),
        "streams": [list(DBOS.read_stream(me, key)) for key in ("stream", "from-step")],
    }


@DBOS.step(name="messages.step_async")
async def _step_async(me: str) -> Any:
    await DBOS.set_event_async("from-step", "e")
    await DBOS.send_async(me, "m", "from-step")
    await DBOS.write_stream_async("from-step", "s")
    await DBOS.close_stream_async("from-step")
    return await DBOS.get_event_async(me, "from-step", 5)


@DBOS.workflow(name="messages.all_async", max_recovery_attempts=None)
async def _all_async() -> dict[str, Any]:
    me = str(DBOS.workflow_id)
    await DBOS.set_event_async("key", 1)
    await DBOS.set_event_async("key", 2)
    await DBOS.send_async(me, "one", "topic", send_to_forks=True)
    await DBOS.send_bulk_async([SendMessage(me, "two", "topic"), SendMessage(me, "three", None)])
    await DBOS.write_stream_async("stream", 1)
    await DBOS.write_stream_async("stream", 2)
    await DBOS.close_stream_async("stream")
    return {
        "step": await _step_async(me),
        "event": await DBOS.get_event_async(me, "key", 5),
        "events": await DBOS.get_all_events_async(me),
        "messages": [await DBOS.recv_async(topic, 5) for topic in ("topic", "topic", None, "from-step")],
        "nothing": await DBOS.recv_async("nothing", 0.05),
        "streams": [
            [value async for value in DBOS.read_stream_async(me, key)] for key in ("stream", "from-step")
        ],
    }


_EXPECTED = {
    "step": "e",
    "event": 2,
    "events": {"key": 2, "from-step": "e"},
    "messages": ["one", "two", "three", "m"],
    "nothing": None,
    "streams": [[1, 2], ["s"]],
}


@DBOS.workflow(name="messages.debounced", max_recovery_attempts=None)
def _debounced(number: int) -> int:
    return number


@DBOS.workflow(name="messages.debounce", max_recovery_attempts=None)
def _debounce() -> int:
    bouncer = Debouncer.create(_debounced)
    handles = [bouncer.debounce("key", 0.2, number) for number in range(3)]
    return handles[-1].get_result(polling_interval_sec=0.05)


def _run(app: Launched, name: str, *args: Any) -> Any:
    workflow_id = f"{name}-1"
    app.enqueue(name, *args, queue=_QUEUE, workflow_id=workflow_id)
    return app.client.retrieve_workflow(workflow_id).get_result(polling_interval_sec=0.05)


@pytest.mark.parametrize("role", ["worker", "api"])
def test_a_role_can_do_what_events_messages_and_streams_need(database: Database, role: Role) -> None:
    with launched(database, queues=[_QUEUE], role=role) as app:
        assert _run(app, "messages.all") == _EXPECTED
        assert _run(app, "messages.all_async") == _EXPECTED
        # A fork copies the events and streams of the steps before it.
        # It stays in a queue that nobody reads: nobody sends it the messages again.
        copy: Any = DBOS.fork_workflow("messages.all-1", 8, queue_name="messages-unread")
        assert DBOS.get_all_events(copy.workflow_id)["key"] == 2
        assert _run(app, "messages.debounce") == 2


# --- what wakes who waits -----------------------------------------------------------------------------

_received: dict[str, float] = {}


@DBOS.workflow(name="messages.receive", max_recovery_attempts=None)
def _receive(topic: str) -> Any:
    message = DBOS.recv(topic, 40)
    _received[str(DBOS.workflow_id)] = time.monotonic()
    return message


@DBOS.workflow(name="messages.receive_async", max_recovery_attempts=None)
async def _receive_async(topic: str) -> Any:
    message = await DBOS.recv_async(topic, 40)
    _received[str(DBOS.workflow_id)] = time.monotonic()
    return message


@DBOS.workflow(name="messages.await_event", max_recovery_attempts=None)
def _await_event(of: str) -> Any:
    value = DBOS.get_event(of, "key", 40)
    _received[str(DBOS.workflow_id)] = time.monotonic()
    return value


@pytest.fixture
def app(database: Database) -> Iterator[Launched]:
    _received.clear()
    with launched(database, queues=[_QUEUE]) as made:
        listener = Listener(database.settings(), made.waker, purpose="holdfast/worker-engine/listener")
        listener.start()
        yield made
        listener.stop()


def _waits(
    app: Launched, name: str, workflow_id: str, *args: Any, waiting: str = "notifications_map"
) -> None:
    """Starts it, and returns when it waits."""
    app.enqueue(name, *args, queue=_QUEUE, workflow_id=workflow_id)
    app.waker.wake(_QUEUE)
    signals: Any = getattr(app.dbos._sys_db, waiting)
    wait_until(lambda: len(signals.snapshot()) == 1, f"{workflow_id} waits")
    steps = "SELECT count(*) FROM dbos.operation_outputs WHERE workflow_uuid = %(id)s"
    wait_until(lambda: app.database.one(steps, id=workflow_id) == 1, "its deadline is recorded")


def _deaf(app: Launched) -> None:
    """Ends both listeners' sessions, as an outage does; ours is back first."""
    listeners = (
        "FROM pg_stat_activity WHERE datname = current_database()"
        " AND (query LIKE 'LISTEN%%' OR application_name LIKE '%%/listener')"
    )
    wait_until(lambda: app.database.one(f"SELECT count(*) {listeners}") == 2, "DBOS's listener and ours")
    app.database.rows(f"SELECT pg_terminate_backend(pid) {listeners}")


@pytest.mark.parametrize("name", ["messages.receive", "messages.receive_async"])
def test_a_message_sent_while_no_listener_listens_is_received_at_once(app: Launched, name: str) -> None:
    """Without our listener it is up to a minute late: DBOS's checks nothing when it is back."""
    _waits(app, name, "r", "topic")
    _deaf(app)
    sent_at = time.monotonic()
    app.client.send("r", "m", "topic")
    app.wait("r", seconds=30)
    assert _received["r"] - sent_at < 30, "its own wait of 40 s found it"
    assert app.client.retrieve_workflow("r").get_result() == "m"


def test_an_event_that_nobody_announced_is_found(app: Launched) -> None:
    """As where its process is killed between the commit and the notification 10 ms later."""
    insert(app.database, ["setter"], status="PENDING", executor_id="x")
    _waits(app, "messages.await_event", "r", "setter", waiting="workflow_events_map")
    app.database.rows(
        "INSERT INTO dbos.workflow_events (workflow_uuid, key, value, serialization)"
        " VALUES ('setter', 'key', '5', 'portable_json')"
    )
    set_at = time.monotonic()
    app.wait("r", seconds=30)
    assert _received["r"] - set_at < 30, "its own wait of 40 s found it"


def test_who_waits_for_nothing_that_came_waits_on(app: Launched) -> None:
    _waits(app, "messages.receive", "r", "topic")
    app.client.send("r", "other", "another topic")
    _deaf(app)
    time.sleep(1.5)
    assert app.status("r") == "PENDING"
    app.client.send("r", "m", "topic")
    app.wait("r")
    assert app.client.retrieve_workflow("r").get_result() == "m"


@pytest.mark.timing
def test_a_message_over_http_is_received_within_50_ms(app: Launched) -> None:
    delays = []
    with serving(app.database.settings("api")) as api:
        for number in range(20):
            _waits(app, "messages.receive", f"r{number}", "topic")
            sent_at = time.monotonic()
            body = {"message": number, "topic": "topic"}
            answer = api.http.post(f"/workflows/r{number}/messages", json=body)
            assert answer.status_code == 202, answer.text
            app.wait(f"r{number}")
            delays.append(_received[f"r{number}"] - sent_at)
    assert statistics.median(delays) < 0.05, delays


# --- over HTTP ----------------------------------------------------------------------------------------


def test_what_the_api_shows_of_it(app: Launched) -> None:
    """Real rows: keys, values, a closed stream's end, and the same key twice."""
    _run(app, "messages.all")
    with serving(app.database.settings("api")) as api:
        path = "/workflows/messages.all-1"
        events = api.http.get(f"{path}/events").json()["events"]
        assert {event["key"]: event["value"] for event in events} == {"key": 2, "from-step": "e"}
        assert api.http.get(f"{path}/events?limit=1").json()["next_after"] == "from-step"
        assert api.http.get(f"{path}/streams").json()["streams"] == [
            {"key": "from-step", "length": 1, "closed": True},
            {"key": "stream", "length": 2, "closed": True},
        ]
        text = api.http.get(f"{path}/streams/stream").text
        assert re.findall("^id: (.*)$", text, re.MULTILINE) == ["0", "1", "1-end"]
        assert api.http.post(f"{path}/messages", json={"message": 1}).status_code == 409
        # A workflow of another application, which waits in its queue.
        insert(app.database, ["other"], queue_name="q", application_name="another")
        headers = {"Idempotency-Key": "k"}
        for _ in range(2):
            answer = api.http.post("/workflows/other/messages", json={"message": {"a": 1}}, headers=headers)
            assert answer.status_code == 202, answer.text
    topics = app.database.rows("SELECT topic FROM dbos.notifications WHERE destination_uuid = 'other'")
    assert topics == [{"topic": "__null__topic__"}]


@DBOS.workflow(name="messages.write", max_recovery_attempts=None)
def _write(values: int) -> None:
    for value in range(values):
        DBOS.write_stream("s", value)
        DBOS.recv("more", 40)


def test_a_stream_is_followed_as_it_is_written(app: Launched, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a reader in another process: it hears nothing but the notification."""
    monkeypatch.setattr(streams, "FALLBACK_SECONDS", 3600.0)
    app.enqueue("messages.write", 3, queue=_QUEUE, workflow_id="w")
    app.wait("w", "PENDING")
    process = FakeProcess()
    process.waker = app.waker
    with serving(app.database.settings("api"), process) as api:
        came = []
        with api.http.stream("GET", "/workflows/w/streams/s") as answer:
            for line in answer.iter_lines():
                if line.startswith("id: "):
                    came.append(line)
                    app.client.send("w", None, "more")
    assert came == ["id: 0", "id: 1", "id: 2", "id: 2-end"]


def test_a_large_stream_is_read_in_bounded_parts(database: Database) -> None:
    insert(database, ["w"], status="SUCCESS")
    database.rows(
        'INSERT INTO dbos.streams (workflow_uuid, key, value, "offset", serialization)'
        " SELECT 'w', 's', to_json(repeat('x', CASE number WHEN 3 THEN 300000 ELSE 50000 END))::text, number,"
        " 'portable_json' FROM generate_series(0, 19) AS number"
    )
    read = {"workflow_id": "w", "key": "s", "limit": 200, "value_bytes": 65536, "budget": 262144}
    sizes, offset = [], 0
    while rows := [row for row in database.run("stream_values", offset=offset, **read) if row["value"]]:
        assert sum(len(row["value"]) for row in rows) <= 262144
        sizes += [row["bytes"] for row in rows]
        offset = rows[-1]["offset"] + 1
    assert sizes == [50002] * 3 + [300002] + [50002] * 16


def test_what_a_workflow_waits_for_counts_while_its_owner_runs_it(database: Database) -> None:
    insert(database, ["w", "lost"], status="PENDING", executor_id="x", owner_xid="1")
    database.rows(
        "INSERT INTO ops.waits (workflow_id, owner_xid, kind, subject, until) VALUES"
        " ('w', '1', 'message', 'approval', '2030-01-01T12:00Z'), ('lost', '0', 'sleep', NULL, NULL)"
    )
    with serving(database.settings("api")) as api:
        listed = {row["workflow_id"]: row for row in api.http.get("/workflows").json()["workflows"]}
        for found in (listed["w"], api.http.get("/workflows/w").json()):
            waiting = found["waiting"]
            assert (waiting["kind"], waiting["subject"]) == ("message", "approval")
            assert waiting["until"] == "2030-01-01T12:00:00+00:00"
        for found in (listed["lost"], api.http.get("/workflows/lost").json()):
            assert found["waiting"] is None, "the row of an execution that lost it"
