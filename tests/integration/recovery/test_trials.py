"""The last run before the parking: alone in its process, and what happens when it cannot be."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from dbos import DBOS

from holdfast.postgres.database import OpsPool
from holdfast.recovery.trials import Trials
from tests.support import names
from tests.support.database import Database, wait_until
from tests.support.engines import Gates, Launched, launched, worker_process
from tests.support.executors import handovers, unfinished, wait_for, workflow

_ORDINARY = "trial-test-ordinary"
_QUEUES = (_ORDINARY, names.WORKER_TRIALS_QUEUE)
_gates = Gates()
_running: set[str] = set()
_seen: dict[str, set[str]] = {}


@DBOS.workflow(name="trial.held", max_recovery_attempts=None)
def _held() -> None:
    workflow_id = str(DBOS.workflow_id)
    _seen[workflow_id] = set(_running)
    _running.add(workflow_id)
    try:
        assert _gates[workflow_id].wait(30)
    finally:
        _running.discard(workflow_id)


@DBOS.workflow(name="trial.nap", max_recovery_attempts=None)
def _nap() -> None:
    DBOS.sleep(60)


class _Worker:
    """A launched engine with its trials."""

    def __init__(self, app: Launched, trials: Trials) -> None:
        self.app = app
        self.trials = trials

    def enqueue(self, workflow_id: str, queue: str = _ORDINARY) -> None:
        _gates[workflow_id]
        self.app.enqueue("trial.held", queue=queue, workflow_id=workflow_id)
        self.app.waker.wake(queue)

    def run(self, workflow_id: str, queue: str = _ORDINARY) -> None:
        self.enqueue(workflow_id, queue)
        wait_until(lambda: workflow_id in _running, f"{workflow_id} runs")

    def hold(self, workflow_id: str) -> None:
        """A trial that is claimed and waits for the others to end."""
        self.enqueue(workflow_id, names.WORKER_TRIALS_QUEUE)
        wait_until(lambda: self.trials.held == (workflow_id,), f"{workflow_id} is held")
        # It is held before the other queues close: a query for its home queue comes in between.
        wait_until(lambda: self.app.waker.is_paused(_ORDINARY), "the other queues are closed")

    def closed(self) -> None:
        """Ordinary work is not claimed: watched for longer than two polls."""
        self.enqueue("outside")
        until = time.monotonic() + 2.5
        while time.monotonic() < until:
            assert self.app.status("outside") == "ENQUEUED", "claimed beside a trial"
            time.sleep(0.05)


@pytest.fixture
def worker(database: Database, request: pytest.FixtureRequest) -> Iterator[_Worker]:
    _gates.clear()
    _running.clear()
    _seen.clear()
    settings = database.settings(drain_seconds=getattr(request, "param", 20.0))
    ops = OpsPool(settings, purpose="test")
    with launched(database, queues=_QUEUES) as app:
        app.queue(names.WORKER_TRIALS_QUEUE, worker_concurrency=1)
        trials = Trials(
            settings,
            app.identity,
            app.waker,
            ops=ops,
            active=app.engine.active,
            executing=app.waker.slots.executing,
        )
        trials.install()
        yield _Worker(app, trials)
        _gates.open_all()
    ops.close()


def test_a_trial_waits_until_it_is_alone_and_stays_alone(worker: _Worker) -> None:
    worker.run("neighbour")
    worker.hold("trial")
    worker.closed()
    assert "trial" not in _running
    _gates["neighbour"].set()
    wait_until(lambda: "trial" in _running, "the trial runs")
    assert _seen["trial"] == set(), "somebody ran beside it"
    worker.enqueue("second", names.WORKER_TRIALS_QUEUE)
    worker.closed()
    assert worker.app.status("second") == "ENQUEUED", "one trial at a time"
    _gates["trial"].set()
    wait_until(lambda: "outside" in _seen or "second" in _seen, "the queues are open again")
    _gates.open_all()
    worker.app.wait("outside")
    worker.app.wait("second")


def test_a_process_that_is_idle_tries_at_once(worker: _Worker) -> None:
    worker.run("trial", names.WORKER_TRIALS_QUEUE)
    assert handovers(worker.app.database, "trial") == [], "not given back for a while"
    assert worker.trials.held == ()


@pytest.mark.parametrize("worker", [0.0], indirect=True)
def test_where_others_take_long_it_is_given_back_for_a_while(worker: _Worker) -> None:
    """Queues that stand still do harm, a suspect that waits does none. The first wait is a second here."""
    database = worker.app.database
    worker.run("neighbour")
    worker.hold("trial")
    wait_until(lambda: worker.app.status("trial") == "ENQUEUED", "it is given back")
    assert workflow(database, "trial")["queue_name"] == names.WORKER_TRIALS_QUEUE
    assert [(h["kind"], h["reason"]) for h in handovers(database, "trial")] == [("handover", "not alone")]
    worker.run("outside")
    assert worker.app.status("trial") == "ENQUEUED", "claimed again before the others had their time"
    wait_until(lambda: worker.trials.held == ("trial",), "it is tried again")
    assert worker.trials._wait_seconds == 2, "for longer"
    _gates["neighbour"].set()
    _gates["outside"].set()
    wait_until(lambda: "trial" in _running, "the trial runs")
    assert _seen["trial"] == set()
    assert worker.trials._wait_seconds == 1
    assert database.rows("SELECT * FROM ops.crashes") == []


def test_a_trial_is_recorded_before_it_starts_and_not_before_it_is_alone(worker: _Worker) -> None:
    database = worker.app.database
    database.rows("INSERT INTO ops.crashes (workflow_id, crashes, steps_recorded) VALUES ('trial', 4, 0)")

    def started() -> bool:
        connection = database.connect()
        rows = unfinished(connection, worker.app.identity)
        connection.close()
        return any(row["trial_started"] for row in rows.values())

    worker.run("neighbour")
    worker.hold("trial")
    assert not started()
    _gates["neighbour"].set()
    wait_until(lambda: "trial" in _running, "the trial runs")
    assert started()


def test_who_waits_is_no_company(worker: _Worker) -> None:
    """What they wait for may wait for the queues that the trial closed."""
    worker.app.peer.runs("parent")
    wait_for(worker.app.database, "parent")
    worker.run("trial", names.WORKER_TRIALS_QUEUE)


def test_a_trial_that_waits_is_over(worker: _Worker) -> None:
    """It goes home, where it waits on with its count; the queues open."""
    database = worker.app.database
    database.rows(
        "INSERT INTO ops.crashes (workflow_id, crashes, steps_recorded, queue_name)"
        " VALUES ('nap', 4, 0, %(home)s)",
        home=_ORDINARY,
    )
    worker.app.enqueue("trial.nap", queue=names.WORKER_TRIALS_QUEUE, workflow_id="nap")
    worker.app.waker.wake(names.WORKER_TRIALS_QUEUE)
    wait_until(lambda: handovers(database, "nap"), "it is given back")
    worker.run("next")
    wait_until(
        lambda: database.rows(
            "SELECT x.workflow_id FROM ops.waits x JOIN dbos.workflow_status w"
            " ON w.workflow_uuid = x.workflow_id AND w.owner_xid = x.owner_xid WHERE queue_name = %(home)s",
            home=_ORDINARY,
        ),
        "it waits at home",
    )
    assert [row["reason"] for row in handovers(database, "nap")] == ["waits"]
    assert database.one("SELECT crashes FROM ops.crashes") == 4


def test_what_was_cancelled_and_still_executes_is_company(worker: _Worker) -> None:
    """The database no longer counts it as running here, and it can still kill the process."""
    worker.run("neighbour")
    worker.app.database.rows(
        "UPDATE dbos.workflow_status SET status = 'CANCELLED' WHERE workflow_uuid = 'neighbour'"
    )
    worker.hold("trial")
    worker.closed()
    assert "trial" not in _running
    _gates["neighbour"].set()
    wait_until(lambda: "trial" in _running, "the trial runs")


def test_what_is_claimed_and_not_yet_started_is_company(worker: _Worker) -> None:
    worker.app.peer.runs("claimed")
    worker.hold("trial")
    worker.closed()
    assert "trial" not in _running


def test_a_stop_starts_no_trial(worker: _Worker) -> None:
    worker.run("neighbour")
    worker.hold("trial")
    worker.app.engine.stop_dequeuing()
    _gates["neighbour"].set()
    worker.app.wait("neighbour")
    wait_until(lambda: worker.trials.held == (), "the wait ends")
    assert worker.app.status("trial") == "PENDING", "left to the drain's hand over"
    assert "trial" not in _seen


def test_what_is_held_is_no_stray(database: Database) -> None:
    with worker_process(database) as process:
        process.trials.held, process.trials._held_token = ("trial",), "token"
        assert ("trial", "token") in [
            each for found in process.waker.cancellations.also_running for each in found()
        ]
        assert process.sweep._strays is not None
        assert "trial" in process.sweep._strays._running()
