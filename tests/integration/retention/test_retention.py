"""What a purge deletes and what it never does: the rules, faults in the middle, and what is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from itertools import product
from typing import Any

import psycopg2
import pytest
from dbos import DBOSClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holdfast.installations.embedded import ROOT
from holdfast.postgres.database import Connection, Row, query
from holdfast.retention import purger as purger_module
from holdfast.retention.purger import BATCH, Cutoffs
from tests.support import names
from tests.support.database import Database, Server, wait_until
from tests.support.engines import client, worker_process
from tests.support.executors import Peer, insert
from tests.support.purging import DAY, WEEK, everything, finished, ids, purge, references

ENDED = ("SUCCESS", "ERROR", "CANCELLED")
UNFINISHED = ("ENQUEUED", "PENDING", "DELAYED")
PARKED = "MAX_RECOVERY_ATTEMPTS_EXCEEDED"


@pytest.fixture(autouse=True)
def _no_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    """No other work waits for the database here."""
    monkeypatch.setattr("holdfast.retention.purger._REST", 0.0)


# --- what goes ----------------------------------------------------------------------------------------


def test_every_status_and_age(database: Database) -> None:
    stays = set()
    for status, days in product([*ENDED, *UNFINISHED, PARKED], [0, 6, 8, 29, 31, 400]):
        finished(database, [f"{status}-{days}"], days, status=status)
        # A row that was resumed keeps the time of its first end in no release; if one did, its status counts.
        if not (status in ENDED and days > 7):
            stays.add(f"{status}-{days}")
    assert purge(database).deleted == 12
    assert ids(database) == stays
    # Parked work has an age of its own.
    assert purge(database, parked_seconds=30 * DAY).deleted == 2
    assert ids(database) == stays - {f"{PARKED}-31", f"{PARKED}-400"}


def test_a_wrong_clock_makes_nothing_old(database: Database) -> None:
    """Ends are stamped by executors, starts by the database."""
    finished(database, ["created"], 400)
    finished(database, ["started"], 400)
    database.rows(
        "UPDATE dbos.workflow_status SET created_at = extract(epoch FROM now()) * 1000"
        " WHERE workflow_uuid = 'created'"
    )
    database.rows(
        "UPDATE dbos.workflow_status SET started_at_epoch_ms = extract(epoch FROM now()) * 1000"
        " WHERE workflow_uuid = 'started'"
    )
    assert purge(database).deleted == 0


def test_nothing_goes_that_the_counters_have_not_folded(database: Database) -> None:
    """However short the age that was asked for."""
    finished(database, ["w"], 1)
    database.rows("UPDATE ops.totals_until SET counted_until = now() - interval '2 days'")
    assert purge(database, age_seconds=3 * 3600).deleted == 0
    database.rows("UPDATE ops.totals_until SET counted_until = '-infinity'")
    assert purge(database, age_seconds=3 * 3600).deleted == 0
    database.rows("SELECT ops.fold_totals()")
    assert purge(database, age_seconds=3 * 3600).deleted == 1


FAMILIES: list[tuple[tuple[str, int] | None, tuple[str, int], tuple[str, int], bool]] = [
    (("SUCCESS", 8), ("SUCCESS", 9), ("SUCCESS", 10), True),
    (("CANCELLED", 8), ("CANCELLED", 8), ("ERROR", 9), True),
    (("PENDING", 8), ("SUCCESS", 9), ("SUCCESS", 10), False),
    (("SUCCESS", 8), ("PENDING", 9), ("SUCCESS", 10), False),
    (("SUCCESS", 8), ("SUCCESS", 9), ("ENQUEUED", 10), False),
    (("SUCCESS", 8), ("SUCCESS", 9), ("DELAYED", 10), False),
    (("SUCCESS", 6), ("SUCCESS", 9), ("SUCCESS", 10), False),
    (("SUCCESS", 8), ("SUCCESS", 9), ("SUCCESS", 6), False),
    (("SUCCESS", 8), (PARKED, 9), ("SUCCESS", 10), False),
    ((PARKED, 8), ("SUCCESS", 9), ("SUCCESS", 10), False),
    (None, ("SUCCESS", 9), ("SUCCESS", 10), True),
    (None, ("SUCCESS", 9), ("PENDING", 10), False),
]


def test_a_family_goes_as_a_whole_or_stays(database: Database) -> None:
    """A parent may replay and need its children; children may outlive their parent."""
    stays = set()
    for number, (root, child, grandchild, goes) in enumerate(FAMILIES):
        for kind, parent, told in (("r", None, root), ("c", "r", child), ("g", "c", grandchild)):
            if told is not None:
                parent_id = f"{parent}{number}" if parent else None
                finished(database, [f"{kind}{number}"], told[1], status=told[0], parent_workflow_id=parent_id)
                if not goes:
                    stays.add(f"{kind}{number}")
    purge(database)
    assert ids(database) == stays


member = st.tuples(
    st.sampled_from([*ENDED, *ENDED, *ENDED, "PENDING", PARKED]), st.sampled_from([6, 8, 8, 9, 9])
)
forest = st.lists(st.tuples(member, st.integers(min_value=-3, max_value=11)), min_size=1, max_size=12)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(forest=forest, batch=st.sampled_from([1, 2, 500]), stops=st.integers(min_value=0, max_value=6))
def test_any_forest(
    database: Database, monkeypatch: pytest.MonkeyPatch, forest: list[Any], batch: int, stops: int
) -> None:
    """Against the rule in its shortest form; with small batches, and slices that are cut off anywhere."""
    database.rows("SET session_replication_role = replica; DELETE FROM dbos.workflow_status; RESET ALL")
    known: dict[str, tuple[str, int, str | None]] = {}
    for index, ((status, days), parent) in enumerate(forest):
        # A parent's number below its own; -3 … -1: none, or one that is gone.
        parent_id = f"w{parent}" if 0 <= parent < index else ("gone" if parent == -1 else None)
        known[f"w{index}"] = (status, days, parent_id)
        finished(database, [f"w{index}"], days, status=status, parent_workflow_id=parent_id)

    def root_of(workflow_id: str) -> str:
        parent_id = known[workflow_id][2]
        return root_of(parent_id) if parent_id in known else workflow_id

    held = {root_of(w) for w, (status, days, _) in known.items() if status not in ENDED or days < 7}
    monkeypatch.setattr("holdfast.retention.purger.BATCH", batch)
    for _ in range(stops):
        purge(database, stop_after=1)
        left = ids(database)
        assert {w for w in known if root_of(w) in held} <= left
        # Parents first: a workflow without one lost it to the purge, and follows it.
        assert all(known[w][2] not in known or known[w][2] in left or root_of(w) not in held for w in left)
    purge(database)
    assert ids(database) == {w for w in known if root_of(w) in held}


def test_a_large_family_goes_parents_first(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    finished(database, ["batch"], 8)
    finished(database, [f"batch-{i}" for i in range(1200)], 9, parent_workflow_id="batch")
    monkeypatch.setattr("holdfast.retention.purger._FAMILY_LIMIT", 700)
    first = purge(database)
    assert "batch" not in ids(database)
    assert first.deleted == 700
    assert purge(database).deleted == 501
    assert ids(database) == set()


# --- what goes with it --------------------------------------------------------------------------------


def test_every_table_is_cleaned_and_nothing_else_is_touched(database: Database) -> None:
    finished(database, ["old", "older"], 8)
    finished(database, ["young"], 6)
    insert(database, ["running"], status="PENDING", executor_id="e")
    for workflow_id in ("old", "older", "running", "young"):
        everything(database, workflow_id)
    assert len(references(database)) == 16, "a new table with workflow ids: does a purge clean it?"
    assert all(found == {"old", "older", "young", "running"} for found in references(database).values())
    result = purge(database)
    assert result.deleted == 2
    assert result.rows == {
        "purge_pulses": 2,
        "purge_keys": 2,
        "purge_handovers": 2,
        "purge_executors": 0,
        "purge_operations": 0,
    }
    left = references(database)
    assert left.pop("ops.pulses") == {"young", "running"}
    assert all(found == {"young", "running"} for found in left.values()), left


def test_effects_go_in_the_same_transaction(database: Database) -> None:
    """Nobody ever sees an effect without its workflow, or the other way round."""
    finished(database, ["old"], 8)
    everything(database, "old")
    worker = client(database)
    database.rows(
        "CREATE FUNCTION ops.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " RAISE EXCEPTION 'disk full'; END $$;"
        "CREATE TRIGGER refuse BEFORE DELETE ON ops.effects FOR EACH ROW EXECUTE FUNCTION ops.refuse()"
    )
    before = references(database)
    with pytest.raises(Exception, match="disk full"):
        worker.delete_workflows(["old"])
    assert references(database) == before
    worker.destroy()


def test_keys_go_with_their_workflow_and_a_repeated_one_starts_anew(database: Database) -> None:
    finished(database, ["gone"], 8)
    finished(database, ["recent"], 1)
    api, claim = database.connect(role="api"), {"fingerprint": "f"}
    for key, workflow_id in (("a", "gone"), ("b", "recent"), ("c", "never came to be"), ("d", "new")):
        query(api, "claim_request", key=key, workflow_id=workflow_id, **claim)
    database.rows("UPDATE ops.requests SET created_at = now() - interval '8 days' WHERE key <> 'd'")
    assert purge(database).rows["purge_keys"] == 2
    assert {row["key"] for row in database.rows("SELECT key FROM ops.requests")} == {"b", "d"}
    (row,) = query(api, "claim_request", key="a", workflow_id="another", fingerprint="g")
    assert row == {"fingerprint": "g", "workflow_id": "another"}


def test_keys_in_pages(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys that stay do not hide those behind them."""
    finished(database, [f"w{i}" for i in range(10)], 1)
    database.rows(
        "INSERT INTO ops.requests (key, fingerprint, workflow_id, created_at)"
        " SELECT 'k|' || i, 'f', CASE WHEN i < 10 THEN 'w' || i ELSE 'gone' || i END,"
        " now() - interval '9 days' + make_interval(secs => i / 4) FROM generate_series(0, 19) AS i"
    )
    monkeypatch.setattr("holdfast.retention.purger.BATCH", 3)
    assert purge(database).rows["purge_keys"] == 10
    assert database.one("SELECT count(*) FROM ops.requests") == 10


# --- pulses and executors ------------------------------------------------------------------------------


def pulses(database: Database, *days: float, status: str = "SUCCESS") -> None:
    """Ticks so old, each with its workflow."""
    for number, age in enumerate(days):
        workflow_id = f"tick-{number}-{age}"
        finished(database, [workflow_id], age, status=status, name=names.PULSE_TICK)
        database.rows(
            "INSERT INTO ops.pulses (scheduled_at, workflow_id, executor_id, lateness_seconds, status,"
            " queue_depth, live_executors)"
            " VALUES (now() - make_interval(secs => %(age)s), %(id)s, 'e', 0, 'run', 0, 1)",
            age=age * DAY,
            id=workflow_id,
        )


def test_old_pulses_go_with_their_workflows(database: Database) -> None:
    pulses(database, 9, 8.5, 8, 6, 0)
    result = purge(database)
    assert (result.deleted, result.rows["purge_pulses"]) == (3, 3)
    assert database.one("SELECT count(*) FROM ops.pulses") == 2


def test_a_tick_keeps_its_row_as_long_as_its_workflow_is_there(database: Database) -> None:
    """One ran days later, one is parked, one still waits."""
    pulses(database, 9, 8, 7.5, 0)
    pulses(database, 9.5, status=PARKED)
    pulses(database, 9.6, status="ENQUEUED")
    database.rows(
        "UPDATE dbos.workflow_status SET completed_at = completed_at + 7 * 86400000::bigint"
        " WHERE workflow_uuid = 'tick-1-8'"
    )
    assert purge(database).rows["purge_pulses"] == 2
    left = {row["workflow_id"] for row in database.rows("SELECT workflow_id FROM ops.pulses")}
    assert left == {"tick-1-8", "tick-3-0", "tick-0-9.5", "tick-0-9.6"}


def test_the_newest_tick_stays(database: Database) -> None:
    """Everything was down for longer than the age: the start that follows counts from before it."""
    pulses(database, 30, 29)
    assert purge(database).rows["purge_pulses"] == 1


def executors(database: Database, *rows: tuple[str, str, float | None]) -> None:
    for executor_id, state, days in rows:
        database.rows(
            "INSERT INTO ops.executors (executor_id, application, application_version, role, hostname, pid,"
            " port, slots, state, started_at, ended_at) VALUES (%(id)s, 'holdfast-worker', 'worker-1',"
            " 'worker', 'h', 1, 1, 1, %(state)s, now() - interval '500 days',"
            " now() - make_interval(secs => %(age)s))",
            id=executor_id,
            state=state,
            age=None if days is None else days * DAY,
        )


def test_executors_that_are_gone_and_that_nobody_needs(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    executors(
        database,
        *(("old", "drained", 8), ("older", "dead", 9), ("young", "dead", 6), ("alive", "live", None)),
        *(("draining", "draining", None), ("runs", "dead", 100), ("parked", "dead", 100)),
        ("fenced-lately", "dead", 8),
    )
    database.rows(
        "UPDATE ops.executors SET fenced_at = now() - interval '1 day' WHERE executor_id = 'fenced-lately'"
    )
    insert(database, ["w1"], status="PENDING", executor_id="runs")
    finished(database, ["w2"], 50, status=PARKED, executor_id="parked")
    monkeypatch.setattr("holdfast.retention.purger.BATCH", 1)
    assert purge(database).rows["purge_executors"] == 2
    left = {row["executor_id"] for row in database.rows("SELECT executor_id FROM ops.executors")}
    assert left == {"young", "alive", "draining", "runs", "parked", "fenced-lately"}


# --- dry runs -----------------------------------------------------------------------------------------


def test_a_dry_run_counts_what_a_purge_deletes_and_changes_nothing(database: Database) -> None:
    finished(database, ["batch"], 8, name=names.FIBONACCI_BATCH)
    finished(database, [f"batch-{i}" for i in range(BATCH + 9)], 9, parent_workflow_id="batch")
    finished(database, ["failed"], 30, status="ERROR")
    finished(database, ["young"], 1)
    insert(database, ["running"], status="PENDING")
    pulses(database, 9, 8, 1)
    executors(database, ("old", "drained", 8))
    api = database.connect(role="api")
    for key, workflow_id in (("a", "failed"), ("b", "young"), ("c", "none")):
        query(api, "claim_request", key=key, workflow_id=workflow_id, fingerprint="f")
    database.rows("UPDATE ops.requests SET created_at = now() - interval '8 days'")
    tables = [
        f"{row['table_schema']}.{row['table_name']}"
        for row in database.rows(
            "SELECT * FROM information_schema.tables WHERE table_schema IN ('dbos', 'ops')"
            " AND table_type = 'BASE TABLE'"
        )
    ]

    def stored() -> dict[str, Any]:
        return {table: database.rows(f"SELECT * FROM {table} ORDER BY 1") for table in tables}

    database.rows(
        "INSERT INTO ops.handovers (workflow_id, workflow_name, kind, reason, from_executor, released_by,"
        " lost_at, released_at) SELECT id, 'n', 'takeover', 'r', 'a', 'b', t, t"
        " FROM unnest('{failed,young}'::text[]) AS id, LATERAL (SELECT now() - interval '9 days' AS t) t"
    )
    before = stored()
    dry = purge(database, dry_run=True)
    assert stored() == before
    wet = purge(database)
    assert dry.workflows == wet.workflows
    assert wet.workflows[names.FIBONACCI_NUMBER] == {"SUCCESS": BATCH + 9, "ERROR": 1}
    assert dry.rows == wet.rows
    assert wet.rows == {
        "purge_pulses": 2,
        "purge_keys": 2,
        "purge_handovers": 1,
        "purge_executors": 1,
        "purge_operations": 0,
    }
    assert purge(database, dry_run=True).deleted == 0


# --- faults in the middle -------------------------------------------------------------------------------


@contextmanager
def between_look_and_delete(monkeypatch: pytest.MonkeyPatch, act: Any) -> Iterator[list[int]]:
    """Calls ``act`` once, before the first delete."""
    original = purger_module.query
    calls: list[int] = []

    def query(connection: Connection, name: str, **params: Any) -> list[Row]:
        if name == "purge_work":
            calls.append(len(params["workflow_ids"]))
            if len(calls) == 1:
                act()
        return original(connection, name, **params)

    monkeypatch.setattr(purger_module, "query", query)
    yield calls


def test_what_is_resumed_meanwhile_stays_with_all_it_has(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished(database, ["resumed"], 9, status="CANCELLED")
    finished(database, ["child"], 10, parent_workflow_id="resumed")
    finished(database, ["other"], 8)
    everything(database, "resumed")
    outside = client(database)
    with between_look_and_delete(
        monkeypatch, lambda: outside.resume_workflow("resumed", queue_name=names.FIBONACCI_QUEUE)
    ):
        found = purge(database)
    outside.destroy()
    assert (found.deleted, found.complete) == (1, False)
    assert ids(database) == {"resumed", "child"}
    assert all("resumed" in found for found in references(database).values())
    assert purge(database).complete, "it is unfinished now"


def test_what_is_locked_or_gone_meanwhile_costs_no_other_family(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished(database, [f"w{i}" for i in range(BATCH + 1)], 9)
    finished(database, ["locked-child"], 10, parent_workflow_id="w1")
    other = database.connect()

    def act() -> None:
        database.rows("DELETE FROM dbos.workflow_status WHERE workflow_uuid = 'w0'")
        with other.cursor() as cursor:
            cursor.execute("BEGIN")
            cursor.execute("SELECT FROM dbos.workflow_status WHERE workflow_uuid = 'locked-child' FOR UPDATE")

    with closing(other), between_look_and_delete(monkeypatch, act):
        found = purge(database)
    assert (found.deleted, found.complete) == (BATCH - 1, False)
    assert ids(database) == {"w1", "locked-child"}
    assert purge(database).complete
    assert ids(database) == set()


def test_children_stay_when_their_parent_is_resumed(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also those that were to go in the batch after their parent's."""
    finished(database, ["batch"], 8, status="CANCELLED")
    finished(database, [f"batch-{i}" for i in range(2 * BATCH)], 9, parent_workflow_id="batch")
    outside = client(database)
    with between_look_and_delete(
        monkeypatch, lambda: outside.resume_workflow("batch", queue_name=names.FIBONACCI_BATCH_QUEUE)
    ) as calls:
        assert purge(database).deleted == 0
    outside.destroy()
    assert calls == [BATCH]
    assert len(ids(database)) == 2 * BATCH + 1


@pytest.mark.parametrize("status", UNFINISHED)
def test_the_database_refuses_to_delete_unfinished_work(database: Database, status: str) -> None:
    """Whoever asks, by whatever call."""
    finished(database, ["ended"], 8)
    insert(database, ["unfinished"], status=status)
    everything(database, "unfinished")
    outside = client(database)
    with pytest.raises(Exception, match="unfinished work is not deleted"):
        outside.delete_workflows(["ended", "unfinished"])
    outside.destroy()
    assert ids(database) == {"ended", "unfinished"}
    assert all("unfinished" in found for found in references(database).values())
    with pytest.raises(psycopg2.errors.RestrictViolation):
        database.connect().cursor().execute("DELETE FROM dbos.workflow_status")
    with pytest.raises(psycopg2.errors.RestrictViolation):
        database.rows("DELETE FROM dbos.workflow_status")


def test_two_at_once(database: Database) -> None:
    count = 3 * BATCH
    finished(database, [f"w{i}" for i in range(count)], 8)
    with ThreadPoolExecutor(3) as pool:
        results = list(pool.map(lambda _: purge(database), range(3)))
    assert sum(result.deleted for result in results) == count
    assert all(result.complete for result in results)
    assert database.one("SELECT value FROM ops.totals WHERE name = 'purged'") == count


def test_who_does_not_wait_or_stops_leaves(database: Database) -> None:
    finished(database, ["w"], 8)
    other = database.connect()
    assert query(other, "purge_lock")[0]["held"]
    assert not purge(database, patient=False).complete
    stop = threading.Event()
    with ThreadPoolExecutor(2) as pool, closing(other):
        stopped = pool.submit(purge, database, stopping=stop.is_set)
        waiting = pool.submit(purge, database)
        time.sleep(0.3)
        assert not stopped.done()
        stop.set()
        assert not stopped.result(10).complete
        assert not waiting.done()
        assert ids(database) == {"w"}
        assert purge(database, dry_run=True, patient=False).deleted == 1, "a dry run needs no lock"
        other.close()
        assert waiting.result(10).deleted == 1


def test_the_lock_of_a_dead_process_is_free(database: Database) -> None:
    """A paused one keeps its sessions until its peers end them with its lease."""
    finished(database, ["w"], 8)
    me, paused = Peer.start(database), Peer.start(database)
    assert query(paused.connect("purge/poll"), "purge_lock")[0]["held"]
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(purge, database)
        paused.silent()
        me.poll_twice()
        assert paused.state == "dead"
        assert waiting.result(10).deleted == 1


def test_postgresql_is_killed_in_the_middle(database: Database, server: Server) -> None:
    count = 4 * BATCH
    finished(database, [f"w{i}" for i in range(count)], 8)
    for i in range(0, count, 100):
        everything(database, f"w{i}")
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(purge, database)
        wait_until(lambda: len(ids(database)) < count, "the first batch is gone")
        server.restart(at_once=True)
        result = running.result(60)
    assert result.complete
    # A commit whose answer was lost is done and not counted.
    assert count - BATCH <= result.deleted <= count
    assert ids(database) == set()
    assert all(found == set() for place, found in references(database).items() if place != "ops.pulses")
    assert database.one("SELECT value FROM ops.totals WHERE name = 'purged'") == count


def test_a_stop_ends_it_after_the_batch(database: Database) -> None:
    finished(database, [f"w{i}" for i in range(5 * BATCH)], 8)
    result = purge(database, stop_after=2)
    assert not result.complete
    assert 0 < result.deleted < 5 * BATCH
    assert len(ids(database)) == 5 * BATCH - result.deleted
    assert purge(database).deleted == 5 * BATCH - result.deleted


def test_a_missing_right_is_an_error_and_not_waited_for(database: Database) -> None:
    finished(database, ["w"], 8)
    database.rows("REVOKE EXECUTE ON FUNCTION ops.delete_ended(text[], text) FROM holdfast_worker")
    with pytest.raises(Exception, match="permission denied"):
        purge(database)


# --- on a worker ---------------------------------------------------------------------------------------


def order(outside: DBOSClient, workflow_id: str, *, dry_run: bool = False) -> None:
    outside.enqueue(
        {
            "workflow_name": names.PURGE,
            "queue_name": names.PURGE_QUEUE,
            "application_name": "holdfast-worker",
            "app_version": "worker-1",
            "workflow_id": workflow_id,
        },
        WEEK,
        dry_run,
    )


def report(outside: DBOSClient, workflow_id: str, *, seconds: float = 30) -> dict[str, Any]:
    def ended() -> Any:
        (row,) = outside.list_workflows(workflow_ids=[workflow_id])
        return row if row.status not in UNFINISHED else None

    row = wait_until(ended, f"{workflow_id} ends", seconds=seconds)
    assert row.status == "SUCCESS", row.error
    found: dict[str, Any] = row.output
    return found


def test_a_worker_purges(database: Database) -> None:
    finished(database, [f"w{i}" for i in range(BATCH + 1)], 8)
    finished(database, ["young"], 1)
    outside = client(database)
    with worker_process(database):
        order(outside, "dry", dry_run=True)
        assert report(outside, "dry")["deleted"] == BATCH + 1
        assert database.one("SELECT last_purge_at IS NULL FROM ops.retention")
        assert database.one("SELECT purged_until = '-infinity' FROM ops.retention")
        order(outside, "wet")
        found = report(outside, "wet")
        assert found["complete"]
        assert found["workflows"] == {names.FIBONACCI_NUMBER: {"SUCCESS": BATCH + 1}}
        assert database.one("SELECT last_purge_at > now() - interval '1 minute' FROM ops.retention")
        assert database.one("SELECT now() - purged_until < interval '8 days' FROM ops.retention")
        (row,) = database.run("last_purge")
        assert row["age_seconds"] < 60
    outside.destroy()
    assert {"young", "dry", "wet"} <= ids(database)


@contextmanager
def worker_of_its_own(database: Database) -> Iterator[subprocess.Popen[bytes]]:
    """A worker as a process, which may be killed."""
    environment = {
        **os.environ,
        **database.server.environment(database.name),
        "HOLDFAST_WORKER_PORT": "0",
        "HOLDFAST_CPU_SLOTS": "1",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "services.worker"], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait(60)


def test_a_purge_goes_on_where_its_killed_worker_was(database: Database) -> None:
    count = 10 * BATCH
    finished(database, [f"w{i}" for i in range(count)], 8)
    counted = "SELECT coalesce(sum(value), 0)::bigint FROM ops.totals WHERE name = 'purged'"
    outside = client(database)
    with worker_of_its_own(database) as first:
        order(outside, "purge")
        wait_until(lambda: database.one(counted), "a batch is gone", seconds=30)
        first.send_signal(signal.SIGKILL)
        first.wait(60)
        assert 0 < database.one(counted) < count, "it was killed in the middle"
    with worker_of_its_own(database):
        found = report(outside, "purge", seconds=60)
    (row,) = outside.list_workflows(workflow_ids=["purge"])
    outside.destroy()
    assert row.recovery_attempts == 2
    assert found["complete"]
    # What the killed slice had deleted is in no report: it was not recorded.
    assert 0 < found["deleted"] < count
    assert database.one(counted) == count
    assert not any(workflow_id.startswith("w") for workflow_id in ids(database))


def test_the_schedule_fires_unless_everything_is_kept(database: Database) -> None:
    outside = client(database)
    for seconds, status in ((WEEK, "ACTIVE"), (0, "PAUSED"), (WEEK, "ACTIVE")):
        with worker_process(database, retention_seconds=seconds):
            found = {schedule["schedule_name"]: schedule for schedule in outside.list_schedules()}
        purges = found[names.PURGE_SCHEDULE]
        assert (purges["schedule"], purges["queue_name"]) == (names.PURGE_CRON, names.PURGE_QUEUE)
        assert purges["status"] == status
        assert found[names.PULSE_SCHEDULE]["status"] == "ACTIVE"
    outside.destroy()


def test_a_request_purges_where_everything_is_kept(database: Database) -> None:
    finished(database, ["old"], 8)
    outside = client(database)
    with worker_process(database, retention_seconds=0):
        handle = outside.trigger_schedule(names.PURGE_SCHEDULE)
        assert report(outside, handle.workflow_id) is None
        assert "old" in ids(database)
        order(outside, "wet")
        assert report(outside, "wet")["deleted"] == 1
    outside.destroy()


def test_a_tick_purges_by_the_settings(database: Database) -> None:
    finished(database, ["old"], 8)
    finished(database, ["older"], 11)
    outside = client(database)
    with worker_process(database, retention_seconds=10 * DAY):
        handle = outside.trigger_schedule(names.PURGE_SCHEDULE)
        assert report(outside, handle.workflow_id)["deleted"] == 1
    outside.destroy()
    assert "old" in ids(database)


def test_a_drain_ends_a_purge_early(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    count = 10 * BATCH
    finished(database, [f"w{i}" for i in range(count)], 8)
    # Rests so long that it cannot be done by then.
    monkeypatch.setattr("holdfast.retention.purger._MIN_REST_SECONDS", 0.3)
    outside = client(database)
    with worker_process(database):
        order(outside, "purge")
        wait_until(lambda: len(ids(database)) < count, "it has begun", seconds=20)
    found = report(outside, "purge")
    assert not found["complete"]
    assert found["deleted"] == count - len(ids(database) - {"purge"} - _ticks(database))
    with worker_process(database):
        order(outside, "again")
        assert report(outside, "again")["deleted"] == count - found["deleted"]
    outside.destroy()


def _ticks(database: Database) -> set[str]:
    rows = database.rows(
        "SELECT workflow_uuid FROM dbos.workflow_status WHERE name = %(n)s", n=names.PULSE_TICK
    )
    return {row["workflow_uuid"] for row in rows}


def test_a_purge_makes_way_for_a_trial(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trial waits until nothing else runs in its process."""
    finished(database, [f"w{i}" for i in range(20 * BATCH)], 8)
    monkeypatch.setattr("holdfast.retention.purger._MIN_REST_SECONDS", 0.3)
    outside = client(database)
    with worker_process(database) as process:
        order(outside, "purge")
        wait_until(lambda: "purge" in process.active(), "it runs", seconds=20)
        with process.waker.pause_others(names.WORKER_TRIALS_QUEUE):
            assert not report(outside, "purge")["complete"]
    outside.destroy()


def test_cutoffs_are_the_databases(database: Database) -> None:
    cutoffs = Cutoffs(
        **query(database.connect(), "purge_begin", age_seconds=WEEK, parked_age_seconds=None, dry_run=True)[0]  # type: ignore[typeddict-item]
    )
    now = database.one("SELECT extract(epoch FROM clock_timestamp())::float8")
    assert cutoffs["cutoff_ms"] == pytest.approx((now - WEEK) * 1000, abs=2000)
    assert cutoffs["parked_cutoff_ms"] is None
