"""Schedules: what becomes of each tick, whatever number of processes fires it, and of ticks that none did."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from dbos import DBOS
from dbos import error as dbos_error

from holdfast.dbos_adapter.cron import tick_id
from holdfast.dbos_adapter.schedules import Accounting, guard_schedule
from holdfast.durable.resources import Resources, provide
from holdfast.postgres.database import OpsPool
from services.composition import Worker
from tests.support import names
from tests.support.database import Database, wait_until
from tests.support.engines import Launched, client, launched, worker_process
from tests.support.executors import Peer

SECOND = timedelta(seconds=1)
TICK = timedelta(seconds=names.PULSE_SECONDS)
EVERY = "t-every"


def grid_now(database: Database) -> datetime:
    """The newest point of the pulse's grid."""
    at = int(database.one("SELECT extract(epoch FROM clock_timestamp())::float8"))
    return datetime.fromtimestamp(at - at % names.PULSE_SECONDS, UTC)


def schedule(database: Database, name: str = EVERY, cron: str = "*/5 * * * * *", **rules: Any) -> None:
    """A schedule that no process fires, with its rules."""
    database.run(
        "set_schedule_rules",
        **{"schedule": name, "overlap": "allow", "catch_up": "none", "catch_up_seconds": None, **rules},
    )
    database.rows(
        "INSERT INTO dbos.workflow_schedules (schedule_id, schedule_name, workflow_name, schedule, context,"
        " application_name)"
        " VALUES (gen_random_uuid(), %(name)s, 't.tick', %(cron)s, 'null', 'holdfast-worker')",
        name=name,
        cron=cron,
    )


def fire(database: Database | OpsPool, tick: datetime, name: str = EVERY) -> str:
    """What one process does."""
    (row,) = database.run(
        "fire_tick",
        tick_id=tick_id(name, tick),
        schedule=name,
        scheduled_at=tick,
        workflow_name="t.tick",
        workflow_class=None,
        queue="t-ticks",
        application="holdfast-worker",
        version="worker-1",
        arguments="[]",
    )
    return str(row["outcome"])


def statuses(database: Database, name: str = EVERY) -> dict[datetime, str]:
    rows = database.rows(
        "SELECT workflow_uuid, status FROM dbos.workflow_status WHERE schedule_name = %(name)s ORDER BY 1",
        name=name,
    )
    return {datetime.fromisoformat(r["workflow_uuid"][len(f"sched-{name}-") :]): r["status"] for r in rows}


def become(database: Database, tick: datetime, status: str, name: str = EVERY) -> None:
    database.rows(
        "UPDATE dbos.workflow_status SET status = %(status)s WHERE workflow_uuid = %(id)s",
        id=tick_id(name, tick),
        status=status,
    )


def counts(database: Database, name: str = EVERY) -> tuple[int, int]:
    (row,) = database.rows("SELECT missed, skipped FROM ops.schedules WHERE schedule_name = %(n)s", n=name)
    return row["missed"], row["skipped"]


# --- overlap -------------------------------------------------------------------------------------------

START = datetime(2026, 5, 1, tzinfo=UTC)
TICKS = [START + n * TICK for n in range(8)]


@pytest.mark.parametrize(("overlap", "unfinished"), [("allow", 8), ("skip", 1), ("buffer_one", 2)])
def test_many_processes_fire_a_burst_of_ticks(database: Database, overlap: str, unfinished: int) -> None:
    """Each of four processes fires each of eight ticks, all at the same moment."""
    schedule(database, overlap=overlap)
    sessions = OpsPool(database.settings(), purpose="test", size=16)
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda tick: fire(sessions, tick), TICKS * 4))
    sessions.close()
    found = list(statuses(database).values())
    assert len(found) == unfinished
    assert found.count("ENQUEUED") == (8 if overlap == "allow" else 1)
    assert found.count("DELAYED") == (overlap == "buffer_one")
    assert counts(database) == (0, 8 - unfinished)


@pytest.mark.parametrize("end", ["SUCCESS", "ERROR", "CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED"])
def test_the_tick_that_waits_starts_when_the_run_ends(database: Database, end: str) -> None:
    schedule(database, overlap="buffer_one")
    assert [fire(database, tick) for tick in TICKS[:3]] == ["started", "waiting", "skipped"]
    become(database, TICKS[0], "PENDING")
    become(database, TICKS[0], "ENQUEUED")  # taken over: it still runs
    assert fire(database, TICKS[3]) == "skipped"
    become(database, TICKS[0], end)
    assert statuses(database) == {TICKS[0]: end, TICKS[1]: "ENQUEUED"}
    assert [fire(database, tick) for tick in TICKS[2:5]] == ["known", "known", "waiting"]


@pytest.mark.parametrize(("overlap", "next_tick"), [("skip", "skipped"), ("buffer_one", "waiting")])
def test_a_run_that_hung_still_runs(database: Database, overlap: str, next_tick: str) -> None:
    """Its takeover puts it off for a lease. Meanwhile ticks, ends and resumptions start no second run."""
    schedule(database, overlap=overlap)
    ended, hung, waiting, late = TICKS[:4]
    fire(database, ended)
    become(database, ended, "CANCELLED")
    fire(database, hung)
    assert fire(database, waiting) == next_tick
    database.run("delay_work", workflow_ids=[tick_id(EVERY, hung)], seconds=60)
    assert fire(database, late) == "skipped"
    become(database, ended, "ENQUEUED")
    assert set(statuses(database).values()) == {"DELAYED"}, "a second run"
    become(database, ended, "CANCELLED")
    assert set(statuses(database).values()) == {"CANCELLED", "DELAYED"}, "a second run"
    become(database, hung, "ENQUEUED")
    become(database, hung, "SUCCESS")
    assert statuses(database).get(waiting) == ("ENQUEUED" if overlap == "buffer_one" else None)


def test_a_skipped_tick_stays_skipped_for_a_process_that_fires_it_later(database: Database) -> None:
    schedule(database, overlap="skip")
    assert [fire(database, tick) for tick in TICKS[:2]] == ["started", "skipped"]
    become(database, TICKS[0], "SUCCESS")
    assert [fire(database, tick) for tick in TICKS[:3]] == ["known", "known", "started"]


def test_a_deleted_tick_stays_known_for_a_while(database: Database) -> None:
    schedule(database)
    tick = {"ids": [tick_id(EVERY, TICKS[0])]}
    assert fire(database, TICKS[0]) == "started"
    become(database, TICKS[0], "SUCCESS")
    database.rows(
        "INSERT INTO ops.skipped_ticks (tick_id, schedule_name, skipped_at)"
        " VALUES ('long ago', %(name)s, now() - interval '8 days')",
        name=EVERY,
    )
    assert database.rows("SELECT ops.delete_ended(%(ids)s) AS id", **tick)
    assert fire(database, TICKS[0]) == "known"
    assert database.run("known_ticks", tick_ids=tick["ids"]), "it is not counted as missed"
    assert (statuses(database), counts(database)) == ({}, (0, 0))
    assert database.one("SELECT string_agg(tick_id, ' ') FROM ops.skipped_ticks") == tick["ids"][0]


def test_a_resumed_run_waits_for_the_one_that_runs(database: Database) -> None:
    schedule(database, overlap="skip")
    fire(database, TICKS[0])
    become(database, TICKS[0], "CANCELLED")
    assert fire(database, TICKS[1]) == "started"
    operator = client(database)
    operator.resume_workflow(tick_id(EVERY, TICKS[0]), queue_name="t-ticks")
    operator.destroy()
    assert statuses(database) == {TICKS[0]: "DELAYED", TICKS[1]: "ENQUEUED"}
    become(database, TICKS[1], "SUCCESS")
    assert statuses(database)[TICKS[0]] == "ENQUEUED"


def test_ends_and_ticks_at_the_same_moment_leave_one_run_and_lose_no_waiting_tick(database: Database) -> None:
    schedule(database, overlap="buffer_one")
    ticks = iter([START + n * TICK for n in range(400)])
    sessions = OpsPool(database.settings(), purpose="test", size=8)
    connection = database.admin()

    def end() -> None:
        with connection.cursor() as cursor:
            cursor.execute("UPDATE dbos.workflow_status SET status = 'SUCCESS' WHERE status = 'ENQUEUED'")

    with ThreadPoolExecutor(8) as pool:
        for _ in range(25):
            work: list[Future[Any]] = [pool.submit(fire, sessions, next(ticks)) for _ in range(4)]
            work.append(pool.submit(end))
            for each in work:
                each.result()
            found = list(statuses(database).values())
            assert found.count("ENQUEUED") <= 1
            assert found.count("DELAYED") <= 1
            assert "ENQUEUED" in found or "DELAYED" not in found, "the tick that waits waits for no run"
    sessions.close()


# --- ticks that no process fired --------------------------------------------------------------------------


@pytest.fixture
def worker(database: Database) -> Iterator[tuple[Launched, Resources]]:
    """A launched worker whose pulse stands still."""
    settings = database.settings()
    with launched(database, prepare=lambda: Worker().prepare(settings)) as app:
        ops = OpsPool(settings, purpose="test")
        resources = Resources(settings, app.peer.id, ops, app.waker)
        provide(resources)
        Worker().register(settings)
        DBOS.pause_schedule(names.PULSE_SCHEDULE)
        guard_schedule(lambda: datetime.now(UTC), early_seconds=2, late_seconds=65)
        try:
            yield app, resources
        finally:
            provide(None)
            ops.close()


def down_since(database: Database, moment: datetime, name: str = EVERY) -> None:
    """No process accounted for a tick of the schedule from then on."""
    database.rows(
        "UPDATE ops.schedules SET accounted_until = %(at)s, next_tick_at = NULL"
        " WHERE schedule_name = %(name)s",
        at=moment,
        name=name,
    )


@pytest.mark.parametrize(
    ("rule", "seconds", "ran"),
    [
        ("none", None, []),
        ("once", None, [0]),
        ("all", 20.5, [0, 1, 2, 3]),
        ("all", 3600.0, [0, 1, 2, 3, 4, 5, 7]),
    ],
)
def test_after_all_workers_were_down(
    worker: tuple[Launched, Resources], rule: str, seconds: float | None, ran: list[int]
) -> None:
    """Eight ticks are due, one of which was fired. Three processes start at the same time, then again."""
    app, resources = worker
    phase = "SELECT extract(epoch FROM clock_timestamp())::numeric % 5 BETWEEN 0.5 AND 3"
    wait_until(lambda: app.database.one(phase), "no tick is due in the middle of it")
    schedule(app.database, catch_up=rule, catch_up_seconds=seconds)
    now = grid_now(app.database) - timedelta(seconds=0 if rule != "none" else 20)
    down_since(app.database, now - 8 * TICK + SECOND)
    fire(app.database, now - 6 * TICK)
    for _ in range(2):
        with ThreadPoolExecutor(3) as pool:
            for work in [
                pool.submit(Accounting(resources.ops, app.identity.application).account) for _ in range(3)
            ]:
                work.result()
    wanted = {now - n * TICK for n in [*ran, 6]}
    found = {tick for tick in statuses(app.database) if tick <= now}
    assert found == wanted
    missed, skipped = counts(app.database)
    assert (missed, skipped) == (7 - len(ran) + (rule == "none"), 0)


def test_a_tick_that_may_still_be_fired_is_not_missed(worker: tuple[Launched, Resources]) -> None:
    app, resources = worker
    schedule(app.database)
    down_since(app.database, grid_now(app.database) - 2 * TICK - SECOND)
    Accounting(resources.ops, app.identity.application).account()
    assert counts(app.database) == (0, 0)
    assert app.database.one(
        "SELECT next_tick_at < clock_timestamp() FROM ops.schedules WHERE overlap = 'allow'"
        " AND schedule_name = 't-every'"
    )


def test_a_long_gap_is_bounded(worker: tuple[Launched, Resources]) -> None:
    """Three years of a schedule that ticks every second: counted to a limit, caught up within the window."""
    app, resources = worker
    schedule(app.database, cron="* * * * * *", catch_up="all", catch_up_seconds=10)
    down_since(app.database, grid_now(app.database) - timedelta(days=1000))
    Accounting(resources.ops, app.identity.application).account()
    assert 9 <= len(statuses(app.database)) <= 12
    assert 5_000 <= counts(app.database)[0] <= 10_000
    assert app.database.one(
        "SELECT clock_timestamp() - accounted_until < interval '5 s' FROM ops.schedules"
        " WHERE schedule_name = 't-every'"
    )


def test_a_paused_schedule_misses_nothing(worker: tuple[Launched, Resources]) -> None:
    app, resources = worker
    schedule(app.database, catch_up="once")
    down_since(app.database, grid_now(app.database) - timedelta(hours=1))
    accounting = Accounting(resources.ops, app.identity.application)
    DBOS.pause_schedule(EVERY)
    accounting.account()
    DBOS.resume_schedule(EVERY)
    accounting.account()
    assert statuses(app.database) == {}
    assert counts(app.database) == (0, 0)


def test_a_tick_is_skipped_by_whatever_starts_it(worker: tuple[Launched, Resources]) -> None:
    """As DBOS's own calls fire it: a backfill, and a run that a person starts."""
    app, _ = worker
    schedule(app.database, overlap="skip")
    now = grid_now(app.database)
    DBOS.backfill_schedule(EVERY, now - 3 * TICK - SECOND, now + SECOND)
    assert len(statuses(app.database)) == 1
    assert counts(app.database) == (0, 3)
    with pytest.raises(dbos_error.DBOSException, match="beside one that is unfinished"):
        DBOS.trigger_schedule(EVERY)


def test_a_worker_fills_holes_at_its_start(database: Database) -> None:
    """Seen in a campaign: both workers were down for two ticks, and the first to start fired the third."""
    with worker_process(database):
        wait_until(lambda: pulses(database), "a first pulse", seconds=15)
    begun = grid_now(database)
    down_since(database, begun - 4 * TICK + SECOND, names.PULSE_SCHEDULE)
    with worker_process(database):
        before = {begun - TICK * n for n in range(1, 4)}
        wait_until(lambda: before <= set(pulses(database)), "the hole is filled", seconds=20)
    assert len(pulses(database)) == len(set(pulses(database)))


def pulses(database: Database) -> list[datetime]:
    found = database.rows("SELECT scheduled_at FROM ops.pulses ORDER BY 1")
    return [row["scheduled_at"].astimezone(UTC) for row in found]


def test_with_a_wrong_clock_nothing_is_fired(worker: tuple[Launched, Resources]) -> None:
    app, _ = worker
    schedule(app.database)
    guard_schedule(lambda: datetime.now(UTC) + timedelta(seconds=30), early_seconds=2, late_seconds=65)
    now = grid_now(app.database)
    DBOS.backfill_schedule(EVERY, now - SECOND, now + SECOND)
    assert statuses(app.database) == {}


# --- the version that scheduled work is for -----------------------------------------------------------


def register(database: Database, *versions: str, application: str = "holdfast-worker") -> None:
    """Versions in the order in which they came, each the latest at its time."""
    for version in versions:
        database.rows(
            "INSERT INTO dbos.application_versions (version_id, version_name, application_name,"
            " version_timestamp, created_at)"
            " SELECT gen_random_uuid(), %(version)s, %(application)s, t.at, t.at"
            " FROM (SELECT greatest((extract(epoch FROM clock_timestamp()) * 1000)::bigint,"
            " 1 + (SELECT max(version_timestamp) FROM dbos.application_versions)) AS at) AS t",
            version=version,
            application=application,
        )


def latest(database: Database, application: str = "holdfast-worker") -> str:
    """As DBOS looks for it."""
    return str(
        database.one(
            "SELECT version_name FROM dbos.application_versions WHERE application_name = %(application)s"
            " ORDER BY version_timestamp DESC LIMIT 1",
            application=application,
        )
    )


def settled(database: Database, *, starting: bool = False) -> str:
    database.run("settle_latest_version", application="holdfast-worker", starting=starting)
    return latest(database)


def test_ticks_after_a_roll_back_go_to_the_version_that_runs(database: Database) -> None:
    """A newer worker registered its version, was bad and was removed: its version stays the latest."""
    with worker_process(database):
        register(database, "worker-2")
        assert latest(database) == "worker-2"
        begun = database.one("SELECT clock_timestamp()")
        wait_until(
            lambda: database.rows(
                "SELECT 1 FROM ops.pulses WHERE status = 'run' AND scheduled_at > %(begun)s", begun=begun
            ),
            "a tick that came afterwards ran",
            seconds=15,
        )
        assert latest(database) == "worker-1"
        assert database.run("stranded", lease_seconds=5) == []


def test_a_version_that_lives_stays_the_latest(database: Database) -> None:
    register(database, "worker-1", "worker-2")
    Peer.start(database, "old")
    canary = Peer.start(database, "canary", version="worker-2")
    assert settled(database) == "worker-2"
    canary.silent(3600)
    assert settled(database) == "worker-2", "after an outage every heartbeat is old"
    database.run("send_heartbeat", executor_id=canary.id, in_flight=0, state="draining")
    assert settled(database) == "worker-1", "who drains claims nothing"


def test_the_newest_of_the_living_becomes_the_latest(database: Database) -> None:
    """Whoever fires the tick."""
    register(database, "worker-0", "worker-1", "worker-2")
    register(database, "api-7", application="holdfast-api")
    Peer.start(database, "older", version="worker-0")
    Peer.start(database, "old")
    Peer.start(database, "api", application="holdfast-api", version="api-7")
    assert settled(database) == "worker-1"
    assert latest(database, "holdfast-api") == "api-7"


def test_a_newer_version_that_comes_again_is_the_latest_again(database: Database) -> None:
    """DBOS registers a version once: a second try of it would get no tick while old workers live."""
    register(database, "worker-0", "worker-1")
    Peer.start(database, "old", version="worker-0")
    assert settled(database) == "worker-0"
    with worker_process(database):
        assert latest(database) == "worker-1"
    assert settled(database, starting=True) == "worker-0", "the newer one has gone once more"


def test_an_old_version_that_starts_beside_a_newer_one_changes_nothing(database: Database) -> None:
    register(database, "worker-1", "worker-2")
    Peer.start(database, "canary", version="worker-2")
    with worker_process(database):
        assert latest(database) == "worker-2"


# --- code that goes ------------------------------------------------------------------------------------


def test_a_schedule_ends_with_the_last_live_code_that_knows_it(database: Database) -> None:
    """An old worker and a new one run at once. Neither pauses what the other one declares."""
    for name in ("t-old", "t-new"):
        schedule(database, name, cron="0 0 1 1 *")
    database.rows(  # of DBOS's own call, so only its workflow tells who knows it
        "INSERT INTO dbos.workflow_schedules (schedule_id, schedule_name, workflow_name, schedule, context,"
        " application_name)"
        " VALUES (gen_random_uuid(), 't-plain', 't.plain', '0 0 1 1 *', 'null', 'holdfast-worker')"
    )
    sessions = OpsPool(database.settings(), purpose="test", size=1)
    accounting = Accounting(sessions, "holdfast-worker")

    def active() -> set[str]:
        accounting.account()
        rows = database.rows("SELECT schedule_name FROM dbos.workflow_schedules WHERE status = 'ACTIVE'")
        return {row["schedule_name"] for row in rows}

    def publish(peer: Peer, schedules: list[str] | None, *workflows: str) -> None:
        database.run(
            "publish_registrations",
            executor_id=peer.id,
            serializer="portable_json",
            workflows=json.dumps({name: {} for name in workflows}),
            queues=None,
            schedules=schedules,
        )

    def stop(peer: Peer) -> None:
        database.rows("UPDATE ops.executors SET state = 'drained' WHERE executor_id = %(id)s", id=peer.id)

    assert active() == {"t-old", "t-new", "t-plain"}, "no live executor decides"
    old, new, older_release = (Peer.start(database, name) for name in ("old", "new", "older-release"))
    publish(old, ["t-old"], "t.plain")
    publish(older_release, None)
    assert active() == {"t-old", "t-new", "t-plain"}, "one has not published yet, one cannot"
    publish(new, ["t-new"])
    stop(old)
    assert active() == {"t-old", "t-new", "t-plain"}
    stop(older_release)
    assert active() == {"t-new"}
    publish(Peer.start(database, "starting"), None)
    assert active() == {"t-new"}, "one that may know a schedule does not resume it"
    again = Peer.start(database, "again")
    publish(again, ["t-old", "t-new"], "t.plain")
    assert active() == {"t-new", "t-plain"}, "its own start has resumed what it declares, if that is enabled"
    database.rows("UPDATE dbos.workflow_schedules SET status = 'PAUSED' WHERE schedule_name = 't-plain'")
    assert active() == {"t-new"}, "what an operator paused stays paused"
    sessions.close()
