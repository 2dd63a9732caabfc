"""What the database counts for /metrics: across restarts and purges, never down, and once."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import psycopg2
import pytest
from dbos import DBOS
from prometheus_client import REGISTRY

from holdfast.recovery.takeover import hand_over
from tests.support import names
from tests.support.database import Database, wait_until
from tests.support.engines import Launched, launched
from tests.support.executors import Peer, insert, live_lease

QUEUE = "waiting-room"
LATE_SECONDS = 65.0


@DBOS.workflow(name="metrics.quick", max_recovery_attempts=None)
def _quick() -> int:
    return 1


def ticks(database: Database, *ages_seconds: int, status: str = "run") -> None:
    """Rows of ticks on the grid, so old. One that is there already stays."""
    database.rows(
        "INSERT INTO ops.pulses (scheduled_at, workflow_id, executor_id, lateness_seconds, status,"
        " queue_depth, live_executors)"
        " SELECT date_bin('5 s', now(), '2000-01-01Z') - make_interval(secs => age), 'p-' || age, 'w', 0,"
        " %(status)s, 0, 1 FROM unnest(%(ages)s::int[]) AS age ON CONFLICT DO NOTHING",
        ages=list(ages_seconds),
        status=status,
    )


def go_on(database: Database) -> None:
    """Rows of every tick from the newest to now."""
    database.rows(
        "INSERT INTO ops.pulses (scheduled_at, workflow_id, executor_id, lateness_seconds, status,"
        " queue_depth, live_executors) SELECT tick, 'p', 'w', 0, 'run', 0, 1"
        " FROM (SELECT max(scheduled_at) AS newest FROM ops.pulses) AS p,"
        " generate_series(newest + interval '5 s', now(), '5 s') AS tick"
    )


def missed(database: Database, late_seconds: float = LATE_SECONDS) -> int:
    return int(database.run("pulse_health", late_seconds=late_seconds)[0]["missed"])


def totals(database: Database) -> dict[tuple[str, str, float], float]:
    return {(r["name"], r["application"], r["le"]): r["value"] for r in database.run("totals")}


def later(database: Database, hours: float) -> None:
    """So many hours pass."""
    for table, columns in (
        ("ops.pulses", ["scheduled_at"]),
        ("ops.handovers", ["released_at"]),
        ("ops.executors", ["ended_at", "fenced_at"]),
        ("ops.totals_until", ["counted_until", "first_tick"]),
    ):
        sets = ", ".join(f"{c} = {c} - make_interval(secs => {3600 * hours})" for c in columns)
        database.rows(f"UPDATE {table} SET {sets}")


# --- missed ticks -----------------------------------------------------------------------------------


def test_without_a_tick_nothing_is_missed(database: Database) -> None:
    row = database.run("pulse_health", late_seconds=LATE_SECONDS)[0]
    assert (row["missed"], row["last_tick_age_seconds"], row["first_tick"]) == (0, None, None)


def gone(database: Database) -> int:
    """Ticks after the newest row that can run no more: older than 65 + 5 s by the database's clock."""
    seconds = database.one("SELECT extract(epoch FROM clock_timestamp() - max(scheduled_at)) FROM ops.pulses")
    return int((float(seconds) - LATE_SECONDS - 5) // 5)


def missed_since_the_newest(database: Database) -> int:
    """What counts as missed, beyond what went by since the newest row. A tick may pass during this poll."""
    before, found, after = gone(database), missed(database), gone(database)
    if before != after:
        return missed_since_the_newest(database)
    return found - before


def test_a_tick_is_missed_once_it_can_run_no_more(database: Database) -> None:
    """Not before: a tick that comes late, or out of order, must not be counted and taken back."""
    ticks(database, 300, 295, 285)  # 290 is missing, and everything since 285
    assert missed_since_the_newest(database) == 1
    assert missed(database, late_seconds=400) == 0
    ticks(database, *range(0, 305, 5))
    assert missed(database) == 0


def test_skipped_ticks_are_missed(database: Database) -> None:
    ticks(database, *range(0, 300, 5))
    database.rows("UPDATE ops.pulses SET status = 'skipped' WHERE workflow_id IN ('p-100', 'p-200', 'p-20')")
    assert missed(database) == 2


def test_while_nobody_schedules_the_number_grows(database: Database) -> None:
    """Every worker is down: no row comes, and the alert must see that all the same."""
    ticks(database, 600)
    assert missed_since_the_newest(database) == 0
    assert missed(database) >= 105
    database.rows("UPDATE ops.pulses SET scheduled_at = scheduled_at - interval '1 hour'")
    assert missed_since_the_newest(database) == 0
    assert missed(database) >= 105 + 720


@pytest.mark.parametrize("purged", [False, True], ids=["kept", "purged"])
def test_missed_ticks_outlive_the_fold_and_the_purge(database: Database, purged: bool) -> None:
    ticks(database, *(age for age in range(0, 4000, 5) if age not in (500, 1000, 1005, 3000)))
    assert missed(database) == 4

    for hours in (3, 3):
        later(database, hours)
        go_on(database)
        if purged:
            rows = "scheduled_at <= (SELECT counted_until FROM ops.totals_until)"
            assert database.rows(f"DELETE FROM ops.pulses WHERE {rows} RETURNING 1")
        assert missed(database) == 4
    folded = database.one("SELECT value FROM ops.totals WHERE name = 'ticks_run'")
    assert folded == pytest.approx((4000 + 4 * 3600) / 5, abs=10)
    database.rows(
        "DELETE FROM ops.pulses"
        " WHERE scheduled_at = date_bin('5 s', now(), '2000-01-01Z') - interval '1000 s'"
    )
    assert missed(database) == 5


def test_a_fold_under_way_holds_up_no_pulse(database: Database) -> None:
    """A worker that is paused in the middle of it keeps the row locked; the next pulse folds instead."""
    ticks(database, *range(0, 4 * 3600, 5))
    database.rows("UPDATE ops.totals_until SET counted_until = '-infinity'")
    database.rows("DELETE FROM ops.totals")
    paused = database.admin()
    paused.cursor().execute("BEGIN; SELECT ops.fold_totals()")
    worker = database.connect()
    worker.cursor().execute("SET lock_timeout = '200ms'")
    worker.cursor().execute("SELECT ops.fold_totals()")
    assert missed(database) == 0
    paused.cursor().execute("ROLLBACK")
    worker.cursor().execute("SELECT ops.fold_totals()")
    assert database.one("SELECT value FROM ops.totals WHERE name = 'ticks_run'") > 1000
    assert missed(database) == 0


def test_a_pulse_folds_and_the_processes_cannot_write_totals(database: Database) -> None:
    ticks(database, *range(0, 4 * 3600, 5))
    database.rows("UPDATE ops.totals_until SET counted_until = '-infinity'")
    insert(database, ["tick"], status="PENDING", name=names.PULSE_TICK)
    values = {"workflow_id": "tick", "executor_id": "w", "queue_name": "q", "late_seconds": 1e6}
    database.run("record_pulse", scheduled_at="2026-01-01T00:00:02+00:00", **values)
    assert database.one("SELECT counted_until > '-infinity' FROM ops.totals_until")
    for role in ("worker", "api"):
        connection = database.connect(role=role)
        for change in ("totals SET value = 0", "totals_until SET first_tick = NULL"):
            with pytest.raises(psycopg2.errors.InsufficientPrivilege):
                connection.cursor().execute(f"UPDATE ops.{change}")


# --- drains, handovers, fencing ----------------------------------------------------------------------


def test_a_drain_outlives_its_process(database: Database) -> None:
    peer = Peer.start(database)
    peer.runs("left-1", "left-2")
    done = hand_over(peer.settings, peer.identity, only_waiting=False, drain_seconds=3.25)
    assert done is not None
    assert len(done.verdicts) == 2
    worker = "holdfast-worker"
    expected = {
        ("handed_over", "", math.inf): 2,
        ("drain_seconds", worker, math.inf): 3.25,
        ("drains", worker, 5.0): 1,
    }
    assert totals(database) == expected
    later(database, hours=3)
    database.rows("SELECT ops.fold_totals()")
    database.rows("DELETE FROM ops.handovers; DELETE FROM ops.executors")
    assert totals(database) == expected


def test_who_is_fenced_is_counted_once(database: Database) -> None:
    fenced: list[bool] = []
    lease, _ = live_lease(database, "worker-zombie", on_fenced=lambda: fenced.append(True))
    lease.start()
    try:
        assert totals(database) == {}
        database.rows("UPDATE ops.executors SET state = 'dead', ended_at = clock_timestamp()")
        wait_until(lambda: fenced, "the zombie notices")
    finally:
        lease.stop()
    assert totals(database) == {("fenced", "holdfast-worker", math.inf): 1}
    assert not database.run("send_heartbeat", executor_id="worker-zombie", in_flight=0, state="live")
    assert totals(database) == {("fenced", "holdfast-worker", math.inf): 1}


def test_who_drained_is_not_fenced(database: Database) -> None:
    peer = Peer.start(database)
    hand_over(peer.settings, peer.identity, only_waiting=False)
    assert not peer.beat()
    assert ("fenced", "holdfast-worker", math.inf) not in totals(database)


# --- waits ------------------------------------------------------------------------------------------


@pytest.fixture
def app(database: Database) -> Iterator[Launched]:
    with launched(database, queues=[QUEUE]) as made:
        yield made


def waits() -> tuple[float, float]:
    return tuple(  # type: ignore[return-value]
        REGISTRY.get_sample_value(f"holdfast_queue_wait_seconds_{what}", {"queue_name": QUEUE}) or 0.0
        for what in ("count", "sum")
    )


def test_a_wait_is_from_enqueued_to_first_claimed(app: Launched) -> None:
    count, seconds = waits()
    app.enqueue("metrics.quick", queue=QUEUE, workflow_id="quick")
    app.wait("quick")
    assert waits()[0] == count + 1
    assert waits()[1] - seconds < 5
    row = app.database.rows("SELECT * FROM dbos.workflow_status WHERE workflow_uuid = 'quick'")[0]

    def enqueue_again(workflow_id: str, **columns: Any) -> None:
        new = {**row, "workflow_uuid": workflow_id, "status": "ENQUEUED", "queue_name": QUEUE} | {
            "started_at_epoch_ms": None,
            "completed_at": None,
            "owner_xid": None,
            "recovery_attempts": 0,
            **columns,
        }
        names_, marks = ", ".join(new), ", ".join(f"%({key})s" for key in new)
        app.database.rows(
            "INSERT INTO dbos.workflow_input SELECT (jsonb_populate_record(i, jsonb_build_object("
            "'workflow_uuid', %(id)s::text))).* FROM dbos.workflow_input i WHERE workflow_uuid = 'quick'",
            id=workflow_id,
        )
        # Last: a claim reads both at once.
        app.database.rows(f"INSERT INTO dbos.workflow_status ({names_}) VALUES ({marks})", **new)
        app.wait(workflow_id)

    count, seconds = waits()
    enqueue_again("old", created_at=row["created_at"] - 600_000)
    assert waits()[0] == count + 1
    assert 600 <= waits()[1] - seconds < 610
    # Its delay is no wait, and neither is what a takeover took.
    count, seconds = waits()
    enqueue_again(
        "delayed", created_at=row["created_at"] - 600_000, delay_until_epoch_ms=row["created_at"] - 60_000
    )
    assert waits()[0] == count + 1
    assert 60 <= waits()[1] - seconds < 70
    enqueue_again("again", created_at=row["created_at"] - 600_000, recovery_attempts=1)
    assert waits()[0] == count + 1


# --- the last one dies hard -------------------------------------------------------------------------


def test_the_last_executors_hard_death_shows(database: Database) -> None:
    """All workers killed at once (no memory left): nobody sweeps that application, their rows stay live."""
    lease = {"lease_seconds": 5}
    worker = Peer.start(database, "worker-last")
    Peer.start(database, "api-there", application="holdfast-api", version="api-1")
    worker.runs("running")
    insert(database, ["waiting"])

    def figures() -> tuple[dict[str, int], int, int, int, int]:
        return (
            {r["application"]: r["executors"] for r in database.run("executors_by_state", **lease)},
            database.run("orphaned_count", **lease)[0]["workflows"],
            sum(r["workflows"] for r in database.run("stranded", **lease)),
            database.run("console_counts", **lease)[0]["orphaned"],
            database.run("console_counts", **lease)[0]["stranded"],
        )

    alive = ({"holdfast-worker": 1, "holdfast-api": 1}, 0, 0, 0, 0)
    worker.silent(9)
    assert figures() == alive, "silent for less than two leases"
    worker.die()
    worker.silent(11)
    assert figures() == ({"holdfast-api": 1}, 1, 2, 1, 2)
    # It may still come back, so nothing moves on this account alone.
    versions = {"from_version": "worker-1", "to_version": "worker-2", "workflow_ids": ["running", "waiting"]}
    assert database.run("adopt", application="holdfast-worker", **versions) == []
    assert worker.beat()
    assert figures() == alive
    # The next worker, of whatever version, declares it dead, and then it can be adopted.
    worker.silent(60)
    heir = Peer.start(database, "worker-heir", version="worker-2")
    assert heir.poll_twice() == ["worker-last"]
    moved = database.run("adopt", application="holdfast-worker", **versions)
    assert {row["workflow_id"] for row in moved} == {"running", "waiting"}
