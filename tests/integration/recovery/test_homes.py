"""Suspects and trials count against the limits of the queue they came from."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from dbos import DBOS
from sqlalchemy.exc import DBAPIError

from holdfast.dbos_adapter import claims
from holdfast.postgres.database import OpsPool
from holdfast.recovery.trials import Trials
from tests.support import names
from tests.support.database import Database, wait_until
from tests.support.engines import Gates, Launched, launched
from tests.support.executors import handovers, insert, workflow

HOME = "home-test"
SUSPECTS, TRIALS = names.WORKER_SUSPECTS_QUEUE, names.WORKER_TRIALS_QUEUE
_lock = threading.Lock()
_inside: list[str] = []
_crowds: list[int] = []
_ran: list[str] = []
_gates = Gates()


@contextmanager
def _member(workflow_id: str) -> Iterator[None]:
    with _lock:
        _inside.append(workflow_id)
        _ran.append(workflow_id)
        _crowds.append(len(_inside))
    try:
        yield
    finally:
        with _lock:
            _inside.remove(workflow_id)


@DBOS.step(name="homes.visit")
def _visit_step(seconds: float) -> None:
    with _member(str(DBOS.workflow_id)):
        time.sleep(seconds)


@DBOS.workflow(name="homes.visit_workflow", max_recovery_attempts=None)
def _visit(seconds: float) -> None:
    _visit_step(seconds)


@DBOS.workflow(name="homes.held", max_recovery_attempts=None)
def _held() -> None:
    workflow_id = str(DBOS.workflow_id)
    with _member(workflow_id):
        assert _gates[workflow_id].wait(30)


@pytest.fixture
def trials() -> list[Trials]:
    return []


@pytest.fixture
def app(database: Database, trials: list[Trials]) -> Iterator[Launched]:
    for each in (_inside, _ran, _crowds, _gates):
        each.clear()
    ops = OpsPool(database.settings(), purpose="test")
    with launched(database, queues=(HOME, SUSPECTS, TRIALS)) as made:
        slots = made.waker.slots
        accounts = {"active": slots.activeList, "executing": slots.executing}
        trials.append(Trials(database.settings(), made.identity, made.waker, ops=ops, **accounts))
        trials[0].install()
        for queue in (SUSPECTS, TRIALS):
            made.queue(queue, worker_concurrency=1)
        yield made
        _gates.open_all()
    ops.close()


def crashed(app: Launched, workflow_id: str, home: str = HOME) -> None:
    app.database.rows(
        "INSERT INTO ops.crashes (workflow_id, crashes, steps_recorded, queue_name)"
        " VALUES (%(id)s, 2, 0, %(home)s)",
        id=workflow_id,
        home=home,
    )


def suspect(app: Launched, workflow_id: str, home: str = HOME, queue: str = SUSPECTS) -> None:
    """A workflow with two crashes, which came from its home queue and was moved."""
    crashed(app, workflow_id, home)
    app.enqueue("homes.visit_workflow", 0.05, queue=queue, workflow_id=workflow_id)
    app.waker.wake(queue)


def ended(app: Launched, workflow_id: str, status: str = "SUCCESS") -> None:
    app.database.rows(
        "UPDATE dbos.workflow_status SET status = %(status)s WHERE workflow_uuid = %(id)s",
        id=workflow_id,
        status=status,
    )


def limits(app: Launched, queue: str = HOME, **limits: Any) -> None:
    DBOS.register_queue(queue, polling_interval_sec=0.2, on_conflict="always_update", **limits)
    wait_until(lambda: queue in app.waker._wake_events, "its thread runs")
    time.sleep(2.2)  # the list of queues that its thread reads is kept for 2 s


def nothing_held(app: Launched) -> None:
    wait_until(lambda: app.waker.slots.executing() == [], "every execution has ended")
    assert not app.waker.slots._held, "slots leak"


@pytest.mark.parametrize("limit", ["worker_concurrency", "global_concurrency"])
def test_a_suspect_never_runs_beside_the_next_of_its_home_queue(app: Launched, limit: str) -> None:
    """Red before: the suspect counted for the queue of suspects only."""
    limits(app, **{limit: 1})  # type: ignore[arg-type]
    for number in range(20):
        app.enqueue("homes.visit_workflow", 0.05, queue=HOME, workflow_id=f"w{number}")
        if number % 5 == 0:
            suspect(app, f"s{number}")
        app.waker.wake(HOME)
        time.sleep(0.05)
    wait_until(lambda: len(_ran) == 24, "all run", seconds=30)
    for workflow_id in list(_ran):
        app.wait(workflow_id)
    assert max(_crowds) == 1
    nothing_held(app)


def test_a_suspect_never_runs_beside_its_home_queue_elsewhere(app: Launched) -> None:
    """Red before. An executor of another version runs it; suspects and trials want its place as well."""
    limits(app, global_concurrency=1)
    db = app.dbos._sys_db
    stop = threading.Event()

    def other() -> None:
        queue = db.get_queue(HOME)
        while not stop.is_set():
            try:
                found, _ = db.start_queued_workflows(queue, "x", "other", None, owner_xid="theirs")
            except DBAPIError as error:
                assert db.is_lock_conflict(error) or db.is_serialization_conflict(error)
                found = []
            for workflow_id in found:
                with _member(workflow_id):
                    time.sleep(0.05)
                ended(app, workflow_id)
            time.sleep(0.01)

    ids = [f"o{number}" for number in range(30)]
    insert(app.database, ids, queue_name=HOME, application_version="other")
    thread = threading.Thread(target=other)
    thread.start()
    try:
        for number in range(4):
            suspect(app, f"s{number}")
            suspect(app, f"t{number}", queue=TRIALS)
        wait_until(lambda: len(_ran) == 38, "all run", seconds=40)
    finally:
        stop.set()
        thread.join()
    assert max(_crowds) == 1
    nothing_held(app)


def test_of_a_partition_only_the_same_one_counts(app: Launched) -> None:
    """Also where DBOS claims from many partitions in one statement."""
    limits(app, partition_concurrency=1)
    db = app.dbos._sys_db
    queue = db.get_queue(HOME)
    insert(app.database, ["moved"], status="PENDING", queue_name="elsewhere", queue_partition_key="p")
    crashed(app, "moved")
    for key in "pq":
        insert(
            app.database, [f"in-{key}"], queue_name=HOME, queue_partition_key=key, application_version="other"
        )
    claim = db.start_queued_partitioned_workflows
    assert claim(queue, "x", "other", owner_xid="a") == ["in-q"]
    rooms = {key: claims.room(db, queue, "suspect", key) for key in "pqr"}
    assert rooms == {"p": "behind", "q": "full", "r": "room"}
    ended(app, "moved")
    assert claim(queue, "x", "other", owner_xid="b") == ["in-p"]


def test_where_its_home_is_full_for_long_suspects_of_others_go_first(app: Launched) -> None:
    limits(app, worker_concurrency=1)
    app.engine.homes._first_wait_seconds = 0.5
    app.enqueue("homes.held", queue=HOME, workflow_id="long")
    app.waker.wake(HOME)
    wait_until(lambda: "long" in _inside, "it runs")
    suspect(app, "waits")
    wait_until(lambda: handovers(app.database, "waits"), "it is given back")
    assert handovers(app.database, "waits")[0]["reason"] == "home queue full"
    assert workflow(app.database, "waits")["queue_name"] == SUSPECTS
    suspect(app, "other", home="another-home")
    app.wait("other", seconds=2)
    assert "waits" not in _ran
    _gates["long"].set()
    app.wait("waits")
    assert app.engine.homes._wait_seconds == {}
    nothing_held(app)


def test_a_trial_keeps_no_queue_closed_for_a_home_that_is_busy_elsewhere(
    app: Launched, trials: list[Trials]
) -> None:
    limits(app, global_concurrency=1)
    insert(app.database, ["elsewhere"], status="PENDING", queue_name=HOME, executor_id="x")
    suspect(app, "trial", queue=TRIALS)
    wait_until(lambda: trials[0].held == ("trial",), "it is held")
    time.sleep(0.5)
    assert app.waker.paused_seconds == 0
    assert "trial" not in _ran
    ended(app, "elsewhere")
    app.wait("trial")


def test_a_cancel_or_a_stop_ends_the_wait_for_the_home_queue(app: Launched) -> None:
    limits(app, worker_concurrency=1)
    app.enqueue("homes.held", queue=HOME, workflow_id="long")
    app.waker.wake(HOME)
    wait_until(lambda: "long" in _inside, "it runs")
    suspect(app, "cancelled")
    wait_until(lambda: app.waker.slots.count_for_queue(HOME) == 2, "it is held")
    app.database.rows(
        "UPDATE dbos.workflow_status SET status = 'CANCELLED' WHERE workflow_uuid = 'cancelled'"
    )
    app.waker.cancellations.lost(
        (one.workflow_id, one.owner_xid)
        for one in app.waker.cancellations.watched()
        if one.workflow_id == "cancelled"
    )
    wait_until(lambda: app.waker.slots.count_for_queue(HOME) == 1, "it is given up")
    suspect(app, "stopped")
    wait_until(lambda: app.waker.slots.count_for_queue(HOME) == 2, "it is held")
    app.engine.stop_dequeuing()
    wait_until(lambda: app.waker.slots.count_for_queue(HOME) == 1, "it is given up")
    assert app.status("stopped") == "PENDING", "left to the drain's hand over"
    assert _ran == ["long"]
