"""Strays: work recorded as running here that does not run, after a claim whose start failed."""

from __future__ import annotations

from services.runtime.executors import Sweep
from tests.support.database import Database
from tests.support.executors import LEASE_SECONDS, Peer, workflow


def sweeping(peer: Peer, running: set[str]) -> Sweep:
    """The peer's sweep, told what runs in its process."""
    return Sweep(
        peer.settings,
        peer.identity,
        settled_seconds=lambda: peer.settled_seconds,
        running=lambda: running,
        clock=peer.clock,
    )


def test_a_claim_that_never_started_goes_back_after_a_lease(database: Database) -> None:
    me = Peer.start(database)
    me.runs("started", "stray")
    sweep, session = sweeping(me, {"started"}), me.connect("sweep")
    sweep.round(session)
    me.clock.move(LEASE_SECONDS - 1)
    sweep.round(session)
    assert workflow(database, "stray")["status"] == "PENDING", "it may still be about to start"
    me.clock.move(2)
    sweep.round(session)
    assert workflow(database, "stray")["status"] == "ENQUEUED"
    assert workflow(database, "started")["status"] == "PENDING"
    assert database.one("SELECT count(*) FROM ops.crashes") == 0


def test_a_new_claim_of_the_same_workflow_starts_anew(database: Database) -> None:
    me = Peer.start(database)
    me.runs("again")
    sweep, session = sweeping(me, set()), me.connect("sweep")
    sweep.round(session)
    me.clock.move(LEASE_SECONDS - 1)
    database.rows("UPDATE dbos.workflow_status SET owner_xid = 'another claim'")
    sweep.round(session)
    me.clock.move(LEASE_SECONDS - 1)
    sweep.round(session)
    assert workflow(database, "again")["status"] == "PENDING"


def test_what_started_meanwhile_stays(database: Database) -> None:
    me = Peer.start(database)
    me.runs("late")
    running: set[str] = set()
    sweep, session = sweeping(me, running), me.connect("sweep")
    sweep.round(session)
    running.add("late")
    me.clock.move(LEASE_SECONDS + 1)
    sweep.round(session)
    assert workflow(database, "late")["status"] == "PENDING"
