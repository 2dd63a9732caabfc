"""Who is taken over and who is not: a matrix after river's rescuer, against a real PostgreSQL."""

from __future__ import annotations

import os
import resource
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg2
import pytest

from holdfast.dbos_adapter.wake_ups import Waker
from holdfast.postgres.database import Connection, connect, query, transaction
from holdfast.recovery import orphans, strays, takeover
from holdfast.recovery import sweep as sweep_module
from holdfast.recovery.lease import Lease
from holdfast.recovery.orphans import ALONE_SECONDS
from holdfast.recovery.sweep import HEARTBEAT_LATE, HUNG, LOCK_LOST, Sweep
from tests.support import names
from tests.support.database import Database, Server, wait_until
from tests.support.executors import (
    LEASE_SECONDS,
    Clock,
    Peer,
    claim,
    handovers,
    identity,
    insert,
    live_lease,
    record_steps,
    wait_for,
    workflow,
)


@pytest.fixture
def me(database: Database) -> Peer:
    return Peer.start(database, "worker-me")


@pytest.fixture
def peer(database: Database) -> Peer:
    made = Peer.start(database, "worker-peer")
    made.runs("w1", "w2")
    return made


@pytest.fixture
def api(database: Database) -> Peer:
    return Peer.start(database, "api-test", application="holdfast-api", version="api-1")


@pytest.fixture(params=["me", "api"])
def judge(request: pytest.FixtureRequest) -> Peer:
    """Of the peer's application, and of another one."""
    made: Peer = request.getfixturevalue(request.param)
    return made


@contextmanager
def started(*parts: Lease | Sweep) -> Iterator[None]:
    """With their threads."""
    with ExitStack() as stops:
        for part in parts:
            part.start()
            stops.callback(part.stop)
        yield


def left_alone(peer: Peer) -> None:
    assert peer.state == "live"
    running = peer.database.rows(
        "SELECT workflow_uuid FROM dbos.workflow_status WHERE status = 'PENDING' AND executor_id = %(id)s",
        id=peer.id,
    )
    assert running, "the work of a live executor was taken away"
    assert handovers(peer.database) == []


# --- dead: the lock is gone ----------------------------------------------------------------------


def test_rescued(database: Database, me: Peer, peer: Peer) -> None:
    peer.die()
    assert me.poll_twice() == [peer.id]

    row = peer.row
    assert (row["state"], row["reason"], row["taken_over_by"]) == ("dead", LOCK_LOST, me.id)
    assert row["lost_at"] <= row["taken_over_at"]
    for workflow_id in ("w1", "w2"):
        released = workflow(database, workflow_id)
        assert (released["status"], released["owner_xid"], released["queue_name"]) == (
            "ENQUEUED",
            None,
            names.FIBONACCI_QUEUE,
        )
        (handover,) = handovers(database, workflow_id)
        assert (handover["kind"], handover["from_executor"], handover["released_by"]) == (
            "takeover",
            peer.id,
            me.id,
        )
        assert handover["claimed_at"] is None
    ((reason, verdicts, seconds),) = me.takeovers
    assert (reason, len(verdicts)) == (LOCK_LOST, 2)
    assert seconds == pytest.approx(me.settings.second_look_seconds, abs=0.1)


def test_a_workflow_that_ends_during_the_verdict_is_left_alone(
    database: Database, me: Peer, peer: Peer
) -> None:
    """Its outcome is written, but not committed yet, when the sweep reads what the dead executor ran."""
    peer.die()
    assert me.round() == []
    me.clock.move(me.settings.second_look_seconds + 0.001)
    ending = database.admin()
    with ending.cursor() as cursor, ThreadPoolExecutor(1) as threads:
        cursor.execute(
            "BEGIN; UPDATE dbos.workflow_status SET status = 'SUCCESS', owner_xid = NULL"
            " WHERE workflow_uuid = 'w1'"
        )
        taken = threads.submit(me.round)
        wait_until(lambda: database.one(_WAITING_FOR_LOCKS), "the sweep waits for the workflow's row")
        cursor.execute("COMMIT")
        assert taken.result(10) == [peer.id]
    assert workflow(database, "w1")["status"] == "SUCCESS"
    assert [row["workflow_id"] for row in handovers(database)] == ["w2"]
    assert crashes(database) == {"w2": 1}
    assert [verdict.work.workflow_id for verdict in me.takeovers[0][1]] == ["w2"]


_WAITING_FOR_LOCKS = (
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
)


def test_the_next_claim_closes_the_handover(database: Database, me: Peer, peer: Peer) -> None:
    peer.die()
    me.poll_twice()
    claim(database, me.id, "w1")
    (handover,) = handovers(database, "w1")
    assert handover["to_executor"] == me.id
    assert handover["released_at"] <= handover["claimed_at"]
    (still_open,) = handovers(database, "w2")
    assert still_open["claimed_at"] is None


def test_what_had_begun_goes_on_before_the_rest_of_its_batch(database: Database, me: Peer) -> None:
    """A batch is stored in one statement: by their age alone its numbers are equal."""
    victim = Peer.start(database, "worker-victim")
    insert(database, [f"n{index}" for index in range(20)], created_at=1_000, updated_at=1_000)
    insert(database, ["older"], created_at=999, updated_at=999)

    def claimed(by: Peer) -> list[str]:
        claims = {"queue_name": names.FIBONACCI_QUEUE, "application": "holdfast-worker", "free_slots": 3}
        moment = {"version": "worker-1", "owner_xid": by.id, "now_ms": 2_000}
        code = {"names": [names.FIBONACCI_NUMBER], "classes": [""], "takes": "{}"}
        rows = database.run("claim_queued", executor_id=by.id, **claims, **moment, **code)
        return [row["workflow_uuid"] for row in rows]

    begun = claimed(victim)
    assert begun[0] == "older"
    victim.die()
    assert me.poll_twice() == [victim.id]
    assert set(claimed(me)) == set(begun)


def test_too_fresh_when_the_second_poll_comes_early(me: Peer, peer: Peer) -> None:
    peer.die()
    assert me.round() == []
    me.clock.move(me.settings.second_look_seconds - 0.01)
    assert me.round() == []
    left_alone(peer)
    me.clock.move(0.02)
    assert me.round() == [peer.id]


def test_a_second_loss_needs_two_polls_again(me: Peer, peer: Peer) -> None:
    peer.lose_lock()
    assert me.round() == []
    peer.retake()
    me.clock.move(1)
    assert me.round() == []
    peer.lose_lock()
    me.clock.move(1)
    assert me.round() == [], "the first loss was counted for the second"
    left_alone(peer)


def test_fresh_heartbeat_and_the_owner_retakes_its_lock_before_the_verdict(me: Peer, peer: Peer) -> None:
    """The owner comes back between the second poll and the verdict: the statement checks again."""
    peer.lose_lock()
    me.round()
    me.clock.move(1)
    suspected = me.sweep._suspected(me.database.run("poll_executors"))
    assert [row["executor_id"] for row, _ in suspected] == [peer.id]
    peer.retake()
    connection = me.connect("sweep")
    assert me.sweep.take_over(connection, peer.id, suspected[0][1]) is False
    left_alone(peer)


def test_fresh_heartbeat_but_the_owner_stays_away_for_two_polls(me: Peer, peer: Peer) -> None:
    peer.lose_lock()
    assert peer.beat()  # another session of it may still send heartbeats: the rule is the lock
    assert me.poll_twice() == [peer.id]
    assert peer.state == "dead"
    assert peer.beat() is False, "the owner must learn that it is dead"


def test_lock_gone_but_other_sessions_stand_is_no_death(judge: Peer, peer: Peer) -> None:
    """Its lease session was terminated and its thread is slow to come back, on a busy machine. A process
    that died has no session left; one that has may take its time until its heartbeat is old."""
    session = peer.connect("dbos")
    peer.lose_lock()
    for _ in range(3):
        assert judge.poll_twice() == []
        judge.clock.move(1)
    left_alone(peer)
    peer.silent()
    assert judge.round() == [peer.id]
    with pytest.raises(psycopg2.OperationalError):
        session.cursor().execute("SELECT 1")


# --- dead: the heartbeat is old -------------------------------------------------------------------


def test_lock_held_but_the_heartbeat_is_old(database: Database, me: Peer, peer: Peer) -> None:
    peer.silent()
    sessions = [peer.connect("dbos"), peer.connect("sweep")]
    assert me.round() == [peer.id], "an old heartbeat needs no second poll"
    assert peer.row["reason"] == HEARTBEAT_LATE
    assert workflow(database, "w1")["status"] == "ENQUEUED"
    # All it held open ends, the lease included; others' sessions stay.
    for connection in (*sessions, peer.lease):
        assert connection is not None
        with pytest.raises(psycopg2.OperationalError):
            connection.cursor().execute("SELECT 1")
    assert me.lease is not None
    me.lease.cursor().execute("SELECT 1")


def test_a_heartbeat_within_the_lease_lives(me: Peer, peer: Peer) -> None:
    peer.silent(LEASE_SECONDS - 2)
    assert me.poll_twice() == []
    left_alone(peer)


def test_an_old_heartbeat_that_became_fresh_before_the_verdict(me: Peer, peer: Peer) -> None:
    peer.silent()
    suspected = me.sweep._suspected(me.database.run("poll_executors"))
    assert [reason for _, reason in suspected] == [HEARTBEAT_LATE]
    assert peer.beat()
    assert me.sweep.take_over(me.connect("sweep"), peer.id, HEARTBEAT_LATE) is False
    left_alone(peer)


def test_a_heartbeat_under_way_at_the_verdict_wins(me: Peer, peer: Peer) -> None:
    """The owner's heartbeat holds its row; the verdict waits for it and then sees a fresh heartbeat."""
    peer.silent()
    assert peer.lease is not None
    with ThreadPoolExecutor(1) as pool:
        with transaction(peer.lease):
            query(peer.lease, "send_heartbeat", executor_id=peer.id, in_flight=0, state="live")
            verdict = pool.submit(me.sweep.take_over, me.connect("sweep"), peer.id, HEARTBEAT_LATE)
            wait_until(
                lambda: peer.database.one("SELECT count(*) FROM pg_locks WHERE NOT granted"),
                "the verdict waits for the row",
            )
        assert verdict.result(5) is False
    left_alone(peer)


def count_crashes(
    database: Database, workflow_id: str, count: int, queue: str = names.FIBONACCI_QUEUE
) -> None:
    database.rows(
        "INSERT INTO ops.crashes (workflow_id, crashes, steps_recorded, queue_name)"
        " VALUES (%(id)s, %(count)s, 0, %(queue)s)",
        id=workflow_id,
        count=count,
        queue=queue,
    )


def crashes(database: Database) -> dict[str, int]:
    """What is counted against whom."""
    rows = database.rows("SELECT workflow_id, crashes FROM ops.crashes")
    return {row["workflow_id"]: row["crashes"] for row in rows}


def test_lock_gone_silent_and_other_sessions_there_is_a_hang(
    database: Database, peer: Peer, judge: Peer
) -> None:
    """Its watchdog closed the lease session. It counts as a death, whichever application judges it."""
    peer.runs("nap")
    wait_for(database, "nap")
    peer.connect("dbos")
    peer.lose_lock()
    assert judge.poll_twice() == []
    left_alone(peer)
    _database_is_old(database)
    peer.silent()
    assert judge.round() == [peer.id]
    assert peer.row["reason"] == HUNG
    assert crashes(database) == {"w1": 1, "w2": 1}
    assert {h["reason"] for h in handovers(database)} == {HUNG}
    assert [reason for reason, _, _ in judge.takeovers] == [HUNG]
    # Claimed again only when the hung process may be replaced.
    now_ms = time.time() * 1000
    for workflow_id in ("w1", "w2"):
        row = workflow(database, workflow_id)
        assert row["status"] == "DELAYED"
        assert LEASE_SECONDS - 5 < (row["delay_until_epoch_ms"] - now_ms) / 1000 <= LEASE_SECONDS
    assert workflow(database, "nap")["status"] == "ENQUEUED", "what only waited did not hang"


def test_a_pause_or_a_cut_network_counts_against_nobody(database: Database, me: Peer, peer: Peer) -> None:
    """The lock is held: whatever it was, its watchdog did not take it for a hang."""
    _database_is_old(database)
    peer.silent()
    assert me.round() == [peer.id]
    assert crashes(database) == {}


def test_lock_gone_and_silent_is_a_death_not_a_pause(me: Peer, peer: Peer) -> None:
    """It matters for poison: a process that ended is counted, one that was paused is not."""
    peer.die()
    me.settled_seconds = 0  # after a break of our own: we watch but judge nobody
    me.poll_twice()
    left_alone(peer)
    peer.silent()
    me.settled_seconds = 1e9
    assert me.round() == [peer.id]
    assert peer.row["reason"] == LOCK_LOST


def test_lock_gone_and_silent_at_the_first_poll_is_a_death_too(
    database: Database, me: Peer, peer: Peer
) -> None:
    """One worker alone, killed by poison, whose next incarnation starts after more than a lease: the second
    poll shows the death, and without it no crash would ever be counted there."""
    _database_is_old(database)
    peer.die()
    peer.silent()
    assert me.round() == []
    me.clock.move(me.settings.second_look_seconds + 0.001)
    assert me.round() == [peer.id]
    assert peer.row["reason"] == LOCK_LOST
    assert crashes(database) == {"w1": 1, "w2": 1}


def test_a_newcomer_gives_the_silent_two_heartbeats(database: Database, peer: Peer) -> None:
    """Started right after the machine was suspended: peers look silent, and are about to send heartbeats."""
    newcomer = Peer.start(database, "worker-newcomer")
    newcomer.sweep._watching_since = float("inf")
    peer.silent()
    assert newcomer.round() == []
    newcomer.clock.move(2 * newcomer.settings.heartbeat_seconds - 0.01)
    assert newcomer.round() == []
    left_alone(peer)
    newcomer.clock.move(0.02)
    assert newcomer.round() == [peer.id]
    assert peer.row["reason"] == HEARTBEAT_LATE


def _database_is_old(database: Database) -> None:
    """The tests' PostgreSQL began after the heartbeats that are made old."""
    database.rows(
        "CREATE SCHEMA moved; GRANT USAGE ON SCHEMA moved TO PUBLIC;"
        "CREATE FUNCTION moved.pg_postmaster_start_time() RETURNS timestamptz LANGUAGE sql STABLE"
        " AS $$ SELECT '-infinity'::timestamptz $$;"
        "CREATE VIEW moved.pg_stat_bgwriter AS SELECT '-infinity'::timestamptz AS stats_reset;"
        "GRANT SELECT ON moved.pg_stat_bgwriter TO PUBLIC;"
        f'ALTER DATABASE "{database.name}" SET search_path = moved, pg_catalog, public'
    )


# --- not a death ----------------------------------------------------------------------------------


def test_several_locks_gone_together_wait_for_heartbeats(database: Database, me: Peer, peer: Peer) -> None:
    other = Peer.start(database, "worker-other")
    peer.lose_lock()
    other.lose_lock()
    for _ in range(5):
        assert me.poll_twice() == []
        me.clock.move(1)
    assert (peer.state, other.state) == ("live", "live")
    # One comes back, one does not.
    other.retake()
    assert me.poll_twice() == []
    peer.silent()
    assert me.round() == [peer.id]
    assert other.state == "live"


def test_together_counts_the_other_application_too(me: Peer, api: Peer, peer: Peer) -> None:
    api.lose_lock()
    peer.lose_lock()
    assert me.poll_twice() == []
    left_alone(peer)


def test_nobody_is_judged_right_after_a_break_of_our_own(me: Peer, peer: Peer) -> None:
    peer.die()
    peer.silent()
    me.settled_seconds = LEASE_SECONDS - 0.1
    assert me.poll_twice() == []
    left_alone(peer)
    me.settled_seconds = LEASE_SECONDS
    assert me.round() == [peer.id]


@pytest.mark.parametrize(("judge", "lost"), [("worker", "api"), ("api", "worker")])
def test_the_last_one_of_an_application_is_judged_by_another(
    database: Database, judge: str, lost: str
) -> None:
    """With the rights of its own role, and by the queues that the lost one registered."""
    me, other = (
        Peer.start(database, f"{role}-test", application=f"holdfast-{role}", version=f"{role}-1")
        for role in (judge, lost)
    )
    queue = {"worker": names.FIBONACCI_QUEUE, "api": names.SCOPE_QUEUE}[lost]
    other.runs("x", application_name=f"holdfast-{lost}", application_version=f"{lost}-1", queue_name=queue)
    count_crashes(database, "x", 1, queue)
    other.die()
    assert me.poll_twice() == [other.id]
    assert other.row["taken_over_by"] == me.id
    row = workflow(database, "x")
    expected = ("ENQUEUED", other.identity.suspects_queue, f"{lost}-1")
    assert (row["status"], row["queue_name"], row["application_version"]) == expected


def test_others_leave_a_suspect_to_its_own_application_for_a_lease(
    database: Database, me: Peer, api: Peer, peer: Peer
) -> None:
    """Its role can end the sessions that hold row locks. Where it does not act, everyone may."""
    peer.silent()
    assert api.poll_twice() == []
    left_alone(peer)
    peer.silent(2 * LEASE_SECONDS + 1)
    assert api.round() == [peer.id]
    other = Peer.start(database, "worker-other")
    other.silent()
    me.silent()
    assert set(api.round()) == {other.id, me.id}, "nobody of its own is left"


def test_an_executor_of_older_code_names_no_queues(database: Database, api: Peer) -> None:
    """In a rolling upgrade. Another application then moves none of its work to other queues."""
    old = Peer.start(database, "worker-old")
    old.runs("x")
    database.rows("UPDATE ops.executors SET suspects_queue = NULL, trials_queue = NULL, leaf_queues = NULL")
    count_crashes(database, "x", 3)
    old.die()
    assert api.poll_twice() == [old.id]
    assert workflow(database, "x")["queue_name"] == names.FIBONACCI_QUEUE
    assert crashes(database) == {"x": 4}


def test_the_same_lock_in_another_database_hides_no_death(
    server: Server, database: Database, me: Peer, peer: Peer
) -> None:
    with Database.lent(server) as elsewhere:
        other = elsewhere.connect()
        assert query(other, "take_lock", lock_key=peer.lock_key)[0]["held"]
        peer.die()
        assert me.poll_twice() == [peer.id]


def test_a_second_death_one_poll_after_the_first_is_judged_by_itself(
    database: Database, me: Peer, peer: Peer
) -> None:
    """Only locks that vanish between the same two polls vanish together."""
    other = Peer.start(database, "worker-other")
    peer.die()
    me.round()
    other.die()
    me.clock.move(me.settings.second_look_seconds + 0.001)
    assert me.round() == [peer.id]
    me.clock.move(me.settings.second_look_seconds + 0.001)
    assert me.round() == [other.id]


def test_nobody_takes_itself_over(me: Peer) -> None:
    me.runs("mine")
    me.lose_lock()
    me.silent()
    assert me.poll_twice() == []
    left_alone(me)


def test_the_drained_and_the_dead_are_not_judged_again(me: Peer, peer: Peer) -> None:
    peer.database.run("leave", executor_id=peer.id, reason="drained", drain_seconds=0.0)
    peer.die()
    peer.silent()
    before = peer.row
    me.poll_twice()
    assert peer.row == before


def test_an_id_started_twice_fails_at_the_second_start(database: Database, peer: Peer) -> None:
    lease, _ = live_lease(database, peer.id)
    with pytest.raises(psycopg2.errors.UniqueViolation):
        lease.start()
    assert peer.locked()
    left_alone(peer)


# --- what is released -----------------------------------------------------------------------------


def test_wrong_version_stays_and_counts_as_stranded(database: Database, me: Peer, peer: Peer) -> None:
    peer.runs("old", application_version="worker-0")
    peer.die()
    assert me.poll_twice() == [peer.id]
    assert workflow(database, "old")["status"] == "PENDING"
    assert workflow(database, "w1")["status"] == "ENQUEUED"
    assert database.run("stranded", lease_seconds=LEASE_SECONDS) == [
        {
            "application": "holdfast-worker",
            "application_version": "worker-0",
            "status": "PENDING",
            "reason": "version",
            "queue_name": None,
            "workflow_name": None,
            "workflows": 1,
        }
    ]


def test_adopting_stranded_work_keeps_its_id(database: Database, me: Peer) -> None:
    insert(database, ["waiting"], application_version="worker-0")
    insert(database, ["running"], application_version="worker-0", status="PENDING", executor_id="gone")
    insert(database, ["direct"], application_version="worker-0", status="PENDING", executor_id="gone",
           queue_name=None)  # fmt: skip
    insert(database, ["current"], application_version="worker-1")
    adopted = database.run(
        "adopt",
        application="holdfast-worker",
        workflow_ids=["waiting", "running", "direct", "current"],
        from_version="worker-0",
        to_version="worker-1",
    )
    assert {row["workflow_id"] for row in adopted} == {"waiting", "running", "direct"}
    for workflow_id, queue in (("waiting", "fibonacci"), ("direct", "_dbos_internal_queue")):
        row = workflow(database, workflow_id)
        assert (row["status"], row["application_version"], row["queue_name"], row["owner_xid"]) == (
            "ENQUEUED",
            "worker-1",
            queue,
            None,
        )
    assert database.run("stranded", lease_seconds=LEASE_SECONDS) == []


def test_a_sweeper_of_another_version_releases_the_work_under_its_own(database: Database, me: Peer) -> None:
    """A rolling upgrade: the dead executor's version still lives elsewhere, the sweeper is newer."""
    old = Peer.start(database, "worker-old", version="worker-0")
    old.runs("w0", application_version="worker-0")
    old.runs("unknown", application_version="worker-0", queue_name="gone-since")
    old.runs("w1")
    old.die()
    assert me.poll_twice() == [old.id]
    for workflow_id, queue in (("w0", names.FIBONACCI_QUEUE), ("unknown", "gone-since")):
        row = workflow(database, workflow_id)
        assert (row["status"], row["application_version"], row["queue_name"]) == (
            "ENQUEUED",
            "worker-0",
            queue,
        )
        assert [h["kind"] for h in handovers(database, workflow_id)] == ["takeover"]
    assert crashes(database) == {"w0": 1, "unknown": 1}
    assert workflow(database, "w1")["status"] == "PENDING", "of neither version, by no account of its own"


def test_a_sweeper_of_any_version_finishes_what_a_zombie_left(database: Database, me: Peer) -> None:
    old = Peer.start(database, "worker-old", version="worker-0")
    insert(database, ["w0"], application_version="worker-0")
    old.die()
    assert me.poll_twice() == [old.id]
    claim(database, old.id, "w0")
    me.clock.move(3)
    me.round()
    row = workflow(database, "w0")
    assert (row["status"], row["application_version"]) == ("ENQUEUED", "worker-0")
    assert [h["kind"] for h in handovers(database, "w0")] == ["orphan"]


@pytest.mark.parametrize("status", ["CANCELLED", "SUCCESS", "ERROR", "ENQUEUED", "DELAYED"])
def test_what_does_not_run_is_not_revived(database: Database, me: Peer, peer: Peer, status: str) -> None:
    """For example cancelled meanwhile: only running work moves, whatever its executor."""
    insert(database, ["other"], status=status, executor_id=peer.id)
    before = workflow(database, "other")
    peer.die()
    assert me.poll_twice() == [peer.id]
    assert workflow(database, "other") == before
    assert handovers(database, "other") == []


@pytest.mark.parametrize("alone", [True, False])
def test_exhausted_attempts_are_parked_if_nobody_else_ran(
    database: Database, me: Peer, peer: Peer, alone: bool
) -> None:
    count_crashes(database, "w1", me.settings.crash_limit - 1)
    if alone:
        database.rows("UPDATE ops.crashes SET trial_xid = 'owner'")
        # What is not running was not there when it crashed.
        database.rows("UPDATE dbos.workflow_status SET status = 'CANCELLED' WHERE workflow_uuid = 'w2'")
    peer.die()
    assert me.poll_twice() == [peer.id]
    judged = workflow(database, "w1")
    parked = database.one("SELECT parked_at IS NOT NULL FROM ops.crashes WHERE workflow_id = 'w1'")
    if alone:
        assert (judged["status"], judged["queue_name"]) == ("MAX_RECOVERY_ATTEMPTS_EXCEEDED", None)
        assert judged["owner_xid"] is None
        assert parked
        return
    # Either of the two may have done it: w1 is tried alone.
    assert (judged["status"], judged["queue_name"]) == ("ENQUEUED", me.identity.trials_queue)
    assert not parked
    assert workflow(database, "w2")["status"] == "ENQUEUED"


def test_five_hundred_workflows_at_once(database: Database, me: Peer) -> None:
    peer = Peer.start(database, "worker-busy")
    peer.runs(*(f"w{n}" for n in range(500)))
    peer.die()
    me.round()
    me.clock.move(1)
    begun = datetime.now(UTC)
    assert me.round() == [peer.id]
    assert datetime.now(UTC) - begun < timedelta(seconds=2)
    assert (
        database.one("SELECT count(*) FROM dbos.workflow_status WHERE status = 'ENQUEUED'"),
        database.one("SELECT count(DISTINCT workflow_id) FROM ops.handovers"),
        database.one("SELECT count(*) FROM ops.handovers"),
    ) == (500, 500, 500)


# --- orphans --------------------------------------------------------------------------------------


def test_orphans_of_an_executor_nobody_knows(database: Database, me: Peer) -> None:
    insert(database, ["lost"], status="PENDING", executor_id="worker-unknown")
    assert me.round() == []
    assert workflow(database, "lost")["status"] == "ENQUEUED"
    (handover,) = handovers(database, "lost")
    assert (handover["kind"], handover["from_executor"]) == ("orphan", "worker-unknown")


def test_what_a_zombie_claimed_after_its_death_is_an_orphan(database: Database, me: Peer, peer: Peer) -> None:
    peer.die()
    me.poll_twice()
    claim(database, peer.id, "w1")  # its queue thread was faster than its fence
    me.round()
    assert workflow(database, "w1")["status"] == "PENDING", "the anti-join runs only every 2 s"
    me.clock.move(2)
    me.round()
    assert workflow(database, "w1")["status"] == "ENQUEUED"
    assert [h["kind"] for h in handovers(database, "w1")] == ["takeover", "orphan"]
    assert crashes(database)["w1"] == 1


def test_orphans_of_any_version_and_application_that_registers_executors(
    database: Database, me: Peer, api: Peer
) -> None:
    """Another DBOS application in the same database has none here, and may be alive."""
    insert(database, ["v"], status="PENDING", executor_id="gone", application_version="worker-0")
    insert(database, ["a"], status="PENDING", executor_id="gone", application_name="holdfast-api")
    insert(database, ["f"], status="PENDING", executor_id="local", application_name="foreign")
    me.round()
    assert {w: workflow(database, w)["status"] for w in ("v", "a", "f")} == {
        "v": "ENQUEUED",
        "a": "ENQUEUED",
        "f": "PENDING",
    }


@pytest.mark.parametrize("session", ["dbos_transact", ""])
def test_work_of_a_process_without_holdfast_is_left_alone_while_one_is_connected(
    database: Database, me: Peer, session: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It registers no executor, so that its work looks like that of one whose row is gone."""
    mine = Peer.start(database, "mine", application="shop")
    insert(database, ["w"], status="PENDING", executor_id="local", application_name="shop")
    plain = psycopg2.connect(mine.settings.database_url, application_name=session)
    try:
        plain.autocommit = True
        plain.cursor().execute("LISTEN dbos_streams_channel")
        for _ in range(3):
            mine.round()
            mine.clock.move(ALONE_SECONDS)
        assert workflow(database, "w")["status"] == "PENDING" and handovers(database) == []
        assert len([each for each in caplog.records if getattr(each, "action", "") == "orphans.left"]) == 1
    finally:
        plain.close()
    wait_until(lambda: not database.run("plain_sessions")[0]["connected"], "its session is gone")
    mine.round()
    mine.clock.move(ALONE_SECONDS - 1)
    mine.round()
    assert workflow(database, "w")["status"] == "PENDING", "it may be about to connect again"
    mine.settled_seconds = ALONE_SECONDS - 1
    mine.clock.move(2)
    mine.round()
    mine.settled_seconds = 1e9
    mine.clock.move(ALONE_SECONDS - 1)
    mine.round()
    assert workflow(database, "w")["status"] == "PENDING", "the database was away in between"
    mine.clock.move(ALONE_SECONDS)
    mine.round()
    assert workflow(database, "w")["status"] == "ENQUEUED"
    assert [each["from_executor"] for each in handovers(database, "w")] == ["local"]


def test_every_role_sees_the_sessions_of_a_process_without_holdfast(database: Database, me: Peer) -> None:
    plain = psycopg2.connect(database.settings("api").database_url, application_name="dbos_transact")
    assert query(me.connect("sweep"), "plain_sessions") == [{"connected": True}]
    plain.close()


# --- strays: claims of our own that never started --------------------------------------------------


def stray_sweep(me: Peer, running: set[str], waker: Waker | None = None) -> Sweep:
    return Sweep(
        me.settings,
        me.identity,
        settled_seconds=lambda: 1e9,
        running=lambda: running,
        settles=(waker or Waker()).settles,
        clock=me.clock,
    )


def test_a_claim_that_never_starts_goes_back_after_a_lease(database: Database, me: Peer) -> None:
    me.runs("stray", "runs")
    sweep, connection = stray_sweep(me, {"runs"}), me.connect("sweep")
    for _ in range(int(LEASE_SECONDS / 2)):
        sweep.round(connection)
        me.clock.move(2)
    assert handovers(database) == [], "it had no lease's time to start"
    me.clock.move(1)
    sweep.round(connection)
    assert workflow(database, "stray")["status"] == "ENQUEUED"
    assert workflow(database, "runs")["status"] == "PENDING"
    ((kind, reason),) = [(h["kind"], h["reason"]) for h in handovers(database)]
    assert (kind, reason) == ("orphan", "not running here")
    assert crashes(database) == {"stray": 0}


def stray_times(database: Database, me: Peer, times: int) -> None:
    """It is claimed, does not run, and is released, so often."""
    sweep, connection = stray_sweep(me, set()), me.connect("sweep")
    for turn in range(times):
        database.rows(
            "UPDATE dbos.workflow_status SET status = 'PENDING', executor_id = %(id)s, owner_xid = %(turn)s"
            " WHERE status = 'ENQUEUED'",
            id=me.id,
            turn=f"turn {turn}",
        )
        database.rows("UPDATE ops.crashes SET trial_xid = %(turn)s", turn=f"turn {turn}")
        for seconds in (0, LEASE_SECONDS):
            me.clock.move(seconds + 2)
            sweep.round(connection)


def test_the_third_release_without_progress_is_counted_like_a_crash(database: Database, me: Peer) -> None:
    """Nothing runs again for ever, whatever loses its end: a limit of 5 ends it after seven runs."""
    insert(database, ["again"])
    stray_times(database, me, 2)
    assert crashes(database) == {"again": 0}
    stray_times(database, me, 1)
    assert crashes(database) == {"again": 1}
    assert workflow(database, "again")["queue_name"] == names.FIBONACCI_QUEUE
    stray_times(database, me, 3)
    assert (crashes(database), workflow(database, "again")["queue_name"]) == (
        {"again": 4},
        me.identity.trials_queue,
    )
    stray_times(database, me, 1)
    assert workflow(database, "again")["status"] == "MAX_RECOVERY_ATTEMPTS_EXCEEDED"


def test_a_step_in_between_begins_the_count_of_releases_anew(database: Database, me: Peer) -> None:
    insert(database, ["again"])
    for _ in range(3):
        stray_times(database, me, 2)
        record_steps(database, "again", 1)
    assert crashes(database) == {"again": 0}


def test_a_claim_that_starts_late_is_no_stray(database: Database, me: Peer) -> None:
    me.runs("late")
    running: set[str] = set()
    sweep, connection = stray_sweep(me, running), me.connect("sweep")
    sweep.round(connection)
    me.clock.move(LEASE_SECONDS - 1)
    running.add("late")
    sweep.round(connection)
    me.clock.move(LEASE_SECONDS)
    running.clear()  # it ended: its row follows in a moment
    sweep.round(connection)
    left_alone(me)


def test_a_new_claim_of_the_same_workflow_gets_a_lease_of_its_own(database: Database, me: Peer) -> None:
    me.runs("again")
    sweep, connection = stray_sweep(me, set()), me.connect("sweep")
    sweep.round(connection)
    me.clock.move(LEASE_SECONDS)
    database.rows("UPDATE dbos.workflow_status SET owner_xid = 'another claim'")
    sweep.round(connection)
    left_alone(me)
    me.clock.move(LEASE_SECONDS)
    sweep.round(connection)
    assert workflow(database, "again")["status"] == "ENQUEUED"


def test_a_busy_queue_hides_a_stray_for_one_poll_only(database: Database, me: Peer) -> None:
    """Its thread dispatches whenever the sweep looks, and hangs in the end."""
    waker, stop = Waker(), threading.Event()
    sweep, connection = stray_sweep(me, set(), waker), me.connect("sweep")

    def looks() -> None:
        for _ in range(int(LEASE_SECONDS)):
            sweep.round(connection)
            me.clock.move(2)

    with waker.register_wake_event(names.FIBONACCI_QUEUE, stop) as wake_event:
        me.runs("stray")
        looks()
        left_alone(me)  # it may be in a large claim, whose start takes longer than a lease
        wake_event.wait(0)
        me.runs("large claim")
        looks()
        assert workflow(database, "stray")["status"] == "ENQUEUED"
        assert workflow(database, "large claim")["status"] == "PENDING"


# --- several sweepers, and sweeps that break ------------------------------------------------------


def test_two_sweepers_at_once_one_wins(database: Database) -> None:
    sweepers = [Peer.start(database, f"worker-sweeper-{n}") for n in range(4)]
    for turn in range(5):
        peer = Peer.start(database, f"worker-victim-{turn}")
        peer.runs(f"w{turn}a", f"w{turn}b")
        peer.die()
        for sweeper in sweepers:
            sweeper.round()
            sweeper.clock.move(1)
        barrier = threading.Barrier(len(sweepers))

        def sweep(sweeper: Peer, barrier: threading.Barrier = barrier) -> list[str]:
            connection = sweeper.connect("sweep")
            barrier.wait()
            return sweeper.round(connection)

        with ThreadPoolExecutor(len(sweepers)) as pool:
            results = list(pool.map(sweep, sweepers))
        assert sorted(results, key=len) == [[], [], [], [peer.id]]
        for workflow_id in (f"w{turn}a", f"w{turn}b"):
            assert len(handovers(database, workflow_id)) == 1
            assert crashes(database)[workflow_id] == 1


@contextmanager
def broken(monkeypatch: pytest.MonkeyPatch, statement: str, break_: Callable[[Any], None]) -> Iterator[None]:
    """Calls ``break_`` with the connection when that statement is about to run."""
    original = sweep_module.query

    def query_or_break(connection: Any, name: str, /, **parameters: Any) -> Any:
        if name == statement:
            break_(connection)
        return original(connection, name, **parameters)

    with monkeypatch.context() as patch:
        for module in (sweep_module, takeover, orphans, strays):
            patch.setattr(module, "query", query_or_break)
        yield


def _die(connection: Any) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    "statement", ["end_sessions", "unfinished_work", "count_crashes", "release_work", "record_handovers"]
)
def test_a_sweeper_that_dies_in_the_middle_leaves_nothing_half_done(
    database: Database, me: Peer, peer: Peer, monkeypatch: pytest.MonkeyPatch, statement: str
) -> None:
    peer.die()
    me.round()
    me.clock.move(1)
    with broken(monkeypatch, statement, _die), pytest.raises(KeyboardInterrupt):
        me.round()
    left_alone(peer)
    assert crashes(database) == {}
    # The next sweep finishes it.
    assert me.round() == [peer.id]
    assert [len(handovers(database, w)) for w in ("w1", "w2")] == [1, 1]
    assert workflow(database, "w1")["status"] == "ENQUEUED"


def test_a_sweeper_whose_session_is_cut_in_the_middle(
    database: Database, me: Peer, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer.die()
    me.round()
    me.clock.move(1)

    def cut(connection: Any) -> None:
        database.rows("SELECT pg_terminate_backend(%(pid)s, 5000)", pid=connection.info.backend_pid)

    with broken(monkeypatch, "release_work", cut), pytest.raises(psycopg2.Error):
        me.round()
    left_alone(peer)
    assert me.round() == [peer.id]
    assert len(handovers(database, "w1")) == 1


@pytest.mark.parametrize("statement", ["orphans", "own_work"])
def test_what_cannot_be_read_of_one_kind_does_not_hold_up_the_other(
    database: Database, me: Peer, monkeypatch: pytest.MonkeyPatch, statement: str
) -> None:
    """A value that one of the two reads refuses, for example."""
    insert(database, ["orphan"], status="PENDING", executor_id="worker-unknown")
    me.runs("stray")
    sweep, connection = stray_sweep(me, set()), me.connect("sweep")

    def refuse(connection: Any) -> None:
        connection.cursor().execute("SELECT 1 / 0")

    with broken(monkeypatch, statement, refuse):
        for _ in range(2):
            with pytest.raises(psycopg2.errors.DivisionByZero):
                sweep.round(connection)
            me.clock.move(LEASE_SECONDS + 1)
    ended = {"orphans": "stray", "own_work": "orphan"}[statement]
    assert [each["workflow_id"] for each in handovers(database)] == [ended]


@pytest.mark.parametrize("held", [0, 1], ids=["one", "the-other"])  # whichever the sweep judges first
def test_one_executor_that_cannot_be_taken_over_does_not_hold_up_the_others(
    database: Database, me: Peer, held: int
) -> None:
    """An operator's open transaction holds a row of one dead executor; the other's work must go on."""
    peers = [Peer.start(database, "worker-one"), Peer.start(database, "worker-two")]
    peer, other = peers[held], peers[1 - held]
    peer.runs("w1")
    other.runs("o1")
    blocker = database.admin()
    blocker.cursor().execute("BEGIN; SELECT FROM dbos.workflow_status WHERE workflow_uuid = 'w1' FOR UPDATE")
    for each in peers:
        each.silent()
    connection = connect(me.settings, purpose="test", statement_timeout_seconds=0.3)
    with pytest.raises(psycopg2.errors.LockNotAvailable):
        me.round(connection)
    assert other.state == "dead"
    assert workflow(database, "o1")["status"] == "ENQUEUED"
    left = peer.row
    assert left["state"] == "live", "its verdict was not rolled back with the rest"
    blocker.close()
    # Its sessions were ended by the verdict that was rolled back, so now its lock is missing too.
    assert me.poll_twice() == [peer.id]
    assert workflow(database, "w1")["status"] == "ENQUEUED"


# --- zombies --------------------------------------------------------------------------------------


def test_row_locks_of_a_paused_executor_do_not_hold_up_the_takeover(
    database: Database, peer: Peer, judge: Peer
) -> None:
    """SIGSTOP in the middle of a checkpoint: its open transaction holds the workflow's row."""
    session = peer.connect("dbos")
    session.cursor().execute("BEGIN; SELECT FROM dbos.workflow_status WHERE workflow_uuid = 'w1' FOR UPDATE")
    peer.silent()
    begun = datetime.now(UTC)
    assert judge.round() == [peer.id]
    assert datetime.now(UTC) - begun < timedelta(seconds=2)
    assert workflow(database, "w1")["status"] == "ENQUEUED"


def test_sessions_of_others_with_a_similar_id_stay(database: Database, me: Peer) -> None:
    """Ids hold hostnames: an underscore is a letter, and one id may begin like another."""
    dead = Peer.start(database, "worker-a_b-1")
    similar = Peer.start(database, "worker-aXb-1")
    longer = Peer.start(database, "worker-a_b-12")
    dead.silent()
    assert me.round() == [dead.id]
    for other in (similar, longer):
        assert other.lease is not None
        other.lease.cursor().execute("SELECT 1")
        assert other.locked()


def test_a_zombies_lease_calls_on_fenced_once(database: Database, me: Peer) -> None:
    fenced = threading.Semaphore(0)
    lease, _ = live_lease(database, "worker-zombie", on_fenced=fenced.release)
    with started(lease):
        database.rows("UPDATE ops.executors SET state = 'dead' WHERE executor_id = 'worker-zombie'")
        assert fenced.acquire(timeout=20)
        assert lease.session.join(20), "a fenced executor must send no more heartbeats"
        assert not fenced.acquire(blocking=False)


# --- the lease's own thread -----------------------------------------------------------------------


def test_the_lease_takes_its_lock_again_when_its_session_is_terminated(database: Database) -> None:
    """Against a real sweep that polls as often as it may: the owner is faster than two polls."""
    me = Peer.start(database, "worker-me", settings={"heartbeat_seconds": 0.2})
    lease, _ = live_lease(database, "worker-owner")
    database.connect(identity("worker-owner").purpose("dbos"))  # as a process has: busy machines are slow
    sweep = Sweep(
        database.settings(sweep_seconds=0.05, lease_seconds=LEASE_SECONDS),
        me.identity,
        settled_seconds=lambda: 1e9,
    )
    with started(lease, sweep):
        for _ in range(20):
            row = next(r for r in database.run("poll_executors") if r["executor_id"] == "worker-owner")
            database.rows("SELECT pg_terminate_backend(%(pid)s)", pid=row["lock_pid"])
            wait_until(
                lambda old=row["lock_pid"]: any(
                    r["executor_id"] == "worker-owner" and r["lock_pid"] not in (None, old)
                    for r in database.run("poll_executors")
                ),
                "the owner has its lock again",
                seconds=2,
            )
        assert lease.settled_seconds < 1, "a break of its own makes it judge nobody for a lease"
        assert database.one("SELECT state FROM ops.executors WHERE executor_id = 'worker-owner'") == "live"


def test_the_lease_reports_desired_states_and_what_is_in_flight(database: Database) -> None:
    asked = threading.Event()
    lease, _ = live_lease(
        database,
        "worker-owner",
        on_desired=lambda state: asked.set() if state == "draining" else None,
        in_flight=lambda: 7,
    )
    with started(lease):
        database.run("request_drain", executor_id="worker-owner")
        assert asked.wait(20)
        lease.state = "draining"
        wait_until(
            lambda: (
                database.rows("SELECT state, in_flight FROM ops.executors")
                == [{"state": "draining", "in_flight": 7}]
            ),
            "state and load are in the row",
        )


def test_the_lease_outlives_errors_of_those_it_asks(database: Database) -> None:
    """Whatever goes wrong around it: an executor whose lease thread ended is taken over while it lives."""
    calls = iter(range(1000))

    def in_flight() -> int:
        if next(calls) == 1:
            raise RuntimeError("a bug elsewhere")
        return 0

    lease, _ = live_lease(database, "worker-owner", in_flight=in_flight)
    with started(lease):
        wait_until(lambda: next(calls) > 5, "it goes on beating", seconds=5)
        assert lease.database_up


def test_the_lease_does_not_hammer_a_database_that_only_reads(database: Database) -> None:
    """A fail over left the address with a standby: sessions open and no heartbeat goes through."""
    lease, _ = live_lease(database, "worker-owner")
    opened: list[float] = []
    original = lease.session._connect

    def counted() -> Connection:
        opened.append(time.monotonic())
        return original()

    lease.session._connect = counted
    with started(lease):
        row = database.run("poll_executors")[0]
        with read_only(database):
            database.rows("SELECT pg_terminate_backend(%(pid)s)", pid=row["lock_pid"])
            wait_until(lambda: len(opened) > 1, "it opens another session")
            before = len(opened)
            time.sleep(1.5)
            assert len(opened) - before < 40, "it opens one after the other"
            assert not lease.database_up
        first = time.monotonic()
        wait_until(lambda: lease.last_heartbeat > first, "its heartbeat is back")


@contextmanager
def read_only(database: Database) -> Iterator[None]:
    """New sessions may not write."""
    statement = f'ALTER DATABASE "{database.name}" SET default_transaction_read_only'
    database.rows(f"{statement} = on")
    try:
        yield
    finally:
        database.server.run(f"{statement} = off")


def test_the_sweep_outlives_errors_of_its_callback(database: Database) -> None:
    def failing(*_: Any) -> None:
        raise RuntimeError("a bug elsewhere")

    settings = database.settings(sweep_seconds=0.05, lease_seconds=LEASE_SECONDS)
    me = Peer.start(database, "worker-me")
    sweep = Sweep(settings, me.identity, settled_seconds=lambda: 1e9, on_takeover=failing)
    with started(sweep):
        for name in ("worker-a", "worker-b"):
            peer = Peer.start(database, name)
            peer.die()
            wait_until(lambda peer=peer: peer.state == "dead", f"{name} is taken over")


def test_the_lease_works_with_more_than_a_thousand_open_files(database: Database) -> None:
    """An API with many event streams: the file descriptor of a new lease session is past 1024."""
    lease, _ = live_lease(database, "worker-owner")
    with started(lease), many_open_files(1100):
        row = database.run("poll_executors")[0]
        database.rows("SELECT pg_terminate_backend(%(pid)s)", pid=row["lock_pid"])
        wait_until(
            lambda: database.run("poll_executors")[0]["lock_pid"] not in (None, row["lock_pid"]),
            "the lock is back",
        )
        before = database.run("poll_executors")[0]["lock_pid"]
        first = lease.last_heartbeat
        wait_until(lambda: lease.last_heartbeat > first + 0.5, "its heartbeats continue", seconds=5)
        assert database.run("poll_executors")[0]["lock_pid"] == before, "the session was lost again"


@contextmanager
def many_open_files(count: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < count + 200:
        pytest.skip(f"only {hard} open files allowed here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count + 200), hard))
    files = [open("/dev/null", "rb") for _ in range(count)]  # noqa: PTH123, SIM115
    try:
        yield
    finally:
        for file in files:
            file.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# --- the database breaks ---------------------------------------------------------------------------


LIVING_SECONDS = 3.0
"""A lease that a thread on a busy machine keeps."""


def settled(leases: list[Lease]) -> bool:
    return all(lease.settled_seconds > LIVING_SECONDS + 0.2 for lease in leases)


@contextmanager
def living(database: Database, *names: str) -> Iterator[tuple[list[Lease], list[str]]]:
    """Executors with their real threads; their leases, and who of them was fenced."""
    fenced: list[str] = []
    leases: list[Lease] = []
    with ExitStack() as stops:
        for name in names:
            lease, settings = live_lease(
                database,
                name,
                on_fenced=lambda name=name: fenced.append(name),
                sweep_seconds=0.05,
                lease_seconds=LIVING_SECONDS,
            )
            sweep = Sweep(settings, identity(name), settled_seconds=lambda lease=lease: lease.settled_seconds)
            stops.enter_context(started(lease, sweep))
            leases.append(lease)
        yield leases, fenced


def test_postgres_restarts_in_the_middle(database: Database) -> None:
    """Three executors with their real threads, one of them dead: the living live, the dead is found."""
    victim = Peer.start(database, "worker-victim")
    victim.runs("w1")
    with living(database, "worker-a", "worker-b") as (_, fenced):
        database.server.restart(at_once=True)  # every session ends, the victim's for good
        wait_until(
            lambda: (
                {r["executor_id"] for r in database.run("poll_executors") if r["lock_pid"]}
                == {"worker-a", "worker-b"}
            ),
            "both took their locks again",
        )
        wait_until(lambda: victim.state == "dead", "the dead one is found", seconds=10)
        assert workflow(database, "w1")["status"] == "ENQUEUED"
        assert len(handovers(database, "w1")) == 1
        assert fenced == []
        states = database.rows("SELECT state FROM ops.executors WHERE executor_id <> 'worker-victim'")
        assert states == [{"state": "live"}, {"state": "live"}]


def test_who_ended_while_postgres_was_away_is_no_crash(database: Database, me: Peer, peer: Peer) -> None:
    """It may have been told to stop, and could not say so. One that came back and then died is a crash."""
    other = Peer.start(database, "worker-other")
    other.runs("w3")
    database.server.restart(at_once=True)  # every session ends, the peer's for good
    for executor in (me, other):
        executor.retake()
        assert executor.beat()
    assert me.poll_twice() == [peer.id]
    assert peer.row["reason"] == LOCK_LOST
    assert workflow(database, "w1")["status"] == "ENQUEUED"
    assert crashes(database) == {}
    other.die()
    assert me.poll_twice() == [other.id]
    assert crashes(database) == {"w3": 1}


def test_a_stalled_database_kills_nobody(database: Database) -> None:
    """Nothing answers for longer than the lease, no connection breaks: then everyone looks silent."""
    with living(database, "worker-a", "worker-b", "worker-c") as (leases, fenced):
        wait_until(lambda: settled(leases), "all are settled")
        with database.server.paused():
            wait_until(
                lambda: all(
                    time.monotonic() - lease.last_heartbeat > 1.5 * LIVING_SECONDS for lease in leases
                ),
                "longer than the lease passes",
            )
        wait_until(lambda: settled(leases), "settled again")
        assert fenced == []
        assert database.rows("SELECT DISTINCT state FROM ops.executors") == [{"state": "live"}]


def test_nobody_is_judged_when_the_database_time_jumped_between_two_polls(
    database: Database, me: Peer, peer: Peer
) -> None:
    """A suspended machine: our monotonic clock stood still, the database's did not, so that everyone looks
    silent. Nobody is judged until the peers had a lease to come back."""
    assert me.round() == []
    _jump(database, 3600)
    assert me.round() == []
    me.clock.move(1)
    assert me.round() == []
    left_alone(peer)
    assert peer.beat()  # it is awake again, as we are
    assert me.beat()
    me.clock.move(LEASE_SECONDS)
    assert me.round() == []
    left_alone(peer)
    peer.silent()
    assert me.round() == [peer.id], "and after that the old rules hold"


def test_who_is_late_itself_judges_nobody(me: Peer, peer: Peer) -> None:
    """The first poll of all, after the machine was suspended: only our own heartbeat shows it."""
    me.silent()
    peer.silent()
    assert me.round() == []
    assert me.beat()
    assert peer.beat()
    me.clock.move(LEASE_SECONDS)
    assert me.round() == []
    left_alone(peer)


def test_an_old_first_poll_does_not_count_after_a_pause(database: Database, me: Peer, peer: Peer) -> None:
    """A sweeper stopped for a minute between its polls: the peer lost its lock twice, not all the time."""
    peer.lose_lock()
    me.round()
    peer.retake()
    _jump(database, 60)
    peer.beat()
    me.clock.move(60)
    peer.lose_lock()
    assert me.round() == []
    left_alone(peer)


def _jump(database: Database, seconds: float) -> None:
    """Moves the database's clock: a function of that name is found before PostgreSQL's own."""
    database.rows(
        "CREATE SCHEMA IF NOT EXISTS moved; GRANT USAGE ON SCHEMA moved TO PUBLIC;"
        "CREATE OR REPLACE FUNCTION moved.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE"
        f" AS 'SELECT pg_catalog.clock_timestamp() + make_interval(secs => {seconds})';"
        f'ALTER DATABASE "{database.name}" SET search_path = moved, pg_catalog, public'
    )


@pytest.mark.parametrize("crash", [False, True], ids=["restart", "backend killed"])
def test_a_start_right_after_a_break_of_the_database_judges_nobody(database: Database, crash: bool) -> None:
    """Everyone's sessions are gone and heartbeats may be old; a new executor cannot know how old the break is
    but from the database. (``pg_postmaster_start_time`` does not move when a backend was killed.)"""
    broken_at = time.monotonic()
    if crash:
        backend = database.admin()
        before = database.one("SELECT pg_postmaster_start_time()")
        os.kill(backend.info.backend_pid, signal.SIGKILL)
        wait_until(lambda: _accepts(database), "PostgreSQL has recovered")
        assert database.one("SELECT pg_postmaster_start_time()") == before
    else:
        database.server.restart()
    lease, _ = live_lease(database, "worker-new")
    with started(lease):
        assert lease.settled_seconds <= time.monotonic() - broken_at, "it counts from before the break"


def _accepts(database: Database) -> bool:
    try:
        return bool(database.run("database_uptime")) and threading.Event().wait(0.05) is False
    except psycopg2.Error:
        return False


def test_a_start_on_a_database_that_ran_for_long_judges_at_once(database: Database) -> None:
    """One worker alone: its new incarnation need not wait for a lease to take over the old one."""
    wait_until(lambda: database.run("database_uptime")[0]["seconds"] > 1.2, "the database is old enough")
    lease, _ = live_lease(database, "worker-new")
    with started(lease):
        assert lease.settled_seconds > 1


def test_the_clock_of_the_tests_is_the_databases(database: Database) -> None:
    """What ``_jump`` relies on: the runtime's statements read the moved clock."""
    _jump(database, 3600)
    late = database.run("database_uptime")[0]["database_time"] - datetime.now(UTC).timestamp()
    assert late == pytest.approx(3600, abs=5)
    assert isinstance(Clock()(), float)
