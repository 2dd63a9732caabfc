"""A replay reads what was recorded ahead, in bounded pages, whatever it was that was recorded."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from dbos import DBOS
from dbos._context import get_local_dbos_context

from holdfast.dbos_adapter import replay
from holdfast.dbos_adapter.histories import Histories
from tests.support.database import Database, wait_until
from tests.support.engines import Launched, client, launched
from tests.support.reporting import record

_gate = threading.Event()
_took: dict[str, float] = {}
_at: dict[str, int] = {}


@DBOS.step(name="replay.tiny")
def _tiny(number: int) -> int:
    return number


@DBOS.step(name="replay.tiny_async")
async def _tiny_async(number: int) -> int:
    return number


@DBOS.step(name="replay.size")
def _size(number: int) -> int:
    return number


@DBOS.workflow(name="replay.long", max_recovery_attempts=None)
def _long(steps: int) -> int:
    begun = time.monotonic()
    total = sum(_tiny(number) for number in range(steps))
    _took[str(DBOS.workflow_id)] = time.monotonic() - begun
    return total


@DBOS.workflow(name="replay.gathered", max_recovery_attempts=None)
async def _gathered(steps: int, at_once: int) -> int:
    begun = time.monotonic()
    total = 0
    for first in range(0, steps, at_once):
        total += sum(await asyncio.gather(*(_tiny_async(first + number) for number in range(at_once))))
    _took[str(DBOS.workflow_id)] = time.monotonic() - begun
    return total


@DBOS.workflow(name="replay.texts", max_recovery_attempts=None)
def _texts(steps: int) -> int:
    return sum(len(str(_tiny(number))) for number in range(steps))


@DBOS.workflow(name="replay.slow", max_recovery_attempts=None)
def _slow(steps: int) -> str:
    for number in range(steps):
        _tiny(number)
        _at[str(DBOS.workflow_id)] = number
        time.sleep(0.01)
    return "ended"


@DBOS.workflow(name="replay.child", max_recovery_attempts=None)
def _child() -> str:
    return "the child's own"


@DBOS.workflow(name="replay.mixed", max_recovery_attempts=None)
def _mixed(rounds: int) -> list[Any]:
    """Of each kind of record there is."""
    found: list[Any] = []
    for _ in range(rounds):
        DBOS.sleep(3600)
        DBOS.set_event("key", 1)
        DBOS.send("nobody", "text", "topic")
        found.append(DBOS.recv("topic", timeout_seconds=3600))
        found.append(DBOS.get_event("nobody", "key", timeout_seconds=3600))
        DBOS.write_stream("stream", 1)
        found.append(DBOS.enqueue_workflow("replay-nobody", _child).get_result())
        found.append(_child())
        found.append(DBOS.patch("change"))
        found.append(DBOS.patch("another"))
        found.append(_tiny(1))
    return found


@pytest.fixture
def app(database: Database) -> Iterator[Launched]:
    with launched(database, queues=["replay-q"]) as made:
        yield made


@contextmanager
def _statements(app: Launched, workflow_id: str) -> Iterator[list[str]]:
    """What is sent meanwhile in that workflow's name, by SQLAlchemy or by our sessions."""

    def ours() -> bool:
        context = get_local_dbos_context()
        return context is not None and workflow_id in (context.workflow_id, context.parent_workflow_id)

    with app.statements(ours) as seen:
        yield seen


def _recorded(
    database: Database, workflow_id: str, steps: list[tuple[int, str, Any]], **columns: list[Any]
) -> None:
    """Steps of an earlier execution: number, name, result."""
    database.rows(
        "INSERT INTO dbos.operation_outputs (workflow_uuid, function_id, function_name, output,"
        " child_workflow_id, serialization, started_at_epoch_ms, completed_at_epoch_ms)"
        " SELECT %(id)s, number, name, output, child, 'portable_json', 1, 1"
        " FROM unnest(%(numbers)s::int[], %(names)s::text[], %(outputs)s::text[], %(children)s::text[])"
        " AS t (number, name, output, child)",
        id=workflow_id,
        numbers=[number for number, _, _ in steps],
        names=[name for _, name, _ in steps],
        outputs=[json.dumps(output) for _, _, output in steps],
        children=columns.get("children", [None] * len(steps)),
    )


def _tinies(database: Database, workflow_id: str, steps: int, name: str = "replay.tiny") -> None:
    _recorded(database, workflow_id, [(number + 1, name, number) for number in range(steps)])


def _output(database: Database, workflow_id: str) -> Any:
    stored = database.one(
        "SELECT output FROM dbos.workflow_output WHERE workflow_uuid = %(id)s", id=workflow_id
    )
    return json.loads(stored)


def _replayed(app: Launched, name: str, *args: Any, workflow_id: str = "w", seconds: float = 30) -> list[str]:
    """The statements of an execution that finds what was recorded before."""
    with _statements(app, workflow_id) as seen:
        app.enqueue(name, *args, queue="replay-q", workflow_id=workflow_id)
        app.wait(workflow_id, seconds=seconds)
    return seen


# --- how few, how fast -------------------------------------------------------------------------


def test_a_long_history_is_read_in_pages(app: Launched) -> None:
    """10,000 steps: one statement each before, each a trip to the database, and 6 to 11 seconds."""
    _tinies(app.database, "w", 10_000)
    seen = _replayed(app, "replay.long", 10_000)
    assert _output(app.database, "w") == sum(range(10_000))
    # The first record, ten pages, the end of the last one; a check every half second; the outcome.
    assert len(seen) <= 1 + 10 + 1 + 2 * _took["w"] + 1, seen
    record("replay of 10,000 steps, seconds", _took["w"])


def test_steps_that_are_gathered_share_their_pages(app: Launched) -> None:
    """They ask in any order and at the same time."""
    _tinies(app.database, "w", 4000, "replay.tiny_async")
    seen = _replayed(app, "replay.gathered", 4000, 50)
    assert _output(app.database, "w") == sum(range(4000))
    # All that run at first may find a record before the first of them reads ahead.
    assert len(seen) <= 50 + 4 + 1 + 50 * 2 * _took["w"] + 1, len(seen)
    assert seen.count("read_steps_ahead") <= 6
    record("replay of 4,000 gathered steps, seconds", _took["w"])


def test_a_gap_is_asked_for_by_itself(app: Launched) -> None:
    """Gathered steps that had not ended when their process died run again, and only they."""
    gaps = {3, 17, 1480, 2999}
    steps = [(number + 1, "replay.tiny_async", number) for number in range(3000) if number not in gaps]
    _recorded(app.database, "w", steps)
    seen = _replayed(app, "replay.gathered", 3000, 100)
    assert _output(app.database, "w") == sum(range(3000))
    assert seen.count("record_step") == len(gaps)
    assert app.database.one("SELECT count(*) FROM dbos.operation_outputs") == 3000


def test_every_kind_of_record_is_read_ahead(app: Launched) -> None:
    """Sleeps, events, messages, streams, children and patches: none is asked for by itself."""
    rounds, steps, children = 100, [], []

    def add(name: str, output: Any = None, child: str | None = None, skip: int = 0) -> None:
        steps.append((at[0], name, output))
        children.append(child)
        at[0] += 1 + skip

    at = [1]
    for number in range(rounds):
        started, called = f"started-{number}", f"w-{at[0] + 10}"
        add("DBOS.sleep", 1.0)
        add("DBOS.setEvent")
        add("DBOS.send")
        add("DBOS.recv", "message", skip=1)
        add("DBOS.getEvent", "event", skip=1)
        add("DBOS.writeStream")
        add("replay.child", child=started)
        add("DBOS.getResult", f"of {started}", child=started)
        add("replay.child", child=called)
        add("DBOS.getResult", f"of {called}", child=called)
        add("DBOS.patch-change")
        add("replay.tiny", 1)
    _recorded(app.database, "w", steps, children=children)
    seen = _replayed(app, "replay.mixed", rounds)
    wanted = [
        each
        for n in range(rounds)
        for each in ("message", "event", f"of started-{n}", f"of w-{14 * n + 11}", True, False, 1)
    ]
    assert _output(app.database, "w") == wanted
    assert len(seen) < 20, seen[:40]


def test_a_first_execution_costs_what_it_did(app: Launched) -> None:
    seen = _replayed(app, "replay.long", 3)
    assert seen == ["read_step", "record_step"] * 3 + ["end_workflow"]


# --- bounds ------------------------------------------------------------------------------------


def test_a_page_is_bounded_in_bytes(app: Launched) -> None:
    """40 results of 300 kB: never more than three of them at once. One of 2 MB is a page of its own."""
    read: list[int] = []
    fill = replay.histories_of(app.dbos._sys_db)  # made now
    assert isinstance(fill, Histories)
    text = "x" * 300_000
    steps: list[tuple[int, str, Any]] = [(number + 1, "replay.tiny", text) for number in range(40)]
    steps[20] = (21, "replay.tiny", "y" * 2_000_000)
    _recorded(app.database, "w", steps)
    sessions = app.dbos._sys_db.sessions
    run = sessions.run

    def measured(name: str, **params: Any) -> Any:
        rows = run(name, **params)
        if name == "read_steps_ahead":
            read.append(sum(len(row["output"] or "") for row in rows))
        return rows

    sessions.run = measured
    try:
        app.enqueue("replay.texts", 40, queue="replay-q", workflow_id="w")
        app.wait("w")
    finally:
        sessions.run = run
    assert _output(app.database, "w") == 39 * 300_000 + 2_000_000
    assert max(size for size in read if size < 2_000_000) <= replay.PAGE_BYTES
    assert max(read) == 2_000_002
    assert len(read) <= 16


def test_what_is_over_keeps_no_page(app: Launched) -> None:
    _tinies(app.database, "w", 2000)
    _replayed(app, "replay.long", 100)
    assert app.dbos._sys_db.histories._known == {}


def test_more_executions_than_may_read_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others ask by themselves until one has been silent for long."""
    histories = Histories()
    for number in range(65):
        histories.begin(f"w{number}", "owner")
    assert histories.get("w0", "owner") and histories.get("w64", "owner") is None
    monkeypatch.setattr("holdfast.dbos_adapter.histories._IDLE_SECONDS", 0.0)
    histories.begin("w64", "owner")
    assert histories.get("w64", "owner") and histories.get("w0", "owner") is None


# --- right all the same --------------------------------------------------------------------------


def test_a_cancel_ends_a_replay(app: Launched) -> None:
    """In the middle of a page."""
    _tinies(app.database, "w", 900)
    app.enqueue("replay.slow", 900, queue="replay-q", workflow_id="w")
    wait_until(lambda: _at.get("w", 0) > 20, "the replay is under way")
    app.database.rows("UPDATE dbos.workflow_status SET status = 'CANCELLED' WHERE workflow_uuid = 'w'")
    wait_until(lambda: not app.engine.active(), "it has ended", seconds=3)
    assert _at["w"] < 600, "it went on to its end"


def test_another_name_than_recorded_ends_the_workflow(app: Launched) -> None:
    _tinies(app.database, "w", 30)
    app.database.rows(
        "UPDATE dbos.operation_outputs SET function_name = 'replay.renamed' WHERE function_id = 25"
    )
    app.enqueue("replay.long", 30, queue="replay-q", workflow_id="w")
    app.wait("w", "ERROR")
    error = app.database.one("SELECT error FROM dbos.workflow_output WHERE workflow_uuid = 'w'")
    assert "replay.renamed" in error and "25" in error


def test_a_page_serves_one_execution_only() -> None:
    """A rewind deletes records; what another execution of the workflow read is no longer true."""
    histories = Histories()
    histories.begin("w", "first")
    known = histories.get("w", "first")
    assert known is not None
    known.fill([{"function_id": 1, "function_name": "s"}], 1)
    assert histories.get("w", "second") is None
    # A child that is called asks for its parent's record without its token.
    assert histories.get("w", None) is known
    histories.begin("w", "second")
    again = histories.get("w", "second")
    assert again is not None and again.rows == {}
    assert histories.get("w", "first") is None


def test_a_fork_replays_what_it_copied(app: Launched) -> None:
    _tinies(app.database, "w", 50)
    app.database.rows("UPDATE dbos.operation_outputs SET output = '1000' WHERE function_id = 10")
    _replayed(app, "replay.long", 50)
    outside = client(app.database, role="api")
    try:
        forked = outside.fork_workflow("w", 20, queue_name="replay-q").workflow_id
    finally:
        outside.destroy()
    app.wait(forked)
    assert _output(app.database, forked) == sum(range(50)) - 9 + 1000
    fresh = app.database.one(
        "SELECT count(*) FROM dbos.operation_outputs WHERE workflow_uuid = %(id)s"
        " AND started_at_epoch_ms > 1",
        id=forked,
    )
    assert fresh == 50 - 19
