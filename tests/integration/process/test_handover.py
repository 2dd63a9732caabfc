"""An orderly stop: what waits goes first, running steps get their time, the rest goes at the limit."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import psycopg2
import pytest

from holdfast.postgres.database import transaction
from holdfast.process.process import Process
from holdfast.recovery import takeover
from holdfast.recovery.sweep import Sweep
from holdfast.recovery.takeover import release
from services.composition import Worker
from tests.support import names
from tests.support.database import Database, wait_until
from tests.support.executors import (
    Peer,
    claim,
    handovers,
    identity,
    insert,
    live_lease,
    wait_for,
    workflow,
)


def hand_over(peer: Peer, **options: Any) -> list[str]:
    with transaction(peer.database.connect()) as connection:
        verdicts = release(
            connection,
            peer.identity,
            peer.identity,
            kind="handover",
            reason="drain",
            crash_limit=peer.settings.crash_limit,
            **options,
        )
    return [v.work.workflow_id for v in verdicts]


@pytest.fixture
def family(database: Database) -> Peer:
    """An executor with work that waits, and work that runs."""
    peer = Peer.start(database, "worker-draining")
    batch = {"name": names.FIBONACCI_BATCH, "queue_name": names.FIBONACCI_BATCH_QUEUE}
    peer.runs("waits-1", "waits-2", "collects", "childless", "waited", **batch)
    insert(database, ["c1"], parent_workflow_id="waits-1")
    insert(database, ["c2"], parent_workflow_id="collects", status="PENDING", executor_id="worker-x")
    peer.runs("c4", parent_workflow_id="waits-2")
    Peer.start(database, "worker-x")
    wait_for(database, "waits-1", "waits-2", "waited", "c2")
    database.rows("UPDATE ops.waits SET owner_xid = 'lost' WHERE workflow_id = 'waited'")
    return peer


def test_only_what_waits_goes_first(database: Database, family: Peer) -> None:
    first = hand_over(family, only_waiting=True)
    assert set(first) == {"waits-1", "waits-2"}
    for workflow_id in first:
        row = workflow(database, workflow_id)
        assert (row["status"], row["queue_name"], row["owner_xid"]) == (
            "ENQUEUED",
            names.FIBONACCI_BATCH_QUEUE,
            None,
        )
    left = {
        row["workflow_id"]: row["owner_xid"]
        for row in database.rows("SELECT workflow_id, owner_xid FROM ops.waits")
    }
    assert [left[each] for each in first] == ["", ""], "they are taken to wait again, and nobody tells so"
    for workflow_id in ("collects", "childless", "waited", "c4"):
        assert workflow(database, workflow_id)["status"] == "PENDING", "it runs a step: it may finish here"
    assert workflow(database, "c2")["executor_id"] == "worker-x", "another executor's work stays"
    assert hand_over(family, only_waiting=True) == []


def test_then_everything_else(database: Database, family: Peer) -> None:
    hand_over(family, only_waiting=True)
    assert set(hand_over(family)) == {"collects", "childless", "waited", "c4"}
    assert (
        database.one(
            "SELECT count(*) FROM dbos.workflow_status WHERE status = 'PENDING' AND executor_id = %(id)s",
            id=family.id,
        )
        == 0
    )
    kinds = {(h["kind"], h["reason"]) for h in handovers(database)}
    assert kinds == {("handover", "drain")}
    assert len(handovers(database)) == 6


def test_a_hand_over_blames_nobody(database: Database) -> None:
    """Twenty rolling restarts under one batch park nothing."""
    peer = Peer.start(database, "worker-0")
    peer.runs("long")
    for turn in range(20):
        assert hand_over(peer) == ["long"]
        peer = Peer.start(database, f"worker-{turn + 1}")
        claim(database, peer.id, "long")
    assert database.rows("SELECT * FROM ops.crashes") == []
    assert workflow(database, "long")["status"] == "PENDING"
    assert [h["to_executor"] for h in handovers(database)] == [f"worker-{n + 1}" for n in range(20)]


def test_a_death_while_draining_blames_nobody(database: Database) -> None:
    """SIGKILL at the end of the grace, or a drain without a database: not the doing of a workflow."""
    me, peer = Peer.start(database, "worker-me"), Peer.start(database, "worker-draining")
    peer.runs("w")
    database.run("send_heartbeat", executor_id=peer.id, in_flight=1, state="draining")
    peer.die()
    assert me.poll_twice() == [peer.id]
    assert workflow(database, "w")["status"] == "ENQUEUED"
    assert database.rows("SELECT * FROM ops.crashes") == []


def test_a_suspect_handed_over_stays_a_suspect(database: Database) -> None:
    peer = Peer.start(database, "worker-draining")
    peer.runs("s", queue_name=names.WORKER_SUSPECTS_QUEUE)
    database.rows(
        "INSERT INTO ops.crashes (workflow_id, crashes, steps_recorded, queue_name)"
        " VALUES ('s', 3, 0, 'fibonacci')"
    )
    hand_over(peer)
    assert workflow(database, "s")["queue_name"] == names.WORKER_SUSPECTS_QUEUE
    assert database.one("SELECT crashes FROM ops.crashes") == 3


def test_an_executor_that_signed_off_is_not_fenced(database: Database) -> None:
    fenced = threading.Event()
    lease, _ = live_lease(database, "worker-leaving", on_fenced=fenced.set)
    lease.start()
    try:
        lease.leaving = True
        database.run("leave", executor_id="worker-leaving", reason="drained", drain_seconds=0.0)
        assert lease.session.join(30)
        assert not fenced.is_set()
    finally:
        lease.stop()


# --- the drain of a process -------------------------------------------------------------------------


@dataclass
class _Engine:
    """Stands in for DBOS: what runs here is what the test says."""

    running: set[str] = field(default_factory=set)
    released: set[str] = field(default_factory=set)
    stopped: bool = False
    after_stop: Callable[[], None] = lambda: None

    @property
    def waits(self) -> Any:
        return SimpleNamespace(released=self.released.update)

    def active(self) -> list[str]:
        return list(self.running)

    def stop_dequeuing(self) -> None:
        self.stopped = True
        self.after_stop()


def draining_process(database: Database, **options: Any) -> tuple[Process, _Engine, Peer]:
    settings = database.settings(**{"drain_seconds": 1.0, "lease_seconds": 30, **options})
    made = Process(settings, Worker(), port=1)
    peer = Peer.start(database, made.executor_id)
    engine = _Engine()
    made.engine = engine  # type: ignore[assignment]
    made.state = "live"
    return made, engine, peer


def left_behind(database: Database, executor_id: str) -> int:
    return int(
        database.one(
            "SELECT count(*) FROM dbos.workflow_status WHERE status = 'PENDING' AND executor_id = %(id)s",
            id=executor_id,
        )
    )


def test_an_idle_drain_is_over_at_once(database: Database) -> None:
    process, engine, peer = draining_process(database, drain_seconds=60, stop_grace_seconds=90)
    begun = time.monotonic()
    asyncio.run(process.drain())
    assert time.monotonic() - begun < 30
    assert engine.stopped
    assert (peer.state, peer.row["reason"]) == ("drained", "drained")
    assert process.state == "stopped"
    asyncio.run(process.drain())  # idempotent


def test_a_drain_waits_for_steps_but_not_for_what_waits(database: Database) -> None:
    process, engine, peer = draining_process(database, drain_seconds=60, stop_grace_seconds=90)
    peer.runs("parent", name=names.FIBONACCI_BATCH, queue_name=names.FIBONACCI_BATCH_QUEUE)
    peer.runs("child", parent_workflow_id="parent")
    wait_for(database, "parent")
    engine.running = {"parent", "child"}

    def finish() -> None:
        wait_until(lambda: workflow(database, "parent")["status"] == "ENQUEUED", "the parent goes first")
        assert workflow(database, "child")["status"] == "PENDING"
        assert peer.state == "live", "its lease goes on while steps run"
        database.rows("UPDATE dbos.workflow_status SET status = 'SUCCESS' WHERE workflow_uuid = 'child'")
        engine.running.discard("child")  # the parent's execution stays: it does not stop in time

    thread = threading.Thread(target=finish)
    thread.start()
    begun = time.monotonic()
    asyncio.run(process.drain())
    thread.join()
    assert time.monotonic() - begun < 30
    assert peer.state == "drained"
    assert [h["workflow_id"] for h in handovers(database)] == ["parent"]
    assert engine.released == {"parent"}, "its execution is told to stop"


def test_a_drain_hands_over_what_begins_to_wait_meanwhile(database: Database) -> None:
    process, engine, peer = draining_process(database, drain_seconds=60, stop_grace_seconds=90)
    peer.runs("naps")
    engine.running = {"naps"}
    timer = threading.Timer(1.0, wait_for, [database, "naps"])
    timer.start()
    begun = time.monotonic()
    asyncio.run(process.drain())
    assert 1 < time.monotonic() - begun < 30
    assert workflow(database, "naps")["status"] == "ENQUEUED"


@pytest.mark.parametrize("status", ["CANCELLED", "ENQUEUED"])
def test_a_drain_does_not_wait_for_what_is_no_longer_its_work(database: Database, status: str) -> None:
    """It was cancelled, or released: what still executes does so for nothing."""
    process, engine, peer = draining_process(database, drain_seconds=60, stop_grace_seconds=90)
    peer.runs("lost")
    database.rows("UPDATE dbos.workflow_status SET status = %(status)s, owner_xid = NULL", status=status)
    engine.running = {"lost"}
    begun = time.monotonic()
    asyncio.run(process.drain())
    assert time.monotonic() - begun < 30
    assert peer.state == "drained"


def test_at_the_limit_the_rest_goes_back(database: Database) -> None:
    process, engine, peer = draining_process(database)
    peer.runs("a", "b")
    engine.running = {"a", "b"}
    begun = time.monotonic()
    asyncio.run(process.drain())
    assert time.monotonic() - begun >= 1.0
    assert left_behind(database, peer.id) == 0
    assert peer.state == "drained"
    assert database.rows("SELECT * FROM ops.crashes") == []


def test_a_second_signal_ends_the_wait(database: Database) -> None:
    process, engine, peer = draining_process(database, drain_seconds=60, stop_grace_seconds=90)
    peer.runs("a")
    engine.running = {"a"}
    engine.after_stop = lambda: process.request_stop("again")
    begun = time.monotonic()
    asyncio.run(process.drain())
    assert time.monotonic() - begun < 30
    assert left_behind(database, peer.id) == 0


def test_a_hand_over_is_tried_again_when_the_database_breaks_it(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or an orderly stop would look like a crash to its peers."""
    process, _engine, peer = draining_process(database)
    peer.runs("a")
    failures = iter((True, True, True, False))
    original = takeover.query

    def query(connection: Any, name: str, /, **parameters: Any) -> Any:
        if name == "leave" and next(failures, False):
            database.rows("SELECT pg_terminate_backend(%(pid)s, 5000)", pid=connection.info.backend_pid)
        return original(connection, name, **parameters)

    monkeypatch.setattr(takeover, "query", query)
    asyncio.run(process.drain())
    assert peer.state == "drained"
    assert left_behind(database, peer.id) == 0
    assert len(handovers(database, "a")) == 1, "a try that failed left a trace"


def test_a_drain_without_a_database_ends_all_the_same(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    process, _engine, peer = draining_process(database)
    peer.runs("a")

    def refuse(*_: Any, **__: Any) -> Any:
        raise psycopg2.OperationalError("connection refused")

    monkeypatch.setattr(takeover, "connect", refuse)
    asyncio.run(process.drain())
    assert process.state == "stopped"
    assert peer.state == "live", "its peers will find it gone"


@pytest.mark.parametrize("silent", ["unfinished_work", "leave"])
def test_a_drain_waits_for_no_answer_that_does_not_come(
    database: Database, monkeypatch: pytest.MonkeyPatch, silent: str
) -> None:
    """PostgreSQL is frozen (`docker pause`) in the midst of a hand over: nothing ends the wait for it."""
    process, engine, peer = draining_process(database)
    peer.runs("a")
    engine.running = {"a"}
    thawed = threading.Event()
    original = takeover.query

    def query(connection: Any, name: str, /, **parameters: Any) -> Any:
        if name == silent:
            thawed.wait(60)
        return original(connection, name, **parameters)

    monkeypatch.setattr(takeover, "query", query)
    begun = time.monotonic()
    asyncio.run(process.drain())
    took = time.monotonic() - begun
    thawed.set()
    assert 1 + 2.5 <= took < 30, "drain, then the time for an answer"
    assert process.state == "stopped"


def test_a_process_knows_that_it_leaves_before_its_row_says_so(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A heartbeat in between would take its own end for a peer's verdict, and fence the process."""
    process, _, _ = draining_process(database)
    known, original = [], takeover.query

    def query(connection: Any, name: str, /, **parameters: Any) -> Any:
        if name == "leave":
            known.append(process.lease.leaving)
        return original(connection, name, **parameters)

    monkeypatch.setattr(takeover, "query", query)
    asyncio.run(process.drain())
    assert known == [True]


def test_lease_and_sweep_stop_while_postgres_is_frozen(database: Database) -> None:
    """Their threads wait for an answer, and psycopg2 lets nobody close what waits for one."""
    lease, settings = live_lease(database, "worker-frozen", lease_seconds=30, sweep_seconds=0.05)
    sweep = Sweep(settings, identity("worker-frozen"), settled_seconds=lambda: 1e9)
    lease.start()
    sweep.start()
    wait_until(lambda: sweep._polled_at, "it has polled")
    stops = [threading.Thread(target=part.stop, daemon=True) for part in (lease, sweep)]
    with database.server.paused():
        time.sleep(0.6)  # both have asked by now
        for thread in stops:
            thread.start()
        deadline = time.monotonic() + 15
        for thread in stops:
            thread.join(deadline - time.monotonic())
        ended = [not thread.is_alive() for thread in stops]
        stuck = [not part.session.join(0) for part in (lease, sweep)]
    assert stuck == [True, True], "they did not wait for an answer"
    assert ended == [True, True]
    for part in (lease, sweep):
        assert part.session.join(30)
