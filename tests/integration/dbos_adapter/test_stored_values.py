"""Values through a real database: as what they were in every run, or refused once with the type named."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

import pytest
from dbos import DBOS, SetWorkflowID

from tests.support.database import Database, wait_until
from tests.support.engines import Launched, client, launched

QUEUE = "values-q"
RUNS: Counter[str] = Counter()


class Colour(Enum):
    RED = 1


class Loop(list[Any]):
    pass


GOOD: dict[str, Any] = {
    "bytes": b"\xff\xd8\x00",
    "nan": {"mean": float("nan"), "best": float("-inf")},
    "tuple": (1, (2, {3}), [frozenset({"a"})]),
    "keys": {1: "a", (2, "b"): "c", None: b""},
    "kinds": [Decimal("1.10"), datetime(2026, 1, 2, tzinfo=UTC), UUID(int=1), 2**80],
    "text": ["a\x00b", "\udce9", "\ud83d\ude00", {"$py:tuple": [1]}],
}
BAD: dict[str, tuple[Any, str]] = {
    "enum": ({"a": [Colour.RED]}, "Colour"),
    "object": (object(), "object"),
    "class": (Loop([1]), "Loop"),
    "generator": ((n for n in [1]), "generator"),
}


def _count() -> None:
    RUNS[str(DBOS.workflow_id)] += 1


@DBOS.step(name="values.step", retries_allowed=True, max_attempts=3, interval_seconds=0)
def _step(kind: str) -> Any:
    _count()
    return GOOD[kind] if kind in GOOD else BAD[kind][0]


@DBOS.step(name="values.step_async", retries_allowed=True, max_attempts=3, interval_seconds=0)
async def _step_async(kind: str) -> Any:
    _count()
    return GOOD[kind] if kind in GOOD else BAD[kind][0]


@DBOS.step(name="values.last")
def _last() -> int:
    return 1


@DBOS.workflow(name="values.echo", max_recovery_attempts=None)
def _echo(value: Any) -> Any:
    return value


@DBOS.workflow(name="values.sync", max_recovery_attempts=None)
def _sync(kind: str) -> str:
    found = _step(kind)
    child = DBOS.start_workflow(_echo, found).get_result()
    DBOS.set_event("value", found)
    DBOS.write_stream("values", found)
    event = DBOS.get_event(str(DBOS.workflow_id), "value", timeout_seconds=5)
    _last()
    return repr((found, child, event))


@DBOS.workflow(name="values.async", max_recovery_attempts=None)
async def _async(kind: str) -> str:
    found = await _step_async(kind)
    child = await (await DBOS.start_workflow_async(_echo_async, found)).get_result()
    await DBOS.set_event_async("value", found)
    await DBOS.write_stream_async("values", found)
    event = await DBOS.get_event_async(str(DBOS.workflow_id), "value", timeout_seconds=5)
    return repr((found, child, event))


@DBOS.workflow(name="values.echo_async", max_recovery_attempts=None)
async def _echo_async(value: Any) -> Any:
    return value


@DBOS.workflow(name="values.sees", max_recovery_attempts=None)
def _sees(kind: str) -> list[str]:
    try:
        _step(kind)
    except Exception as error:
        seen = [str(getattr(error, "name", type(error).__name__)), str(error)]
    _last()
    return seen


@DBOS.workflow(name="values.misused", max_recovery_attempts=None)
def _misused(where: str, kind: str) -> Any:
    _count()
    bad = BAD[kind][0]
    if where == "result":
        return bad
    if where == "child":
        return DBOS.start_workflow(_echo, bad).get_result()
    if where == "queued child":
        return DBOS.enqueue_workflow(QUEUE, _echo, bad).get_result()
    if where == "event":
        return DBOS.set_event("value", bad)
    if where == "stream":
        return DBOS.write_stream("values", bad)
    return DBOS.send(str(DBOS.workflow_id), bad, "topic")


@pytest.fixture(scope="module")
def app(server: Any) -> Iterator[Launched]:
    with Database.lent(server) as database, launched(database, queues=[QUEUE]) as made:
        # Other packages' rights are no matter of these tests.
        for table in ("workflow_events", "workflow_events_history", "streams", "notifications"):
            database.rows(f"GRANT ALL ON dbos.{table} TO holdfast_worker")
        made.queue(QUEUE, worker_concurrency=16)
        yield made


def outcome(app: Launched, workflow_id: str) -> Any:
    app.waker.wake(QUEUE)
    wait_until(lambda: app.status(workflow_id) not in {"ENQUEUED", "PENDING"}, f"{workflow_id} ends")
    [row] = app.client.list_workflows(workflow_ids=[workflow_id])
    return row


def again(app: Launched, workflow_id: str, step: int) -> Any:
    forking = client(app.database, role="api")
    with SetWorkflowID(f"{workflow_id}-again"):
        forking.fork_workflow(workflow_id, step, application_version=app.identity.version, queue_name=QUEUE)
    forking.destroy()
    return outcome(app, f"{workflow_id}-again")


@pytest.mark.parametrize("name", ["values.sync", "values.async"])
@pytest.mark.parametrize("kind", GOOD)
def test_first_run_and_replay_agree(app: Launched, kind: str, name: str) -> None:
    workflow_id = f"{name}-{kind}"
    app.enqueue(name, kind, queue=QUEUE, workflow_id=workflow_id)
    expected = repr((GOOD[kind],) * 3)
    assert outcome(app, workflow_id).output == expected
    assert again(app, workflow_id, 2).output == expected
    assert (RUNS[workflow_id], RUNS[f"{workflow_id}-again"]) == (1, 0)
    # As arguments and results of a client's own.
    app.enqueue("values.echo", GOOD[kind], queue=QUEUE, workflow_id=f"{workflow_id}-echo")
    row = outcome(app, f"{workflow_id}-echo")
    assert repr((row.input["args"], row.output)) == repr(((GOOD[kind],), GOOD[kind]))
    for text in app.database.rows("SELECT output FROM dbos.operation_outputs WHERE output IS NOT NULL"):
        json.loads(text["output"], parse_constant=pytest.fail)


@pytest.mark.parametrize("kind", BAD)
def test_what_cannot_be_stored_ends_the_step_once(app: Launched, kind: str) -> None:
    app.enqueue("values.sees", kind, queue=QUEUE, workflow_id=f"sees-{kind}")
    row = outcome(app, f"sees-{kind}")
    name, text = row.output
    assert name == "UnstorableValue"
    assert f"{BAD[kind][1]} cannot be stored" in text
    assert RUNS[f"sees-{kind}"] == 1, "its effect happened once"
    assert again(app, f"sees-{kind}", 2).output == row.output
    for workflow in ("values.sync", "values.async"):
        app.enqueue(workflow, kind, queue=QUEUE, workflow_id=f"{workflow}-{kind}")
        failed = outcome(app, f"{workflow}-{kind}")
        assert (failed.status, failed.error.name, str(failed.error)) == ("ERROR", name, text)
        assert RUNS[f"{workflow}-{kind}"] == 1
        [step] = app.client.list_workflow_steps(f"{workflow}-{kind}")
        assert step["error"].name == name


@pytest.mark.parametrize("where", ["result", "child", "queued child", "event", "stream", "message"])
def test_elsewhere_it_is_an_error_of_the_caller(app: Launched, where: str) -> None:
    app.enqueue("values.misused", where, "enum", queue=QUEUE, workflow_id=where)
    row = outcome(app, where)
    assert (row.status, row.error.name) == ("ERROR", "UnstorableValue")
    assert "Colour cannot be stored" in str(row.error)
    assert RUNS[where] == 1


def test_what_was_stored_before_is_still_read(app: Launched) -> None:
    app.enqueue("values.sees", "enum", queue=QUEUE, workflow_id="old")
    outcome(app, "old")
    app.database.rows(
        "UPDATE dbos.operation_outputs SET error = NULL, output = %(text)s"
        " WHERE workflow_uuid = 'old' AND function_id = 1",
        text='{"mean":NaN,"pair":[1,2]}',
    )
    [step, _] = app.client.list_workflow_steps("old")
    assert repr(step["output"]) == "{'mean': nan, 'pair': [1, 2]}"
