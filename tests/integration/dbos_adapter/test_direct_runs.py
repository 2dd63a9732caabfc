"""A workflow that is called like a function has a row and no slot: it runs here all the same."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from dbos import DBOS, SetWorkflowID

from holdfast.dbos_adapter.wake_ups import Listener
from holdfast.process.process import Process
from holdfast.recovery.strays import Strays
from services.composition import Worker
from tests.support.database import Database, wait_until
from tests.support.engines import Launched, launched

_QUEUE = "direct-test"
_gate = threading.Event()
_held: list[str] = []
_passed: list[Any] = []


@DBOS.step(name="direct.hold")
def _hold() -> str:
    _held.append(str(DBOS.workflow_id))
    assert _gate.wait(20)
    return "held"


@DBOS.workflow(name="direct.child", max_recovery_attempts=None)
def _child() -> str:
    return _hold()


@DBOS.workflow(name="direct.parent", max_recovery_attempts=None)
def _parent() -> str:
    return _child()


@DBOS.workflow(name="direct.child_async", max_recovery_attempts=None)
async def _child_async() -> None:
    await asyncio.sleep(30)


async def _until(event: threading.Event) -> None:
    while not event.is_set():  # noqa: ASYNC110
        await asyncio.sleep(0.02)


@DBOS.workflow(name="direct.impatient", max_recovery_attempts=None)
async def _impatient() -> str:
    try:
        async with asyncio.timeout(0.6):
            await _child_async()
    except TimeoutError:
        _passed.append(DBOS.workflow_id)
    await _until(_gate)
    return "done"


@DBOS.workflow(name="direct.careless", max_recovery_attempts=None)
async def _careless() -> str:
    _passed.append(asyncio.create_task(DBOS.sleep_async(30)))
    await _until(_gate)
    return "done"


@pytest.fixture
def app(database: Database) -> Iterator[Launched]:
    _gate.clear()
    _held.clear()
    _passed.clear()
    with launched(database, queues=(_QUEUE,)) as made:
        wait_until(lambda: _QUEUE in made.waker._wake_events, "its thread runs")
        yield made
        _gate.set()
        wait_until(lambda: not made.engine.waits.direct.ids(), "what was called has ended")


def _start(app: Launched, name: str) -> None:
    app.enqueue(f"direct.{name}", queue=_QUEUE, workflow_id="w")
    app.waker.wake(_QUEUE)


def _waits(app: Launched) -> list[str]:
    return [row["workflow_id"] for row in app.database.rows("SELECT workflow_id FROM ops.waits")]


def _called(app: Launched, how: str) -> str:
    """Has the child run, called by a workflow or by plain code; its id."""
    if how == "parent":
        _start(app, "parent")
    else:

        def call() -> None:
            with SetWorkflowID("w-1"):
                _child()

        threading.Thread(target=call).start()
    wait_until(lambda: _held, "its step runs")
    assert app.status("w-1") == "PENDING"
    return "w-1"


def test_a_drain_waits_for_its_step(app: Launched) -> None:
    child = _called(app, "parent")
    wait_until(lambda: _waits(app) == ["w"], "its parent only waits")
    process = Process(app.database.settings(drain_seconds=10), Worker(), port=1)
    process.identity, process.engine, process.state = app.identity, app.engine, "live"
    drain = threading.Thread(target=asyncio.run, args=[process.drain()])
    drain.start()
    wait_until(lambda: app.status("w") == "ENQUEUED", "its parent is handed over")
    time.sleep(0.5)
    assert app.status(child) == "PENDING", "cut in the middle of its step"
    _gate.set()
    drain.join(30)
    assert app.status(child) == "SUCCESS"
    assert _held == [child]


def _strays(app: Launched) -> list[Any]:
    now, released = [0.0], []
    settings = app.database.settings()
    strays = Strays(
        settings,
        app.identity,
        app.engine.active,
        lambda *call: released.append(call),
        lambda: now[0],
        settles=app.waker.settles,
    )
    connection = app.database.connect()
    for now[0] in (0.0, settings.lease_seconds + 1):
        strays.release(connection, strays.find(connection))
    return released


def test_what_its_queue_has_claimed_and_not_yet_started_is_no_stray(app: Launched) -> None:
    """Red before: starting hundreds of claims took longer than a lease, and the last ones ran twice."""
    admit = app.waker.slots.admit
    app.waker.slots.admit = lambda *call: _gate.wait(20) and admit(*call)
    children = ["claimed-1", "claimed-2"]
    with app.waker.pause_others("none"):
        wait_until(lambda: app.waker._wake_events[_QUEUE].waiting, "its thread claims nothing")
        for child in children:
            app.enqueue("direct.child", queue=_QUEUE, workflow_id=child)
    app.waker.wake(_QUEUE)
    wait_until(lambda: {app.status(child) for child in children} == {"PENDING"}, "both are claimed")
    wait_until(lambda: len(app.engine.active()) == 1, "the first one is being started")
    assert _strays(app) == []
    _gate.set()
    for child in children:
        app.wait(child)
    assert sorted(_held) == children


@pytest.mark.parametrize("how", ["parent", "plain code"])
def test_it_is_no_stray(app: Launched, how: str) -> None:
    child = _called(app, how)
    assert _strays(app) == []
    _gate.set()
    app.wait(child)
    wait_until(lambda: child not in app.engine.active(), "it counts until its end")


def test_a_resume_waits_for_the_end_of_its_code(app: Launched) -> None:
    """Red before: a second after its cancel it counted as ended."""
    child = _called(app, "parent")
    listener = Listener(app.database.settings(), app.waker, purpose="holdfast/worker-test/listener")
    listener.start()
    try:
        app.client.cancel_workflow(child)
        revoked = "SELECT workflow_id FROM ops.revoked"
        until = time.monotonic() + 2.5
        while time.monotonic() < until:
            assert app.database.rows(revoked) == [{"workflow_id": child}]
            time.sleep(0.1)
        _gate.set()
        wait_until(lambda: app.database.rows(revoked) == [], "its end is reported", seconds=5)
    finally:
        listener.stop()


def test_what_only_waits_for_it_elsewhere_does_not_count(app: Launched) -> None:
    """Its claim here may be lost: were it taken for running, nothing would run it again."""
    app.enqueue("direct.child", queue="nothing-polls-it", workflow_id="w-1")
    _start(app, "parent")
    wait_until(lambda: _waits(app) == ["w"], "its parent waits")
    assert app.engine.active() == ["w"]
    app.client.cancel_workflow("w-1")


def test_a_parent_whose_timeout_ends_the_call_works_on(app: Launched) -> None:
    _start(app, "impatient")
    wait_until(lambda: _waits(app) == ["w"], "it waits for its child")
    wait_until(lambda: _passed, "the timeout passed")
    wait_until(lambda: _waits(app) == [], "it works")
    _gate.set()
    app.wait("w")


def test_what_an_execution_left_behind_goes_with_it(app: Launched) -> None:
    _start(app, "careless")
    wait_until(lambda: _waits(app) == ["w"], "a task of it waits")
    _gate.set()
    app.wait("w")
    wait_until(lambda: _waits(app) == [], "its row is gone")
    assert not app.engine.waits.runs.by_key
    (task,) = _passed
    task.get_loop().call_soon_threadsafe(task.cancel)
    wait_until(task.done, "its task ends")
    assert not app.engine.waits.runs.by_key
