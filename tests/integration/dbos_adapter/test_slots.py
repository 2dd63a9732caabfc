"""Limits of queues hold, whatever is claimed, starts, fails or is cancelled; a cancel frees its slot."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest.mock import Mock

import dbos._core
import pytest
from dbos import DBOS, SetWorkflowID, SetWorkflowTimeout
from sqlalchemy.exc import DBAPIError

from holdfast.control.kinds import kinds_of, target_of
from holdfast.control.operations import Requested
from holdfast.control.worker import Worker, run
from holdfast.dbos_adapter import claims
from holdfast.dbos_adapter.cancelling import Cancellations
from holdfast.dbos_adapter.slots import GRACE_SECONDS, Execution, Slots, _current
from holdfast.dbos_adapter.wake_ups import Listener
from holdfast.durable import names
from tests.support.database import Database, wait_until
from tests.support.engines import Gates, Launched, launched, worker_process
from tests.support.executors import Peer, insert, workflow


class Crowd:
    """Counts who is inside at the same time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.inside: list[str] = []
        self.most = 0
        self.bodies: list[str] = []
        self.gates = Gates()

    @contextmanager
    def member(self) -> Iterator[str]:
        me = str(DBOS.workflow_id)
        with self._lock:
            self.inside.append(me)
            self.bodies.append(me)
            self.most = max(self.most, len(self.inside))
        try:
            yield me
        finally:
            with self._lock:
                self.inside.remove(me)


_crowd = Crowd()


@DBOS.step(name="slots.visit")
def _visit_step(seconds: float) -> None:
    with _crowd.member():
        time.sleep(seconds)


@DBOS.workflow(name="slots.visit_workflow", max_recovery_attempts=None)
def _visit(seconds: float) -> None:
    _visit_step(seconds)


@DBOS.step(name="slots.visit_async_step")
async def _visit_async_step(seconds: float) -> None:
    with _crowd.member():
        await asyncio.sleep(seconds)


@DBOS.workflow(name="slots.visit_async", max_recovery_attempts=None)
async def _visit_async(seconds: float) -> None:
    await _visit_async_step(seconds)


@DBOS.step(name="slots.stubborn_step")
def _stubborn_step() -> str:
    with _crowd.member() as me:
        assert _crowd.gates[me].wait(30)
    return "done"


@DBOS.workflow(name="slots.stubborn", max_recovery_attempts=None)
def _stubborn() -> str:
    return _stubborn_step()


@DBOS.step(name="slots.stubborn_async_step")
async def _stubborn_async_step() -> str:
    with _crowd.member() as me:
        while not _crowd.gates[me].is_set():  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    return "done"


@DBOS.workflow(name="slots.stubborn_async", max_recovery_attempts=None)
async def _stubborn_async() -> str:
    return await _stubborn_async_step()


@pytest.fixture
def app(database: Database) -> Iterator[Launched]:
    _crowd.__init__()  # type: ignore[misc]
    with launched(database) as made, listening(made):
        yield made
        _crowd.gates.open_all()


@contextmanager
def listening(app: Launched) -> Iterator[None]:
    listener = Listener(app.database.settings(), app.waker, purpose="holdfast/worker-test/listener")
    listener.start()
    try:
        yield
    finally:
        listener.stop()


@contextmanager
def slow_starts() -> Iterator[None]:
    """Threads and tasks of workflows begin long after they were dispatched, as on a machine under load."""
    thread, task = dbos._core._execute_workflow_wthread, dbos._core._execute_workflow_async
    core: Any = dbos._core

    def in_thread(*args: Any) -> Any:
        time.sleep(random.uniform(0.02, 0.2))
        return thread(*args)

    async def as_task(*args: Any) -> Any:
        await asyncio.sleep(random.uniform(0.02, 0.2))
        return await task(*args)

    core._execute_workflow_wthread, core._execute_workflow_async = in_thread, as_task
    try:
        yield
    finally:
        core._execute_workflow_wthread, core._execute_workflow_async = thread, task


def succeeded(app: Launched, count: int, seconds: float = 30) -> None:
    wait_until(
        lambda: (
            app.database.one(
                "SELECT count(*) FROM dbos.workflow_status WHERE status = %(status)s", status="SUCCESS"
            )
            >= count
        ),
        f"{count} workflows end",
        seconds=seconds,
    )
    wait_until(lambda: app.engine.active() == [], "nothing runs")


def nothing_held(app: Launched) -> None:
    wait_until(lambda: app.waker.slots.executing() == [], "every execution has ended")
    assert not app.waker.slots._held, "slots leak"
    assert not app.waker.cancellations.watched(), "watches leak"


# --- limits ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["slots.visit_workflow", "slots.visit_async"])
def test_a_burst_from_four_clients_never_exceeds_one(app: Launched, name: str) -> None:
    """Red before: what was claimed and had not begun yet did not count at the next poll."""
    app.queue("alone", worker_concurrency=1)
    with slow_starts(), ThreadPoolExecutor(4) as clients:
        for number in range(40):
            clients.submit(app.enqueue, name, 0.02, queue="alone", workflow_id=f"w{number}")
            clients.submit(app.waker.wake, "alone")
        succeeded(app, 40)
    assert _crowd.most == 1
    assert len(_crowd.bodies) == 40
    nothing_held(app)


def test_a_partition_limit_holds_in_a_burst(app: Launched) -> None:
    """Red before, see above; the limit of a worker for one partition, beside its limit for the queue."""
    DBOS.register_queue("parts", worker_concurrency=4, partition_worker_concurrency=1)
    wait_until(lambda: "parts" in app.waker._wake_events, "its thread runs")
    with slow_starts():
        for number in range(12):
            app.client.enqueue(
                {
                    "queue_name": "parts",
                    "workflow_name": "slots.visit_workflow",
                    "workflow_id": f"w{number}",
                    "app_version": app.identity.version,
                    "queue_partition_key": "one",
                },
                0.02,
            )
            app.waker.wake("parts")
        while app.engine.active() or app.status("w11") != "SUCCESS":
            app.waker.wake("parts")
            time.sleep(0.02)
    assert _crowd.most == 1
    nothing_held(app)


@pytest.mark.parametrize("partitioned", [False, True])
def test_a_limit_of_all_executors_holds_between_two_versions(app: Launched, partitioned: bool) -> None:
    """Red before: both count what runs, and claim different rows, so neither transaction meets the other."""
    limit = {"partition_concurrency": 1} if partitioned else {"global_concurrency": 1}
    DBOS.register_queue("everywhere", **limit, polling_interval_sec=3600)  # type: ignore[arg-type]
    queue = app.dbos._sys_db.get_queue("everywhere")
    both = threading.Barrier(2)

    def claim(version: str) -> list[str]:
        both.wait()
        db = app.dbos._sys_db
        token = f"token of {version}"
        try:
            if partitioned:
                found = db.start_queued_partitioned_workflows(queue, "x", version, owner_xid=token)
            else:
                found, _ = db.start_queued_workflows(queue, "x", version, None, owner_xid=token)
        except DBAPIError as error:
            assert db.is_lock_conflict(error) or db.is_serialization_conflict(error)  # tried again
            return []
        return list(found)

    with ThreadPoolExecutor(2) as executors:
        for turn in range(60):
            for version in ("one", "two"):
                key = {"queue_partition_key": "p"} if partitioned else {}
                insert(
                    app.database,
                    [f"{version}-{turn}"],
                    queue_name="everywhere",
                    application_version=version,
                    application_name="holdfast-worker",
                    **key,
                )
            claimed = list(executors.map(claim, ("one", "two")))
            assert sum(map(len, claimed)) == 1, claimed
            app.database.rows("UPDATE dbos.workflow_status SET status = 'CANCELLED'")


def test_a_lock_that_cannot_be_released_ends_with_its_session(
    app: Launched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the pool that session would keep everyone from the queue."""
    turn = claims._LockedClaim(app.dbos._sys_db, "everywhere", [])
    locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND classid = 7032"
    with turn._begin(None) as connection:
        assert app.database.one(locks) == 1
        monkeypatch.setattr(connection, "execute", Mock(side_effect=DBAPIError("unlock", None, Exception())))
    wait_until(lambda: app.database.one(locks) == 0, "the lock is gone")


def test_a_start_that_fails_frees_its_slot(app: Launched) -> None:
    app.queue("alone", worker_concurrency=1)
    app.enqueue("slots.unknown", queue="alone", workflow_id="unknown")
    app.enqueue("slots.visit_workflow", 0.0, queue="alone", workflow_id="next")
    app.wait("next")
    wait_until(lambda: app.engine.active() == [], "nothing runs")
    nothing_held(app)


@pytest.mark.parametrize("name", ["slots.visit_workflow", "slots.visit_async"])
def test_a_thread_that_fails_before_it_registers_frees_its_slot(
    app: Launched, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError

    app.queue("alone", worker_concurrency=1)
    with monkeypatch.context() as patch:
        patch.setattr(dbos._core, "_check_required_roles_or_finalize_error", refuse)
        app.enqueue(name, 0.0, queue="alone", workflow_id="refused")
        wait_until(lambda: app.status("refused") == "PENDING", "it is claimed")
        wait_until(lambda: app.engine.active() == [], "it has failed")
    app.enqueue(name, 0.0, queue="alone", workflow_id="next")
    app.wait("next")
    nothing_held(app)


# --- cancels --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["slots.stubborn", "slots.stubborn_async"])
def test_a_cancel_frees_the_slot_of_code_that_goes_on(app: Launched, name: str) -> None:
    """Red before: the next one started when the cancelled one's step was over."""
    app.queue("alone", worker_concurrency=1)
    app.enqueue(name, queue="alone", workflow_id="cancelled")
    wait_until(lambda: _crowd.inside == ["cancelled"], "it runs")
    app.enqueue("slots.visit_workflow", 0.0, queue="alone", workflow_id="next")
    app.client.cancel_workflow("cancelled")
    app.wait("next", seconds=3)
    assert app.waker.slots.abandoned == ["cancelled"]
    wait_until(lambda: app.engine.active() == [], "no drain waits for it, no heartbeat reports it")
    assert app.waker.slots.executing() == ["cancelled"]
    _crowd.gates.open_all()
    wait_until(lambda: app.waker.slots.abandoned == [], "it ends")
    nothing_held(app)


def test_a_deadline_frees_the_slot(app: Launched) -> None:
    """Red before, see above."""
    app.queue("alone", worker_concurrency=1)
    with SetWorkflowID("late"), SetWorkflowTimeout(0.5):
        DBOS.enqueue_workflow("alone", _stubborn)
    wait_until(lambda: _crowd.inside == ["late"], "it runs")
    app.enqueue("slots.visit_workflow", 0.0, queue="alone", workflow_id="next")
    app.wait("next", seconds=6)
    assert app.status("late") == "CANCELLED"
    _crowd.gates.open_all()
    nothing_held(app)


def test_a_workflow_that_goes_on_elsewhere_frees_its_slot(
    app: Launched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No notification comes of it."""
    monkeypatch.setattr("holdfast.dbos_adapter.cancelling._READ_ALL_SECONDS", 0.2)
    app.queue("alone", worker_concurrency=1)
    app.enqueue("slots.stubborn", queue="alone", workflow_id="lost")
    wait_until(lambda: _crowd.inside == ["lost"], "it runs")
    app.database.rows("UPDATE dbos.workflow_status SET owner_xid = 'other', executor_id = 'other'")
    app.enqueue("slots.visit_workflow", 0.0, queue="alone", workflow_id="next")
    app.wait("next", seconds=5)
    _crowd.gates.open_all()
    app.database.rows("UPDATE dbos.workflow_status SET status = 'CANCELLED' WHERE workflow_uuid = 'lost'")
    nothing_held(app)


def test_code_that_ends_at_its_cancel_frees_the_slot_itself(app: Launched) -> None:
    """Within the grace period the two never overlap."""
    app.queue("alone", worker_concurrency=1)
    app.enqueue("slots.stubborn", queue="alone", workflow_id="cancelled")
    wait_until(lambda: _crowd.inside == ["cancelled"], "it runs")
    [execution] = app.waker.slots._executions["cancelled"]
    execution.watch.add(_crowd.gates["cancelled"].set)
    app.enqueue("slots.visit_workflow", 0.0, queue="alone", workflow_id="next")
    app.client.cancel_workflow("cancelled")
    app.wait("next", seconds=3)
    assert _crowd.most == 1
    assert app.waker.slots.abandoned == []
    nothing_held(app)


def test_a_resume_after_the_cancel_runs_beside_the_old_code(app: Launched) -> None:
    """The old execution is fenced: it frees one slot, once, and its result is not the one that is stored."""
    app.queue("alone", worker_concurrency=1)
    app.enqueue("slots.stubborn", queue="alone", workflow_id="w")
    wait_until(lambda: _crowd.inside == ["w"], "it runs")
    old = _crowd.gates["w"]
    app.client.cancel_workflow("w")
    wait_until(lambda: app.waker.slots.abandoned == ["w"], "its slot is free")
    _crowd.gates["w"] = threading.Event()
    app.client.resume_workflow("w", queue_name="alone")
    wait_until(lambda: _crowd.inside == ["w", "w"], "it runs again")
    assert app.engine.active() == ["w"]
    slots = app.waker.slots
    assert (slots.count_for_queue("alone"), slots.abandoned) == (1, ["w"])
    # A notification of the old cancel that comes late says nothing of the new execution.
    app.waker.cancellations.cancelled("w")
    old.set()
    wait_until(lambda: _crowd.inside == ["w"], "the old code ends")
    wait_until(lambda: slots.abandoned == [], "it is counted no longer")
    time.sleep(2 * GRACE_SECONDS)
    assert slots.count_for_queue("alone") == 1, "the slot of the new execution was freed by the old one"
    assert app.status("w") == "PENDING", "the old execution recorded something"
    _crowd.gates.open_all()
    app.wait("w")
    nothing_held(app)


@pytest.mark.parametrize("name", ["slots.stubborn", "slots.stubborn_async"])
def test_an_operators_resume_waits_for_the_end_of_the_old_code(
    app: Launched, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Red before: the old and the new body ran at the same time."""
    monkeypatch.setitem(names.QUEUE_OF, name, "alone")
    app.queue("alone", worker_concurrency=2)
    app.enqueue(name, queue="alone", workflow_id="w")
    wait_until(lambda: _crowd.inside == ["w"], "it runs")
    kinds, connection = kinds_of(app.database.settings("api")), app.database.connect(role="api")
    given = {"workflow_id": "w"}
    run(
        lambda: nullcontext(connection), kinds, Requested("cancel", target_of("w"), given, "test"), seconds=60
    )
    row = run(
        lambda: nullcontext(connection),
        kinds,
        Requested("resume", target_of("w"), given, "test"),
        seconds=0.5,
    )
    assert row["status"] == "RUNNING" and app.identity.executor_id in row["note"]
    assert (app.status("w"), _crowd.inside) == ("CANCELLED", ["w"])
    _crowd.gates["w"].set()
    worker = Worker(kinds)
    resumed = lambda: (worker.advance(connection, row["operation_id"]) or row)["ended_at"]  # noqa: E731
    wait_until(resumed, "it is resumed when the old code has ended")
    app.wait("w")
    assert _crowd.most == 1, "two bodies ran at the same time"
    nothing_held(app)


def test_a_resume_does_not_wait_for_a_process_of_a_release_that_reports_no_end(database: Database) -> None:
    peer = Peer.start(database, "worker-older")
    database.rows("UPDATE ops.executors SET reports_ends = DEFAULT")
    peer.runs("w")
    kinds, connection = kinds_of(database.settings("api")), database.connect(role="api")
    for kind, status in (("cancel", "CANCELLED"), ("resume", "ENQUEUED")):
        asked = Requested(kind, target_of("w"), {"workflow_id": "w"}, "test")
        assert run(lambda: nullcontext(connection), kinds, asked, seconds=60)["completed"] == 1
        assert workflow(database, "w")["status"] == status


@pytest.mark.parametrize("state", ["dead", "drained"])
def test_a_resume_does_not_wait_for_an_executor_that_is_gone(database: Database, state: str) -> None:
    peer = Peer.start(database, "worker-gone")
    peer.runs("w")
    kinds, connection = kinds_of(database.settings("api")), database.connect(role="api")
    given = {"workflow_id": "w"}
    run(
        lambda: nullcontext(connection), kinds, Requested("cancel", target_of("w"), given, "test"), seconds=60
    )
    resume = Requested("resume", target_of("w"), given, "test")
    row = run(lambda: nullcontext(connection), kinds, resume, seconds=0)
    assert row["note"].startswith("worker-gone still runs")
    database.rows(f"UPDATE ops.executors SET state = '{state}', ended_at = now()")
    worker = Worker(kinds)
    wait_until(lambda: (worker.advance(connection, row["operation_id"]) or row)["ended_at"], "it is resumed")
    assert workflow(database, "w")["status"] == "ENQUEUED"


def test_a_cancel_between_claim_and_start_is_not_missed(app: Launched) -> None:
    """Its notification may come before the execution is registered."""
    app.queue("alone", worker_concurrency=1)
    insert(app.database, ["w"], status="CANCELLED")
    app.waker.cancellations.cancelled("w")
    wait_until(lambda: "w" in app.waker.cancellations._noticed, "it is remembered")
    execution = app.waker.slots.reserve("w", "token", "alone", None)
    app.waker.wake_all()
    wait_until(lambda: not execution.holds_slot, "its slot is freed")
    execution.release()
    nothing_held(app)


# --- too many abandoned threads -------------------------------------------------------------------


def test_a_process_with_too_many_abandoned_threads_stops_once(database: Database) -> None:
    with worker_process(database, abandoned_threads_limit=2) as process:
        stops: list[str] = []
        process.request_stop = stops.append  # type: ignore[method-assign, assignment]
        slots = process.waker.slots
        executions = [slots.reserve(f"w{n}", f"t{n}", "q", None) for n in range(4)]
        for n, execution in enumerate(executions, 1):
            execution.watch.set()
            wait_until(lambda lost=execution: not lost.holds_slot, "its slot is freed")  # type: ignore[misc]
            assert len(slots.abandoned) == n
            wait_until(lambda count=n: len(stops) == (count > 2), "at the third, and once")  # type: ignore[misc]
        assert process.active() == []
        for execution in executions:
            execution.release()
        assert slots.abandoned == []


# --- the model ------------------------------------------------------------------------------------


class Model:
    """Slots beside what they should be: which executions live, and which of them were lost or abandoned."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.freed: list[str] = []
        self.cancellations = Cancellations()
        self.slots = Slots(self.cancellations, on_free=self.freed.append)
        self.live: dict[Execution, str] = {}
        self.ended: list[Execution] = []
        self.frees = 0
        self.number = 0

    def start(self) -> None:
        self.number += 1
        workflow_id, token = f"w{self.random.randrange(6)}", f"t{self.number}"
        bucket = self.random.choice(["a", "b"]), self.random.choice([None, "p"])
        execution = self.slots.reserve(workflow_id, token, *bucket)
        assert self.slots.reserve(workflow_id, token, *bucket) is execution, "dispatch and start are one"
        self.live[execution] = "runs"
        if self.random.random() < 0.3:  # a suspect
            for _ in range(2):
                execution.count_at("home")

    def begin_in_a_context(self) -> None:
        """DBOS begins an execution in the context of one, which may have ended meanwhile."""
        of = self.random.choice([*self.live, *self.ended[-2:]])
        token = _current.set(of)
        execution = self.slots.add(of.workflow_id, "a")
        _current.reset(token)
        assert (execution is of) == (of in self.live)
        self.live.setdefault(execution, "runs")

    def end(self) -> None:
        execution = self.random.choice(list(self.live))
        self.ended.append(execution)
        self.frees += (self.live.pop(execution) != "abandoned") * (1 + (execution.home is not None))
        for _ in range(self.random.choice([1, 2])):
            execution.release()

    def lose(self) -> None:
        execution = self.random.choice(list(self.live))
        key = execution.workflow_id, execution.watch.owner_xid
        for one, state in self.live.items():
            if state == "runs" and (one.workflow_id, one.watch.owner_xid) == key:
                self.live[one] = "lost"
        for _ in range(self.random.choice([1, 2])):
            self.cancellations.lost([key])

    def grace_ends(self) -> None:
        for execution, state in self.live.items():
            if state == "lost":
                self.live[execution] = "abandoned"
                self.frees += 1 + (execution.home is not None)
        self.slots.free_lost()

    def check(self) -> None:
        holding = [one for one, state in self.live.items() if state != "abandoned"]
        assert set(self.slots.activeList()) == {one.workflow_id for one in holding}
        assert set(self.slots.executing()) == {one.workflow_id for one in self.live}
        for queue in ("a", "b"):
            assert self.slots.count_for_queue(queue) == sum(one.bucket[0] == queue for one in holding)
            for part in (None, "p"):
                taken = sum(one.bucket == (queue, part) for one in holding)
                assert self.slots.count_for_partition(queue, part) == taken
        assert self.slots.count_for_queue("home") == sum(one.home is not None for one in holding)
        left = [one.workflow_id for one, state in self.live.items() if state == "abandoned"]
        assert self.slots.abandoned == sorted(left)
        assert len(self.freed) == self.frees, "each slot is freed once"


@pytest.mark.parametrize("seed", range(20))
def test_no_sequence_leaks_or_frees_twice(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast.dbos_adapter.slots.GRACE_SECONDS", 0.0)
    model = Model(seed)
    for _ in range(300):
        steps: list[Callable[[], None]] = [model.start, model.grace_ends]
        if model.live:
            steps += [model.end, model.lose]
        if model.live or model.ended:
            steps.append(model.begin_in_a_context)
        model.random.choice(steps)()
        model.check()
    while model.live:
        model.end()
        model.check()
    assert not model.slots._held
    assert not model.slots.executing()
    assert not model.cancellations.watched()
